//! Mapping a granted frame, and ending that.
//!
//! An unmap has three steps, for a whole batch at a time: each mapping's page-table entry goes
//! ([`unmap`]); one TLB flush for all; each use of the grant ends ([`Unmapping::complete`]), which
//! is when the granting domain sees the frame as its own again. The other order would let the
//! mapping domain write into a frame that the granting domain has put to new use (XSA-234, 218).

use hv_machine::frame::{FlushDue, Frame, FrameTable, L4, Rights, Store, Table, Work};
use shared_abi::grant_table::{
    GNTMAP_CONTAINS_PTE, GNTMAP_DEVICE_MAP, GNTMAP_GUEST_AVAIL_MASK, GNTMAP_HOST_MAP, GNTMAP_READONLY,
    GNTST_BAD_GNTREF, GNTST_GENERAL_ERROR, GrantHandle,
};
use shared_abi::{DomId, GrantRef, Mfn, pte};

use super::Failure;
use super::active::{Use, Want};
use super::maptrack::{Maptrack, PARTS, Track};
use super::table::GrantTable;

/// The mapping domain's side of an operation.
pub struct Space<'a, 't> {
    /// The machine's frames.
    pub frames: &'t FrameTable,
    /// The page tables in which virtual addresses are looked up.
    pub root: &'a Frame<'t, L4>,
    /// The mapping domain.
    pub dom: DomId,
    /// The vcpu's work.
    pub work: &'a mut Work<'t>,
}

/// What `GNTTABOP_map_grant_ref` asks for.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// The grant.
    pub gref: GrantRef,
    /// `GNTMAP_*`.
    pub flags: u32,
    /// Where to map it: a virtual address, or with `GNTMAP_contains_pte` the machine address of
    /// a page-table entry.
    pub host_addr: u64,
}

/// A new mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// Names it in the unmap.
    pub handle: GrantHandle,
    /// The frame's machine address.
    pub dev_bus_addr: u64,
}

/// What `GNTTABOP_unmap_grant_ref` asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unmap {
    /// The mapping.
    pub handle: GrantHandle,
    /// Where it was mapped for the processor; 0 leaves that part.
    pub host_addr: u64,
    /// Its machine address, if the part for devices is to go; else 0.
    pub dev_bus_addr: u64,
}

/// A mapping that is gone, whose use of the grant ends when TLBs are flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Unmapping {
    /// The domain whose grant table [`Unmapping::complete`] needs.
    pub granter: DomId,
    gref: GrantRef,
    write: bool,
}

impl Unmapping {
    /// Of what was recorded.
    #[inline]
    pub(super) fn new(mapping: &Track<'_>) -> Unmapping {
        Unmapping { granter: mapping.granter, gref: mapping.gref, write: mapping.write() }
    }

    /// Ends the use. TLBs have been flushed.
    #[inline]
    pub fn complete(self, granter: &mut GrantTable<'_>) {
        granter.unpin(self.gref, self.write);
    }
}

/// What became of an unmap's first step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Unmapped {
    /// The mapping, if nothing of it is left.
    pub gone: Option<Unmapping>,
    /// The flush that must come before its use of the grant ends.
    pub due: Option<FlushDue>,
}

/// The flags of a mapping's page-table entry.
fn entry_flags(flags: u32) -> u64 {
    let avail = u64::from((flags & GNTMAP_GUEST_AVAIL_MASK) >> 16) << 9 & pte::AVAIL_LOW;
    pte::PRESENT | pte::USER | pte::ACCESSED | pte::DIRTY | avail
}

