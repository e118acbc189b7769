//! The type state machine: becoming a page table, ceasing to be one, both in bounded steps.
//!
//! A frame becomes a table of level N when all its entries are checked and each holds a reference to what
//! it names: an L1's to data, a higher one's to tables one level below, which are checked in the same way
//! first. It ceases to be one when its last use goes, and then every entry's reference is given back.
//! Both can be long, and the hypervisor can't be interrupted, so both stop when the budget is spent.
//!
//! The hardest decision is what a half-done table is. Here it belongs to nobody: a half-*checked* one
//! keeps its own progress and a reference to itself, is used by no one, and whoever asks for it next goes
//! on where it paused (or lets it go, if he wants something else). No parent ever points to a half-checked
//! child, so there is no question whose references are whose, which is where Xen erred time and again
//! (XSA-287, 299, 310). A half-*released* one is on exactly one list of work and serves no request until
//! that is worked off. Either state is found again when a domain is destroyed.

use super::desc;
use super::entry::{Asked, Put, Refusal};
use super::handle::{Frame, Held, L4, SegDesc, State, Table, Writable};
use super::table::{FIRST_HV_SLOT, FrameTable, HV_SLOTS, M2P_SLOT, NONE};
use super::word::{Phase, Type};
use crate::frame::Rights;
use core::ops::Range;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use shared_abi::{DomId, Mfn, errno::Errno, pte};

/// Why an operation did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Stop {
    /// The budget is spent, or another CPU is at it: nothing has changed but progress. Ask again, after
    /// [`FrameTable::settle`] (a hypercall returns to be restarted).
    Again,
    /// It can't be.
    Refused(Errno),
}

/// The result of work that is done in bounded steps.
pub type Progress<T> = Result<T, Stop>;

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(match refusal {
            Refusal::Owner => Errno::EPERM,
            Refusal::Type => Errno::EBUSY,
            Refusal::Full => Errno::EOVERFLOW,
        })
    }
}

pub(super) const EINVAL: Stop = Stop::Refused(Errno::EINVAL);

/// How often a request looks at a frame that another CPU has locked, before it gives up for this time.
const PATIENCE: u32 = 4096;

/// A vcpu's budget and what it has left to do: the tables whose last use it ended.
///
/// An operation that returned `Ok` has happened, although its `Work` may not be done. So: refill and settle
/// at the start of a hypercall, and before it reports the next part of its work as done; restart it while
/// that says [`Stop::Again`]. What is left when a `Work` is dropped becomes the orphans'.
#[must_use]
pub struct Work<'t> {
    table: &'t FrameTable,
    /// First of the dying tables, linked by their stamps.
    head: u32,
    budget: u32,
    /// The tables this CPU is checking right now, by level - 1: a request for one of them comes from its
    /// own entries.
    checking: [u32; 4],
}

impl<'t> Work<'t> {
    /// A budget for a hypercall's stretch: some tens of microseconds.
    pub const BUDGET: u32 = 4096;

    /// Nothing to do yet, and `budget` table entries that may be looked at. A step with fewer than 4 may
    /// not come forward.
    pub fn new(table: &'t FrameTable, budget: u32) -> Self {
        Work { table, head: NONE, budget, checking: [NONE; 4] }
    }

    /// Sets the budget.
    pub fn refill(&mut self, budget: u32) {
        self.budget = budget;
    }

    /// Takes over what `other` has left to do: of a vcpu that will not come back to it.
    pub fn take_over(&mut self, other: &mut Work<'t>) {
        while let Some(mfn) = other.pop() {
            self.push(mfn);
        }
    }

    /// Leaves what there is to do to whoever settles next: nobody waits for a vcpu that does not run.
    pub fn leave(&mut self) {
        while let Some(mfn) = self.pop() {
            self.table.orphan(mfn);
        }
    }

    /// Whether no table waits.
    pub fn is_done(&self) -> bool {
        self.head == NONE
    }

