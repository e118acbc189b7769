//! The questions' frames: four tables, one of each level, that refer to each other, and data in several
//! states.

use guest_kernel::memory::{Pages, m2p};

use super::{PRESENT, USER, WRITE, map, pin, set, unpin, update};
use crate::answer;
use crate::raw::peek;

/// Where a guest's frames are mapped (images/guest.ld).
const VIRT_BASE: usize = 0xffff_ffff_8000_0000;

/// Frames by what they are.
pub struct Pool {
    name: &'static str,
    pages: Pages,
    /// Taken down before the questions, some of which change the M2P.
    addresses: [usize; COUNT],
}

/// Data that is mapped writable.
pub const DATA: usize = 4;
/// Data that is mapped read-only, and not used as anything.
pub const READ_ONLY: usize = 5;
/// A frame without a mapping.
pub const UNMAPPED: usize = 6;
/// Descriptors, in use as a GDT.
pub const DESCRIPTORS: usize = 7;
const COUNT: usize = 8;

/// The address at which `frame` of this guest is mapped.
pub fn address_of(frame: u64) -> Option<usize> {
    m2p(guest_kernel::shared_abi::Mfn(frame)).map(|pfn| VIRT_BASE + pfn * 4096)
}

impl Pool {
    /// Makes the tables for the questions called `name`: each one's entry 0 names the one below.
    pub fn new(name: &'static str) -> Option<Pool> {
        let pages = Pages::new(COUNT).ok()?;
        let addresses = core::array::from_fn(|n| address_of(pages.mfn(n).0).unwrap_or(0));
        let pool = Pool { name, pages, addresses };
        for level in 1..=4 {
            let table = pool.table(level);
            answer(
                format_args!("{name}: L{level} read-only"),
                map(pool.address(level as usize - 1), (table << 12) | PRESENT | USER),
            );
            answer(format_args!("{name}: L{level} pinned"), pin(level, table));
            if level > 1 {
                answer(format_args!("{name}: L{level} filled"), set(table, 0, pool.child(level)));
            }
        }
        for frame in [READ_ONLY, DESCRIPTORS] {
            map(pool.address(frame), (pool.frame(frame) << 12) | PRESENT | USER);
        }
        map(pool.address(UNMAPPED), 0);
        Some(pool)
    }

    /// Takes the tables apart again.
    pub fn end(self) {
        let name = self.name;
        for level in (1..=4).rev() {
            answer(format_args!("{name}: L{level} unpinned"), unpin(self.table(level)));
        }
        for frame in 0..COUNT {
            let pfn = (self.address(frame) - VIRT_BASE) as u64 >> 12;
            answer(
                format_args!("{name}: frame {frame} in the M2P"),
                update((self.frame(frame) << 12) | 1, pfn),
            );
            let entry = (self.frame(frame) << 12) | PRESENT | USER | WRITE;
            answer(format_args!("{name}: frame {frame} writable again"), map(self.address(frame), entry));
        }
    }

    /// The machine frame of one.
    pub fn frame(&self, index: usize) -> u64 {
        self.pages.mfn(index).0
    }

    /// The machine frame of the table of `level`.
    pub fn table(&self, level: u64) -> u64 {
        self.frame(level as usize - 1)
    }

    /// What an entry of the table of `level` may name: the table below, or data.
    pub fn child(&self, level: u64) -> u64 {
        let frame = if level == 1 { self.frame(DATA) } else { self.table(level - 1) };
        (frame << 12) | PRESENT | USER
    }

    /// Where a frame is mapped, or would be.
    pub fn address(&self, index: usize) -> usize {
        self.addresses[index]
    }

    /// Word `index` of a frame that is mapped.
    pub fn word(&self, frame: usize, index: usize) -> u64 {
        peek(self.address(frame) + index * 8)
    }

    /// Entry `index` of the table of `level`.
    pub fn entry(&self, level: u64, index: usize) -> u64 {
        self.word(level as usize - 1, index)
    }
}
