//! A domain's vcpus.

use crate::domain::{Context, Current, Domain, Vcpu, lifecycle, vcpu::pause};
use crate::error::Stop;
use crate::run;
use crate::sched::{CpuSet, Params, Policy as _};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use hv_machine::guest_mem;
use hv_machine::x86_64::tlb;
use shared_abi::arch_x86::*;
use shared_abi::domctl::*;
use shared_abi::errno::Errno;
use shared_abi::xen::CtlBitmap;
use zerocopy::IntoBytes;

pub(super) fn make(cur: &Current<'_>, d: &Arc<Domain>, max: u32) -> Result<(), Stop> {
    if cur.dom.id == d.id || max == 0 || max != d.max_vcpus {
        return Err(Errno::EINVAL.into());
    }
    Ok(lifecycle::make_vcpus(d)?)
}

fn vcpu(d: &Domain, id: shared_abi::VcpuId) -> Result<&Arc<Vcpu>, Errno> {
    d.vcpu(id.0).ok_or(Errno::ESRCH)
}

/// The context of another domain's vcpu, which must not run meanwhile: the domain is paused for it.
fn with_context<R>(
    cur: &Current<'_>,
    d: &Domain,
    v: &Vcpu,
    f: impl FnOnce(&mut Context) -> Result<R, Stop>,
) -> Result<R, Stop> {
    if cur.dom.id == d.id {
        return Err(Errno::EINVAL.into());
    }
    lifecycle::pause_domain(d);
    let r = f(&mut v.context.lock());
    lifecycle::unpause_domain(d)?;
    r
}

pub(super) fn set_context(cur: &Current<'_>, d: &Arc<Domain>, op: DomctlVcpucontext) -> Result<(), Stop> {
    let v = vcpu(d, op.vcpu)?;
    if op.ctxt.0 == 0 {
        return with_context(cur, d, v, |cx| {
            let new = Context::new()?;
            v.block(pause::DOWN);
            *cx = new;
            Ok(())
        });
    }
    let mut c = lifecycle::guest_context()?;
    guest_mem::copy_in(c.as_mut_bytes(), op.ctxt)?;
    with_context(cur, d, v, |cx| lifecycle::set_context(d, v, cx, &c))
}

pub(super) fn get_context(cur: &Current<'_>, d: &Arc<Domain>, op: DomctlVcpucontext) -> Result<(), Stop> {
    let v = vcpu(d, op.vcpu)?;
    let mut c = lifecycle::guest_context()?;
    with_context(cur, d, v, |cx| {
        if !cx.initialised {
            return Err(Errno::ENODATA.into());
        }
        fill(cx, v, d, &mut c);
        Ok(())
    })?;
    guest_mem::copy_out(op.ctxt, c.as_bytes())?;
    Ok(())
}

fn fill(cx: &Context, v: &Vcpu, d: &Domain, c: &mut VcpuGuestContext) {
    c.fpu_ctxt.copy_from_slice(&cx.cpu.fpu.bytes()[..512]);
    c.flags = VGCF_I387_VALID;
    for (on, flag) in [
        (cx.cpu.kernel_mode(), VGCF_IN_KERNEL),
        (cx.failsafe.mask_events, VGCF_FAILSAFE_DISABLES_EVENTS),
        (cx.syscall.mask_events, VGCF_SYSCALL_DISABLES_EVENTS),
        (v.blocked.load(SeqCst) & pause::DOWN == 0, VGCF_ONLINE),
    ] {
        if on {
            c.flags |= flag;
        }
    }
    let (r, s) = (cx.cpu.regs(), &cx.cpu.selectors);
    c.user_regs = CpuUserRegs {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        rbp: r.rbp,
        rbx: r.rbx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        rax: r.rax,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        error_code: r.error_code,
        entry_vector: r.vector(),
        rip: r.rip,
        cs: r.cs as u16,
        rflags: r.rflags | u64::from(cx.iopl) << 12,
        rsp: r.rsp,
        ss: r.ss as u16,
        ds: s.ds,
        es: s.es,
        fs: s.fs,
        gs: s.gs,
        ..Default::default()
    };
    c.trap_ctxt = *cx.traps;
    c.ldt_base = cx.ldt_base;
    c.ldt_ents = cx.ldt_entries.into();
    for (i, f) in cx.gdt.iter().enumerate() {
        c.gdt_frames[i] = f.mfn().0;
    }
    c.gdt_ents = cx.gdt_entries.into();
    c.kernel_ss = cx.kernel_ss;
    c.kernel_sp = cx.kernel_sp;
    c.ctrlreg[0] = hv_machine::x86_64::cpu::read_cr0() & !8 | if cx.task_switched { 8 } else { 0 };
    c.ctrlreg[1] = cx.cpu.user_root().map_or(0, |r| r.mfn().address() | 1);
    c.ctrlreg[2] = v.info.cr2();
    c.ctrlreg[3] = cx.cpu.kernel_root().map_or(0, |r| r.mfn().address());
    c.ctrlreg[4] = cx.cr4;
    c.debugreg[..4].copy_from_slice(&cx.cpu.dr[..4]);
    (c.debugreg[6], c.debugreg[7]) = (cx.cpu.dr[4], cx.cpu.dr[5]);
    c.event_callback_eip = cx.event;
    c.failsafe_callback_eip = cx.failsafe.address;
    c.syscall_callback_eip = cx.syscall.address;
    c.vm_assist = d.assists.load(Relaxed);
    c.fs_base = cx.cpu.fs_base;
    (c.gs_base_kernel, c.gs_base_user) = if cx.cpu.kernel_mode() {
        (cx.cpu.gs_base, cx.cpu.gs_base_other())
    } else {
        (cx.cpu.gs_base_other(), cx.cpu.gs_base)
    };
}

