//! Every interleaving of two or three CPUs on one frame's word, up to loom's preemption bound.
//!
//! The frame's contents are a loom cell: loom itself fails the test when somebody writes them as data
//! while another CPU relies on them as a page table, or without an ordering between the two.

use crate::frame::entry::{Asked, Cell32, Cell64, Entry, Put, Refusal};
use crate::frame::word::{Type, Word};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use loom::thread;
use shared_abi::DomId;

impl Cell64 for AtomicU64 {
    fn load(&self) -> u64 {
        AtomicU64::load(self, Acquire)
    }
    fn cas(&self, old: u64, new: u64) -> Result<(), u64> {
        self.compare_exchange(old, new, AcqRel, Acquire).map(drop)
    }
}

impl Cell32 for AtomicU32 {
    fn get(&self) -> u32 {
        self.load(Relaxed)
    }
    fn set(&self, value: u32) {
        self.store(value, Release)
    }
}

const OWNER: DomId = DomId(7);

/// A frame, one guest's CPU, and the TLB clock.
struct Machine {
    entry: Entry<AtomicU64, AtomicU32>,
    contents: UnsafeCell<u64>,
    tick: AtomicU32,
    flushed: AtomicU32,
    /// Whether the CPU's TLB holds a writable translation to the frame.
    cached: AtomicBool,
}

impl Machine {
    fn new() -> Arc<Machine> {
        let word = Word::new(OWNER, 1).with(Word::ALLOCATED);
        Arc::new(Machine {
            entry: Entry::new(word, AtomicU64::new, AtomicU32::new),
            contents: UnsafeCell::new(0),
            tick: AtomicU32::new(1),
            flushed: AtomicU32::new(1),
            cached: AtomicBool::new(false),
        })
    }

    fn flush(&self) {
        let tick = self.tick.fetch_add(1, SeqCst) + 1;
        self.cached.store(false, SeqCst);
        self.flushed.store(tick, SeqCst);
    }

    /// One round of `FrameTable::take`; whether the type is held.
    fn take(&self, want: Type) -> bool {
        match self.entry.acquire(OWNER, want) {
            Asked::Held => true,
            Asked::Begin(was) => {
                if was != Type::None && self.entry.stamp_get() >= self.flushed.load(SeqCst) {
                    self.flush();
                }
                if want != Type::Writable {
                    assert!(!self.cached.load(SeqCst), "a page table that a CPU can still write to");
                    self.contents.with(|_| ());
                }
                self.entry.commit();
                true
            }
            Asked::Locked | Asked::Dying | Asked::Refused(Refusal::Type) => false,
            other => panic!("{other:?}"),
        }
    }

    fn put(&self) {
        match self.entry.put_type(false, || self.tick.load(SeqCst)) {
            Put::Done => {}
            Put::Last => panic!("the allocation's reference is still there"),
            Put::Retired => {
                self.contents.with(|_| ());
                self.entry.stamp_set(self.tick.load(SeqCst));
                assert_eq!(self.entry.buried(), Put::Done);
            }
        }
    }

    fn write_as_guest(&self, mapped: bool) {
        if self.take(Type::Writable) {
            if mapped {
                self.cached.store(true, SeqCst);
            }
            self.put();
        }
    }

    fn write(&self) {
        if self.take(Type::Writable) {
            // SAFETY: loom checks that nobody else is at the cell, and fails the test otherwise.
            #[allow(unsafe_code)]
            self.contents.with_mut(|contents| unsafe { *contents += 1 });
            self.put();
        }
    }

    fn use_as_table(&self, ty: Type) {
        if self.take(ty) {
            self.contents.with(|_| ());
            assert!(!self.cached.load(SeqCst));
            self.put();
        }
    }

    fn assert_quiet(&self) {
        let word = self.entry.word();
        assert_eq!((word.refs(), word.types(), word.has(Word::LOCKED)), (1, 0, false), "{word:?}");
    }
}

fn model(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

/// One CPU writes the frame as data while another makes it a page table: never both.
#[test]
fn a_writer_and_a_table_exclude_each_other() {
    model(3, || {
        let machine = Machine::new();
        let other = machine.clone();
        let table = thread::spawn(move || {
            other.use_as_table(Type::L1);
            other.use_as_table(Type::L2);
        });
        machine.write();
        machine.write();
        table.join().unwrap();
        machine.assert_quiet();
    });
}

/// Two CPUs make the frame tables of different levels: never both.
#[test]
fn two_levels_exclude_each_other() {
    model(4, || {
        let machine = Machine::new();
        let other = machine.clone();
        let table = thread::spawn(move || other.use_as_table(Type::L2));
        machine.use_as_table(Type::L1);
        machine.write();
        table.join().unwrap();
        machine.assert_quiet();
    });
}

/// XSA-401's story: a frame got its new type although a flush of stale translations was still to come.
/// And one that Xen's code (the time stamp is stored before the count goes down) leaves open: a CPU that
/// is about to drop the last use has read the clock; another maps the frame, flushes, unmaps it; the old
/// stamp stays, and the frame becomes a page table without a flush while a TLB still holds the mapping.
#[test]
fn no_cpu_can_write_a_table_by_a_stale_translation() {
    model(2, || {
        let machine = Machine::new();
        let (one, two) = (machine.clone(), machine.clone());
        let first = thread::spawn(move || one.write_as_guest(false));
        let second = thread::spawn(move || {
            two.flush();
            two.write_as_guest(true);
        });
        machine.use_as_table(Type::L1);
        first.join().unwrap();
        second.join().unwrap();
        machine.use_as_table(Type::L1);
        machine.assert_quiet();
    });
}

/// The last reference goes exactly once, whoever drops it, and none is given after it.
#[test]
fn the_last_reference_goes_once() {
    model(4, || {
        let machine = Machine::new();
        let other = machine.clone();
        let user = thread::spawn(move || {
            let mut last = 0;
            if other.entry.get_ref(OWNER).is_ok() {
                last += (other.entry.put_ref() == Put::Last) as u32;
            }
            last
        });
        let mut last = 0;
        assert!(machine.entry.lower(OWNER, Word::ALLOCATED));
        last += (machine.entry.put_ref() == Put::Last) as u32;
        last += user.join().unwrap();
        assert_eq!((last, machine.entry.word().refs()), (1, 0));
        assert_eq!(machine.entry.get_ref(OWNER), Err(Refusal::Owner));
    });
}

/// A check that pauses while another CPU takes the frame out of its owner's memory: one of them finds it
/// and lets it go, or it would stay for ever.
#[test]
fn a_paused_check_of_a_disowned_frame_is_found() {
    model(4, || {
        let machine = Machine::new();
        let other = machine.clone();
        let checker = thread::spawn(move || match other.entry.acquire(OWNER, Type::L1) {
            Asked::Begin(_) => other.entry.pause(),
            Asked::Refused(_) => false,
            asked => panic!("{asked:?}"),
        });
        assert!(machine.entry.get_ref(OWNER).is_ok());
        assert!(machine.entry.lower(OWNER, Word::ALLOCATED));
        let mine = machine.entry.retire_partial();
        assert_eq!(machine.entry.put_ref(), Put::Done);
        let theirs = checker.join().unwrap();
        assert!(!(mine && theirs));
        let mut last = machine.entry.put_ref();
        if mine || theirs {
            assert_eq!(last, Put::Done);
            last = machine.entry.buried();
        }
        assert_eq!((last, machine.entry.word().refs()), (Put::Last, 0), "{:?}", machine.entry.word());
    });
}
