//! Hypercalls: from the guest's registers to a handler and back.
//!
//! A handler gets the running vcpu and its six arguments, and returns the value for rax, an error, or
//! that the call is to be issued again with the arguments as they now stand ([`Stop::Retry`]): the guest's
//! rip goes back to the instruction, so interrupts, events and other vcpus have their turn in between.

mod callback_op;
mod console_io;
pub mod cpu_state;
mod dm_op;
pub mod domctl;
pub mod event_channel_op;
mod grant_table_op;
mod iret;
mod mca;
pub mod memory_op;
pub mod mmu_update;
pub mod mmuext_op;
mod multicall;
mod physdev_op;
mod platform_op;
mod sched_op;
mod set_timer_op;
pub mod sysctl;
mod update_va_mapping;
mod vcpu_op;
mod vm_assist;
mod xen_version;

use crate::console::guest_line;
use crate::domain::Current;
use crate::error::{HcResult, Stop};
use grant_table_op::Rest;
use hv_machine::vcpu::Regs;
use hv_machine::x86_64::{percpu, smp};
use shared_abi::GuestAddr;
use shared_abi::errno::Errno;
use shared_abi::event_channel::EVTCHNOP_SEND;
use shared_abi::version::XENVER_VERSION;
use shared_abi::xen::hypercall as nr;

/// Bytes of the `syscall` instruction, taken back for a retry.
const SYSCALL_LEN: u64 = 2;

/// A hypercall from the guest's kernel: rax says which, the arguments are in rdi, rsi, rdx, r10, r8, r9.
#[inline(always)]
pub fn dispatch(cur: &mut Current<'_>) {
    let r = cur.cx.cpu.regs();
    // The commonest, as `call` has them, without a list of arguments: they change none, or few.
    let result = match r.rax {
        nr::IRET => iret::iret(cur),
        nr::XEN_VERSION if r.rdi as u32 == XENVER_VERSION => Ok(xen_version::VERSION),
        nr::EVENT_CHANNEL_OP if r.rdi as u32 == EVTCHNOP_SEND => {
            event_channel_op::send(cur, GuestAddr(r.rsi))
        }
        nr::UPDATE_VA_MAPPING => {
            let (va, entry, flags) = (r.rdi, r.rsi, r.rdx);
            update_va_mapping::update(cur, va, entry, flags, cur.dom.id)
        }
        nr::MMU_UPDATE => {
            let mut args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
            let result = mmu_update::mmu_update(cur, &mut args);
            return finish(cur, result, |r| (r.rdi, r.rsi) = (args[0], args[1]));
        }
        nr::GRANT_TABLE_OP => {
            let mut rest = Rest { command: r.rdi, list: r.rsi, count: r.rdx };
            let result = grant_table_op::operate(cur, r.rdi as u32, &mut rest);
            return finish(cur, result, |r| (r.rdi, r.rsi, r.rdx) = (rest.command, rest.list, rest.count));
        }
        _ => return dispatch_any(cur),
    };
    finish(cur, result, |_| ());
}

