//! `sched_op`: giving the CPU up, waiting for events, shutting down.

use crate::access;
use crate::domain::vcpu::pause;
use crate::domain::{Current, find, lifecycle};
use crate::error::HcResult;
use crate::run;
use core::sync::atomic::Ordering::SeqCst;
use hv_machine::guest_mem;
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
            if s.reason == SHUTDOWN_CRASH {
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
        // A vcpu tied to one CPU for a while: the scheduler has no such thing.
        SCHEDOP_PIN_OVERRIDE => {
            access::control_only(cur.dom)?;
            let _: SchedPinOverride = guest_mem::read(arg)?;
            Err(Errno::ENOSYS.into())
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
