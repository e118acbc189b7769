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
use super::maptrack::{Maptrack, Track};
use super::table::GrantTable;
use super::v1::Use;

/// The mapping domain's side of an operation.
pub struct Space<'a, 't> {
    /// The machine's frames.
    pub frames: &'t FrameTable,
    /// The page tables in which virtual addresses are looked up.
    pub root: &'a Frame<'t, L4>,
    /// In whose name page tables are changed; `rights.tables` is the mapping domain.
    pub rights: Rights<'a>,
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

/// What `GNTTABOP_unmap_grant_ref` and `GNTTABOP_unmap_and_replace` ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unmap {
    /// The mapping.
    pub handle: GrantHandle,
    /// Where it was mapped for the processor; 0 leaves that part.
    pub host_addr: u64,
    /// Its machine address, if the part for devices is to go; else 0.
    pub dev_bus_addr: u64,
    /// Moves the mapping at this virtual address in its place (`GNTTABOP_unmap_and_replace`).
    pub new_addr: Option<u64>,
}

/// Uses of a grant that end when TLBs are flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Unmapping {
    /// The domain whose grant table [`Unmapping::complete`] needs.
    pub granter: DomId,
    pub(super) gref: GrantRef,
    pub(super) write: bool,
    pub(super) parts: u32,
}

impl Unmapping {
    /// Ends the uses. TLBs have been flushed.
    pub fn complete(self, granter: &mut GrantTable<'_>) {
        if self.parts != 0 {
            granter.unpin(self.gref, self.write, self.parts);
        }
    }
}

/// The flags of a mapping's page-table entry.
fn entry_flags(flags: u32) -> u64 {
    let avail = u64::from((flags & GNTMAP_GUEST_AVAIL_MASK) >> 16) << 9 & pte::AVAIL_LOW;
    pte::PRESENT | pte::USER | pte::ACCESSED | pte::DIRTY | avail
}

impl<'t> Space<'_, 't> {
    fn dom(&self) -> DomId {
        self.rights.tables
    }

    /// The L1 slot that `address` names.
    fn slot(&self, address: u64, by_pte: bool) -> Result<(Table<'t>, usize), i16> {
        if !by_pte {
            return self.frames.find_l1(self.root, self.dom(), address).ok_or(GNTST_GENERAL_ERROR);
        }
        let table = self.frames.get_table(Mfn(address >> 12), self.dom()).ok_or(GNTST_GENERAL_ERROR)?;
        if table.level() != 1 || address % 8 != 0 {
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
                .get_writable(mfn, owner, self.work)
                .and_then(|frame| self.frames.map_grant(&table, index, flags, frame, self.work))
        };
        table.release(self.work);
        done.map(drop).map_err(refused)
    }

    /// Takes the mapping's entry out of its slot, and puts `new` there.
    #[inline]
    fn leave(&mut self, mapping: &Track<'_>, address: u64, new: u64) -> Result<FlushDue, Failure> {
        let (table, index) = self.slot(address, mapping.by_pte)?;
        let (mfn, write) = (mapping.mfn, mapping.write);
        let done = self.frames.unmap_grant(&table, index, mfn, write, new, &self.rights, self.work);
        table.release(self.work);
        done.map_err(|stop| Failure::stop(stop, GNTST_GENERAL_ERROR))
    }

    /// The same, with the mapping at the virtual address `from` moved there.
    #[cold]
    fn replace(&mut self, mapping: &Track<'_>, address: u64, from: u64) -> Result<FlushDue, Failure> {
        if mapping.by_pte {
            return Err(GNTST_GENERAL_ERROR.into());
        }
        let (table, index) = self.slot(from, false)?;
        let new = table.view().load_u64(index * 8);
        let done = self.leave(mapping, address, new);
        if done.is_ok() {
            // If the guest changed it meanwhile, the frame is mapped at both addresses: its own.
            let _ = self.frames.update_entry(&table, index, 0, Store::IfIs(new), &self.rights, self.work);
        }
        table.release(self.work);
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
    let (host, device) = (op.flags & GNTMAP_HOST_MAP != 0, op.flags & GNTMAP_DEVICE_MAP != 0);
    if !host && !device {
        return Err(GNTST_BAD_GNTREF.into());
    }
    let vacancy = track.vacancy()?;
    let write = op.flags & GNTMAP_READONLY == 0;
    let parts = u32::from(host) + u32::from(device);
    let (owner, using) = (granter.owner(), Use { by: space.dom(), write, map: true });
    let mfn = granter.pin(op.gref, using, parts)?;

    let mut device_use = None;
    let mut done = Ok(());
    if device && write {
        match space.frames.get_writable(mfn, owner, space.work) {
            Ok(frame) => device_use = Some(frame),
            Err(stop) => done = Err(Failure::stop(stop, GNTST_GENERAL_ERROR)),
        }
    }
    if host && done.is_ok() {
        done = space.enter(mfn, owner, op);
    }
    if let Err(failure) = done {
        if let Some(frame) = device_use {
            frame.release(space.work);
        }
        granter.unpin(op.gref, write, parts);
        return Err(failure);
    }
    let by_pte = op.flags & GNTMAP_CONTAINS_PTE != 0;
    let new = Track { granter: owner, gref: op.gref, mfn, host, device, write, by_pte, device_use };
    Ok(Mapped { handle: vacancy.fill(new), dev_bus_addr: mfn.0 << 12 })
}

/// `GNTTABOP_unmap_grant_ref` and `GNTTABOP_unmap_and_replace`, first step. Flush what is due (all
/// of a batch [merged](FlushDue::merge)), then [complete](Unmapping::complete).
///
/// # Errors
/// `GNTST_BAD_HANDLE`; `GNTST_GENERAL_ERROR` when the address does not map the frame in the way
/// the handle says.
pub fn unmap<'t>(
    op: &Unmap,
    track: &mut Maptrack<'t>,
    space: &mut Space<'_, 't>,
) -> Result<(Unmapping, Option<FlushDue>), Failure> {
    let mapping = track.get(op.handle)?;
    let host = mapping.host && op.host_addr != 0;
    let device = mapping.device && op.dev_bus_addr != 0;
    if device && op.dev_bus_addr >> 12 != mapping.mfn.0 {
        return Err(GNTST_GENERAL_ERROR.into());
    }
    let due = match op.new_addr {
        _ if !host => None,
        None | Some(0) => Some(space.leave(mapping, op.host_addr, 0)?),
        Some(from) => Some(space.replace(mapping, op.host_addr, from)?),
    };
    mapping.host &= !host;
    mapping.device &= !device;
    let unmapping = Unmapping {
        granter: mapping.granter,
        gref: mapping.gref,
        write: mapping.write,
        parts: u32::from(host) + u32::from(device),
    };
    if device && let Some(frame) = mapping.device_use.take() {
        frame.release(space.work);
    }
    if !mapping.host && !mapping.device {
        track.remove(op.handle);
    }
    Ok((unmapping, due))
}
