//! A domain's grant table: the frames it shares with the hypervisor, and which entries are in use.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use hv_machine::frame::{Frame, FrameTable, Held, Limit, Shared, Type};
use shared_abi::grant_table::{
    ENTRIES_PER_PAGE_V1, GNTST_BAD_GNTREF, GNTST_BAD_PAGE, GNTST_EAGAIN, GNTST_GENERAL_ERROR, GNTST_NO_SPACE,
    GTF_READING, GTF_WRITING,
};
use shared_abi::{DomId, GrantRef, Mfn};

use super::Failure;
use super::v1::{Entry, Use};

const ENTRIES: u32 = ENTRIES_PER_PAGE_V1 as u32;
/// Records of entries in use are made in runs of this many.
const RUN: u32 = 64;

/// An entry's uses. While there are any, the frame is referenced: whatever becomes of the entry
/// or of the mappings, it is no other frame's number.
struct Active<'t> {
    frame: Option<Frame<'t, Held>>,
    by: DomId,
    readers: u32,
    writers: u32,
}

type Run<'t> = Box<[Active<'t>; RUN as usize]>;

/// One frame of the table, and the records of its entries.
struct TableFrame<'t> {
    shared: Shared<'t>,
    /// Of `shared`.
    words: &'t [AtomicU64; ENTRIES as usize],
    active: [Option<Run<'t>>; (ENTRIES / RUN) as usize],
}

impl<'t> TableFrame<'t> {
    #[inline]
    fn entry(&self, gref: GrantRef) -> Entry<'t> {
        Entry(&self.words[(gref.0 % ENTRIES) as usize])
    }

    /// The record of an entry, if one was made.
    #[inline]
    fn active(&mut self, gref: GrantRef) -> Option<&mut Active<'t>> {
        let run = self.active[(gref.0 % ENTRIES / RUN) as usize].as_mut()?;
        Some(&mut run[(gref.0 % RUN) as usize])
    }

    /// The record of an entry, which is made with its run if there is none.
    #[inline]
    fn make_active(&mut self, gref: GrantRef) -> Result<&mut Active<'t>, i16> {
        let run = &mut self.active[(gref.0 % ENTRIES / RUN) as usize];
        if run.is_none() {
            *run = make_run();
        }
        let run = run.as_mut().ok_or(GNTST_NO_SPACE)?;
        Ok(&mut run[(gref.0 % RUN) as usize])
    }
}

/// Records of entries that are not in use; none if memory is exhausted.
#[cold]
#[inline(never)]
fn make_run<'t>() -> Option<Run<'t>> {
    let mut run = Vec::new();
    run.try_reserve_exact(RUN as usize).ok()?;
    run.resize_with(RUN as usize, || Active { frame: None, by: DomId::INVALID, readers: 0, writers: 0 });
    run.into_boxed_slice().try_into().ok()
}

/// A domain's grant table.
pub struct GrantTable<'t> {
    frames: &'t FrameTable,
    owner: DomId,
    shared: Vec<TableFrame<'t>>,
    max_frames: u32,
    pinned: u32,
    dying: bool,
}

impl<'t> GrantTable<'t> {
    /// A table of one frame for `owner`, which may grow to `max_frames`.
    ///
    /// # Errors
    /// `GNTST_NO_SPACE` when memory is exhausted or `max_frames` is 0.
    pub fn new(frames: &'t FrameTable, owner: DomId, max_frames: u32) -> Result<Self, i16> {
        let shared = Vec::new();
        let mut table = GrantTable { frames, owner, shared, max_frames, pinned: 0, dying: false };
        table.grow(1).map_err(|_| GNTST_NO_SPACE)?;
        Ok(table)
    }

    /// How many frames it has (`GNTTABOP_query_size`).
    pub fn frame_count(&self) -> u32 {
        self.shared.len() as u32
    }

    /// How many it may have.
    pub fn max_frames(&self) -> u32 {
        self.max_frames
    }

    /// How many entries it has.
    pub fn entries(&self) -> u32 {
        self.frame_count() * ENTRIES
    }

    /// Frame `index` of the table, for `GNTTABOP_setup_table` and the toolstack.
    pub fn frame(&self, index: u32) -> Option<Mfn> {
        self.shared.get(index as usize).map(|frame| frame.shared.mfn())
    }

