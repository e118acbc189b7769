//! Event delivery wired to domains: the shared bits lie in shared_info and vcpu_info, and a told vcpu
//! wakes or is interrupted.

use super::vcpu::pause;
use super::{Domain, Vcpu, find};
use crate::event::fifo::{EventPage, Fifo, WORDS};
use crate::event::{Delivery, Route, SharedBits, Side};
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use hv_machine::frame::{Frame, Shared, Writable};
use hv_machine::lock::Mutex;
use hv_machine::x86_64::percpu;
use shared_abi::xen::SharedInfo;
use shared_abi::{DomId, Errno, Port};

const PENDING: usize = offset_of!(SharedInfo, evtchn_pending);
const MASK: usize = offset_of!(SharedInfo, evtchn_mask);

/// The event bits of a shared_info page. Its domain keeps the page.
pub struct Bits {
    pending: &'static [AtomicU64; 64],
    mask: &'static [AtomicU64; 64],
}

impl Bits {
    /// Those of a page.
    pub fn of(shared: &Shared<'static>) -> Bits {
        Bits { pending: shared.page().words(PENDING), mask: shared.page().words(MASK) }
    }
}

/// A frame of event words or control blocks, held as memory that may be written.
pub struct EventFrame {
    words: &'static [AtomicU32; WORDS],
    _frame: Frame<'static, Writable>,
}

impl From<Frame<'static, Writable>> for EventFrame {
    fn from(frame: Frame<'static, Writable>) -> EventFrame {
        EventFrame { words: frame.page().half_words(0), _frame: frame }
    }
}

impl EventPage for EventFrame {
    #[inline]
    fn words(&self) -> &[AtomicU32; WORDS] {
        self.words
    }
}

/// The word of a port below 4096, and its bit.
#[inline(always)]
fn place(words: &[AtomicU64; 64], port: u32) -> (&AtomicU64, u64) {
    (&words[port as usize / 64 % 64], 1 << (port % 64))
}

impl SharedBits for Domain {
    type Page = EventFrame;
    fn fifo(&self) -> &Mutex<Option<Fifo<EventFrame>>> {
        &self.fifo
    }
    #[inline]
    fn test_and_set_pending(&self, port: u32) -> bool {
        let (word, bit) = place(self.bits.pending, port);
        word.fetch_or(bit, SeqCst) & bit != 0
    }
    fn clear_pending(&self, port: u32) {
        let (word, bit) = place(self.bits.pending, port);
        word.fetch_and(!bit, SeqCst);
    }
    #[inline]
    fn is_pending(&self, port: u32) -> bool {
        let (word, bit) = place(self.bits.pending, port);
        word.load(SeqCst) & bit != 0
    }
    #[inline]
    fn is_masked(&self, port: u32) -> bool {
        let (word, bit) = place(self.bits.mask, port);
        word.load(SeqCst) & bit != 0
    }
    fn test_and_clear_mask(&self, port: u32) -> bool {
        let (word, bit) = place(self.bits.mask, port);
        word.fetch_and(!bit, SeqCst) & bit != 0
    }
    #[inline]
    fn test_and_set_selector(&self, vcpu: u32, word: u32) -> bool {
        self.vcpu(vcpu).is_none_or(|v| v.info.set_selector(word))
    }
    #[inline]
    fn test_and_set_upcall_pending(&self, vcpu: u32) -> bool {
        self.vcpu(vcpu).is_none_or(|v| v.info.set_pending())
    }
    #[inline]
    fn tell(&self, vcpu: u32, word: u32) -> bool {
        self.vcpu(vcpu).is_some_and(|v| v.info.tell(word))
    }
    fn upcall_deliverable(&self, vcpu: u32) -> bool {
        self.vcpu(vcpu).is_some_and(|v| v.info.deliverable())
    }
}