    /// Takes from the budget; whether there was enough.
    #[inline]
    pub(super) fn spend(&mut self) -> bool {
        let enough = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        enough
    }

    /// How many of `slots` come before the first present one, as far as the budget goes; each is paid for.
    #[inline]
    fn skip_absent(&mut self, slots: &[AtomicU64]) -> usize {
        let slots = &slots[..slots.len().min(self.budget as usize)];
        let groups = slots.chunks_exact(GROUP).take_while(|group| all_absent(group)).count() * GROUP;
        let absent = groups + slots[groups..].iter().take_while(|slot| is_absent(slot)).count();
        self.budget -= absent as u32;
        absent
    }

    /// The same from the end of `slots` backwards.
    #[inline]
    fn skip_absent_back(&mut self, slots: &[AtomicU64]) -> usize {
        let slots = &slots[slots.len().saturating_sub(self.budget as usize)..];
        let groups = slots.rchunks_exact(GROUP).take_while(|group| all_absent(group)).count() * GROUP;
        let rest = &slots[..slots.len() - groups];
        let absent = groups + rest.iter().rev().take_while(|slot| is_absent(slot)).count();
        self.budget -= absent as u32;
        absent
    }

    /// Adds a dying table.
    pub(super) fn push(&mut self, mfn: u32) {
        self.table.at(mfn).stamp_set(self.head);
        self.head = mfn;
    }

    fn pop(&mut self) -> Option<u32> {
        let mfn = self.head;
        if mfn == NONE {
            return None;
        }
        self.head = self.table.at(mfn).stamp_get();
        Some(mfn)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl FrameTable {
    /// A plain reference to a frame of `owner`'s: it may be read, and stays `owner`'s.
    #[inline(always)]
    pub fn get(&self, mfn: Mfn, owner: DomId) -> Progress<Frame<'_, Held>> {
        let entry = self.named(mfn).ok_or(EINVAL)?;
        // (Device memory has no references, so there is none to get.)
        entry.get_ref(owner).map_err(|refusal| if self.is_io(mfn) { EINVAL } else { refusal.into() })?;
        Ok(Frame::adopt(self, mfn.0 as u32))
    }

    /// A frame of `owner`'s that stays data, to be written.
    #[inline]
    pub fn get_writable(&self, mfn: Mfn, owner: DomId, work: &mut Work<'_>) -> Progress<Frame<'_, Writable>> {
        self.get_writable_by(owner, mfn, owner, work)
    }

    /// The same in the name of the domain `by`. Of another's frame it is refused, as another use is, what concerns
    /// `owner` alone: to wait until a page table of his is taken apart.
    #[inline]
    pub fn get_writable_by(
        &self,
        by: DomId,
        mfn: Mfn,
        owner: DomId,
        work: &mut Work<'_>,
    ) -> Progress<Frame<'_, Writable>> {
        // Most are that already, mapped writable by their owner.
        if self.named(mfn).is_some_and(|entry| entry.acquire_ready(owner, Type::Writable)) {
            return Ok(Frame::adopt(self, mfn.0 as u32));
        }
        self.make_writable(by, mfn, owner, work)
    }

    #[inline(never)]
    fn make_writable(
        &self,
        by: DomId,
        mfn: Mfn,
        owner: DomId,
        work: &mut Work<'_>,
    ) -> Progress<Frame<'_, Writable>> {
        let (mfn, _) = self.find(mfn).ok_or(EINVAL)?;
        self.take(mfn, owner, Type::Writable, &Rights::plain(by), work)?;
        Ok(Frame::adopt(self, mfn))
    }

