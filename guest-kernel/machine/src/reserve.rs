//! The domain's memory that is not mapped yet: the linear map grows when frames run short.
//!
//! Xen checks every entry of a page table that it is given, some hundred instructions each; a
//! guest that mapped all of its memory at boot spent most of its start there (29 million
//! instructions for 256 MiB, on Xen 4.17). So boot maps nothing, and the rest follows 2 MiB at a
//! time. Growing must work when no frame is left at all: the frames for the tables are set aside.

use crate::frames::FRAMES;
use crate::local::Local;
use crate::paging;

/// Tables that one step may need: an L1, and an L2 at the start of a GiB.
const TABLES: usize = 2;

#[derive(Default)]
struct Reserve {
    /// The pfns that are not mapped yet.
    from: usize,
    to: usize,
    /// Those of them that have a frame.
    frames: usize,
    /// Frames set aside for tables.
    tables: [Option<usize>; TABLES],
}

static RESERVE: Local<Reserve> = Local::new(Reserve::default);

/// The pfns from `from` to `to` are to be mapped when they are needed.
#[cfg(target_os = "none")]
pub(crate) fn set(from: usize, to: usize) {
    let frames = paging::frames_between(from, to);
    RESERVE.with(|r| *r = Reserve { from, to, frames, tables: [None; TABLES] });
    refill();
}

/// How many frames are not mapped yet.
pub(crate) fn frames() -> usize {
    RESERVE.with(|r| r.frames)
}

/// Sets frames aside for tables again.
fn refill() {
    RESERVE.with(|r| {
        for table in r.tables.iter_mut().filter(|_| r.from < r.to) {
            if table.is_none() {
                *table = FRAMES.with(|f| f.take(1, 1));
            }
        }
    });
}

/// A frame for a page table: a free one, or one that was set aside.
pub(crate) fn table_frame() -> Option<usize> {
    FRAMES.with(|f| f.take(1, 1)).or_else(|| RESERVE.with(|r| r.tables.iter_mut().find_map(Option::take)))
}

/// Maps the next 2 MiB and gives their frames to the allocator. False when there are no more.
pub(crate) fn map_more() -> bool {
    let (from, end) = RESERVE.with(|r| (r.from, ((r.from / 512 + 1) * 512).min(r.to)));
    if from >= end {
        return false;
    }
    let Ok(frames) = paging::map_linear(from, end) else { return false };
    RESERVE.with(|r| {
        r.from = end;
        r.frames -= frames;
        if r.from == r.to {
            // No more tables will be needed.
            for pfn in r.tables.iter_mut().filter_map(Option::take) {
                FRAMES.with(|f| f.release(pfn, 1));
            }
        }
    });
    refill();
    true
}
