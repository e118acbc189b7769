//! The allocator of physical pages: a buddy system whose lists run through the frame table.
//!
//! Blocks are kept by zone, one per bit length of the highest frame number inside, and never merge across
//! zones: so "below 4 GiB" or any other DMA width is a range of zones, and ordinary requests are served
//! from the highest zone that has something, which keeps low memory for those who need it. Finding a
//! block is two bit scans.
//!
//! Nothing leaves here with another's bytes in it: a frame is marked dirty when it comes back, and is cleared
//! by an idle CPU (`scrub.rs`) or, if that did not come to it, when it goes out.

use super::table::{FrameTable, NONE};
use super::word::Word;
use super::{Block, PRIVATE};
use crate::lock::{Mutex, rank};
use core::ops::Range;
use shared_abi::Mfn;

/// Blocks of 2^0 to 2^18 frames (1 GiB).
pub const MAX_ORDER: u32 = 18;
const ORDERS: usize = MAX_ORDER as usize + 1;
const ZONES: usize = 33;

mod scrub;

/// In `aux` of a free frame: it is the first of a free block, whose order is in the low bits.
const HEAD: u32 = 1 << 31;
/// In `aux` of a free frame: it holds somebody's bytes.
const DIRTY: u32 = 1 << 30;

/// Where the frames of an allocation may lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Anywhere.
    Any,
    /// At machine addresses of at most so many bits (32: below 4 GiB).
    AddressBits(u32),
}

impl Limit {
    /// The last zone that fits.
    fn zone(self) -> usize {
        match self {
            Limit::Any => ZONES - 1,
            Limit::AddressBits(bits) => (bits.saturating_sub(12) as usize).min(ZONES - 1),
        }
    }
}

/// The free lists. The links themselves are in the frame table, under this lock.
pub(super) struct Free {
    heads: [[u32; ORDERS]; ZONES],
    /// Per zone, a bit for each order that has a block.
    orders: [u32; ZONES],
    frames: u64,
    /// Every dirty frame lies in here; what else does is of no account.
    dirty: Range<u32>,
    /// A CPU is clearing frames, which are in no list but count as free.
    scrubbing: bool,
}

impl Free {
    pub(super) const fn new() -> Mutex<Free> {
        let (heads, orders) = ([[NONE; ORDERS]; ZONES], [0; ZONES]);
        Mutex::new(rank::FRAME_ALLOC, Free { heads, orders, frames: 0, dirty: 0..0, scrubbing: false })
    }

    fn zone(mfn: u32, order: u32) -> usize {
        let last = u64::from(mfn) + (1 << order) - 1;
        (64 - last.leading_zeros()) as usize
    }

    fn link(&mut self, table: &FrameTable, mfn: u32, order: u32) {
        let zone = Self::zone(mfn, order);
        let head = &mut self.heads[zone][order as usize];
        let entry = table.at(mfn);
        entry.aux_set(entry.aux_get() & DIRTY | HEAD | order);
        entry.next_set(*head);
        entry.prev_set(NONE);
        if *head != NONE {
            table.at(*head).prev_set(mfn);
        }
        *head = mfn;
        self.orders[zone] |= 1 << order;
    }

    fn unlink(&mut self, table: &FrameTable, mfn: u32, order: u32) {
        let zone = Self::zone(mfn, order);
        let entry = table.at(mfn);
        let (next, prev) = (entry.next_get(), entry.prev_get());
        if next != NONE {
            table.at(next).prev_set(prev);
        }
        if prev != NONE {
            table.at(prev).next_set(next);
        } else {
            self.heads[zone][order as usize] = next;
            if next == NONE {
                self.orders[zone] &= !(1 << order);
            }
        }
        entry.aux_set(entry.aux_get() & DIRTY);
    }

    fn take(&mut self, table: &FrameTable, order: u32, limit: Limit) -> Option<u32> {
        let (zone, found) = (0..=limit.zone()).rev().find_map(|zone| {
            let fitting = self.orders[zone] & (!0 << order);
            (fitting != 0).then(|| (zone, fitting.trailing_zeros()))
        })?;
        let mfn = self.heads[zone][found as usize];
        self.carve(table, mfn, found, mfn, order);
        self.frames -= 1 << order;
        Some(mfn)
    }

    /// Takes the free block of 2^`order` frames at `part` out of the one of 2^`whole` at `mfn`. The rest stays
    /// free: all of it is of the same zone.
    fn carve(&mut self, table: &FrameTable, mut mfn: u32, whole: u32, part: u32, order: u32) {
        self.unlink(table, mfn, whole);
        for half in (order..whole).rev() {
            let upper = mfn + (1 << half);
            if part < upper {
                self.link(table, upper, half);
            } else {
                self.link(table, mfn, half);
                mfn = upper;
            }
        }
    }