pub(super) fn info(d: &Domain, op: &mut Domctl) -> Result<(), Stop> {
    let mut i = op.getvcpuinfo();
    let v = vcpu(d, i.vcpu)?;
    let b = v.blocked.load(SeqCst);
    i.online = (b & pause::DOWN == 0).into();
    i.blocked = (b & pause::BLOCKED != 0).into();
    i.running = v.runs().into();
    i.cpu_time = run::cpu_time(v);
    i.cpu = v.last_cpu.load(Relaxed);
    op.set_getvcpuinfo(i);
    Ok(())
}

fn read_map(m: &CtlBitmap) -> Result<u64, Stop> {
    let mut bits = [0u8; 8];
    let n = (m.nr_bits as usize).div_ceil(8).min(8);
    guest_mem::copy_in(&mut bits[..n], m.bitmap)?;
    let mask = if m.nr_bits >= 64 { !0 } else { (1 << m.nr_bits) - 1 };
    Ok(u64::from_le_bytes(bits) & mask)
}

/// Writes a set of CPUs into a toolstack's bitmap, whose other bits become zero.
pub(in crate::hypercall) fn write_map(m: &CtlBitmap, cpus: u64) -> Result<(), Stop> {
    let n = (m.nr_bits as usize).div_ceil(8).min(4096);
    let bits = cpus.to_le_bytes();
    guest_mem::copy_out(m.bitmap, &bits[..n.min(8)])?;
    if n > 8 {
        guest_mem::zero(shared_abi::GuestAddr(m.bitmap.0 + 8), n - 8)?;
    }
    Ok(())
}

pub(super) fn affinity(d: &Domain, op: &mut Domctl) -> Result<(), Stop> {
    let a = op.vcpuaffinity();
    if a.vcpu.0 >= d.max_vcpus {
        return Err(Errno::EINVAL.into());
    }
    let v = vcpu(d, a.vcpu)?;
    if a.flags & (XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let online = tlb::online();
    // While it is bound to a CPU for its own work, nobody else says where it runs.
    if op.cmd == XEN_DOMCTL_SETVCPUAFFINITY && v.affinity.lock().is_some() {
        return Err(Errno::EBUSY.into());
    }
    if op.cmd == XEN_DOMCTL_SETVCPUAFFINITY && a.flags & XEN_VCPUAFFINITY_HARD != 0 {
        let kick = run::scheduler().set_affinity(v.handle, CpuSet(read_map(&a.cpumap_hard)?))?;
        run::kick(kick);
    }
    if a.flags & XEN_VCPUAFFINITY_HARD != 0 {
        write_map(&a.cpumap_hard, run::scheduler().affinity(v.handle)?.0 & online)?;
    }
    // There is one kind of affinity here: the soft one reads as all.
    if a.flags & XEN_VCPUAFFINITY_SOFT != 0 {
        write_map(&a.cpumap_soft, online)?;
    }
    Ok(())
}

pub(super) fn scheduler(d: &Domain, op: &mut Domctl) -> Result<(), Stop> {
    let mut s = op.scheduler_op();
    if s.sched_id != run::scheduler().id() {
        return Err(Errno::EINVAL.into());
    }
    let vcpus = d.vcpus();
    match s.cmd {
        XEN_DOMCTL_SCHEDOP_GETINFO => {
            let v = vcpus.first().ok_or(Errno::ESRCH)?;
            let p = run::scheduler().params(v.handle)?;
            let cap = u32::from(p.cap) * vcpus.len() as u32;
            s.set_credit2(DomctlSchedCredit2 { weight: p.weight, cap: cap.min(u16::MAX.into()) as u16 });
        }
        XEN_DOMCTL_SCHEDOP_PUTINFO => {
            let p = s.credit2();
            for v in vcpus {
                let now = run::scheduler().params(v.handle)?;
                let weight = if p.weight == 0 { now.weight } else { p.weight };
                let cap = match p.cap {
                    0xffff => now.cap,
                    c => c.div_ceil(vcpus.len() as u16),
                };
                run::scheduler().set_params(v.handle, Params { weight, cap })?;
            }
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    op.set_scheduler_op(s);
    Ok(())
}

pub(super) fn ext_context(cur: &Current<'_>, d: &Arc<Domain>, op: &mut Domctl) -> Result<(), Stop> {
    let mut e = op.ext_vcpucontext();
    let v = vcpu(d, e.vcpu)?;
    let set = op.cmd == XEN_DOMCTL_SET_EXT_VCPUCONTEXT;
    with_context(cur, d, v, |cx| {
        use crate::domain::vcpu::Callback;
        use hv_machine::x86_64::cpu::is_canonical;
        if set {
            if !is_canonical(e.syscall32_callback_eip) || !is_canonical(e.sysenter_callback_eip) {
                return Err(Errno::EINVAL.into());
            }
            cx.syscall32 =
                Callback { address: e.syscall32_callback_eip, mask_events: e.syscall32_disables_events != 0 };
            cx.sysenter =
                Callback { address: e.sysenter_callback_eip, mask_events: e.sysenter_disables_events != 0 };
        } else {
            e.size = size_of::<DomctlExtVcpucontext>() as u32;
            (e.syscall32_callback_eip, e.sysenter_callback_eip) = (cx.syscall32.address, cx.sysenter.address);
            (e.syscall32_disables_events, e.sysenter_disables_events) =
                (cx.syscall32.mask_events.into(), cx.sysenter.mask_events.into());
            (e.syscall32_callback_cs, e.sysenter_callback_cs) = (FLAT_USER_CS32 | 3, FLAT_USER_CS32 | 3);
        }
        Ok(())
    })?;
    op.set_ext_vcpucontext(e);
    Ok(())
}
