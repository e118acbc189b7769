//! Nothing that a guest or a toolstack makes grow may panic when the heap is full.
//!
//! The story: an allocation failure in the hypervisor's heap was a panic, so a control domain that created domains
//! until memory was out took the machine down with it. Here every structure that grows in a hypercall and can be had
//! on a host is made and grown under each budget of memory, from none to enough: it answers `ENOMEM` and is what it
//! was before, or it succeeds. An allocation that can't fail aborts this test.

use hv_core::event::{Control, EventPage, Fifo, Limits, Ports, SharedBits, Side};
use hv_core::grant::GrantTable;
use hv_core::ranges::Ranges;
use hv_core::sched::{Credit, Params, Policy};
use hv_core::time::TimerQueue;
use hv_machine::budget::{Budgeted, within};
use hv_machine::frame::{Cpus, FrameTable, Limit, TlbClock, Type};
use hv_machine::heap::try_arc;
use hv_machine::lock::Mutex;
use shared_abi::{DomId, Errno, Mfn};
use std::sync::atomic::AtomicU32;

#[global_allocator]
static ALLOCATOR: Budgeted = Budgeted;

/// Tries `f` with more and more memory until it succeeds; how often it was refused.
fn until_enough<T>(step: usize, mut f: impl FnMut(usize) -> Result<T, Errno>) -> usize {
    let mut refused = 0;
    loop {
        match f(refused * step) {
            Ok(_) => return refused,
            Err(e) => assert_eq!(e, Errno::ENOMEM),
        }
        refused += 1;
        assert!(refused < 100_000, "no amount of memory is enough");
    }
}

#[test]
fn an_arc_is_refused() {
    let refused = until_enough(8, |budget| {
        let r = within(budget, || try_arc([7u64; 100]));
        if let Ok(arc) = &r {
            assert_eq!(**arc, [7; 100]);
        }
        r
    });
    assert!(refused >= 100, "an array of 800 bytes in {refused} words");
}

struct NoPage;
impl EventPage for NoPage {
    fn words(&self) -> &[AtomicU32; 1024] {
        static WORDS: [AtomicU32; 1024] = [const { AtomicU32::new(0) }; 1024];
        &WORDS
    }
}

struct NoBits;
impl SharedBits for NoBits {
    type Page = NoPage;
    fn fifo(&self) -> &Mutex<Option<Fifo<NoPage>>> {
        static NONE: Mutex<Option<Fifo<NoPage>>> = Mutex::new(0, None);
        &NONE
    }
    fn test_and_set_pending(&self, _: u32) -> bool {
        false
    }
    fn clear_pending(&self, _: u32) {}
    fn is_pending(&self, _: u32) -> bool {
        false
    }
    fn is_masked(&self, _: u32) -> bool {
        false
    }
    fn test_and_clear_mask(&self, _: u32) -> bool {
        false
    }
    fn test_and_set_selector(&self, _: u32, _: u32) -> bool {
        false
    }
    fn test_and_set_upcall_pending(&self, _: u32) -> bool {
        false
    }
    fn upcall_deliverable(&self, _: u32) -> bool {
        false
    }
}

#[test]
fn ports_are_refused() {
    let limits = Limits { max_port: u32::MAX, vcpus: 4, pirqs: 32 };
    assert!(until_enough(16, |budget| within(budget, || Ports::new(limits))) > 0);

    let ports = Ports::new(limits).unwrap();
    let mut ctl = Control::new();
    let mut refused = 0;
    for taken in 1..4096 {
        refused += until_enough(64, |budget| {
            let mut side = Side { dom: DomId(1), ports: &ports, ctl: &mut ctl, bits: &NoBits };
            let port = within(budget, || side.alloc_unbound(DomId(0)));
            match port {
                Ok(port) => assert_eq!(port.0, taken),
                Err(_) => assert_eq!(ctl.in_use(), taken - 1),
            }
            port
        });
    }
    assert!(refused > 6, "the table grew without asking for memory");
}

#[test]
fn vcpus_are_refused() {
    assert!(until_enough(64, |budget| within(budget, || Credit::new(4).map(drop))) > 0);
    let sched = Credit::new(4).unwrap();
    let mut all = Vec::with_capacity(300);
    let mut refused = 0;
    for _ in 0..300 {
        refused += until_enough(256, |budget| {
            let handle = within(budget, || sched.insert(Params::default()));
            if let Ok(handle) = handle {
                assert!(!all.contains(&handle));
                all.push(handle);
            }
            handle
        });
    }
    assert!(refused > 0);
    // Those that were refused left nothing behind: with no memory at all there is room for as many again.
    for handle in all.drain(..) {
        let _ = sched.sleep(handle);
        sched.remove(handle).unwrap();
    }
    for _ in 0..300 {
        within(0, || sched.insert(Params::default())).unwrap();
    }
}

#[test]
fn timers_are_refused() {
    let mut queue = TimerQueue::<u32>::new();
    assert!(!queue.arm(1, 1));
    assert!(until_enough(16, |budget| within(budget, || queue.reserve(50))) > 0);
    within(0, || assert!((0..50).all(|id| queue.arm(u64::from(id), id))));
}

#[test]
fn grant_frames_are_refused() {
    struct NoCpus;
    impl Cpus for NoCpus {
        fn flush(&self, _: &TlbClock, _: u32) {}
        fn relax(&self) {}
    }
    let frames: &'static FrameTable = Box::leak(Box::new(FrameTable::fake(128, &NoCpus)));
    frames.add_free(Mfn(1), Mfn(128), false);
    let free = || frames.free_frames();
    // What 256 domains' lists of frames are in stays theirs.
    drop(frames.share(frames.alloc(0, Limit::Any).unwrap(), DomId(1), Type::Writable));
    let all = free();
    let made =
        |budget| within(budget, || GrantTable::new(frames, DomId(1), 32, 2)).map_err(|_| Errno::ENOMEM);
    assert!(until_enough(16, |budget| made(budget).map(drop)) > 0);
    assert_eq!(free(), all, "a table that could not be made keeps frames");

    let mut table = made(1 << 20).unwrap();
    for n in 2..=32 {
        until_enough(64, |budget| {
            let grown = within(budget, || table.grow(n)).map_err(|_| Errno::ENOMEM);
            assert_eq!(all - free(), u64::from(table.frame_count()));
            grown
        });
        assert_eq!(table.frame_count(), n);
    }
    let hog: Vec<_> = std::iter::from_fn(|| frames.alloc(0, Limit::Any)).collect();
    assert!(GrantTable::new(frames, DomId(2), 32, 2).is_err());
    drop((hog, table));
    assert_eq!(free(), all);
}

#[test]
fn ranges_are_refused() {
    let mut ranges = Ranges::default();
    ranges.add(0..10_000).unwrap();
    let mut refused = 0;
    for hole in (10..1000).step_by(20) {
        refused += until_enough(16, |budget| {
            let r = within(budget, || ranges.remove(hole..hole + 10));
            assert_eq!(ranges.contains(hole - 10..hole + 11), r.is_err());
            r
        });
    }
    assert!(refused > 0);
}
