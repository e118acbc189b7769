//! The failsafe callback (`CALLBACKTYPE_failsafe`): a vcpu comes back to a CPU, and a data segment that it had
//! loaded can't be loaded again, for its descriptor is gone meanwhile. The selector is null now, and the guest's kernel
//! is told which ones it had.

use super::bounce::{CLEARED, CannotEnter, IF, IOPL};
use crate::domain::Current;
use hv_machine::guest_mem;
use shared_abi::GuestAddr;
use shared_abi::arch_x86::{FLAT_KERNEL_CS, FLAT_KERNEL_SS};

/// Enters it, the vcpu being loaded. The frame is an exception's with the four selectors below rip.
#[cold]
pub fn enter(cur: &mut Current<'_>) -> Result<(), CannotEnter> {
    let had = cur.cx.cpu.selectors;
    let from = *cur.cx.cpu.regs();
    let (sp, cs) = if cur.cx.cpu.kernel_mode() {
        (from.rsp, from.cs & 0xfffc)
    } else {
        (cur.cx.kernel_sp, from.cs & 0xffff)
    };
    cur.to_kernel_mode();
    let callback = cur.cx.failsafe;
    let info = &cur.cx.info;
    let masked = if callback.mask_events { info.mask_upcalls() } else { info.upcalls_masked() };
    let mut flags = from.rflags & !(IF | IOPL) | if masked { 0 } else { IF };
    if cur.dom.architectural_iopl() {
        flags |= u64::from(cur.cx.iopl) << 12;
    }
    let [ds, es, fs, gs] = [had.ds, had.es, had.fs, had.gs].map(u64::from);
    let cs = cs | u64::from(masked) << 32;
    let frame = [from.rcx, from.r11, ds, es, fs, gs, from.rip, cs, flags, from.rsp, from.ss];
    let at = (sp & !15).wrapping_sub(8 * frame.len() as u64);
    guest_mem::write(GuestAddr(at), &frame).map_err(|_| CannotEnter::Stack)?;
    let r = cur.cx.cpu.regs_mut();
    r.rip = callback.address;
    r.cs = FLAT_KERNEL_CS.into();
    r.ss = FLAT_KERNEL_SS.into();
    r.rsp = at;
    r.rflags &= !CLEARED;
    r.changed();
    Ok(())
}
