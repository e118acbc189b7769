//! The life of a domain: made, set up, paused, shut down, destroyed.
//!
//! Destruction is a walk in bounded steps that any CPU may take: stop the vcpus, close the ports, let grant
//! mappings go, drop the vcpus' holds on frames, relinquish the memory. Each step leaves the domain in a state that
//! the next call goes on from, so a destroy that is preempted or retried costs nothing twice and loses
//! nothing.

use super::events::{Bits, raise_global_virq};
use super::grants::{self, Grants, Limits};
use super::vcpu::{Callback, pause};
use super::{Context, Domain, Vcpu, debug, list};
use crate::emul::cpuid::Policy;
use crate::emul::privop::{CR4_DE, guest_cr4};
use crate::error::Stop;
use crate::mm::{self, Account, frames, with_rights};
use crate::sched::{Params, Policy as _};
use crate::time::Watchdogs;
use crate::{event, run};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering::*};
use hv_machine::frame::{Limit, Type, Work};
use hv_machine::heap::try_arc;
use hv_machine::lock::{Mutex, rank};
use hv_machine::vcpu::{Selectors, VcpuState};
use hv_machine::x86_64::cpu::{self, is_canonical};
use shared_abi::arch_x86::*;
use shared_abi::errno::Errno;
use shared_abi::sched::SHUTDOWN_WATCHDOG;
use shared_abi::xen::VIRQ_DOM_EXC;
use shared_abi::{DomId, Mfn};
use spin::Once;
use zerocopy::FromZeros;

/// CR0.TS.
const CR0_TS: u64 = 1 << 3;

/// What a new domain is to be.
pub struct Spec {
    /// Its number.
    pub id: DomId,
    /// Its uuid.
    pub handle: [u8; 16],
    /// The control domain.
    pub control: bool,
    /// Largest number of vcpus.
    pub max_vcpus: u32,
    /// Largest event channel port.
    pub max_port: u32,
    /// Limits of its grants.
    pub grants: Limits,
    /// What CPUID says to it.
    pub policy: Policy,
}

/// Whether a number is some domain's, or was one's of which somebody maps frames still: the next to bear it would be
/// their owner.
pub fn is_taken(id: DomId) -> bool {
    super::find(id).is_some() || frames().owned(id) != 0
}

/// Makes a domain: no vcpus, no memory, paused.
///
/// # Errors
/// `EEXIST` when the number is taken, `ENOMEM`, `EINVAL`.
pub fn create(spec: Spec) -> Result<Arc<Domain>, Errno> {
    if is_taken(spec.id) {
        return Err(Errno::EEXIST);
    }
    let ports = event::Ports::new(event::Limits {
        max_port: spec.max_port,
        vcpus: spec.max_vcpus,
        pirqs: if spec.control { crate::irq::pirq::CONTROL_PIRQS } else { 32 },
    })?;
    let block = frames().alloc(0, Limit::Any).ok_or(Errno::ENOMEM)?;
    let shared = try_arc(frames().share(block, spec.id, Type::Writable))?;
    // All vcpus begin with events masked, as Xen sets them up.
    for v in 0..XEN_LEGACY_MAX_VCPUS {
        shared.page().store_u8(v * size_of::<shared_abi::xen::VcpuInfo>() + 1, 1);
    }
    crate::time_of_day::publish(&shared.page(), 0);
    let dom = try_arc(Domain {
        id: spec.id,
        handle: Mutex::new(rank::DOMAIN, spec.handle),
        control: spec.control,
        bits: Bits::of(&shared),
        shared,
        ports,
        fifo: Mutex::new(rank::EVENT_QUEUE, None),
        event_lock: Mutex::new(rank::EVENT, event::Control::new()),
        vcpus: Once::new(),
        grants: Grants::new(spec.id, spec.grants)?,
        memory: Account::new(0),
        policy: Mutex::new(rank::DOMAIN, try_arc(spec.policy)?),
        rights: Mutex::new(rank::MEMORY, crate::irq::rights::Rights::new(spec.control)?),
        pirqs: crate::irq::pirq::Pirqs::new(),
        pauses: AtomicU32::new(1),
        shutdown: AtomicI64::new(-1),
        shutdown_code: AtomicI64::new(-1),
        crash_told: AtomicBool::new(false),
        dying: AtomicBool::new(false),
        relinquished: AtomicBool::new(false),
        watchdogs: Mutex::new(rank::TIMER, Watchdogs::default()),
        assists: AtomicU64::new(0),
        time_offset: AtomicI64::new(0),
        e820: Mutex::new(rank::DOMAIN, ArrayVec::new()),
        pci_latch: AtomicU32::new(0),
        cmos_index: AtomicU8::new(0),
        max_vcpus: spec.max_vcpus,
    })?;
    list::insert(dom.clone())?;
    Ok(dom)
}

