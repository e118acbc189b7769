//! Which frames a domain owns: a list per domain, so that destroying one costs what it had.
//!
//! The links are in the frame table; heads, counts and locks of 256 domains each lie in one private
//! frame, which is allocated when the first of them gets memory. Frames that the domain gave up, but that
//! something still refers to, are at the end of its list: so destruction is done when the first frame is
//! one of these. A list's lock is a spin lock held for a
//! handful of instructions, never while anything else is taken.

use super::alloc::Limit;
use super::table::{FrameTable, NONE};
use super::word::Word;
use crate::ram::Page;
use core::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire};
use shared_abi::DomId;

const LISTS_PER_FRAME: usize = 256;
const LIST_BYTES: usize = 16;
const LOCK: usize = 0;
/// Frame number plus one.
const HEAD: usize = 4;
/// Frame number plus one.
const TAIL: usize = 8;
const LEN: usize = 12;

/// The frames that hold the lists of 256 domains each.
pub(super) struct Owners([AtomicU32; 0x8000 / LISTS_PER_FRAME]);

impl Owners {
    pub(super) const fn new() -> Owners {
        Owners([const { AtomicU32::new(NONE) }; 0x8000 / LISTS_PER_FRAME])
    }
}

/// A domain's list, locked.
pub(super) struct List<'t> {
    table: &'t FrameTable,
    page: Page<'t>,
    at: usize,
}

impl Drop for List<'_> {
    fn drop(&mut self) {
        self.page.store_u32(self.at + LOCK, 0);
    }
}

impl List<'_> {
    pub(super) fn len(&self) -> u32 {
        self.page.load_u32(self.at + LEN)
    }

    pub(super) fn first(&self) -> Option<u32> {
        self.page.load_u32(self.at + HEAD).checked_sub(1)
    }

    /// Adds a frame that becomes the domain's.
    pub(super) fn push_first(&mut self, mfn: u32) {
        let head = self.first();
        let entry = self.table.at(mfn);
        entry.prev_set(NONE);
        entry.next_set(head.unwrap_or(NONE));
        match head {
            Some(head) => self.table.at(head).prev_set(mfn),
            None => self.page.store_u32(self.at + TAIL, mfn + 1),
        }
        self.page.store_u32(self.at + HEAD, mfn + 1);
        self.page.store_u32(self.at + LEN, self.len() + 1);
    }

    /// Adds a frame that the domain gave up.
    pub(super) fn push_last(&mut self, mfn: u32) {
        let tail = self.page.load_u32(self.at + TAIL).checked_sub(1);
        let entry = self.table.at(mfn);
        entry.prev_set(tail.unwrap_or(NONE));
        entry.next_set(NONE);
        match tail {
            Some(tail) => self.table.at(tail).next_set(mfn),
            None => self.page.store_u32(self.at + HEAD, mfn + 1),
        }
        self.page.store_u32(self.at + TAIL, mfn + 1);
        self.page.store_u32(self.at + LEN, self.len() + 1);
    }

    /// Takes out `mfn`, which is the first.
    pub(super) fn pop_first(&mut self, mfn: u32) {
        match self.table.at(mfn).next_get() {
            NONE => self.page.store_u32(self.at + TAIL, 0),
            next => self.table.at(next).prev_set(NONE),
        }
        let head = self.table.at(mfn).next_get().wrapping_add(1);
        self.page.store_u32(self.at + HEAD, head);
        self.page.store_u32(self.at + LEN, self.len() - 1);
    }

    pub(super) fn unlink(&mut self, mfn: u32) {
        let entry = self.table.at(mfn);
        let (next, prev) = (entry.next_get(), entry.prev_get());
        match next {
            NONE => self.page.store_u32(self.at + TAIL, prev.wrapping_add(1)),
            next => self.table.at(next).prev_set(prev),
        }
        match prev {
            NONE => self.page.store_u32(self.at + HEAD, next.wrapping_add(1)),
            prev => self.table.at(prev).next_set(next),
        }
        self.page.store_u32(self.at + LEN, self.len() - 1);
    }
}

impl FrameTable {
    /// Locks the list of `owner`, if it ever had memory.
    pub(super) fn list(&self, owner: DomId) -> Option<List<'_>> {
        let owner = usize::from(owner.0);
        let holder = self.owners.0.get(owner / LISTS_PER_FRAME)?.load(Acquire);
        if holder == NONE {
            return None;
        }
        let page = self.ram().page(holder);
        let at = owner % LISTS_PER_FRAME * LIST_BYTES;
        while page.cas_u32(at + LOCK, 0, 1).is_err() {
            self.relax();
        }
        Some(List { table: self, page, at })
    }

    /// Locks the list of `owner`, making room for it if need be; `None` if there is no memory for that.
    pub(super) fn list_or_new(&self, owner: DomId) -> Option<List<'_>> {
        let holder = self.owners.0.get(usize::from(owner.0) / LISTS_PER_FRAME)?;
        if holder.load(Acquire) == NONE {
            let block = self.alloc(0, Limit::Any)?;
            // If another CPU was first, its frame stays and ours goes back.
            if holder.compare_exchange(NONE, block.number(), AcqRel, Acquire).is_ok() {
                block.keep();
            }
        }
        self.list(owner)
    }

    /// How many frames belong to `owner`'s memory, those included that others still refer to after it
    /// gave them up. Frames shared with it by the hypervisor don't count as long as they are shared. The number of a
    /// domain that is gone is not free before there are none: the next to bear it would be their owner.
    pub fn owned(&self, owner: DomId) -> u32 {
        self.list(owner).map_or(0, |list| list.len())
    }

    /// A frame that the hypervisor shared, and shares no more: from here on it counts as one that its owner gave up.
    pub(super) fn count_as_given_up(&self, mfn: u32) {
        let owner = self.at(mfn).word().owner();
        if let Some(mut list) = self.list_or_new(owner)
            && self.at(mfn).lower(owner, Word::SHARED)
        {
            list.push_last(mfn);
        }
    }

    /// Takes a frame without references out of its owner's memory and frees it.
    pub(super) fn reclaim(&self, mfn: u32) {
        let entry = self.at(mfn);
        let word = entry.word();
        debug_assert!(word.refs() == 0 && word.types() == 0 && !word.has(Word::LOCKED));
        entry.stamp_set(self.clock().now());
        if !word.has(Word::SHARED)
            && let Some(mut list) = self.list(word.owner())
        {
            list.unlink(mfn);
        }
        self.give_block(mfn, 0);
    }
}
