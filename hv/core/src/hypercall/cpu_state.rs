//! The hypercalls that stand for privileged instructions on the vcpu's own state: trap table, descriptor
//! tables, kernel stack, task-switched flag, segment bases, debug registers.

use crate::domain::{Current, debug};
use crate::emul::privop::CR4_DE;
use crate::error::HcResult;
use crate::mm;
use hv_machine::guest_mem;
use hv_machine::x86_64::cpu::{self, is_canonical};
use shared_abi::arch_x86::*;
use shared_abi::errno::Errno;
use shared_abi::{GuestAddr, Mfn};

/// `set_trap_table(table)`: entries up to one without an address; a null table clears all.
pub fn set_trap_table(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let table = GuestAddr(a[0]);
    if table.0 == 0 {
        cur.cx.traps.fill(TrapInfo::default());
        return Ok(0);
    }
    for i in 0..256 {
        let mut t: TrapInfo = guest_mem::read_at(table, i)?;
        if t.address == 0 {
            break;
        }
        if !is_canonical(t.address) {
            return Err(Errno::EINVAL.into());
        }
        t.cs |= 3;
        cur.cx.traps[usize::from(t.vector)] = t;
    }
    Ok(0)
}

/// `set_gdt(frames, entries)`: the frames become descriptor frames, held while they are the vcpu's.
pub fn set_gdt(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let entries = a[1] as u32;
    if entries as usize > FIRST_RESERVED_GDT_ENTRY {
        return Err(Errno::EINVAL.into());
    }
    let n = entries.div_ceil(512) as usize;
    let mut frames = [0u64; 14];
    for (i, f) in frames[..n].iter_mut().enumerate() {
        *f = guest_mem::read_at(GuestAddr(a[0]), i as u64)?;
    }
    mm::set_gdt(cur.dom, cur.cx, &frames[..n], entries)?;
    mm::load_gdt(cur.cx);
    Ok(0)
}

/// `update_descriptor(maddr, descriptor)`.
pub fn update_descriptor(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    mm::update_descriptor(cur.dom, Mfn(a[0] >> 12), (a[0] & 0xfff) as usize, a[1])?;
    Ok(0)
}

/// `stack_switch(ss, sp)`: where the kernel's stack begins when it is entered from user mode.
pub fn stack_switch(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    cur.cx.kernel_ss = a[0] & 0xffff | 3;
    cur.cx.kernel_sp = a[1];
    cur.cx.arm_system_calls(cur.dom);
    Ok(0)
}

/// `fpu_taskswitch(set)`: CR0.TS.
pub fn fpu_taskswitch(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    set_task_switched(cur, a[0] != 0);
    Ok(0)
}

/// Sets CR0.TS of the guest, and so of the CPU while it runs.
pub fn set_task_switched(cur: &mut Current<'_>, on: bool) {
    if cur.cx.task_switched != on {
        cur.cx.task_switched = on;
        cpu::set_ts(on);
    }
}

/// `set_segment_base(which, base)`.
pub fn set_segment_base(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let base = a[1];
    let which = a[0] as u32;
    if which != SEGBASE_GS_USER_SEL && !is_canonical(base) {
        return Err(Errno::EINVAL.into());
    }
    match which {
        SEGBASE_FS => cpu::set_fs_base(base),
        SEGBASE_GS_USER => cur.cx.cpu.set_gs_base_other(base),
        SEGBASE_GS_KERNEL => cpu::set_guest_gs_base(base),
        SEGBASE_GS_USER_SEL => cur.cx.cpu.load_user_gs_selector(base as u16),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// `set_debugreg(register, value)`.
pub fn set_debugreg(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    set_dr(cur, a[0] as usize, a[1])?;
    Ok(0)
}

/// `get_debugreg(register)`.
pub fn get_debugreg(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    Ok(debug::get(&cur.cx.cpu.dr, cur.cx.cr4 & CR4_DE != 0, a[0])?)
}

/// Sets a debug register of the running vcpu.
///
/// # Errors
/// Those of [`debug::set`].
pub fn set_dr(cur: &mut Current<'_>, n: usize, v: u64) -> Result<(), Errno> {
    let extensions = cur.cx.cr4 & CR4_DE != 0;
    debug::set(&mut cur.cx.cpu.dr, extensions, n, v)?;
    let dr = cur.cx.cpu.dr;
    cpu::set_debug_registers([dr[0], dr[1], dr[2], dr[3]], dr[5]);
    Ok(())
}
