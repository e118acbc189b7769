//! A domain's grant table: the frames it shares with the hypervisor, and which entries are in use.
//!
//! The records of entries in use ([`Active`]) are found by the reference alone, so a table that changes its version
//! while the first entries are in use leaves them where they are.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};

use hv_machine::frame::{FrameTable, Limit, Shared, Type};
use shared_abi::errno::Errno;
use shared_abi::grant_table::{
    ENTRIES_PER_PAGE_V1, ENTRIES_PER_PAGE_V2, GNTST_BAD_GNTREF, GNTST_EAGAIN, GNTST_GENERAL_ERROR,
    GNTST_NO_SPACE, STATUSES_PER_PAGE,
};
use shared_abi::{DomId, GrantRef, Mfn};

use super::Failure;
use super::active::{Active, RUN, Run, Use, Window, make_run};
use super::v1::V1;
use super::v2::V2;

/// Of version 1; records of entries are found as if all were.
const ENTRIES: usize = ENTRIES_PER_PAGE_V1;
/// Frames whose version-2 entries have their status in one frame.
const PER_STATUS: u32 = (STATUSES_PER_PAGE / ENTRIES_PER_PAGE_V2) as u32;

/// How many status frames go with `frames` frames.
const fn statuses(frames: u32) -> u32 {
    frames.div_ceil(PER_STATUS)
}

/// One frame of the table, and records of entries.
pub(super) struct TableFrame<'t> {
    shared: Shared<'t>,
    /// Of `shared`.
    words: &'t [AtomicU64; ENTRIES],
    /// The same memory.
    halves: &'t [AtomicU16; 4 * ENTRIES],
    active: [Option<Run<'t>>; ENTRIES / RUN],
}

impl<'t> TableFrame<'t> {
    #[inline]
    pub(super) fn v1(&self, gref: GrantRef) -> V1<'t> {
        let at = gref.0 as usize % ENTRIES;
        V1 { word: &self.words[at], flags: &self.halves[4 * at] }
    }

    fn v2(&self, gref: GrantRef, status: &'t AtomicU16) -> V2<'t> {
        let at = gref.0 as usize % ENTRIES_PER_PAGE_V2 * 2;
        V2 { head: &self.words[at], body: &self.words[at + 1], status }
    }

    /// The record of an entry, if one was made.
    #[inline]
    pub(super) fn active(&mut self, gref: GrantRef) -> Option<&mut Active<'t>> {
        let run = self.active[gref.0 as usize % ENTRIES / RUN].as_mut()?;
        Some(&mut run[gref.0 as usize % RUN])
    }

    /// The record of an entry, which is made with its run if there is none.
    #[inline]
    fn make_active(&mut self, gref: GrantRef) -> Result<&mut Active<'t>, i16> {
        let run = &mut self.active[gref.0 as usize % ENTRIES / RUN];
        if run.is_none() {
            *run = make_run(&self.halves[0]);
        }
        let run = run.as_mut().ok_or(GNTST_NO_SPACE)?;
        Ok(&mut run[gref.0 as usize % RUN])
    }

    pub(super) fn clear(&self) {
        self.shared.page().zero();
    }
}

/// A frame of version-2 entries' status.
pub(super) struct StatusFrame<'t> {
    shared: Shared<'t>,
    halves: &'t [AtomicU16; STATUSES_PER_PAGE],
}

impl StatusFrame<'_> {
    /// Whether its domain, or one with power over it, maps it.
    pub(super) fn is_mapped(&self) -> bool {
        self.shared.is_mapped()
    }
}

/// A domain's grant table.
pub struct GrantTable<'t> {
    frames: &'t FrameTable,
    owner: DomId,
    pub(super) shared: Vec<TableFrame<'t>>,
    /// Of version 2.
    pub(super) status: Vec<StatusFrame<'t>>,
    version: u32,
    max_version: u32,
    max_frames: u32,
    pinned: u32,
    dying: bool,
    /// It is of version 1 and not dying.
    plain: bool,
}

