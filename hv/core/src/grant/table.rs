//! A domain's grant table: the frames it shares with the hypervisor, and which entries are in use.

use alloc::vec::Vec;

use hv_machine::frame::{Frame, FrameTable, Held, Limit, Shared, Type};
use shared_abi::grant_table::{
    ENTRIES_PER_PAGE_V1, GNTST_BAD_GNTREF, GNTST_BAD_PAGE, GNTST_EAGAIN, GNTST_GENERAL_ERROR, GNTST_NO_SPACE,
    GTF_READING, GTF_WRITING,
};
use shared_abi::{DomId, GrantRef, Mfn};

use super::Failure;
use super::v1::{Entry, Use};

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

/// Makes the records of a run of entries.
#[cold]
fn make_run<'t>(run: &mut Vec<Active<'t>>, owner: DomId) -> Result<(), i16> {
    run.try_reserve_exact(RUN as usize).map_err(|_| GNTST_NO_SPACE)?;
    run.resize_with(RUN as usize, || Active { frame: None, by: owner, readers: 0, writers: 0 });
    Ok(())
}

/// A domain's grant table.
pub struct GrantTable<'t> {
    frames: &'t FrameTable,
    owner: DomId,
    shared: Vec<Shared<'t>>,
    max_frames: u32,
    active: Vec<Vec<Active<'t>>>,
    pinned: u32,
    dying: bool,
}

impl<'t> GrantTable<'t> {
    /// A table of one frame for `owner`, which may grow to `max_frames`.
    ///
    /// # Errors
    /// `GNTST_NO_SPACE` when memory is exhausted or `max_frames` is 0.
    pub fn new(frames: &'t FrameTable, owner: DomId, max_frames: u32) -> Result<Self, i16> {
        let (shared, active) = (Vec::new(), Vec::new());
        let mut table = GrantTable { frames, owner, shared, max_frames, active, pinned: 0, dying: false };
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
        self.frame_count() * ENTRIES_PER_PAGE_V1 as u32
    }

    /// Frame `index` of the table, for `GNTTABOP_setup_table` and the toolstack.
    pub fn frame(&self, index: u32) -> Option<Mfn> {
        self.shared.get(index as usize).map(Shared::mfn)
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
            let runs = ENTRIES_PER_PAGE_V1 / RUN as usize;
            self.shared.try_reserve(1).map_err(|_| GNTST_GENERAL_ERROR)?;
            self.active.try_reserve(runs).map_err(|_| GNTST_GENERAL_ERROR)?;
            let block = self.frames.alloc(0, Limit::Any).ok_or(GNTST_GENERAL_ERROR)?;
            self.shared.push(self.frames.share(block, self.owner, Type::Writable));
            self.active.resize_with(self.active.len() + runs, Vec::new);
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

    #[inline]
    fn entry(&self, gref: GrantRef) -> Result<Entry<'t>, i16> {
        let per_page = ENTRIES_PER_PAGE_V1 as u32;
        let shared = self.shared.get((gref.0 / per_page) as usize).ok_or(GNTST_BAD_GNTREF)?;
        Ok(Entry { page: shared.page(), offset: (gref.0 % per_page) as usize * 8 })
    }

    /// The record of an entry, if one was made.
    #[inline]
    fn active(&mut self, gref: GrantRef) -> Option<&mut Active<'t>> {
        self.active.get_mut((gref.0 / RUN) as usize)?.get_mut((gref.0 % RUN) as usize)
    }

    /// The domain that owns the table.
    pub fn owner(&self) -> DomId {
        self.owner
    }

    /// The machine's frames.
    pub(super) fn frame_table(&self) -> &'t FrameTable {
        self.frames
    }

    /// Begins `count` uses of an entry; the frame it grants.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF` past the table's end; `GNTST_GENERAL_ERROR` when the entry does not
    /// grant this, is in use by another domain, keeps changing, or its domain is dying;
    /// `GNTST_BAD_PAGE` when its frame is not its owner's; `GNTST_NO_SPACE`.
    pub(super) fn pin(&mut self, gref: GrantRef, using: Use, count: u32) -> Result<Mfn, Failure> {
        let entry = self.entry(gref)?;
        if self.dying {
            return Err(GNTST_GENERAL_ERROR.into());
        }
        let run = self.active.get_mut((gref.0 / RUN) as usize).ok_or(GNTST_BAD_GNTREF)?;
        if run.is_empty() {
            make_run(run, self.owner)?;
        }
        let active = run.get_mut((gref.0 % RUN) as usize).ok_or(GNTST_BAD_GNTREF)?;
        let mfn = match &active.frame {
            Some(_) if active.by != using.by => return Err(GNTST_GENERAL_ERROR.into()),
            Some(frame) => {
                if using.write && active.writers == 0 {
                    entry.mark(using, true)?;
                }
                frame.mfn()
            }
            None => {
                let mfn = entry.mark(using, false)?;
                match self.frames.get(mfn, self.owner) {
                    Ok(frame) => active.frame = Some(frame),
                    Err(stop) => {
                        entry.clear(GTF_READING | GTF_WRITING);
                        return Err(Failure::stop(stop, GNTST_BAD_PAGE));
                    }
                }
                active.by = using.by;
                self.pinned += 1;
                mfn
            }
        };
        let uses = if using.write { &mut active.writers } else { &mut active.readers };
        *uses += count;
        Ok(mfn)
    }

    /// Ends `count` uses of an entry. TLBs that may hold a mapping of it are flushed already.
    pub(super) fn unpin(&mut self, gref: GrantRef, write: bool, count: u32) {
        let Some(active) = self.active(gref) else { return };
        let uses = if write { &mut active.writers } else { &mut active.readers };
        debug_assert!(*uses >= count, "more uses of a grant end than began");
        *uses = uses.saturating_sub(count);
        let mut marks = 0;
        if write && active.writers == 0 {
            marks |= GTF_WRITING;
        }
        let last = active.readers == 0 && active.writers == 0;
        let gone = if last { active.frame.take() } else { None };
        if gone.is_some() {
            marks |= GTF_READING;
            self.pinned -= 1;
        }
        if marks != 0
            && let Ok(entry) = self.entry(gref)
        {
            entry.clear(marks);
        }
    }

    /// `GNTTABOP_swap_grant_ref`: exchanges two entries that are not in use.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF` past the table's end, `GNTST_EAGAIN` when one is in use.
    pub fn swap(&mut self, a: GrantRef, b: GrantRef) -> Result<(), i16> {
        let (left, right) = (self.entry(a)?, self.entry(b)?);
        if a == b {
            return Ok(());
        }
        let mut in_use = |gref| self.active(gref).is_some_and(|active| active.frame.is_some());
        if in_use(a) || in_use(b) {
            return Err(GNTST_EAGAIN);
        }
        let was = left.page.load_u64(left.offset);
        left.page.store_u64(left.offset, right.page.swap_u64(right.offset, was));
        Ok(())
    }
}