impl<'t> Space<'_, 't> {
    /// The L1 slot that `address` names.
    #[inline(always)]
    fn slot(&self, address: u64, by_pte: bool) -> Result<(Table<'t>, usize), i16> {
        if !by_pte {
            return self.frames.find_l1(self.root, self.dom, address).ok_or(GNTST_GENERAL_ERROR);
        }
        let table = self.frames.get_table(Mfn(address >> 12), self.dom).ok_or(GNTST_GENERAL_ERROR)?;
        if table.level() != 1 || !address.is_multiple_of(8) {
            return Err(GNTST_GENERAL_ERROR);
        }
        Ok((table, (address % 4096 / 8) as usize))
    }

    /// Puts an entry for `mfn` of `owner`'s into the slot.
    fn enter(&mut self, mfn: Mfn, owner: DomId, op: &Map) -> Result<(), Failure> {
        let (table, index) = self.slot(op.host_addr, op.flags & GNTMAP_CONTAINS_PTE != 0)?;
        let flags = entry_flags(op.flags);
        let refused = |stop| Failure::stop(stop, GNTST_GENERAL_ERROR);
        let done = if op.flags & GNTMAP_READONLY != 0 {
            self.frames
                .get(mfn, owner)
                .and_then(|frame| self.frames.map_grant(&table, index, flags, frame, self.work))
        } else {
            self.frames
                .get_writable_by(self.dom, mfn, owner, self.work)
                .and_then(|frame| self.frames.map_grant(&table, index, flags, frame, self.work))
        };
        table.release(self.work);
        done.map(drop).map_err(refused)
    }

    /// Takes the mapping's entry out of its slot.
    #[inline(always)]
    fn leave(&mut self, mapping: &Track<'_>, address: u64) -> Result<FlushDue, Failure> {
        let (table, index) = self.slot(address, mapping.has(GNTMAP_CONTAINS_PTE))?;
        let done = self.frames.unmap_grant(&table, index, mapping.mfn, mapping.write(), self.work);
        table.release(self.work);
        done.map_err(|stop| Failure::stop(stop, GNTST_GENERAL_ERROR))
    }

    /// The same, with the mapping at the virtual address `from` moved there, by the domain's `rights`.
    #[cold]
    fn replace(
        &mut self,
        mapping: &Track<'_>,
        address: u64,
        from: u64,
        rights: &Rights<'_>,
    ) -> Result<FlushDue, Failure> {
        if mapping.has(GNTMAP_CONTAINS_PTE) {
            return Err(GNTST_GENERAL_ERROR.into());
        }
        let (old_table, old_index) = self.slot(from, false)?;
        let new = old_table.view().load_u64(old_index * 8);
        let done = self.slot(address, false).map_err(Failure::from).and_then(|(table, index)| {
            let (mfn, write) = (mapping.mfn, mapping.write());
            let done = self.frames.replace_grant(&table, index, mfn, write, new, rights, self.work);
            table.release(self.work);
            done.map_err(|stop| Failure::stop(stop, GNTST_GENERAL_ERROR))
        });
        if done.is_ok() {
            // If the guest changed it meanwhile, the frame is mapped at both addresses: its own.
            let _ = self.frames.update_entry(&old_table, old_index, 0, Store::IfIs(new), rights, self.work);
        }
        old_table.release(self.work);
        done
    }
}