impl<'t> GrantTable<'t> {
    /// A table of one frame for `owner`, which may grow to `max_frames`, of version 1 and at most of `max_version`.
    ///
    /// # Errors
    /// `GNTST_NO_SPACE` when memory is exhausted or `max_frames` is 0.
    pub fn new(frames: &'t FrameTable, owner: DomId, max_frames: u32, max_version: u32) -> Result<Self, i16> {
        let mut table = GrantTable {
            frames,
            owner,
            shared: Vec::new(),
            status: Vec::new(),
            version: 1,
            max_version,
            max_frames,
            pinned: 0,
            dying: false,
            plain: true,
        };
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

    /// How many status frames it has.
    pub fn status_count(&self) -> u32 {
        self.status.len() as u32
    }

    /// How many it may have.
    pub fn max_statuses(&self) -> u32 {
        statuses(self.max_frames)
    }

    /// Its entries' version (`GNTTABOP_get_version`).
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The highest that it may have.
    pub fn max_version(&self) -> u32 {
        self.max_version
    }

    /// How many entries it has.
    pub fn entries(&self) -> u32 {
        self.frame_count() * if self.version == 1 { ENTRIES_PER_PAGE_V1 } else { ENTRIES_PER_PAGE_V2 } as u32
    }

    /// Frame `index` of the table, for `GNTTABOP_setup_table` and the toolstack.
    pub fn frame(&self, index: u32) -> Option<Mfn> {
        self.shared.get(index as usize).map(|frame| frame.shared.mfn())
    }

    /// Frame `index` of the status table.
    pub fn status_frame(&self, index: u32) -> Option<Mfn> {
        self.status.get(index as usize).map(|frame| frame.shared.mfn())
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
        // Status first, so that each entry has one.
        if self.version == 2 {
            self.grow_status(frames).map_err(|_| GNTST_GENERAL_ERROR)?;
        }
        while self.frame_count() < frames {
            self.shared.try_reserve(1).map_err(|_| GNTST_GENERAL_ERROR)?;
            let shared = self.share().map_err(|_| GNTST_GENERAL_ERROR)?;
            let page = shared.page();
            let (words, halves) = (page.words(0), page.halves());
            self.shared.push(TableFrame { shared, words, halves, active: [const { None }; _] });
        }
        Ok(())
    }

    /// Makes the table so large that it fills `count` status frames, which only version 2 has.
    ///
    /// # Errors
    /// As [`GrantTable::grow`].
    pub fn grow_statuses(&mut self, count: u32) -> Result<(), i16> {
        if count <= self.status_count() {
            return Ok(());
        }
        self.grow(count.saturating_mul(PER_STATUS))
    }

    /// Status for the entries of `frames` frames.
    pub(super) fn grow_status(&mut self, frames: u32) -> Result<(), Errno> {
        while self.status_count() < statuses(frames) {
            self.status.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            let shared = self.share()?;
            let halves = shared.page().halves();
            self.status.push(StatusFrame { shared, halves });
        }
        Ok(())
    }

    fn share(&self) -> Result<Shared<'t>, Errno> {
        let block = self.frames.alloc(0, Limit::Any).ok_or(Errno::ENOMEM)?;
        Ok(self.frames.share(block, self.owner, Type::Writable))
    }

    /// How many entries are in use. A destroyed domain keeps its table until this is 0.
    pub fn pinned(&self) -> u32 {
        self.pinned
    }

    /// The domain is being destroyed: no new use begins.
    pub fn set_dying(&mut self) {
        self.dying = true;
        self.plain = false;
    }

    pub(super) fn is_dying(&self) -> bool {
        self.dying
    }

    pub(super) fn set_version_to(&mut self, version: u32) {
        self.version = version;
        self.plain = version == 1 && !self.dying;
    }

    /// The domain that owns the table.
    #[inline]
    pub fn owner(&self) -> DomId {
        self.owner
    }