    /// A frame of `owner`'s that holds segment descriptors, checked and corrected if it is new as that.
    pub fn get_descriptors(
        &self,
        mfn: Mfn,
        owner: DomId,
        work: &mut Work<'_>,
    ) -> Progress<Frame<'_, SegDesc>> {
        self.get_typed(mfn, &Rights::plain(owner), Type::SegDesc, work)
    }

    /// An L4 table of `rights.tables`, to be loaded into CR3; checked if it is new as that.
    pub fn get_root(&self, mfn: Mfn, rights: &Rights<'_>, work: &mut Work<'_>) -> Progress<Frame<'_, L4>> {
        self.get_typed(mfn, rights, Type::L4, work)
    }

    fn get_typed<S: State>(
        &self,
        mfn: Mfn,
        rights: &Rights<'_>,
        ty: Type,
        work: &mut Work<'_>,
    ) -> Progress<Frame<'_, S>> {
        debug_assert!(S::TYPE == Some(ty));
        let (mfn, _) = self.find(mfn).ok_or(EINVAL)?;
        self.take(mfn, rights.tables, ty, rights, work)?;
        Ok(Frame::adopt(self, mfn))
    }

    /// The page table of `owner`'s that `mfn` is, if it is one already (of whatever level).
    pub fn get_table(&self, mfn: Mfn, owner: DomId) -> Option<Table<'_>> {
        let level = self.named(mfn)?.acquire_table(owner);
        (level != 0).then(|| Table::adopt(self, mfn.0 as u32, level))
    }

    /// The same of level 1 alone.
    #[inline]
    pub fn get_l1(&self, mfn: Mfn, owner: DomId) -> Option<Table<'_>> {
        let held = self.named(mfn)?.acquire_ready(owner, Type::L1);
        held.then(|| Table::adopt(self, mfn.0 as u32, 1))
    }

    /// Counts a reference and a use as `want` of a frame of `owner`'s, making it that if it can be.
    #[inline]
    pub(super) fn take(
        &self,
        mfn: u32,
        owner: DomId,
        want: Type,
        rights: &Rights<'_>,
        work: &mut Work<'_>,
    ) -> Progress<()> {
        if self.at(mfn).acquire_ready(owner, want) {
            return Ok(());
        }
        self.take_slowly(mfn, owner, want, rights, work)
    }

    #[inline(never)]
    fn take_slowly(
        &self,
        mfn: u32,
        owner: DomId,
        want: Type,
        rights: &Rights<'_>,
        work: &mut Work<'_>,
    ) -> Progress<()> {
        let entry = self.at(mfn);
        let anothers = rights.tables != owner;
        for _ in 0..PATIENCE {
            // Its owner decides how long that lasts, and what work there is.
            if anothers && entry.word().is_unfinished() {
                return Err(Refusal::Type.into());
            }
            match entry.acquire(owner, want) {
                Asked::Held => return Ok(()),
                // A frame that is no such table, whosever it is, is as invalid as one that does not exist.
                Asked::Refused(_) if want.level() != 0 => return Err(EINVAL),
                Asked::Refused(refusal) => return Err(refusal.into()),
                Asked::Locked if work.checking.contains(&mfn) && want.level() != 0 => return Err(EINVAL),
                Asked::Locked if work.checking.contains(&mfn) => return Err(Refusal::Type.into()),
                Asked::Locked => self.relax(),
                Asked::Dying if work.is_done() => return Err(Stop::Again),
                Asked::Dying => self.settle(work)?,
                Asked::Retired => {
                    work.push(mfn);
                    self.settle(work)?;
                }
                Asked::Begin(was) => {
                    if was != Type::None {
                        self.flush_stale(entry.stamp_get());
                    }
                    entry.aux_set(0);
                    return self.check(mfn, want, rights, work);
                }
                Asked::Resume => return self.check(mfn, want, rights, work),
            }
        }
        Err(Stop::Again)
    }

    /// Checks the contents of a frame that this CPU has locked as `ty`, and commits it.
    fn check(&self, mfn: u32, ty: Type, rights: &Rights<'_>, work: &mut Work<'_>) -> Progress<()> {
        let entry = self.at(mfn);
        let outcome = match ty {
            Type::SegDesc => desc::check(self.ram().page(mfn)).map_err(Stop::Refused),
            _ if ty.level() != 0 => {
                let level = ty.level() as usize;
                work.checking[level - 1] = mfn;
                let outcome = self.check_entries(mfn, ty.level(), rights, work);
                work.checking[level - 1] = NONE;
                outcome
            }
            _ => Ok(()),
        };
        match outcome {
            Ok(()) => entry.commit(),
            Err(Stop::Again) => {
                if entry.pause() {
                    work.push(mfn);
                }
            }
            Err(Stop::Refused(_)) if ty == Type::SegDesc => {
                entry.revert();
                self.put_ref(mfn);
            }
            Err(Stop::Refused(_)) => {
                entry.retire();
                work.push(mfn);
            }
        }
        outcome
    }

    fn check_entries(&self, mfn: u32, level: u32, rights: &Rights<'_>, work: &mut Work<'_>) -> Progress<()> {
        let entry = self.at(mfn);
        let slots = self.ram().entries(mfn);
        for guests in guest_slots(level) {
            let mut index = guests.start.max(entry.aux_get() as usize);
            while index < guests.end {
                index += work.skip_absent(&slots[index..guests.end]);
                entry.aux_set(index as u32);
                if index == guests.end {
                    break;
                }
                if !work.spend() {
                    return Err(Stop::Again);
                }
                let value = slots[index].load(Relaxed);
                if value & pte::PRESENT != 0 {
                    // What the tables of a domain may hold when they are checked whole is its own.
                    let checked = self.take_entry(level, value, &rights.own(), work)?;
                    if checked != value {
                        slots[index].store(checked, Relaxed);
                    }
                }
                index += 1;
            }
        }
        if level == 4 {
            // All but the M2P, which is a kernel's to see ([`Frame::show_m2p`]).
            self.ram().entry(mfn, M2P_SLOT).store(0, SeqCst);
            for (slot, value) in (FIRST_HV_SLOT..).zip(&self.template).filter(|(slot, _)| *slot != M2P_SLOT) {
                self.ram().entry(mfn, slot).store(value.load(Relaxed), SeqCst);
            }
        }
        Ok(())
    }

    /// Gives a plain reference back.
    #[inline]
    pub(super) fn put_ref(&self, mfn: u32) {
        if self.at(mfn).put_ref() == Put::Last {
            self.reclaim(mfn);
        }
    }

    /// Gives a use of the type, with its reference, back.
    #[inline]
    pub(super) fn put_type(&self, mfn: u32, work: &mut Work<'_>) {
        if !self.at(mfn).put_type_of_many() {
            self.put_last_type(mfn, work);
        }
    }

    #[inline(never)]
    fn put_last_type(&self, mfn: u32, work: &mut Work<'_>) {
        match self.at(mfn).put_type(false, || self.clock().now()) {
            Put::Done => {}
            Put::Last => self.reclaim(mfn),
            Put::Retired => self.begin_dying(mfn, work),
        }
    }

    /// Puts a table on the list of work whose last use just ended, with all its entries.
    #[inline(never)]
    fn begin_dying(&self, mfn: u32, work: &mut Work<'_>) {
        let entry = self.at(mfn);
        if entry.word().ty() == Type::L4 {
            for index in FIRST_HV_SLOT..FIRST_HV_SLOT + HV_SLOTS {
                self.ram().entry(mfn, index).store(0, Relaxed);
            }
        }
        entry.aux_set(pte::ENTRIES as u32);
        work.push(mfn);
    }

    /// Gives a use of the type back, but keeps its reference.
    #[inline]
    pub(super) fn put_type_only(&self, mfn: u32) {
        let put = self.at(mfn).put_type(true, || self.clock().now());
        debug_assert!(put == Put::Done);
    }

    /// As `put_type`, for one who has no list of work.
    pub(super) fn put_type_orphan(&self, mfn: u32) {
        drop(Work::new(self, 0).with(|work| self.put_type(mfn, work)));
    }

    /// Adds a dying table to those that nobody in particular works off.
    fn orphan(&self, mfn: u32) {
        let mut head = self.orphans.load(Acquire);
        loop {
            self.at(mfn).stamp_set(head);
            match self.orphans.compare_exchange(head, mfn, AcqRel, Acquire) {
                Ok(_) => return,
                Err(found) => head = found,
            }
        }
    }

    /// Works off what `work` has to do and, if budget remains, the orphans.
    #[inline]
    pub fn settle(&self, work: &mut Work<'_>) -> Progress<()> {
        debug_assert!(core::ptr::eq(work.table, self));
        if work.is_done() && self.orphans.load(Relaxed) == NONE {
            return Ok(());
        }
        self.settle_some(work)
    }

    #[inline(never)]
    fn settle_some(&self, work: &mut Work<'_>) -> Progress<()> {
        if work.is_done() && self.orphans.load(Relaxed) != NONE {
            work.head = self.orphans.swap(NONE, AcqRel);
        }
        while let Some(mfn) = work.pop() {
            let entry = self.at(mfn);
            let level = entry.word().ty().level();
            debug_assert!(entry.word().phase() == Phase::Dying && level != 0);
            let slots = self.ram().entries(mfn);
            for guests in guest_slots(level).into_iter().rev() {
                let mut end = guests.end.min(entry.aux_get() as usize);
                while guests.start < end {
                    end -= work.skip_absent_back(&slots[guests.start..end]);
                    if guests.start == end {
                        break;
                    }
                    if !work.spend() {
                        entry.aux_set(end as u32);
                        work.push(mfn);
                        return Err(Stop::Again);
                    }
                    end -= 1;
                    let value = slots[end].load(Relaxed);
                    if value & pte::PRESENT != 0 {
                        self.put_entry(level, value, work);
                    }
                }
            }
            entry.aux_set(0);
            entry.stamp_set(self.clock().now());
            if entry.buried() == Put::Last {
                self.reclaim(mfn);
            }
        }
        Ok(())
    }
}

