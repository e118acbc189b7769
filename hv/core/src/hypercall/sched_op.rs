//! `sched_op`: giving the CPU up, waiting for events, shutting down.

use crate::access;
use crate::domain::vcpu::pause;
use crate::domain::{Current, find, lifecycle};
use crate::error::HcResult;
use crate::run;
use crate::sched::{CpuSet, Policy as _};
use core::sync::atomic::Ordering::SeqCst;
use hv_machine::guest_mem;
use hv_machine::x86_64::{clock, tlb};
use shared_abi::errno::Errno;
use shared_abi::sched::*;
use shared_abi::{GuestAddr, Port};

/// `sched_op(cmd, arg)`.
pub fn sched_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let arg = GuestAddr(a[1]);
    match a[0] as u32 {
        SCHEDOP_YIELD => {
            run::yield_now();
            cur.attention();
            Ok(0)
        }
        SCHEDOP_BLOCK => {
            block(cur);
            Ok(0)
        }
        SCHEDOP_POLL => poll(cur, guest_mem::read(arg)?),
        SCHEDOP_SHUTDOWN => {
            let s: SchedShutdown = guest_mem::read(arg)?;
            if s.reason == SHUTDOWN_CRASH && !cur.dom.crash_told.swap(true, SeqCst) {
                log::warn!("d{}v{} says it crashed", cur.dom.id, cur.vcpu.id);
            }
            lifecycle::shut_down(cur.dom, s.reason);
            Ok(0)
        }
        SCHEDOP_SHUTDOWN_CODE => {
            let s: SchedShutdown = guest_mem::read(arg)?;
            lifecycle::set_shutdown_code(cur.dom, s.reason);
            Ok(0)
        }
        SCHEDOP_REMOTE_SHUTDOWN => {
            let s: SchedRemoteShutdown = guest_mem::read(arg)?;
            let target = find(s.domain_id).ok_or(Errno::ESRCH)?;
            access::control_only(cur.dom)?;
            lifecycle::shut_down(&target, s.reason);
            Ok(0)
        }
        SCHEDOP_WATCHDOG => {
            let w: SchedWatchdog = guest_mem::read(arg)?;
            let (set, next) = {
                let mut dogs = cur.dom.watchdogs.lock();
                (dogs.set(w.id, w.timeout, clock::now()), dogs.next())
            };
            let id = match set {
                // Xen's answer goes through an unsigned int on its way, and comes out as 32 bits.
                Err(Errno::ENOSPC) => Errno::ENOSPC.neg() as u32,
                other => other?,
            };
            run::set_watchdog(cur.vcpu, next);
            cur.attention();
            Ok(id.into())
        }
        SCHEDOP_PIN_OVERRIDE => {
            access::control_only(cur.dom)?;
            let p: SchedPinOverride = guest_mem::read(arg)?;
            pin_override(cur, u32::try_from(p.pcpu).ok())?;
            Ok(0)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Binds the running vcpu to one CPU, or undoes that.
fn pin_override(cur: &Current<'_>, cpu: Option<u32>) -> Result<(), Errno> {
    let (sched, handle) = (run::scheduler(), cur.vcpu.handle);
    let mut saved = cur.vcpu.affinity.lock();
    let kick = match cpu {
        None => {
            let before = saved.take().ok_or(Errno::EINVAL)?;
            drop(saved);
            sched.set_affinity(handle, before)?
        }
        Some(c) if c >= CpuSet::MAX || tlb::online() & 1 << c == 0 => return Err(Errno::EINVAL),
        Some(_) if saved.is_some() => return Err(Errno::EBUSY),
        Some(c) => {
            *saved = Some(sched.affinity(handle)?);
            drop(saved);
            sched.set_affinity(handle, CpuSet::one(c))?
        }
    };
    run::kick(kick);
    cur.attention();
    Ok(())
}

/// `sched_op_compat(cmd, reason)`: the first three operations as they were before `sched_op`.
pub fn compat(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    match a[0] as u32 {
        SCHEDOP_YIELD | SCHEDOP_BLOCK => sched_op(cur, a),
        SCHEDOP_SHUTDOWN => {
            lifecycle::shut_down(cur.dom, a[1] as u32);
            Ok(0)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Unmasks upcalls and waits for one. A wake-up that comes while we decide is not lost: blocked is
/// visible first, and whoever sets an event pending looks at it after.
pub fn block(cur: &mut Current<'_>) {
    cur.vcpu.info.set_mask(false);
    cur.vcpu.blocked.fetch_or(pause::BLOCKED, SeqCst);
    if cur.vcpu.info.deliverable() {
        cur.vcpu.blocked.fetch_and(!pause::BLOCKED, SeqCst);
    }
    cur.attention();
}

fn poll(cur: &mut Current<'_>, p: SchedPoll) -> HcResult {
    if p.nr_ports as usize > crate::event::poll::MAX_PORTS {
        return Err(Errno::EINVAL.into());
    }
    let mut ports = [Port(0); crate::event::poll::MAX_PORTS];
    let ports = &mut ports[..p.nr_ports as usize];
    for (i, port) in ports.iter_mut().enumerate() {
        *port = guest_mem::read_at(p.ports, i as u64)?;
    }
    cur.vcpu.blocked.fetch_or(pause::BLOCKED, SeqCst);
    cur.attention();
    let sleeps = match cur.dom.ports.poll(&**cur.dom, cur.vcpu.id, ports) {
        Ok(s) => s,
        Err(e) => {
            cur.vcpu.blocked.fetch_and(!pause::BLOCKED, SeqCst);
            return Err(e.into());
        }
    };
    if !sleeps {
        cur.vcpu.blocked.fetch_and(!pause::BLOCKED, SeqCst);
    } else if p.timeout != 0 {
        cur.vcpu.timers.lock().poll = Some(p.timeout);
    }
    Ok(0)
}
