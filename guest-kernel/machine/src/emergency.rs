//! The console of last resort: text out without heap, locks or tasks.
//!
//! dom0 writes by hypercall; a domU writes into its console ring and, when that is full, yields
//! a bounded number of times to let the reader catch up before it drops text.

use crate::hypercall::{call, console_write, event_channel_op};
use crate::shared::Shared;
use crate::start::Ring;
use core::cell::Cell;
use core::fmt;
use core::mem::offset_of;
use shared_abi::event_channel::EvtchnSend;
use shared_abi::io::console::{OUT_SIZE, XenconsInterface};
use shared_abi::io::ring::bytes;
use shared_abi::sched::SCHEDOP_YIELD;
use shared_abi::xen::hypercall as nr;

const OUT: usize = offset_of!(XenconsInterface, out);
const OUT_CONS: usize = offset_of!(XenconsInterface, out_cons);
const OUT_PROD: usize = offset_of!(XenconsInterface, out_prod);

/// The console ring, once boot has found one. Not a `Local`: a panic may strike while one is
/// borrowed, and must still be able to print.
struct TheRing(Cell<Option<Ring>>);

// SAFETY: one vcpu, no preemption: set once at boot, only copied out later. On the host nobody
// sets it.
unsafe impl Sync for TheRing {}

static RING: TheRing = TheRing(Cell::new(None));

/// From now on text goes to this ring.
#[cfg(target_os = "none")]
pub(crate) fn use_ring(ring: Ring) {
    RING.0.set(Some(ring));
}

/// Copies as much of `text` into the ring as there is room. How much it was; all of it if the
/// other side's index makes no sense, since waiting would not help.
pub fn ring_write(page: &Shared, text: &[u8]) -> usize {
    let prod = page.load_u32(OUT_PROD);
    let Some(free) = bytes::free(prod, page.load_u32(OUT_CONS), OUT_SIZE as u32) else { return text.len() };
    let text = &text[..text.len().min(free as usize)];
    let (start, first, _) = bytes::split(prod, text.len() as u32, OUT_SIZE as u32);
    page.write_bytes(OUT + start, &text[..first]);
    page.write_bytes(OUT, &text[first..]);
    page.store_u32(OUT_PROD, prod.wrapping_add(text.len() as u32));
    text.len()
}

/// Writes at once, waiting a bounded time for room.
pub struct Emergency;

impl fmt::Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(ring) = RING.0.get() else {
            let _ = console_write(text.as_bytes());
            return Ok(());
        };
        let mut rest = text.as_bytes();
        for _ in 0..1000 {
            rest = &rest[ring_write(ring.page, rest)..];
            let _ = event_channel_op(&mut EvtchnSend { port: ring.port });
            if rest.is_empty() {
                break;
            }
            // SAFETY: takes no argument.
            unsafe { call(nr::SCHED_OP, [SCHEDOP_YIELD as usize, 0, 0, 0, 0]) };
        }
        Ok(())
    }
}

/// Prints formatted text at once.
pub fn print(args: fmt::Arguments) {
    let _ = fmt::Write::write_fmt(&mut Emergency, args);
}