/// `GNTTABOP_map_grant_ref`, with the granting domain's table and the mapping domain's record.
///
/// # Errors
/// `GNTST_BAD_GNTREF` for flags that map nothing and for a reference past the table's end;
/// `GNTST_NO_SPACE` when the domain has no handle left; `GNTST_BAD_PAGE` when the entry names no
/// frame of the granting domain's; `GNTST_GENERAL_ERROR` when it does not grant this, when a
/// frame to be written is a page table, or when there is no L1 entry at the address.
pub fn map<'t>(
    op: &Map,
    granter: &mut GrantTable<'t>,
    track: &mut Maptrack<'t>,
    space: &mut Space<'_, 't>,
) -> Result<Mapped, Failure> {
    if op.flags & PARTS == 0 {
        return Err(GNTST_BAD_GNTREF.into());
    }
    let vacancy = track.vacancy()?;
    let write = op.flags & GNTMAP_READONLY == 0;
    let (owner, using) = (granter.owner(), Use { by: space.dom, write, want: Want::Map });
    let mfn = granter.pin(op.gref, using)?.frame()?.mfn();

    let mut device_use = None;
    let mut done = Ok(());
    if op.flags & GNTMAP_DEVICE_MAP != 0 && write {
        match space.frames.get_writable_by(space.dom, mfn, owner, space.work) {
            Ok(frame) => device_use = Some(frame),
            Err(stop) => done = Err(Failure::stop(stop, GNTST_GENERAL_ERROR)),
        }
    }
    if op.flags & GNTMAP_HOST_MAP != 0 && done.is_ok() {
        done = space.enter(mfn, owner, op);
    }
    if let Err(failure) = done {
        if let Some(frame) = device_use {
            frame.release(space.work);
        }
        granter.unpin(op.gref, write);
        return Err(failure);
    }
    let new = Track { granter: owner, gref: op.gref, mfn, flags: op.flags, device_use };
    Ok(Mapped { handle: vacancy.fill(new), dev_bus_addr: mfn.0 << 12 })
}

/// `GNTTABOP_unmap_grant_ref`, first step. Flush if that is due (once for all
/// of a batch), then [complete](Unmapping::complete).
///
/// # Errors
/// `GNTST_BAD_HANDLE`; `GNTST_GENERAL_ERROR` when the address does not map the frame in the way
/// the handle says.
#[inline]
pub fn unmap<'t>(
    op: &Unmap,
    track: &mut Maptrack<'t>,
    space: &mut Space<'_, 't>,
) -> Result<Unmapped, Failure> {
    unmap_by(op, track, space, |space, mapping| space.leave(mapping, op.host_addr))
}

/// `GNTTABOP_unmap_and_replace`, first step: as [`unmap`], and the mapping at the virtual address `from`
/// moves to where the granted frame was. A `from` of 0 moves nothing.
///
/// # Errors
/// As [`unmap`]; also when there is nothing at `from` that the domain may map.
pub fn replace<'t>(
    op: &Unmap,
    from: u64,
    track: &mut Maptrack<'t>,
    space: &mut Space<'_, 't>,
    rights: &Rights<'_>,
) -> Result<Unmapped, Failure> {
    unmap_by(op, track, space, |space, mapping| match from {
        0 => space.leave(mapping, op.host_addr),
        _ => space.replace(mapping, op.host_addr, from, rights),
    })
}

#[inline]
fn unmap_by<'a, 't>(
    op: &Unmap,
    track: &mut Maptrack<'t>,
    space: &mut Space<'a, 't>,
    leave: impl FnOnce(&mut Space<'a, 't>, &Track<'t>) -> Result<FlushDue, Failure>,
) -> Result<Unmapped, Failure> {
    let mut occupied = track.occupied(op.handle)?;
    let mapping = occupied.track()?;
    let mut gone = 0;
    if op.host_addr != 0 {
        gone |= mapping.flags & GNTMAP_HOST_MAP;
    }
    if op.dev_bus_addr != 0 && mapping.has(GNTMAP_DEVICE_MAP) {
        if op.dev_bus_addr >> 12 != mapping.mfn.0 {
            return Err(GNTST_GENERAL_ERROR.into());
        }
        gone |= GNTMAP_DEVICE_MAP;
    }
    let due = if gone & GNTMAP_HOST_MAP != 0 { Some(leave(space, mapping)?) } else { None };
    mapping.flags &= !gone;
    if gone & GNTMAP_DEVICE_MAP != 0
        && let Some(frame) = mapping.device_use.take()
    {
        frame.release(space.work);
    }
    let gone = (mapping.flags & PARTS == 0).then(|| Unmapping::new(mapping));
    if gone.is_some() {
        occupied.remove();
    }
    Ok(Unmapped { gone, due })
}