    /// Free frames that come back, dirty if `dirty`.
    fn give(&mut self, table: &FrameTable, mfn: u32, order: u32, dirty: bool) {
        self.frames += 1 << order;
        if dirty {
            let end = mfn + (1 << order);
            self.dirty = match self.dirty.is_empty() {
                true => mfn..end,
                false => self.dirty.start.min(mfn)..self.dirty.end.max(end),
            };
        }
        self.put(table, mfn, order);
    }

    /// Puts a block into the lists, merged with its neighbours.
    fn put(&mut self, table: &FrameTable, mut mfn: u32, mut order: u32) {
        while order < MAX_ORDER {
            let buddy = mfn ^ (1 << order);
            let free = table.try_at(buddy).is_some_and(|entry| entry.aux_get() & !DIRTY == HEAD | order);
            if !free || Self::zone(mfn, order) != Self::zone(buddy, order) {
                break;
            }
            self.unlink(table, buddy, order);
            mfn &= !(1 << order);
            order += 1;
        }
        self.link(table, mfn, order);
    }
}

/// The order of the largest block that some frames begin with.
fn first_order(frames: &Range<u32>) -> u32 {
    // Frame 0 stands alone: a larger block there would span zones.
    let aligned = if frames.start == 0 { 0 } else { frames.start.trailing_zeros() };
    (frames.end - frames.start).ilog2().min(MAX_ORDER).min(aligned)
}

impl FrameTable {
    /// Takes a block of 2^`order` frames within `limit`, zeroed, without stale translations to it
    /// anywhere. `None` if there is none, or `order` exceeds [`MAX_ORDER`].
    pub fn alloc(&self, order: u32, limit: Limit) -> Option<Block<'_>> {
        self.take_block(order, limit, true)
    }

    /// As [`FrameTable::alloc`] for memory that the hypervisor overwrites entirely before anybody can
    /// read it: the contents are whatever was there.
    pub fn alloc_uncleared(&self, order: u32, limit: Limit) -> Option<Block<'_>> {
        self.take_block(order, limit, false)
    }

    fn take_block(&self, order: u32, limit: Limit, clear: bool) -> Option<Block<'_>> {
        if order > MAX_ORDER {
            return None;
        }
        let mfn = self.free.lock().take(self, order, limit)?;
        let frames = mfn..mfn + (1 << order);
        // Before a byte of it changes, for a stale translation may be writable.
        self.flush_newest(frames.clone());
        for frame in frames {
            let entry = self.at(frame);
            if clear && entry.aux_get() & DIRTY != 0 {
                self.ram().page(frame).zero();
            }
            entry.aux_set(0);
            entry.reset(Word::new(PRIVATE, 0));
        }
        Some(Block::new(self, mfn, order))
    }

    /// Takes back a block that nobody has a reference to.
    pub(super) fn give_block(&self, mfn: u32, order: u32) {
        self.give_run(mfn..mfn + (1 << order));
    }

    /// Takes back frames that nobody has a reference to, stamped by whoever gives them.
    pub(super) fn give_run(&self, mut frames: Range<u32>) {
        for frame in frames.clone() {
            let entry = self.at(frame);
            entry.reset(Word::new(PRIVATE, 0));
            entry.aux_set(DIRTY);
            self.m2p_clear(frame);
        }
        let mut free = self.free.lock();
        while !frames.is_empty() {
            let order = first_order(&frames);
            free.give(self, frames.start, order, true);
            frames.start += 1 << order;
        }
    }

    /// Boot: the frames from `from` up to, not including, `to` hold free RAM, `clean` if it is zero.
    /// Frames beyond the table or told of twice are passed over.
    pub fn add_free(&self, from: Mfn, to: Mfn, clean: bool) {
        let end = to.0.min(self.frames()) as u32;
        let mut mfn = from.0.min(self.frames()) as u32;
        let mut free = self.free.lock();
        while mfn < end {
            let mut order = first_order(&(mfn..end));
            let untold = |frame: &u32| self.at(*frame).word() == super::table::UNTOLD;
            if !(mfn..mfn + (1 << order)).all(|frame| untold(&frame)) {
                if !untold(&mfn) {
                    mfn += 1;
                    continue;
                }
                order = 0;
            }
            for frame in mfn..mfn + (1 << order) {
                let entry = self.at(frame);
                entry.reset(Word::new(PRIVATE, 0));
                entry.aux_set(if clean { 0 } else { DIRTY });
            }
            free.give(self, mfn, order, !clean);
            mfn += 1 << order;
        }
    }

    /// How many frames are free. One request may yet miss the few that a CPU clears at that moment.
    pub fn free_frames(&self) -> u64 {
        self.free.lock().frames
    }
}
