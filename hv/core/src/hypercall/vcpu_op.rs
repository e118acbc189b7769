//! `vcpu_op`: bringing vcpus of the caller's own domain up and down, their registered areas and timers.

use crate::domain::vcpu::pause;
use crate::domain::{Current, Vcpu, lifecycle};
use crate::error::{HcResult, Stop};
use crate::{mm, run};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use hv_machine::guest_mem;
use hv_machine::x86_64::clock;
use shared_abi::errno::Errno;
use shared_abi::vcpu::*;
use shared_abi::{GuestAddr, Mfn};

/// `vcpu_op(cmd, vcpu, arg)`.
pub fn vcpu_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let (cmd, arg) = (a[0] as u32, GuestAddr(a[2]));
    let id = u32::try_from(a[1]).map_err(|_| Errno::ENOENT)?;
    let v: Arc<Vcpu> = cur.dom.vcpu(id).ok_or(Errno::ENOENT)?.clone();
    let own = v.id == cur.vcpu.id;
    match cmd {
        VCPUOP_INITIALISE => {
            if !v.info.exists() {
                return Err(Errno::EINVAL.into());
            }
            let mut c = lifecycle::guest_context()?;
            guest_mem::copy_in(zerocopy::IntoBytes::as_mut_bytes(&mut *c), arg)?;
            if own {
                return Err(Errno::EEXIST.into());
            }
            // It runs, or another is at it.
            let mut cx = v.context.try_lock().ok_or(Errno::EEXIST)?;
            if cx.initialised {
                return Err(Errno::EEXIST.into());
            }
            lifecycle::set_context(cur.dom, &v, &mut cx, &c)?;
        }
        VCPUOP_UP => {
            if !v.info.exists() {
                return Err(Errno::EINVAL.into());
            }
            // One that a CPU has was initialised. Another whose context is taken is being initialised at this moment, or
            // comes to a CPU.
            if v.running_on.load(SeqCst) == u32::MAX && !v.context.try_lock().ok_or(Stop::Retry)?.initialised
            {
                return Err(Errno::EINVAL.into());
            }
            v.unblock(pause::DOWN);
        }
        VCPUOP_DOWN => {
            // A domain whose every vcpu is down can only be brought back by its control domain: as Xen, a
            // shutdown by power-off.
            let others_down =
                cur.dom.vcpus().iter().all(|o| o.id == v.id || o.blocked.load(SeqCst) & pause::DOWN != 0);
            if others_down {
                lifecycle::shut_down(cur.dom, shared_abi::sched::SHUTDOWN_POWEROFF);
            } else {
                v.block(pause::DOWN);
            }
            cur.attention();
        }
        VCPUOP_IS_UP => return Ok((v.blocked.load(SeqCst) & pause::DOWN == 0).into()),
        VCPUOP_GET_RUNSTATE_INFO => guest_mem::write(arg, &run::runstate(&v))?,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => {
            let r: VcpuRegisterRunstateMemoryArea = guest_mem::read(arg)?;
            if !guest_mem::access_ok(GuestAddr(r.addr), size_of::<VcpuRunstateInfo>()) {
                return Err(Errno::EFAULT.into());
            }
            v.runstate_area.store(r.addr, SeqCst);
            // It will be mapped when it matters.
            let _ = guest_mem::write(GuestAddr(r.addr), &run::runstate(&v));
        }
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA => {
            let r: VcpuRegisterTimeMemoryArea = guest_mem::read(arg)?;
            if !guest_mem::access_ok(GuestAddr(r.addr), size_of::<shared_abi::xen::VcpuTimeInfo>()) {
                return Err(Errno::EFAULT.into());
            }
            v.time_area.store(r.addr, SeqCst);
            run::write_time(r.addr);
        }
        VCPUOP_SET_PERIODIC_TIMER => {
            let p: VcpuSetPeriodicTimer = guest_mem::read(arg)?;
            v.timers.lock().timer.set_period(p.period_ns, clock::now())?;
            v.kick();
        }
        VCPUOP_STOP_PERIODIC_TIMER => v.timers.lock().timer.stop_period(),
        VCPUOP_SET_SINGLESHOT_TIMER => {
            if !own {
                return Err(Errno::EINVAL.into());
            }
            let s: VcpuSetSingleshotTimer = guest_mem::read(arg)?;
            run::change_timer(&v, |t, _| t.set_single(s.timeout_abs_ns));
        }
        VCPUOP_STOP_SINGLESHOT_TIMER => {
            if !own {
                return Err(Errno::EINVAL.into());
            }
            run::change_timer(&v, |t, _| t.stop_single());
        }
        VCPUOP_REGISTER_VCPU_INFO => {
            let r: VcpuRegisterVcpuInfo = guest_mem::read(arg)?;
            let offset = r.offset as usize;
            if offset > 4096 - size_of::<shared_abi::xen::VcpuInfo>() || !offset.is_multiple_of(8) {
                return Err(Errno::ENXIO.into());
            }
            // One that runs would go on looking in the old place, which its CPU keeps.
            if !own && v.blocked.load(SeqCst) & pause::DOWN == 0 {
                return Err(Errno::EINVAL.into());
            }
            let frame = mm::hold_writable(cur.dom, Mfn(r.mfn.0))?;
            v.info.register(frame, offset)?;
            v.info.set_time(&run::time_info());
            if let Some(info) = v.info.get().filter(|_| own) {
                cur.cx.info = *info;
                cur.cx.arm_system_calls(cur.dom);
            }
            v.notify();
        }
        VCPUOP_SEND_NMI if arg.0 != 0 => return Err(Errno::EINVAL.into()),
        VCPUOP_SEND_NMI => {
            if !v.nmi.swap(true, SeqCst) {
                v.notify();
                v.kick();
            }
        }
        VCPUOP_GET_PHYSID => return Err(Errno::EINVAL.into()),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}