/// Makes the vcpus, all down (`XEN_DOMCTL_max_vcpus`).
///
/// # Errors
/// `ENOMEM` or `ENOSPC`: there are none then; `EINVAL` of a domain that is being destroyed.
pub fn make_vcpus(dom: &Arc<Domain>) -> Result<(), Errno> {
    if !dom.vcpus().is_empty() {
        return Ok(());
    }
    if dom.dying.load(SeqCst) {
        return Err(Errno::EINVAL);
    }
    let mut all = Vec::new();
    all.try_reserve_exact(dom.max_vcpus as usize).map_err(|_| Errno::ENOMEM)?;
    for id in 0..dom.max_vcpus {
        match make_vcpu(dom, id) {
            Ok(v) => all.push(v),
            Err(e) => {
                for v in &all {
                    run::forget(v);
                }
                return Err(e);
            }
        }
    }
    dom.vcpus.call_once(|| all);
    Ok(())
}

/// A vcpu that scheduler and timers know.
fn make_vcpu(dom: &Arc<Domain>, id: u32) -> Result<Arc<Vcpu>, Errno> {
    let handle = run::scheduler().insert(Params::default())?;
    let v = Vcpu::new(dom, id, handle).and_then(|v| {
        v.info.set_time(&run::time_info());
        if dom.pauses.load(SeqCst) != 0 {
            v.block(pause::DOMAIN);
        }
        run::adopt(v.clone())?;
        Ok(v)
    });
    if v.is_err() {
        // It never was on a CPU, so it can't be busy.
        let _ = run::scheduler().remove(handle);
    }
    v
}

fn block_all(dom: &Domain) {
    dom.vcpus().iter().for_each(|v| v.block(pause::DOMAIN));
}

/// Pauses a domain once more, and waits until no CPU runs it.
pub fn pause_domain(dom: &Domain) {
    if dom.pauses.fetch_add(1, SeqCst) == 0 {
        block_all(dom);
    }
    dom.vcpus().iter().for_each(|v| v.wait_stopped());
}

/// Takes one pause back. `EINVAL` when there is none.
pub fn unpause_domain(dom: &Domain) -> Result<(), Errno> {
    dom.pauses.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).map_err(|_| Errno::EINVAL)?;
    resume(dom);
    Ok(())
}

/// Lets the vcpus run when nothing holds the domain any more.
fn resume(dom: &Domain) {
    if dom.pauses.load(SeqCst) == 0 && dom.shutdown.load(SeqCst) < 0 && !dom.dying.load(SeqCst) {
        dom.vcpus().iter().for_each(|v| v.unblock(pause::DOMAIN));
    }
}

/// The domain shuts down: its vcpus stop, and the control domain is told. Of the control domain itself it
/// is the machine's end.
pub fn shut_down(dom: &Domain, reason: u32) {
    let reason = match dom.shutdown_code.load(SeqCst) {
        code if code < 0 => reason,
        code => code as u32,
    };
    let first = dom.shutdown.compare_exchange(-1, reason.into(), SeqCst, SeqCst).is_ok();
    if dom.control {
        crate::power::control_domain_ended(reason);
    }
    block_all(dom);
    if first {
        raise_global_virq(VIRQ_DOM_EXC);
    }
}

/// A vcpu's time has come to look at the domain's watchdogs: shuts the domain down if nobody poked one of them.
/// Otherwise, when to look again.
pub fn watch(dom: &Domain, now: u64) -> Option<u64> {
    let (bites, next) = {
        let mut dogs = dom.watchdogs.lock();
        (dogs.take_due(now), dogs.next())
    };
    if bites && dom.shutdown.load(SeqCst) < 0 && !dom.dying.load(SeqCst) {
        log::warn!("d{}: its watchdog was not poked in time", dom.id);
        shut_down(dom, SHUTDOWN_WATCHDOG);
    }
    next
}