    /// `GNTTABOP_setup_table`: makes the table at least `frames` frames large.
    ///
    /// # Errors
    /// `GNTST_GENERAL_ERROR` past the limit or when memory is exhausted. It may have grown a part
    /// of the way then.
    pub fn grow(&mut self, frames: u32) -> Result<(), i16> {
        if frames > self.max_frames {
            return Err(GNTST_GENERAL_ERROR);
        }
        while self.frame_count() < frames {
            self.shared.try_reserve(1).map_err(|_| GNTST_GENERAL_ERROR)?;
            let block = self.frames.alloc(0, Limit::Any).ok_or(GNTST_GENERAL_ERROR)?;
            let shared = self.frames.share(block, self.owner, Type::Writable);
            let words = shared.page().words(0);
            self.shared.push(TableFrame { shared, words, active: [const { None }; _] });
        }
        Ok(())
    }

    /// How many entries are in use. A destroyed domain keeps its table until this is 0.
    pub fn pinned(&self) -> u32 {
        self.pinned
    }

    /// The domain is being destroyed: no new use begins.
    pub fn set_dying(&mut self) {
        self.dying = true;
    }

    /// The frame of the table that an entry is in.
    #[inline]
    fn holder(&mut self, gref: GrantRef) -> Result<&mut TableFrame<'t>, i16> {
        self.shared.get_mut((gref.0 / ENTRIES) as usize).ok_or(GNTST_BAD_GNTREF)
    }

    /// The domain that owns the table.
    #[inline]
    pub fn owner(&self) -> DomId {
        self.owner
    }

    /// Begins a use of an entry; the frame it grants, which stays the owner's for as long.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF` past the table's end; `GNTST_GENERAL_ERROR` when the entry does not
    /// grant this, is in use by another domain, keeps changing, or its domain is dying;
    /// `GNTST_BAD_PAGE` when its frame is not its owner's; `GNTST_NO_SPACE`.
    #[inline(always)]
    pub(super) fn pin(&mut self, gref: GrantRef, using: Use) -> Result<&Frame<'t, Held>, Failure> {
        let GrantTable { frames, owner, shared, pinned, .. } = self;
        let holder = shared.get_mut((gref.0 / ENTRIES) as usize).ok_or(GNTST_BAD_GNTREF)?;
        if self.dying {
            return Err(GNTST_GENERAL_ERROR.into());
        }
        let entry = holder.entry(gref);
        let active = holder.make_active(gref)?;
        let uses = if using.write { &mut active.writers } else { &mut active.readers };
        if active.frame.is_none() {
            let mfn = entry.mark(using, false)?;
            let frame = frames.get(mfn, *owner).map_err(|stop| {
                entry.clear(GTF_READING | GTF_WRITING);
                Failure::stop(stop, GNTST_BAD_PAGE)
            })?;
            // There was none to drop.
            core::mem::forget(active.frame.replace(frame));
            active.by = using.by;
            *pinned += 1;
        } else if active.by != using.by {
            return Err(GNTST_GENERAL_ERROR.into());
        } else if using.write && *uses == 0 {
            entry.mark(using, true)?;
        }
        *uses += 1;
        Ok(active.frame.as_ref().ok_or(GNTST_BAD_PAGE)?)
    }

    /// Ends a use of an entry. TLBs that may hold a mapping of it are flushed already.
    #[inline]
    pub(super) fn unpin(&mut self, gref: GrantRef, write: bool) {
        let Ok(holder) = self.holder(gref) else { return };
        let entry = holder.entry(gref);
        let Some(active) = holder.active(gref) else { return };
        let uses = if write { &mut active.writers } else { &mut active.readers };
        debug_assert!(*uses > 0, "more uses of a grant end than began");
        *uses = uses.saturating_sub(1);
        let mut marks = if write && active.writers == 0 { GTF_WRITING } else { 0 };
        if active.readers == 0 && active.writers == 0 && active.frame.take().is_some() {
            marks |= GTF_READING;
            self.pinned -= 1;
        }
        if marks != 0 {
            entry.clear(marks);
        }
    }

    /// `GNTTABOP_swap_grant_ref`: exchanges two entries that are not in use.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF` past the table's end, `GNTST_EAGAIN` when one is in use.
    pub fn swap(&mut self, a: GrantRef, b: GrantRef) -> Result<(), i16> {
        let mut idle = |gref| {
            let holder = self.holder(gref)?;
            let in_use = holder.active(gref).is_some_and(|active| active.frame.is_some());
            Ok::<_, i16>((!in_use).then(|| holder.entry(gref)))
        };
        let (left, right) = (idle(a)?, idle(b)?);
        if a == b {
            return Ok(());
        }
        let (Some(left), Some(right)) = (left, right) else { return Err(GNTST_EAGAIN) };
        left.0.store(right.0.swap(left.0.load(SeqCst), SeqCst), SeqCst);
        Ok(())
    }
}
