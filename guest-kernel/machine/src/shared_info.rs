//! The shared_info page: pending events, and waiting for them.
//!
//! The decision here is the one the whole crate rests on: upcalls stay masked while Rust runs.
//! [`wait`] closes the race between "nothing pending" and "block" by letting the hypervisor
//! unmask and block in one step; an event that came in between ends the block at once.

use crate::hypercall;
use crate::shared::Shared;
use core::mem::offset_of;
use shared_abi::Port;
use shared_abi::event_channel::two_level_bit;
use shared_abi::xen::{SharedInfo, VcpuInfo};

const UPCALL_PENDING: usize = offset_of!(VcpuInfo, evtchn_upcall_pending);
const UPCALL_MASK: usize = offset_of!(VcpuInfo, evtchn_upcall_mask);
const PENDING_SEL: usize = offset_of!(VcpuInfo, evtchn_pending_sel);
const PENDING: usize = offset_of!(SharedInfo, evtchn_pending);
const MASK: usize = offset_of!(SharedInfo, evtchn_mask);

/// The page, wherever it is mapped.
#[cfg(target_os = "none")]
pub(crate) fn shared_info() -> &'static Shared {
    use core::ptr::NonNull;
    // SAFETY: boot maps the page at this address before anything else runs, for good.
    static PAGE: Page = Page(unsafe {
        Shared::new(
            NonNull::new_unchecked(core::ptr::without_provenance_mut(crate::paging::SHARED_INFO)),
            4096,
        )
    });
    struct Page(Shared);
    // SAFETY: one vcpu; all accesses are atomic or volatile.
    unsafe impl Sync for Page {}
    &PAGE.0
}

/// On the host: a page of this thread's own, so that event logic can be tested.
#[cfg(not(target_os = "none"))]
pub fn shared_info() -> &'static Shared {
    std::thread_local! {
        static PAGE: &'static Shared = {
            let pages = std::boxed::Box::leak(std::boxed::Box::new(crate::memory::Pages::new(1).unwrap()));
            pages.write_bytes(MASK, &[0xff; 512]);
            &**pages
        };
    }
    PAGE.with(|p| *p)
}

/// The words of a port in the pending and mask bitmaps, and its bit.
fn place(port: Port) -> (usize, usize, u64) {
    let (word, bit) = two_level_bit(port).expect("a port that Xen allocated");
    (PENDING + word * 8, MASK + word * 8, bit)
}

/// Holds back a port's events; they stay pending.
pub fn mask(port: Port) {
    let (_, mask, bit) = place(port);
    shared_info().fetch_or_u64(mask, bit);
}

/// Lets a port's events through, also one that is already pending.
pub fn unmask(port: Port) {
    let (pending, mask, bit) = place(port);
    shared_info().fetch_and_u64(mask, !bit);
    if shared_info().load_u64(pending) & bit != 0 {
        // Xen announced it while it was masked: announce it to ourselves.
        shared_info().fetch_or_u64(PENDING_SEL, 1 << (port.0 / 64));
        shared_info().store_u8(UPCALL_PENDING, 1);
    }
}

/// Forgets a pending event, so that a port starts clean.
pub fn clear(port: Port) {
    let (pending, _, bit) = place(port);
    shared_info().fetch_and_u64(pending, !bit);
}

/// How often [`take_pending`] looks again before it leaves the rest to the next call.
const PASSES: usize = 2;

/// Clears and reports the pending unmasked events. Peers that raise them without a pause, from other
/// processors, do not hold the caller up: what came last stays announced, and nobody blocks on it.
pub fn take_pending(mut found: impl FnMut(Port)) {
    let page = shared_info();
    for _ in 0..PASSES {
        if page.load_u8(UPCALL_PENDING) == 0 {
            break;
        }
        page.store_u8(UPCALL_PENDING, 0);
        let mut selected = page.fetch_and_u64(PENDING_SEL, 0);
        while selected != 0 {
            let word = selected.trailing_zeros();
            selected &= selected - 1;
            let pending = PENDING + word as usize * 8;
            let mut ready = page.load_u64(pending) & !page.load_u64(MASK + word as usize * 8);
            page.fetch_and_u64(pending, !ready);
            while ready != 0 {
                found(Port(word * 64 + ready.trailing_zeros()));
                ready &= ready - 1;
            }
        }
    }
}

/// Whether an event is pending.
pub fn any_pending() -> bool {
    shared_info().load_u8(UPCALL_PENDING) != 0
}

/// Waits until an event is pending.
pub(crate) fn wait() {
    if !any_pending() {
        hypercall::block();
        shared_info().store_u8(UPCALL_MASK, 1);
    }
}

/// What Xen does when an event is sent to `port`, for tests on the host.
#[cfg(not(target_os = "none"))]
pub fn raise(port: Port) {
    let (pending, mask, bit) = place(port);
    if shared_info().fetch_or_u64(pending, bit) & bit == 0 && shared_info().load_u64(mask) & bit == 0 {
        shared_info().fetch_or_u64(PENDING_SEL, 1 << (port.0 / 64));
        shared_info().store_u8(UPCALL_PENDING, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken() -> Vec<u32> {
        let mut ports = Vec::new();
        take_pending(|p| ports.push(p.0));
        ports
    }

    /// XSA-332: peers that send events as fast as they can used to keep the loop going for ever.
    #[test]
    fn events_that_keep_coming_do_not_hold_the_caller_up() {
        unmask(Port(70));
        raise(Port(70));
        let mut reported = 0;
        take_pending(|port| {
            reported += 1;
            assert!(reported < 100);
            raise(port);
        });
        assert!(reported > 0 && any_pending());
        assert_eq!(taken(), [70]);
    }

    #[test]
    fn reports_each_unmasked_event_once() {
        unmask(Port(5));
        unmask(Port(4095));
        raise(Port(5));
        raise(Port(4095));
        raise(Port(6));
        assert_eq!(taken(), [5, 4095]);
        assert_eq!(taken(), []);
        unmask(Port(6));
        assert_eq!(taken(), [6]);
        mask(Port(5));
        raise(Port(5));
        clear(Port(5));
        unmask(Port(5));
        assert_eq!(taken(), []);
    }
}
