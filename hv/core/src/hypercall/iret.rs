//! `iret`: back from the guest's kernel to where it was entered from.

use crate::domain::Current;
use crate::error::{HcResult, Stop};
use hv_machine::guest_mem;
use shared_abi::GuestAddr;
use shared_abi::arch_x86::{IretContext, VGCF_IN_SYSCALL};

const IF: u64 = 0x200;
const IOPL: u64 = 0x3000;

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
    if cur.cx.nmi_masked {
        cur.cx.nmi_masked = false;
        cur.cx.arm_system_calls(cur.dom);
    }
    let r = cur.cx.cpu.regs_mut();
    r.rip = f.rip;
    // Entering forces ring 3.
    r.cs = f.cs & 0xffff;
    r.rflags = f.rflags;
    r.rsp = f.rsp;
    r.ss = f.ss & 0xffff;
    // In the other case they are as after `sysret`.
    (r.rcx, r.r11) =
        if f.flags & VGCF_IN_SYSCALL == 0 { (f.rcx, f.r11) } else { (f.rip, f.rflags & !IOPL | IF) };
    r.changed();
    cur.cx.info.set_mask(f.rflags & IF == 0);
    Ok(f.rax)
}
