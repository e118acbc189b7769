//! Entering the guest's kernel: an exception, a system call or an upcall becomes a frame on the
//! kernel's stack, as the CPU itself would make one.
//!
//! The frame's layout is the PV ABI's (arch-x86/xen-x86_64.h, and what kernels pop): rcx, r11, then an
//! error code if there is one, rip, cs with the saved event
//! mask in bits 32–39, rflags with IF telling that mask, rsp, ss. Kernel context shows as RPL 0 in cs.

use crate::domain::Current;
use crate::domain::vcpu::Callback;
use hv_machine::guest_mem;
use hv_machine::x86_64::cpu::is_canonical;
use shared_abi::GuestAddr;
use shared_abi::arch_x86::{FLAT_KERNEL_CS, FLAT_KERNEL_SS};

/// The guest's kernel can't be entered: no handler, or no stack to put the frame on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CannotEnter {
    /// No handler in the trap table.
    Exception,
    /// No handler of system calls.
    SystemCall,
    /// No handler of events.
    Upcall,
    /// The handler's address is none.
    NotCanonical,
    /// The frame can't be written.
    Stack,
}

impl CannotEnter {
    /// The reason, for the log.
    pub fn why(self) -> &'static str {
        match self {
            CannotEnter::Exception => "exception without a handler",
            CannotEnter::SystemCall => "system call without a handler",
            CannotEnter::Upcall => "event without an upcall handler",
            CannotEnter::NotCanonical => "handler at an address that is none",
            CannotEnter::Stack => "no stack to enter its kernel on",
        }
    }
}

pub(super) const IF: u64 = 0x200;
pub(super) const IOPL: u64 = 0x3000;
const DF: u64 = 0x400;
/// TF, RF, NT, VM, and AC (a kernel's accesses need no alignment): cleared when a handler is entered.
pub(super) const CLEARED: u64 = 0x0007_4100;

/// Which way into the kernel.
struct Entry {
    rip: u64,
    mask_events: bool,
    error_code: Option<u32>,
}

/// Gives the guest an exception, through its trap table.
#[inline(never)]
pub fn exception(cur: &mut Current<'_>, vector: u8, error_code: Option<u32>) -> Result<(), CannotEnter> {
    give(cur, vector, error_code)
}

#[inline(always)]
fn give(cur: &mut Current<'_>, vector: u8, error_code: Option<u32>) -> Result<(), CannotEnter> {
    let t = cur.cx.traps[usize::from(vector)];
    if t.address == 0 {
        return Err(CannotEnter::Exception);
    }
    enter(cur, Entry { rip: t.address, mask_events: t.masks_events(), error_code })
}

/// Gives the guest a page fault, the commonest exception: the address goes into vcpu_info's arch.cr2.
#[inline(never)]
pub fn page_fault(cur: &mut Current<'_>, cr2: u64, error_code: u32) -> Result<(), CannotEnter> {
    cur.cx.info.set_cr2(cr2);
    // A PV kernel runs in ring 3, but expects its own faults to look like a kernel's.
    let code = if cur.cx.cpu.kernel_mode() { error_code & !4 } else { error_code | 4 };
    give(cur, 14, Some(code))
}

/// A system call from user mode.
#[inline(always)]
pub fn callback(cur: &mut Current<'_>, c: Callback) -> Result<(), CannotEnter> {
    if c.address == 0 {
        return Err(CannotEnter::SystemCall);
    }
    enter(cur, Entry { rip: c.address, mask_events: c.mask_events, error_code: None })
}

/// One by `syscall`. Kernels have the processor clear DF then, and copy without a look at it.
#[inline(always)]
pub fn syscall(cur: &mut Current<'_>, c: Callback) -> Result<(), CannotEnter> {
    callback(cur, c)?;
    cur.cx.cpu.regs_mut().rflags &= !DF;
    Ok(())
}

/// The event upcall.
#[inline(always)]
pub fn upcall(cur: &mut Current<'_>) -> Result<(), CannotEnter> {
    let rip = cur.cx.event;
    if rip == 0 {
        return Err(CannotEnter::Upcall);
    }
    enter(cur, Entry { rip, mask_events: true, error_code: None })
}

/// A non-maskable interrupt.
pub fn nmi(cur: &mut Current<'_>) -> Result<(), CannotEnter> {
    cur.cx.nmi_masked = true;
    cur.cx.arm_system_calls(cur.dom);
    give(cur, super::NMI as u8, None)
}

#[inline(always)]
fn enter(cur: &mut Current<'_>, e: Entry) -> Result<(), CannotEnter> {
    if !is_canonical(e.rip) {
        return Err(CannotEnter::NotCanonical);
    }
    let was_kernel = cur.cx.cpu.kernel_mode();
    let from = *cur.cx.cpu.regs();
    let sp = if was_kernel {
        from.rsp
    } else {
        cur.to_kernel_mode();
        cur.cx.kernel_sp
    };
    let cs = if was_kernel { from.cs & 0xfffc } else { from.cs & 0xffff };
    let info = &cur.cx.info;
    let saved_mask = if e.mask_events { info.mask_upcalls() } else { info.upcalls_masked() };
    let mut flags = from.rflags & !(IF | IOPL);
    if !saved_mask {
        flags |= IF;
    }
    if cur.dom.architectural_iopl() {
        flags |= u64::from(cur.cx.iopl) << 12;
    }
    // From the top down: ss, rsp, rflags, cs, rip, error code, r11, rcx.
    let mut frame = [0u64; 8];
    let mut n = 8;
    let mut push = |v| {
        n -= 1;
        frame[n] = v;
    };
    for v in [from.ss, from.rsp, flags, cs | u64::from(saved_mask) << 32, from.rip] {
        push(v);
    }
    if let Some(code) = e.error_code {
        push(code.into());
    }
    push(from.r11);
    push(from.rcx);
    let frame = &frame[n..];
    let at = (sp & !15).wrapping_sub(8 * frame.len() as u64);
    guest_mem::write_words(GuestAddr(at), frame).map_err(|_| CannotEnter::Stack)?;
    let r = cur.cx.cpu.regs_mut();
    r.rip = e.rip;
    r.cs = FLAT_KERNEL_CS.into();
    r.ss = FLAT_KERNEL_SS.into();
    r.rsp = at;
    r.rflags &= !CLEARED;
    r.changed();
    Ok(())
}
