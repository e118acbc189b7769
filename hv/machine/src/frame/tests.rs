//! Tests of the frame table as a whole, on a fake machine.

mod advisories;
mod allocator;
mod audit;
mod basic;
mod grants;
mod loom;
mod oracle;
mod threads;

use super::*;
use shared_abi::{DomId, Mfn, pte};
use std::boxed::Box;
use std::vec::Vec;

/// CPUs that flush when asked, and count it.
pub(super) struct FakeCpus {
    pub flushes: std::sync::atomic::AtomicUsize,
}

impl Cpus for FakeCpus {
    fn flush(&self, clock: &TlbClock, stamp: u32) {
        self.flushes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        for cpu in clock.stale_cpus(stamp).collect::<Vec<_>>() {
            clock.end(cpu, clock.begin());
        }
    }
    fn relax(&self) {
        std::thread::yield_now();
    }
}

pub(super) const D1: DomId = DomId(1);

pub(super) const D2: DomId = DomId(2);
pub(super) const TABLE: u64 = pte::PRESENT | pte::RW | pte::USER | pte::ACCESSED;
pub(super) const RO: u64 = pte::PRESENT | pte::USER;
pub(super) const RW: u64 = pte::PRESENT | pte::USER | pte::RW;
/// What the tests put into the hypervisor's slots.
pub(super) const TEMPLATE: [u64; HV_SLOTS] = [0xabc0_0000_0000_0001; HV_SLOTS];

/// A machine of `frames` free frames with two CPUs.
pub(super) fn machine(frames: usize) -> FrameTable {
    let cpus = Box::leak(Box::new(FakeCpus { flushes: 0.into() }));
    let table = FrameTable::fake(frames, cpus);
    table.clock().join(0);
    table.clock().join(1);
    table.set_template(TEMPLATE);
    table.add_free(Mfn(0), Mfn(frames as u64), true);
    table
}

pub(super) fn work(table: &FrameTable) -> Work<'_> {
    Work::new(table, u32::MAX)
}

/// `n` frames for `domain`.
pub(super) fn populate<const N: usize>(table: &FrameTable, domain: DomId) -> [Mfn; N] {
    core::array::from_fn(|_| table.populate(domain, 0, Limit::Any).unwrap())
}

/// Writes a word of a frame as its owner would.
pub(super) fn poke(table: &FrameTable, mfn: Mfn, index: usize, value: u64) {
    table.ram().page(mfn.0 as u32).store_u64(index * 8, value);
}

pub(super) fn peek(table: &FrameTable, mfn: Mfn, index: usize) -> u64 {
    table.ram().view(mfn.0 as u32).load_u64(index * 8)
}

/// Four frames as one tree, L4 first: each has the next in entry 0; the L1 is empty.
pub(super) fn tree(table: &FrameTable, domain: DomId) -> [Mfn; 4] {
    let tables: [Mfn; 4] = populate(table, domain);
    for pair in tables.windows(2) {
        poke(table, pair[0], 0, pte::entry(pair[1], TABLE));
    }
    tables
}

/// Updates an entry as the owner.
pub(super) fn update(table: &FrameTable, mfn: Mfn, index: usize, value: u64) -> Progress<u64> {
    let owner = table.word(mfn).unwrap().owner();
    let mut work = work(table);
    let tab = table.get_table(mfn, owner).expect("a table");
    let old = table.update_entry(&tab, index, value, Store::Set, &Rights::plain(owner), &mut work);
    tab.release(&mut work);
    table.settle(&mut work).unwrap();
    old
}

pub(super) fn pin(table: &FrameTable, mfn: Mfn, level: u32) -> Progress<()> {
    let owner = table.word(mfn).unwrap().owner();
    let mut work = work(table);
    let done = table.pin(mfn, level, &Rights::plain(owner), &mut work);
    table.settle(&mut work).unwrap();
    done
}

pub(super) fn unpin(table: &FrameTable, mfn: Mfn) -> Progress<()> {
    let owner = table.word(mfn).unwrap().owner();
    let mut work = work(table);
    let done = table.unpin(mfn, owner, &mut work);
    table.settle(&mut work).unwrap();
    done
}