impl Domain {
    /// Does what a delivery asks for.
    #[inline]
    pub fn told(&self, port: Port, d: Delivery) {
        if let Some(v) = d.kick.and_then(|id| self.vcpu(id)) {
            v.notify();
        }
        if d.polled {
            self.wake_pollers(port);
        }
    }

    #[cold]
    fn wake_pollers(&self, port: Port) {
        while let Some(id) = self.ports.pollers.take(port) {
            if let Some(v) = self.vcpu(id) {
                v.unblock(pause::BLOCKED);
            }
        }
    }

    /// Sends an event from one of this domain's ports (`EVTCHNOP_send`).
    #[inline(always)]
    pub fn send(&self, port: Port) -> Result<(), Errno> {
        match self.ports.route(port)? {
            Route::Nowhere => {}
            Route::Own { vcpu } => self.told(port, self.ports.receive_own(self, port, vcpu)),
            Route::Peer { remote, port: theirs } => {
                if remote == self.id {
                    self.receive(theirs, self.id, port);
                } else if let Some(peer) = find(remote) {
                    peer.receive(theirs, self.id, port);
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn receive(&self, port: Port, from: DomId, from_port: Port) {
        match self.ports.receive(self, port, from, from_port) {
            Some(delivery) => self.told(port, delivery),
            None => self.receive_in_fifo(port, from, from_port),
        }
    }

    #[inline(never)]
    fn receive_in_fifo(&self, port: Port, from: DomId, from_port: Port) {
        self.told(port, self.ports.receive_in_fifo(self, port, from, from_port));
    }

    /// Raises a virtual interrupt of a vcpu (a global one: `vcpu` is ignored).
    pub fn raise_virq(&self, vcpu: u32, virq: u32) {
        if let Some((port, d)) = self.ports.raise_virq(self, vcpu, virq) {
            self.told(port, d);
        }
    }

    /// Raises a physical interrupt; false when no port is bound to it.
    pub fn raise_pirq(&self, pirq: u32) -> bool {
        match self.ports.raise_pirq(self, pirq) {
            Some((port, d)) => {
                self.told(port, d);
                true
            }
            None => false,
        }
    }
}

impl Vcpu {
    /// It has an upcall pending: wake it, or have its CPU look.
    #[inline]
    pub fn notify(self: &Arc<Self>) {
        if self.blocked.load(SeqCst) & pause::BLOCKED != 0 {
            self.unblock(pause::BLOCKED);
        }
        // The CPU that runs it looks for an upcall whenever it enters the guest.
        if self.running_on.load(SeqCst) != percpu::cpu_id() as u32 {
            self.kick();
        }
    }
}

/// Raises a global virtual interrupt at the domain that handles it.
pub fn raise_global_virq(virq: u32) {
    if let Some(d) = find(crate::run::VIRQ_HANDLERS.owner(virq)) {
        d.raise_virq(0, virq);
    }
}

/// Runs `f` on the event sides of one or two domains, their locks taken in the order of ids.
pub fn with_sides<R>(
    a: &Arc<Domain>,
    b: Option<&Arc<Domain>>,
    f: impl FnOnce(&mut Side<'_, Domain>, Option<&mut Side<'_, Domain>>) -> R,
) -> R {
    match b.filter(|b| b.id != a.id) {
        None => {
            let mut ctl = a.event_lock.lock();
            f(&mut Side { dom: a.id, ports: &a.ports, ctl: &mut ctl, bits: a }, None)
        }
        Some(b) => {
            let (mut first, mut second) = if a.id < b.id {
                let x = a.event_lock.lock();
                (x, b.event_lock.lock())
            } else {
                let y = b.event_lock.lock();
                let x = a.event_lock.lock();
                (x, y)
            };
            let mut side_b = Side { dom: b.id, ports: &b.ports, ctl: &mut second, bits: &**b };
            f(&mut Side { dom: a.id, ports: &a.ports, ctl: &mut first, bits: a }, Some(&mut side_b))
        }
    }
}
