//! `update_va_mapping`: the L1 entry of an address, with a flush.

use super::mmu_update::frames_of;
use crate::domain::Current;
use crate::error::HcResult;
use crate::mm::flush::{What, Whom, flush};
use crate::mm::{frames, with_rights};
use hv_machine::frame::{Store, Work};
use hv_machine::guest_mem;
use shared_abi::errno::Errno;
use shared_abi::xen::*;
use shared_abi::{DomId, GuestAddr};

/// `update_va_mapping(address, entry, flags)`.
pub fn update_va_mapping(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    update(cur, a[0], a[1], a[2], cur.dom.id)
}

/// `update_va_mapping_otherdomain(address, entry, flags, domid)`.
pub fn other_domain(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let of = frames_of(cur.dom, a[3] as u16)?;
    update(cur, a[0], a[1], a[2], of)
}

/// The same of the frames of `of`.
pub fn update(cur: &mut Current<'_>, va: u64, entry: u64, flags: u64, of: DomId) -> HcResult {
    let frames = frames();
    cur.cx.work.refill(Work::BUDGET);
    frames.settle(&mut cur.cx.work)?;
    let root = cur.cx.cpu.kernel_root().ok_or(Errno::EINVAL)?;
    let (table, index) = frames.find_l1(root, cur.dom.id, va).ok_or(Errno::EINVAL)?;
    let work = &mut cur.cx.work;
    let done = with_rights(cur.dom, of, |r| frames.update_entry(&table, index, entry, Store::Set, r, work));
    table.release(work);
    done?;
    let what = match flags & UVMF_FLUSHTYPE_MASK {
        UVMF_TLB_FLUSH => What::All,
        UVMF_INVLPG => What::Page(va),
        _ => return Ok(0),
    };
    let whom = match flags & !UVMF_FLUSHTYPE_MASK {
        UVMF_LOCAL => Whom::Local,
        UVMF_ALL => Whom::All,
        mask => Whom::Some(guest_mem::read(GuestAddr(mask))?),
    };
    flush(cur.dom, whom, what);
    Ok(0)
}
