//! Clearing free memory before it is asked for, a few frames at a time, by CPUs that have nothing else to do.
//!
//! What is being cleared is in no list, so nobody can be given it half done; and one CPU does it at a time,
//! so that no more than [`CHUNK`] frames are ever missing. Where to look is a range that every frame that
//! came back dirty has widened: a walk through it costs less than keeping books of each. A frame that is
//! zero already is only read: most of a machine's memory is after power-on, and an emulator need not
//! provide it then.

use super::{DIRTY, Free, HEAD, MAX_ORDER};
use crate::frame::FrameTable;

/// Frames cleared at a time: 2^3, some microseconds.
const CHUNK: u32 = 3;
/// Entries of the frame table looked at, at a time.
const LOOK: u32 = 256;

/// What a look found.
enum Found {
    /// A block, taken out of the lists.
    Block(u32, u32),
    /// Nothing yet.
    NotHere,
    /// No dirty frame anywhere, or another CPU clears.
    Nothing,
}

impl Free {
    /// The free block, and its order, that `mfn` lies in.
    fn block_of(table: &FrameTable, mfn: u32) -> Option<(u32, u32)> {
        let blocks = (0..=MAX_ORDER).map(|order| (mfn >> order << order, order));
        blocks.into_iter().find(|&(head, order)| table.at(head).aux_get() & !DIRTY == HEAD | order)
    }

    fn take_dirty(&mut self, table: &FrameTable) -> Found {
        if self.scrubbing || self.dirty.is_empty() {
            return Found::Nothing;
        }
        let end = self.dirty.end.min(self.dirty.start + LOOK);
        for mfn in self.dirty.start..end {
            // A frame in use has other things in `aux`: only the lists tell that it is free.
            if table.at(mfn).aux_get() & DIRTY == 0 {
                continue;
            }
            let Some((head, whole)) = Self::block_of(table, mfn) else { continue };
            let order = whole.min(CHUNK);
            let part = mfn >> order << order;
            self.carve(table, head, whole, part, order);
            self.dirty.start = part + (1 << order);
            self.scrubbing = true;
            return Found::Block(part, order);
        }
        self.dirty.start = end;
        Found::NotHere
    }
}

impl FrameTable {
    /// Clears some free frames, or looks for such; false when there are none left. Takes some microseconds.
    pub fn scrub(&self) -> bool {
        let found = self.free.lock().take_dirty(self);
        let (mfn, order) = match found {
            Found::Block(mfn, order) => (mfn, order),
            Found::NotHere => return true,
            Found::Nothing => return false,
        };
        let frames = mfn..mfn + (1 << order);
        // A translation that some CPU still holds could write behind our back.
        self.flush_newest(frames.clone());
        for frame in frames {
            let entry = self.at(frame);
            if entry.aux_get() & DIRTY != 0 && !self.ram().view(frame).is_zero() {
                self.ram().page(frame).zero();
            }
            entry.aux_set(0);
        }
        let mut free = self.free.lock();
        free.scrubbing = false;
        free.put(self, mfn, order);
        true
    }
}
