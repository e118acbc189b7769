//! `mmuext_op`: pins, roots, flushes, and what else concerns page tables.

use super::mmu_update::{Batch, frames_of};
use crate::access;
use crate::domain::Current;
use crate::error::{HcResult, Stop};
use crate::mm::flush::{What, Whom, flush};
use crate::mm::{self, frames, typed, with_rights};
use hv_machine::frame::{Rights, Work};
use hv_machine::guest_mem;
use hv_machine::x86_64::cpu;
use shared_abi::errno::Errno;
use shared_abi::xen::*;
use shared_abi::{DomId, Mfn};

/// `mmuext_op(ops, count, pdone, foreigndom)`.
pub fn mmuext_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let batch = Batch::new(a)?;
    let of = frames_of(cur.dom, a[3] as u16)?;
    // One budget for all: each pin and unpin of a list may concern a whole tree of tables.
    cur.cx.work.refill(Work::BUDGET);
    batch.run(cur, a, |cur, op: MmuextOp| {
        frames().settle(&mut cur.cx.work)?;
        one(cur, op, of)
    })
}

fn one(cur: &mut Current<'_>, op: MmuextOp, of: DomId) -> Result<(), Stop> {
    match op.cmd {
        MMUEXT_PIN_L1_TABLE | MMUEXT_PIN_L2_TABLE | MMUEXT_PIN_L3_TABLE | MMUEXT_PIN_L4_TABLE => {
            let level = op.cmd - MMUEXT_PIN_L1_TABLE + 1;
            if of == cur.dom.id {
                with_rights(cur.dom, of, |r| frames().pin(op.mfn(), level, r, &mut cur.cx.work))?;
            } else if matches!(of, DomId::IO | DomId::XEN) {
                return Err(Errno::EINVAL.into());
            } else {
                // A builder pins for the domain it builds, by that domain's own rights.
                let d = access::target(cur.dom, of)?;
                with_rights(&d, of, |r| frames().pin(op.mfn(), level, r, &mut cur.cx.work))?;
            }
        }
        MMUEXT_UNPIN_TABLE => typed(frames().unpin(op.mfn(), of, &mut cur.cx.work))?,
        MMUEXT_NEW_BASEPTR => {
            own(cur, of)?;
            new_base(cur, op.mfn())?;
        }
        MMUEXT_NEW_USER_BASEPTR => {
            own(cur, of)?;
            let new = match op.mfn() {
                Mfn(0) => None,
                mfn => Some(with_rights(cur.dom, of, |r| frames().get_root(mfn, r, &mut cur.cx.work))?),
            };
            // Not even if it is a kernel's too.
            if let Some(root) = new.as_ref().filter(|_| cur.dom.m2p_strict()) {
                root.show_m2p(false);
            }
            // The kernel's table is what CR3 holds: the old user table is in no CPU.
            if let Some(old) = cur.cx.cpu.replace_user_root(new) {
                old.release(&mut cur.cx.work);
            }
        }
        MMUEXT_TLB_FLUSH_LOCAL
        | MMUEXT_INVLPG_LOCAL
        | MMUEXT_TLB_FLUSH_MULTI
        | MMUEXT_INVLPG_MULTI
        | MMUEXT_TLB_FLUSH_ALL
        | MMUEXT_INVLPG_ALL => {
            own(cur, of)?;
            let whom = match op.cmd {
                MMUEXT_TLB_FLUSH_LOCAL | MMUEXT_INVLPG_LOCAL => Whom::Local,
                MMUEXT_TLB_FLUSH_ALL | MMUEXT_INVLPG_ALL => Whom::All,
                _ => Whom::Some(guest_mem::read(op.vcpumask()).map_err(|_| Errno::EINVAL)?),
            };
            let what = match op.cmd {
                MMUEXT_TLB_FLUSH_LOCAL | MMUEXT_TLB_FLUSH_MULTI | MMUEXT_TLB_FLUSH_ALL => What::All,
                _ => What::Page(op.linear_addr()),
            };
            flush(cur.dom, whom, what);
        }
        MMUEXT_FLUSH_CACHE | MMUEXT_FLUSH_CACHE_GLOBAL => {
            own(cur, of)?;
            if !cur.dom.control {
                return Err(Errno::EACCES.into());
            }
            cpu::wbinvd();
        }
        MMUEXT_SET_LDT => {
            own(cur, of)?;
            let (base, n) = (op.linear_addr(), op.nr_ents());
            if !(n == 0 && cur.cx.ldt_entries == 0) {
                mm::set_ldt(cur.dom, cur.cx, base, n)?;
                mm::load_ldt(cur.cx);
            }
        }
        MMUEXT_CLEAR_PAGE => {
            let f = typed(frames().get_writable_by(cur.dom.id, op.mfn(), of, &mut cur.cx.work))?;
            f.page().zero();
            f.release(&mut cur.cx.work);
        }
        MMUEXT_COPY_PAGE => {
            let from = typed(frames().get(op.src_mfn(), of))?;
            let to = typed(frames().get_writable_by(cur.dom.id, op.mfn(), of, &mut cur.cx.work))?;
            to.page().copy_from(0, from.view(), 0, 4096);
            to.release(&mut cur.cx.work);
        }
        MMUEXT_MARK_SUPER | MMUEXT_UNMARK_SUPER => return Err(Errno::EOPNOTSUPP.into()),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(())
}

fn own(cur: &Current<'_>, of: DomId) -> Result<(), Errno> {
    if of == cur.dom.id { Ok(()) } else { Err(Errno::EPERM) }
}

/// Makes `mfn` the kernel's root table. The new one is loaded before the old one is let go.
pub fn new_base(cur: &mut Current<'_>, mfn: Mfn) -> Result<(), Stop> {
    let new = with_rights(cur.dom, cur.dom.id, |r: &Rights<'_>| frames().get_root(mfn, r, &mut cur.cx.work))?;
    let old = cur.cx.cpu.replace_kernel_root(Some(new));
    if cur.cx.cpu.kernel_mode() {
        cur.load_root();
    }
    if let Some(old) = old {
        old.release(&mut cur.cx.work);
    }
    Ok(())
}