#[inline(always)]
fn dispatch_any(cur: &mut Current<'_>) {
    let r = cur.cx.cpu.regs();
    let n = r.rax;
    let mut args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
    let result = call(cur, n, &mut args);
    finish(cur, result, |r| [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = args);
}

/// Gives the guest a call's result; `rest` sets the arguments it goes on with if it is not done.
#[inline(always)]
fn finish(cur: &mut Current<'_>, result: HcResult, rest: impl FnOnce(&mut Regs)) {
    match result {
        Ok(v) => cur.cx.cpu.regs_mut().rax = v,
        Err(stop) => {
            if stop == Stop::Retry {
                rest(cur.cx.cpu.regs_mut());
            }
            stopped(cur, stop);
        }
    }
}

/// Tells the guest why a call has no result.
#[cold]
#[inline(never)]
fn stopped(cur: &mut Current<'_>, stop: Stop) {
    let r = cur.cx.cpu.regs_mut();
    match stop {
        Stop::Error(e) => r.rax = e.neg() as u64,
        Stop::Retry => {
            r.rip = r.rip.wrapping_sub(SYSCALL_LEN);
            r.changed();
            cur.attention();
        }
        Stop::Crash(why) => cur.crash(why),
    }
}

/// Runs hypercall `n`. Inlined into its two callers (the commonest calls don't come here, `dispatch`): a jump through the table straight to the handler.
#[inline(always)]
fn call(cur: &mut Current<'_>, n: u64, a: &mut [u64; 6]) -> HcResult {
    match n {
        nr::MMU_UPDATE => mmu_update::mmu_update(cur, a),
        nr::UPDATE_VA_MAPPING => update_va_mapping::update_va_mapping(cur, a),
        nr::MULTICALL => multicall::multicall(cur, a),
        nr::IRET => iret::iret(cur),
        nr::EVENT_CHANNEL_OP => event_channel_op::event_channel_op(cur, a),
        nr::XEN_VERSION => xen_version::xen_version(cur, a),
        nr::SCHED_OP => sched_op::sched_op(cur, a),
        nr::SCHED_OP_COMPAT => sched_op::compat(cur, a),
        nr::STACK_SWITCH => cpu_state::stack_switch(cur, a),
        nr::FPU_TASKSWITCH => cpu_state::fpu_taskswitch(cur, a),
        nr::MMUEXT_OP => mmuext_op::mmuext_op(cur, a),
        nr::UPDATE_DESCRIPTOR => cpu_state::update_descriptor(cur, a),
        nr::SET_SEGMENT_BASE => cpu_state::set_segment_base(cur, a),
        nr::SET_TIMER_OP => set_timer_op::set_timer_op(cur, a),
        nr::VCPU_OP => vcpu_op::vcpu_op(cur, a),
        nr::MEMORY_OP => memory_op::memory_op(cur, a),
        nr::SET_TRAP_TABLE => cpu_state::set_trap_table(cur, a),
        nr::SET_GDT => cpu_state::set_gdt(cur, a),
        nr::SET_CALLBACKS => callback_op::set_callbacks(cur, a),
        nr::CALLBACK_OP => callback_op::callback_op(cur, a),
        nr::SET_DEBUGREG => cpu_state::set_debugreg(cur, a),
        nr::GET_DEBUGREG => cpu_state::get_debugreg(cur, a),
        nr::UPDATE_VA_MAPPING_OTHERDOMAIN => update_va_mapping::other_domain(cur, a),
        nr::CONSOLE_IO => console_io::console_io(cur, a),
        nr::VM_ASSIST => vm_assist::vm_assist(cur, a),
        nr::NMI_OP => callback_op::nmi_op(cur, a),
        nr::GRANT_TABLE_OP => grant_table_op::grant_table_op(cur, a),
        nr::PHYSDEV_OP => physdev_op::physdev_op(cur, a),
        nr::EVENT_CHANNEL_OP_COMPAT => event_channel_op::compat(cur, a),
        nr::PHYSDEV_OP_COMPAT => physdev_op::compat(cur, a),
        nr::PLATFORM_OP => platform_op::platform_op(cur, a),
        nr::SYSCTL => sysctl::sysctl(cur, a),
        nr::DOMCTL => domctl::domctl(cur, a),
        nr::ARCH_0 => mca::mca(cur, a),
        nr::DM_OP => dm_op::dm_op(cur, a),
        // Performance counters are nobody's to use, as on Xen by default (its command line's `vpmu`).
        nr::XENPMU_OP => Err(Errno::EOPNOTSUPP.into()),
        // A toolstack asks for a security policy: Xen is usually built without.
        nr::XSM_OP => Err(Errno::ENOSYS.into()),
        _ => {
            let who = (cur.dom.id, cur.vcpu.id);
            guest_line(log::Level::Warn, format_args!("d{}v{}: unknown hypercall {n}", who.0, who.1));
            Err(Errno::ENOSYS.into())
        }
    }
}

/// Whether something waits that a long operation should make room for.
pub fn should_yield(cur: &Current<'_>) -> bool {
    // An interrupt that is let in is noted, and handled by the run loop before the guest goes on.
    smp::poll_interrupts();
    percpu::is_to_look() || cur.vcpu.attention.load(core::sync::atomic::Ordering::Relaxed)
}
