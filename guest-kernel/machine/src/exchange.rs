//! Changing which machine frames the domain holds: exchange for consecutive ones, and the balloon.
//!
//! Xen takes a frame only when no page table refers to it, so each is unmapped first and whatever
//! happens, mapped again or recorded as gone. A failure in between would leave the linear map
//! with a hole under memory that Rust believes in; where Xen's answer makes that possible the
//! frames are leaked instead of reused.

use crate::frames::{self, FRAMES};
use crate::hypercall::{Result, call, check};
use crate::local::Local;
use crate::memory::Pages;
use crate::paging::{self, INVALID, PAGE_RW, p2m, set_p2m, set_page};
use crate::start;
use alloc::vec::Vec;
use shared_abi::memory::*;
use shared_abi::xen::hypercall as nr;
use shared_abi::{DomId, Errno, GuestAddr, Mfn, pte};

fn memory_op<T>(cmd: u32, arg: &mut T) -> Result<u64> {
    // SAFETY: the callers here pass the command's structure with lists that outlive the call, and
    // only frames that are not mapped.
    check(unsafe {
        call(nr::MEMORY_OP, [cmd as usize, core::ptr::from_mut(arg).expose_provenance(), 0, 0, 0])
    })
}

fn list(words: &[u64]) -> GuestAddr {
    GuestAddr(words.as_ptr().expose_provenance() as u64)
}

fn reservation(extents: &[u64], order: u32, mem_flags: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: list(extents),
        nr_extents: extents.len() as u64,
        extent_order: order,
        mem_flags,
        domid: DomId::SELF,
        ..Default::default()
    }
}

fn map(pfn: usize) -> Result<()> {
    // SAFETY: restores or gives a frame of ours to its own place in the linear map.
    unsafe { set_page(start::linear(pfn).addr(), pte::entry(p2m(pfn), PAGE_RW)) }
}

/// Exchanges the `2^order` frames of `pages` for machine-consecutive ones below
/// `2^address_bits`; their content is lost. On an error they are as before, cleared.
pub(crate) fn make_contiguous(pages: &Pages, order: u32, address_bits: u32) -> Result<()> {
    if cfg!(not(target_os = "none")) {
        return Err(Errno::ENOSYS);
    }
    let first = start::pfn_of_linear(pages.address() as *const u8);
    let give: Vec<u64> = (first..first + (1 << order)).map(|pfn| p2m(pfn).0).collect();
    for pfn in first..first + give.len() {
        // SAFETY: `pages` is held by our caller alone, who does not touch it meanwhile.
        unsafe { set_page(start::linear(pfn).addr(), 0)? };
    }
    // In: the pfn of the extent. Out: its first machine frame.
    let mut get = [first as u64];
    let mut exchange = MemoryExchange {
        r#in: reservation(&give, 0, 0),
        out: reservation(&get, order, address_bits),
        nr_exchanged: 0,
    };
    exchange.out.extent_start = GuestAddr(get.as_mut_ptr().expose_provenance() as u64);
    let result = memory_op(XENMEM_EXCHANGE, &mut exchange);
    let done = result.is_ok() && exchange.nr_exchanged == give.len() as u64;
    for (index, old) in give.iter().enumerate() {
        let new = if done { get[0] + index as u64 } else { *old };
        set_p2m(first + index, Mfn(new));
        map(first + index).expect("a frame of ours can be mapped");
    }
    pages.clear(0, pages.len());
    if done { Ok(()) } else { Err(result.err().unwrap_or(Errno::ENOMEM)) }
}

/// No pfn below this one is without a frame.
static FIRST_HOLE: Local<usize> = Local::new(|| 0);

/// How many frames the domain holds and how many it may hold (as Xen counts).
pub fn reservation_of_self() -> Result<(u64, u64)> {
    let ask = |cmd| memory_op(cmd, &mut MemoryDomain { domid: DomId::SELF });
    Ok((ask(XENMEM_CURRENT_RESERVATION)?, ask(XENMEM_MAXIMUM_RESERVATION)?))
}

/// Gives up to `count` free frames back to Xen. How many it was.
pub fn deflate_domain(count: usize) -> usize {
    let mut given = 0;
    while given < count {
        let Some(pfn) = frames::take(1, 1) else { break };
        let mfn = p2m(pfn);
        // SAFETY: the frame was free and is not handed to anybody from here on.
        if unsafe { set_page(start::linear(pfn).addr(), 0) }.is_err() {
            FRAMES.with(|f| f.release(pfn, 1));
            break;
        }
        let mut arg = reservation(&[], 0, 0);
        let extent = [mfn.0];
        arg.extent_start = list(&extent);
        arg.nr_extents = 1;
        if memory_op(XENMEM_DECREASE_RESERVATION, &mut arg) == Ok(1) {
            set_p2m(pfn, INVALID);
            FIRST_HOLE.with(|first| *first = pfn.min(*first));
            given += 1;
        } else {
            if map(pfn).is_ok() {
                FRAMES.with(|f| f.release(pfn, 1));
            }
            break;
        }
    }
    given
}

/// Takes up to `count` frames from Xen for pfns that have none. How many it was.
pub fn inflate_domain(count: usize) -> usize {
    let mut taken = 0;
    for pfn in FIRST_HOLE.with(|first| *first)..paging::pfn_limit() {
        FIRST_HOLE.with(|first| *first = pfn);
        if taken == count {
            break;
        }
        if p2m(pfn) != INVALID {
            continue;
        }
        if paging::ensure_tables(start::linear(pfn).addr(), 1).is_err() {
            break;
        }
        let mut extent = [pfn as u64];
        let mut arg = reservation(&[], 0, 0);
        arg.extent_start = GuestAddr(extent.as_mut_ptr().expose_provenance() as u64);
        arg.nr_extents = 1;
        if memory_op(XENMEM_POPULATE_PHYSMAP, &mut arg) != Ok(1) {
            break;
        }
        set_p2m(pfn, Mfn(extent[0]));
        if map(pfn).is_err() {
            break;
        }
        FRAMES.with(|f| f.release(pfn, 1));
        taken += 1;
    }
    taken
}
