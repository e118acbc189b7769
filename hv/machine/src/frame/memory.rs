//! A domain's memory: frames given to it, taken from it, pinned, and all of them let go at its end.

use super::Rights;
use super::alloc::Limit;
use super::handle::{Block, Frame, L4};
use super::owners::List;
use super::table::FrameTable;
use super::types::{EINVAL, Progress, Stop, Work};
use super::word::{Type, Word};
use core::ops::Range;
use shared_abi::{DomId, Mfn, errno::Errno};

/// Frames given back at a time: a domain's list is locked while they are gathered.
const RUN: usize = 64;

impl FrameTable {
    /// Gives the frames of `block` to `owner`, as its memory. `Err` gives them back if there is no memory
    /// to note it.
    pub fn assign<'t>(&'t self, block: Block<'t>, owner: DomId) -> Result<Mfn, Block<'t>> {
        assert!(owner.is_ordinary());
        let Some(mut list) = self.list_or_new(owner) else { return Err(block) };
        for mfn in block.number()..block.number() + (1 << block.order()) {
            list.push_first(mfn);
            self.at(mfn).reset(Word::new(owner, 1).with(Word::ALLOCATED));
        }
        drop(list);
        Ok(block.keep())
    }

    /// Allocates and assigns: 2^`order` frames within `limit`.
    pub fn populate(&self, owner: DomId, order: u32, limit: Limit) -> Result<Mfn, Errno> {
        let block = self.alloc(order, limit).ok_or(Errno::ENOMEM)?;
        self.assign(block, owner).map_err(|_| Errno::ENOMEM)
    }

    /// Takes a frame out of `owner`'s memory, unpinning it if need be. It is freed when nothing refers to
    /// it any more, which may be now, when `work` is done, or when somebody's mapping goes.
    ///
    /// # Errors
    /// `EPERM` if it is not `owner`'s, `EINVAL` if it was taken before or is no memory.
    pub fn disown(&self, mfn: Mfn, owner: DomId, work: &mut Work<'_>) -> Progress<()> {
        let frame = self.get(mfn, owner)?;
        let entry = self.at(frame.number());
        {
            // One step under the lock: what is given up is at the end of the list.
            let mut list = self.list(owner).ok_or(EINVAL)?;
            if !entry.lower(owner, Word::ALLOCATED) {
                return Err(EINVAL);
            }
            list.unlink(frame.number());
            list.push_last(frame.number());
        }
        if entry.lower(owner, Word::PINNED) {
            self.put_type(frame.number(), work);
        }
        if entry.retire_partial() {
            work.push(frame.number());
        }
        self.put_ref(frame.number());
        Ok(())
    }