/// Says the reason that the next shutdown will have (`SCHEDOP_shutdown_code`).
pub fn set_shutdown_code(dom: &Domain, reason: u32) {
    dom.shutdown_code.store(reason.into(), SeqCst);
}

/// `XEN_DOMCTL_resumedomain`: as if it had not shut down.
pub fn resume_domain(dom: &Domain) {
    dom.shutdown.store(-1, SeqCst);
    dom.crash_told.store(false, SeqCst);
    resume(dom);
}

/// A step of a domain's destruction (`XEN_DOMCTL_destroydomain`): `Stop::Retry` until all is done.
pub fn destroy(dom: &Arc<Domain>, work: &mut Work<'static>) -> Result<(), Stop> {
    if dom.control {
        return Err(Errno::EINVAL.into());
    }
    if !dom.dying.swap(true, SeqCst) {
        dom.event_lock.lock().set_dying();
        dom.memory.release_claim();
    }
    block_all(dom);
    if dom.vcpus().iter().any(|v| v.running_on.load(SeqCst) != u32::MAX) {
        dom.vcpus().iter().for_each(|v| v.wait_stopped());
    }
    work.refill(Work::BUDGET);
    if !crate::hypercall::event_channel_op::close_some(dom, 256) {
        return Err(Stop::Retry);
    }
    // Its frames go outside the lock.
    let fifo = dom.fifo.lock().take();
    drop(fifo);
    crate::irq::pirq::unbind_all(dom);
    grants::release(dom, work)?;
    for v in dom.vcpus() {
        let mut cx = v.context.lock();
        let cx = &mut *cx;
        for root in [cx.cpu.replace_kernel_root(None), cx.cpu.replace_user_root(None)].into_iter().flatten() {
            // Its tables go first: what they map is then in no use, and goes without a look at each. One that
            // is not pinned goes by itself.
            let _ = frames().unpin(root.mfn(), dom.id, work);
            root.release(work);
        }
        // Tables that the vcpu was taking apart when it stopped hold frames too.
        work.take_over(&mut cx.work);
        cx.gdt.clear();
        cx.ldt.clear();
    }
    frames().settle(work)?;
    frames().relinquish(dom.id, work)?;
    for v in dom.vcpus() {
        if !run::forget(v) {
            return Err(Stop::Retry);
        }
    }
    run::VIRQ_HANDLERS.forget(dom.id);
    dom.relinquished.store(true, SeqCst);
    finish(dom);
    raise_global_virq(VIRQ_DOM_EXC);
    Ok(())
}

/// The last step: a domain that has given everything back goes, once nobody maps a frame that it granted. Two CPUs
/// may find that at the same time.
pub fn finish(dom: &Domain) {
    if dom.relinquished.load(SeqCst) && dom.grants.table.lock().pinned() == 0 {
        list::remove(dom);
    }
}

/// Work that is left of domains already gone, for idle CPUs; whether there was any.
pub fn reap() -> bool {
    hv_machine::heap::shrink();
    let mut work = mm::work();
    frames().settle(&mut work).is_err()
}

/// Room for a vcpu's registers as a guest gives them, all zero.
///
/// # Errors
/// `ENOMEM`.
pub fn guest_context() -> Result<Box<VcpuGuestContext>, Errno> {
    VcpuGuestContext::new_box_zeroed().map_err(|_| Errno::ENOMEM)
}