    /// Begins a use of an entry; its record.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF` past the table's end; `GNTST_GENERAL_ERROR` when its domain is dying; `GNTST_NO_SPACE`;
    /// else as [`Active::begin`].
    #[inline(always)]
    pub(super) fn pin(&mut self, gref: GrantRef, using: Use) -> Result<&Active<'t>, Failure> {
        if !self.plain {
            return self.pin_otherwise(gref, using);
        }
        let GrantTable { frames, owner, shared, pinned, .. } = self;
        let holder = shared.get_mut(gref.0 as usize / ENTRIES).ok_or(GNTST_BAD_GNTREF)?;
        let entry = holder.v1(gref);
        let active = holder.make_active(gref)?;
        if active.begin(entry, using, frames, *owner)? {
            *pinned += 1;
        }
        Ok(active)
    }

    #[cold]
    #[inline(never)]
    fn pin_otherwise(&mut self, gref: GrantRef, using: Use) -> Result<&Active<'t>, Failure> {
        let entry = self.v2(gref)?;
        let GrantTable { frames, owner, shared, pinned, .. } = self;
        let holder = shared.get_mut(gref.0 as usize / ENTRIES).ok_or(GNTST_BAD_GNTREF)?;
        let active = holder.make_active(gref)?;
        if active.begin(entry, using, frames, *owner)? {
            *pinned += 1;
        }
        Ok(active)
    }

    /// Begins a use of an entry that passes on `through`, of which `part` is in use already for this.
    ///
    /// # Errors
    /// As [`GrantTable::pin`], and [`Active::begin_through`].
    #[cold]
    pub(super) fn pin_through(
        &mut self,
        gref: GrantRef,
        using: Use,
        through: (DomId, GrantRef),
        part: Option<Window>,
    ) -> Result<(), Failure> {
        let entry = self.v2(gref)?;
        let holder = self.shared.get_mut(gref.0 as usize / ENTRIES).ok_or(GNTST_BAD_GNTREF)?;
        if holder.make_active(gref)?.begin_through(entry, using, through, part)? {
            self.pinned += 1;
        }
        Ok(())
    }

    /// The entry of a table of version 2 whose domain lives.
    pub(super) fn v2(&self, gref: GrantRef) -> Result<V2<'t>, Failure> {
        if gref.0 >= self.entries() {
            return Err(GNTST_BAD_GNTREF.into());
        }
        if self.dying {
            return Err(GNTST_GENERAL_ERROR.into());
        }
        // (It was of version 2 a moment ago, if it is not now.)
        let status = self.status_of(gref).ok_or(GNTST_GENERAL_ERROR)?;
        let holder = self.shared.get(gref.0 as usize / ENTRIES_PER_PAGE_V2).ok_or(GNTST_BAD_GNTREF)?;
        Ok(holder.v2(gref, status))
    }

    fn status_of(&self, gref: GrantRef) -> Option<&'t AtomicU16> {
        let frame = self.status.get(gref.0 as usize / STATUSES_PER_PAGE)?;
        Some(&frame.halves[gref.0 as usize % STATUSES_PER_PAGE])
    }

    /// Ends a use of an entry. TLBs that may hold a mapping of it are flushed already.
    #[inline(always)]
    pub(super) fn unpin(&mut self, gref: GrantRef, write: bool) {
        let Some(holder) = self.shared.get_mut(gref.0 as usize / ENTRIES) else { return };
        if holder.active(gref).is_some_and(|active| active.end(write)) {
            self.pinned -= 1;
        }
    }

    /// Looks among `count` entries from `from` on for one by which `dom` uses the frame `mfn`; the first that it has
    /// not looked at if there is none among them, and nothing if there is none at all.
    pub fn find_use(
        &mut self,
        mfn: Mfn,
        dom: DomId,
        from: GrantRef,
        count: u32,
    ) -> Option<Result<(), GrantRef>> {
        let entries = self.entries();
        let end = from.0.saturating_add(count).min(entries);
        for gref in (from.0..end).map(GrantRef) {
            let holder = self.shared.get_mut(gref.0 as usize / ENTRIES)?;
            if holder.active(gref).is_some_and(|active| active.is_use_of(mfn, dom)) {
                return Some(Ok(()));
            }
        }
        (end < entries).then_some(Err(GrantRef(end)))
    }

    /// `GNTTABOP_swap_grant_ref`: exchanges two entries that are not in use.
    ///
    /// # Errors
    /// `GNTST_BAD_GNTREF` past the table's end, `GNTST_EAGAIN` when one is in use.
    pub fn swap(&mut self, a: GrantRef, b: GrantRef) -> Result<(), i16> {
        if a.0.max(b.0) >= self.entries() {
            return Err(GNTST_BAD_GNTREF);
        }
        if a == b {
            return Ok(());
        }
        for gref in [a, b] {
            let holder = self.shared.get_mut(gref.0 as usize / ENTRIES).ok_or(GNTST_BAD_GNTREF)?;
            if holder.active(gref).is_some_and(|active| active.in_use()) {
                return Err(GNTST_EAGAIN);
            }
        }
        let exchange = |left: &AtomicU64, right: &AtomicU64| {
            left.store(right.swap(left.load(SeqCst), SeqCst), SeqCst);
        };
        if self.version == 1 {
            let entry = |gref: GrantRef| Some(self.shared.get(gref.0 as usize / ENTRIES)?.v1(gref));
            let (Some(left), Some(right)) = (entry(a), entry(b)) else { return Err(GNTST_BAD_GNTREF) };
            exchange(left.word, right.word);
        } else {
            let (Ok(left), Ok(right)) = (self.v2(a), self.v2(b)) else { return Err(GNTST_BAD_GNTREF) };
            exchange(left.head, right.head);
            exchange(left.body, right.body);
            left.status.store(right.status.swap(left.status.load(SeqCst), SeqCst), SeqCst);
        }
        Ok(())
    }
}