    /// Takes a frame out of `owner`'s memory that is in no other use at all, for an exchange.
    ///
    /// # Errors
    /// `EPERM` if it is not `owner`'s, `EBUSY` if something refers to it or it is no memory.
    pub fn steal(&self, mfn: Mfn, owner: DomId) -> Progress<Stolen<'_>> {
        let (number, entry) = self.find(mfn).ok_or(EINVAL)?;
        {
            // One step under the lock: a frame that is given up, but first on the list, is the end of a
            // destruction.
            let mut list = self.list(owner).ok_or(Stop::Refused(Errno::EPERM))?;
            entry.steal(owner)?;
            list.unlink(number);
        }
        entry.stamp_set(self.clock().now());
        Ok(Stolen { table: self, mfn: number, owner })
    }

    /// Pins a frame of `rights.tables` as a table of `level`, checking it if it is none yet.
    ///
    /// # Errors
    /// `EINVAL` if its entries are not in order, it is pinned already or is no longer part of the domain's
    /// memory; else as for any type.
    pub fn pin(&self, mfn: Mfn, level: u32, rights: &Rights<'_>, work: &mut Work<'_>) -> Progress<()> {
        let ty = Type::table(level).ok_or(EINVAL)?;
        let (number, entry) = self.find(mfn).ok_or(EINVAL)?;
        self.take(number, rights.tables, ty, rights, work)?;
        if !entry.pin() {
            self.put_type(number, work);
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Unpins a frame of `owner`'s.
    ///
    /// # Errors
    /// `EINVAL` if it is not pinned, `EPERM` if it is not `owner`'s.
    pub fn unpin(&self, mfn: Mfn, owner: DomId, work: &mut Work<'_>) -> Progress<()> {
        let frame = self.get(mfn, owner)?;
        if !self.at(frame.number()).lower(owner, Word::PINNED) {
            return Err(EINVAL);
        }
        self.put_type(frame.number(), work);
        Ok(())
    }

    /// Destruction: lets go of all memory of a domain that has no vcpu running and whose handles are
    /// dropped. `Ok` when every frame was visited and this one's `work` is done; frames that other domains
    /// still map remain [`owned`](FrameTable::owned) until they don't.
    pub fn relinquish(&self, owner: DomId, work: &mut Work<'_>) -> Progress<()> {
        loop {
            self.settle(work)?;
            let Some(mut list) = self.list(owner) else { return Ok(()) };
            // Most frames are data that nothing refers to any more.
            let run = self.steal_run(&mut list, owner, work);
            if !run.is_empty() {
                drop(list);
                let stamp = self.clock().now();
                run.clone().for_each(|mfn| self.at(mfn).stamp_set(stamp));
                self.give_run(run);
                continue;
            }
            let Some(mfn) = list.first() else { return Ok(()) };
            if !self.at(mfn).word().has(Word::ALLOCATED) {
                return Ok(());
            }
            if !work.spend() {
                return Err(Stop::Again);
            }
            drop(list);
            match self.disown(Mfn(mfn.into()), owner, work) {
                // Somebody else disowned it meanwhile.
                Err(Stop::Refused(_)) | Ok(()) => {}
                Err(Stop::Again) => return Err(Stop::Again),
            }
        }
    }

    /// Takes frames from the head of a list as long as they lie side by side, up to [`RUN`], and nothing refers
    /// to them.
    fn steal_run(&self, list: &mut List<'_>, owner: DomId, work: &mut Work<'_>) -> Range<u32> {
        let mut run = 0..0;
        while let Some(mfn) = list.first() {
            let longer = match run {
                Range { start, end } if start == end => mfn..mfn + 1,
                Range { start, end } if mfn + 1 == start => mfn..end,
                Range { start, end } if mfn == end => start..mfn + 1,
                _ => break,
            };
            if longer.len() > RUN || !work.spend() || self.at(mfn).steal(owner).is_err() {
                break;
            }
            list.pop_first(mfn);
            run = longer;
        }
        run
    }

    /// A root that is in use already, one more time.
    pub fn again<'t>(&'t self, root: &Frame<'t, L4>) -> Progress<Frame<'t, L4>> {
        let owner = self.at(root.number()).word().owner();
        if self.at(root.number()).acquire_ready(owner, Type::L4) {
            Ok(Frame::adopt(self, root.number()))
        } else {
            Err(Stop::Refused(Errno::EOVERFLOW))
        }
    }
}

/// A frame taken out of a domain's memory by [`FrameTable::steal`]. Dropping it frees the frame.
#[must_use]
pub struct Stolen<'t> {
    table: &'t FrameTable,
    mfn: u32,
    owner: DomId,
}

impl Stolen<'_> {
    /// The frame.
    pub fn mfn(&self) -> Mfn {
        Mfn(self.mfn.into())
    }

    /// Gives it back to the domain it was taken from, as it was: what type it last had tells whoever uses it
    /// next that TLBs may still hold translations of that use.
    pub fn restore(self) {
        // The list exists: the frame was on it.
        if let Some(mut list) = self.table.list(self.owner) {
            let entry = self.table.at(self.mfn);
            list.push_first(self.mfn);
            entry.reset(Word::new(self.owner, 1).with_ty(entry.word().ty()).with(Word::ALLOCATED));
            core::mem::forget(self);
        }
    }
}

impl Drop for Stolen<'_> {
    fn drop(&mut self) {
        self.table.give_block(self.mfn, 0);
    }
}