/// Sets a vcpu's registers and tables (`VCPUOP_initialise`, `XEN_DOMCTL_setvcpucontext`). The vcpu must not run.
pub fn set_context(
    dom: &Arc<Domain>,
    v: &Arc<Vcpu>,
    cx: &mut Context,
    c: &VcpuGuestContext,
) -> Result<(), Stop> {
    let addresses = [
        c.user_regs.rip,
        c.user_regs.rsp,
        c.kernel_sp,
        c.event_callback_eip,
        c.failsafe_callback_eip,
        c.syscall_callback_eip,
        c.fs_base,
        c.gs_base_kernel,
        c.gs_base_user,
    ];
    if !addresses.iter().all(|a| is_canonical(*a))
        || c.gdt_ents as usize > FIRST_RESERVED_GDT_ENTRY
        || c.ldt_ents > 8192
        || c.flags & VGCF_IN_KERNEL == 0 && c.ctrlreg[1] == 0
    {
        return Err(Errno::EINVAL.into());
    }
    for t in &c.trap_ctxt {
        if !is_canonical(t.address) {
            return Err(Errno::EINVAL.into());
        }
    }
    cx.work.refill(Work::BUDGET);
    let root = |maddr: u64, work: &mut Work<'static>| {
        with_rights(dom, dom.id, |r| frames().get_root(Mfn(maddr >> 12), r, work))
    };
    let kernel = root(c.ctrlreg[3], &mut cx.work)?;
    let user = match c.ctrlreg[1] {
        0 => None,
        m => Some(root(m, &mut cx.work)?),
    };
    let n = (c.gdt_ents as usize).div_ceil(512);
    mm::set_gdt(dom, cx, &c.gdt_frames[..n], c.gdt_ents as u32)?;
    let _ = cx.cpu.replace_kernel_root(Some(kernel));
    let _ = cx.cpu.replace_user_root(user);
    if c.ldt_ents > 0 {
        mm::set_ldt(dom, cx, c.ldt_base, c.ldt_ents as u32)?;
    }
    for (i, t) in c.trap_ctxt.iter().enumerate() {
        cx.traps[i] = TrapInfo { cs: t.cs | 3, ..*t };
    }
    let u = &c.user_regs;
    let r = cx.cpu.regs_mut();
    (r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx) = (u.r15, u.r14, u.r13, u.r12, u.rbp, u.rbx);
    (r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx) = (u.r11, u.r10, u.r9, u.r8, u.rax, u.rcx);
    (r.rdx, r.rsi, r.rdi) = (u.rdx, u.rsi, u.rdi);
    (r.rip, r.rflags, r.rsp) = (u.rip, u.rflags, u.rsp);
    (r.cs, r.ss) = (u64::from(u.cs) | 3, u64::from(u.ss) | 3);
    r.changed();
    cx.cpu.selectors = Selectors { ds: u.ds, es: u.es, fs: u.fs, gs: u.gs };
    cx.cpu.set_kernel_mode(c.flags & VGCF_IN_KERNEL != 0);
    // IOPL is the guest's own notion: a Linux vcpu starts with 1 and reads ports that it has no right to.
    cx.iopl = (u.rflags >> 12 & 3) as u8;
    cx.cpu.fs_base = c.fs_base;
    let (base, other) = if cx.cpu.kernel_mode() {
        (c.gs_base_kernel, c.gs_base_user)
    } else {
        (c.gs_base_user, c.gs_base_kernel)
    };
    cx.cpu.gs_base = base;
    cx.cpu.set_gs_base_other(other);
    if c.flags & VGCF_I387_VALID != 0 {
        cx.cpu.fpu.bytes_mut()[..512].copy_from_slice(&c.fpu_ctxt);
        cx.cpu.fpu.mark_legacy();
    }
    cx.event = c.event_callback_eip;
    cx.failsafe = Callback {
        address: c.failsafe_callback_eip,
        mask_events: c.flags & VGCF_FAILSAFE_DISABLES_EVENTS != 0,
    };
    cx.syscall = Callback {
        address: c.syscall_callback_eip,
        mask_events: c.flags & VGCF_SYSCALL_DISABLES_EVENTS != 0,
    };
    cx.kernel_ss = c.kernel_ss | 3;
    cx.kernel_sp = c.kernel_sp;
    cx.task_switched = c.ctrlreg[0] & CR0_TS != 0;
    cx.cr4 = guest_cr4(&dom.policy.lock(), cpu::read_cr4(), c.ctrlreg[4]);
    // One that can't be is left out.
    cx.cpu.dr = VcpuState::DEBUG_REGISTERS;
    for (n, value) in c.debugreg.iter().enumerate() {
        let _ = debug::set(&mut cx.cpu.dr, cx.cr4 & CR4_DE != 0, n, *value);
    }
    cx.initialised = true;
    // A toolstack may have cleared shared_info in the meantime, clocks and all (libxenguest does).
    v.info.set_time(&run::time_info());
    if v.id == 0 {
        crate::time_of_day::publish(&dom.shared.page(), dom.time_offset.load(SeqCst));
    }
    if c.flags & VGCF_ONLINE != 0 {
        v.unblock(pause::DOWN);
    }
    Ok(())
}
