//! `iret`: back from the guest's kernel to where it was entered from.

use crate::domain::Current;
use crate::error::{HcResult, Stop};
use hv_machine::guest_mem;
use shared_abi::GuestAddr;
use shared_abi::arch_x86::{IretContext, VGCF_IN_SYSCALL};

const IF: u64 = 0x200;

/// Loads the frame on the kernel's stack (xen-x86_64.h `iret_context`).
#[inline(always)]
pub fn iret(cur: &mut Current<'_>) -> HcResult {
    let at = GuestAddr(cur.cx.cpu.regs().rsp);
    let f: IretContext = guest_mem::read(at).map_err(|_| Stop::Crash("iret without a frame"))?;
    if f.cs & 3 == 3 && !cur.to_user_mode() {
        return Err(Stop::Crash("iret to user mode without a user root table"));
    }
    if cur.dom.architectural_iopl() {
        cur.cx.iopl = (f.rflags >> 12 & 3) as u8;
    }
    cur.cx.nmi_masked = false;
    let r = cur.cx.cpu.regs_mut();
    r.rip = f.rip;
    // Entering forces ring 3.
    r.cs = f.cs & 0xffff;
    r.rflags = f.rflags;
    r.rsp = f.rsp;
    r.ss = f.ss & 0xffff;
    if f.flags & VGCF_IN_SYSCALL == 0 {
        r.r11 = f.r11;
        r.rcx = f.rcx;
    }
    r.changed();
    cur.cx.info.set_mask(f.rflags & IF == 0);
    Ok(f.rax)
}