impl Work<'_> {
    fn with(mut self, act: impl FnOnce(&mut Self)) -> Self {
        act(&mut self);
        self
    }
}

/// Entries that are looked at together: most of most tables are absent.
const GROUP: usize = 8;

#[inline]
fn is_absent(slot: &AtomicU64) -> bool {
    slot.load(Relaxed) & pte::PRESENT == 0
}

#[inline]
fn all_absent(slots: &[AtomicU64]) -> bool {
    slots.iter().fold(0, |any, slot| any | slot.load(Relaxed)) & pte::PRESENT == 0
}

/// The slots of a table that are the guest's, in order.
fn guest_slots(level: u32) -> [Range<usize>; 2] {
    match level {
        4 => [0..FIRST_HV_SLOT, FIRST_HV_SLOT + HV_SLOTS..pte::ENTRIES],
        _ => [0..pte::ENTRIES, pte::ENTRIES..pte::ENTRIES],
    }
}

/// Whether a table's slot is the hypervisor's.
#[inline]
pub(super) fn is_hv_slot(level: u32, index: usize) -> bool {
    level == 4 && index.wrapping_sub(FIRST_HV_SLOT) < HV_SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::machine;
    use std::vec::Vec;

    #[test]
    fn skipping_stops_at_a_present_entry_or_the_budget() {
        let table = machine(1);
        for present in 0..=20 {
            for len in 0..20usize {
                for budget in [0, 1, 7, 8, 9, 100] {
                    let slots: Vec<AtomicU64> = (0..len)
                        .map(|index| {
                            AtomicU64::new(if index == present { pte::PRESENT } else { !pte::PRESENT })
                        })
                        .collect();
                    let mut work = Work::new(&table, budget);
                    let ahead = len.min(present).min(budget as usize);
                    assert_eq!(work.skip_absent(&slots), ahead);
                    assert_eq!(work.budget, budget - ahead as u32);
                    let behind = if present < len { len - 1 - present } else { len }.min(budget as usize);
                    work.refill(budget);
                    assert_eq!(work.skip_absent_back(&slots), behind);
                    assert_eq!(work.budget, budget - behind as u32);
                }
            }
        }
    }
}
