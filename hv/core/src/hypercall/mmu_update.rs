//! `mmu_update`: page-table entries and M2P words, by machine address.

use super::should_yield;
use crate::access;
use crate::domain::{Current, Domain};
use crate::error::{HcResult, Stop};
use crate::mm::{frames, typed, with_rights};
use alloc::sync::Arc;
use hv_machine::frame::{Rights, Store, Work};
use hv_machine::guest_mem;
use shared_abi::errno::Errno;
use shared_abi::xen::*;
use shared_abi::{DomId, GuestAddr, Mfn};

/// In `count`: a continuation, whose progress is in `*pdone`.
pub const PREEMPTED: u64 = 1 << 31;
/// Requests done before other work gets its turn.
const BATCH: u64 = 512;

/// The list's progress as it is reported to the guest.
pub(super) struct Batch {
    at: GuestAddr,
    left: u64,
    done: u32,
    pdone: GuestAddr,
}

impl Batch {
    /// Reads the arguments (list, count, pdone). The list's address must be a guest's even if it is empty; the
    /// progress is a courtesy, and where it can't be read or written nothing is said of it.
    pub(super) fn new(a: &[u64; 6]) -> Result<Batch, Stop> {
        let pdone = GuestAddr(a[2]);
        let mut b = Batch { at: GuestAddr(a[0]), left: a[1] & 0x7fff_ffff, done: 0, pdone };
        if a[1] & PREEMPTED != 0 && pdone.0 != 0 {
            b.done = guest_mem::read(pdone).unwrap_or(0);
        }
        if guest_mem::access_ok(b.at, 0) { Ok(b) } else { Err(Errno::EFAULT.into()) }
    }
    /// Runs `f` on each element; what it returns on an error is reported with how many went before.
    pub(super) fn run<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        mut self,
        cur: &mut Current<'_>,
        a: &mut [u64; 6],
        mut f: impl FnMut(&mut Current<'_>, T) -> Result<(), Stop>,
    ) -> HcResult {
        let mut result = Ok(0);
        let mut i = 0;
        while self.left > 0 {
            if i > 0 && i % 64 == 0 && (i >= BATCH || should_yield(cur)) {
                result = Err(Stop::Retry);
                break;
            }
            let r = guest_mem::read::<T>(self.at).map_err(Stop::from).and_then(|t| f(cur, t));
            if let Err(e) = r {
                result = Err(e);
                break;
            }
            self.at = GuestAddr(self.at.0.wrapping_add(size_of::<T>() as u64));
            self.left -= 1;
            self.done = self.done.wrapping_add(1);
            i += 1;
        }
        if self.pdone.0 != 0 {
            let _ = guest_mem::write(self.pdone, &self.done);
        }
        if result == Err(Stop::Retry) {
            a[0] = self.at.0;
            a[1] = self.left | PREEMPTED;
        }
        result
    }
}

/// The domain whose frames an operation's `foreigndom` argument names.
pub(super) fn frames_of(dom: &Arc<Domain>, id: u16) -> Result<DomId, Errno> {
    match DomId(id) {
        DomId::SELF => Ok(dom.id),
        // A domain names itself only by `DOMID_SELF`.
        id if id == dom.id => Err(Errno::ESRCH),
        // Device memory: RAM is not that owner's.
        DomId::IO => Ok(DomId::IO),
        DomId::XEN => {
            access::control_only(dom)?;
            Ok(DomId::XEN)
        }
        id => access::target(dom, id).map(|d| d.id),
    }
}

/// `mmu_update(requests, count, pdone, foreigndom)`.
pub fn mmu_update(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let batch = Batch::new(a)?;
    let frames = frames();
    cur.cx.work.refill(Work::BUDGET);
    frames.settle(&mut cur.cx.work)?;
    let of = frames_of(cur.dom, a[3] as u16)?;
    let target;
    // Bits 16 to 31: whose tables, plus one; zero is the caller.
    let tables = match a[3] as u32 >> 16 {
        0 => cur.dom,
        id if id == u32::from(DomId::SELF.0) + 1 => return Err(Errno::ESRCH.into()),
        id => {
            target = access::target(cur.dom, DomId((id - 1) as u16))?;
            &target
        }
    };
    let mut held = None;
    let mut one = |cur: &mut Current<'_>, u: MmuUpdate, rights: &Rights<'_>| -> Result<(), Stop> {
        let mfn = Mfn(u.ptr >> 12);
        let offset = (u.ptr & 0xff8) as usize;
        let store = match u.ptr & 7 {
            MMU_NORMAL_PT_UPDATE | MMU_PT_UPDATE_NO_TRANSLATE => Store::Set,
            MMU_PT_UPDATE_PRESERVE_AD => Store::PreserveAd,
            MMU_MACHPHYS_UPDATE => {
                if tables.id != cur.dom.id {
                    return Err(Errno::EPERM.into());
                }
                let frame = typed(frames.get(mfn, of))?;
                frames.m2p_set(frame.mfn(), u.val);
                return Ok(());
            }
            _ => return Err(Errno::ENOSYS.into()),
        };
        frames.mmu_update(mfn, offset, u.val, store, rights, &mut held, &mut cur.cx.work)?;
        Ok(())
    };
    let result = with_rights(tables, of, |rights| batch.run(cur, a, |cur, u| one(cur, u, rights)));
    if let Some(table) = held {
        table.release(&mut cur.cx.work);
    }
    result
}
