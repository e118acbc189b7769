//! Why a guest came back, and what becomes of it.

pub mod bounce;
mod emulate;
mod failsafe;
mod page_fault;

use crate::domain::Current;
use crate::emul::{self, Outcome};
use crate::hypercall;
use bounce::CannotEnter;
use core::sync::atomic::Ordering::Relaxed;
use emulate::GuestCpu;
use hv_machine::vcpu::exit;
use hv_machine::x86_64::apic::vector;
use hv_machine::x86_64::cpu;

/// Handles one return from the guest.
#[inline]
pub fn handle(cur: &mut Current<'_>, why: u32) {
    if why == exit::SYSCALL && cur.cx.cpu.kernel_mode() {
        return hypercall::dispatch(cur);
    }
    let done = match why {
        exit::SYSCALL => {
            let c = cur.cx.syscall;
            bounce::syscall(cur, c)
        }
        INT_80 => int_80(cur),
        32..256 => {
            crate::irq::interrupt(why as u8);
            Ok(())
        }
        14 => page_fault::handle(cur),
        _ => rare(cur, why),
    };
    if let Err(e) = done {
        cur.crash(e.why());
    }
}

#[cold]
fn rare(cur: &mut Current<'_>, why: u32) -> Result<(), CannotEnter> {
    let error = cur.cx.cpu.regs().error_code;
    match why {
        exit::SYSENTER => {
            let c = cur.cx.sysenter;
            if c.address == 0 { bounce::exception(cur, 13, Some(0)) } else { bounce::callback(cur, c) }
        }
        exit::SYSCALL32 => {
            let c = cur.cx.syscall32;
            if c.address == 0 { bounce::exception(cur, 13, Some(0)) } else { bounce::syscall(cur, c) }
        }
        // The registers that the guest asked for can't be had: the fault is its own, where it wanted to be.
        exit::BAD_RETURN => {
            let (vector, error) = page_fault::of_return(cur.cx.cpu.regs().vector(), error);
            bounce::exception(cur, vector, Some(error))
        }
        // #DB: the status goes into the guest's DR6.
        1 => {
            cur.cx.cpu.dr[4] |= cpu::take_dr6() & 0xe00f;
            bounce::exception(cur, 1, None)
        }
        2 => Ok(()),
        exit::NO_STACK => Err(CannotEnter::Stack),
        6 => {
            let out = emul::invalid_opcode(&mut GuestCpu::new(cur));
            after(cur, out, 6, None)
        }
        // #NM: the guest set TS to hear of the first use.
        7 => {
            hypercall::cpu_state::set_task_switched(cur, false);
            bounce::exception(cur, 7, None)
        }
        13 => general_protection(cur, error),
        8 | 10 | 11 | 12 | 17 | 21 => bounce::exception(cur, why as u8, Some(error)),
        _ => bounce::exception(cur, why as u8, None),
    }
}

/// RFLAGS.RF.
const RF: u64 = 1 << 16;

/// The vector whose gate is open to guests' users, as Xen's is: 32-bit system calls.
const INT_80: u32 = vector::SYSTEM_CALL as u32;
/// The gate of the trap table for non-maskable interrupts, which `callback_op` sets as well.
pub const NMI: usize = 2;
/// Bytes of an `int n`.
const INT_LEN: u64 = 2;

/// `int 0x80`, which is done: where the guest's own gate is closed it becomes the fault that `int` would have been.
#[cold]
fn int_80(cur: &mut Current<'_>) -> Result<(), CannotEnter> {
    if is_open(cur, INT_80 as usize) && cur.cx.traps[INT_80 as usize].address != 0 {
        return bounce::exception(cur, INT_80 as u8, None);
    }
    let r = cur.cx.cpu.regs_mut();
    r.rip = r.rip.wrapping_sub(INT_LEN);
    bounce::exception(cur, 13, Some(INT_80 << 3 | 2))
}

/// Whether the guest's gate for `vector` may be used by `int` from where it is.
fn is_open(cur: &Current<'_>, vector: usize) -> bool {
    // The privilege that a PV kernel has in its own eyes.
    let cpl = match cur.cx.cpu.kernel_mode() {
        true if cur.dom.architectural_iopl() => 0,
        true => 1,
        false => 3,
    };
    cur.cx.traps[vector].dpl() >= cpl
}

fn general_protection(cur: &mut Current<'_>, error: u32) -> Result<(), CannotEnter> {
    // `int n`: the gate is the hypervisor's and closed to ring 3; the guest's table says whether it is open.
    if error & 7 == 2 {
        let vector = (error >> 3) as usize & 255;
        if is_open(cur, vector) {
            let r = cur.cx.cpu.regs_mut();
            r.rip = r.rip.wrapping_add(INT_LEN);
            // The fault's; an instruction that is done leaves none.
            r.rflags &= !RF;
            return bounce::exception(cur, vector as u8, None);
        }
        return bounce::exception(cur, 13, Some(error));
    }
    if error == 0 {
        let out = emul::general_protection(&mut GuestCpu::new(cur));
        return after(cur, out, 13, Some(0));
    }
    bounce::exception(cur, 13, Some(error))
}

/// Carries an emulation's outcome out; `vector`, `error`: what to give the guest when it wasn't ours.
fn after(cur: &mut Current<'_>, out: Outcome, vector: u8, error: Option<u32>) -> Result<(), CannotEnter> {
    cur.cx.cpu.regs_mut().changed();
    match out {
        Outcome::Emulated => Ok(()),
        Outcome::EmulatedStep => {
            cur.cx.cpu.dr[4] |= 1 << 14;
            bounce::exception(cur, 1, None)
        }
        Outcome::Retry => {
            cur.attention();
            Ok(())
        }
        Outcome::Inject(e) => match e.cr2 {
            Some(cr2) => bounce::page_fault(cur, cr2, e.error_code.unwrap_or(0)),
            None => bounce::exception(cur, e.vector, e.error_code),
        },
        Outcome::Unhandled => bounce::exception(cur, vector, error),
    }
}

/// A selector of the vcpu that was just loaded is gone: tells its kernel.
#[cold]
pub fn lost_segments(cur: &mut Current<'_>) {
    if let Err(why) = failsafe::enter(cur) {
        cur.crash(why.why());
    }
}

/// Enters the guest's upcall handler if an event is pending and not masked.
#[inline]
pub fn deliver_upcall(cur: &mut Current<'_>) {
    if cur.cx.info.deliverable()
        && let Err(e) = bounce::upcall(cur)
    {
        cur.crash(e.why());
    }
}

/// Enters the guest's NMI handler if an NMI waits.
pub fn deliver_nmi(cur: &mut Current<'_>) {
    if !cur.cx.nmi_masked
        && cur.cx.traps[NMI].address != 0
        && cur.vcpu.nmi.load(Relaxed)
        && cur.vcpu.nmi.swap(false, Relaxed)
        && let Err(e) = bounce::nmi(cur)
    {
        cur.crash(e.why());
    }
}
