//! A domain as a whole.

use crate::domain::grants::Limits;
use crate::domain::lifecycle::{self, Spec};
use crate::domain::{Current, Domain, dom0, vcpu::pause};
use crate::emul::cpuid::Kind;
use crate::error::Stop;
use crate::mm;
use crate::time_of_day;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use hv_machine::x86_64::clock;
use shared_abi::domctl::*;
use shared_abi::errno::Errno;
use shared_abi::{DomId, Gfn, Mfn};

/// Where the search for a free number goes on.
static LAST: AtomicU32 = AtomicU32::new(0);
/// Most vcpus of a domain.
const MAX_VCPUS: u32 = 64;

fn free_id() -> Result<DomId, Errno> {
    let last = LAST.load(SeqCst);
    let ids = (last + 1..u32::from(DomId::FIRST_RESERVED.0)).chain(1..=last);
    let id = ids.map(|n| DomId(n as u16)).find(|id| !lifecycle::is_taken(*id)).ok_or(Errno::ENOMEM)?;
    LAST.store(id.0.into(), SeqCst);
    Ok(id)
}

/// `XEN_DOMCTL_createdomain`: the new domain, whose number is in `op`.
pub(super) fn create(op: &mut Domctl) -> Result<Arc<Domain>, Stop> {
    let c = op.createdomain();
    // 64-bit PV guests alone: everything about translated ones is refused, not ignored.
    if c.flags & !XEN_DOMCTL_CDF_XS_DOMAIN != 0
        || c.iommu_opts != 0
        || c.vmtrace_size != 0
        || c.arch.emulation_flags != 0
        || !(1..=MAX_VCPUS).contains(&c.max_vcpus)
        || !matches!(c.cpupool_id, 0 | u32::MAX)
    {
        return Err(Errno::EINVAL.into());
    }
    let id = match op.domain {
        DomId(0) => free_id()?,
        id if id < DomId::FIRST_RESERVED => id,
        _ => free_id()?,
    };
    let d = lifecycle::create(Spec {
        id,
        handle: c.handle,
        control: false,
        max_vcpus: c.max_vcpus,
        max_port: c.max_evtchn_port,
        grants: Limits::from_config(c.max_grant_frames, c.max_maptrack_frames, c.grant_opts)?,
        policy: dom0::policy(Kind::Guest),
    })?;
    op.domain = id;
    Ok(d)
}

/// Destroys a domain that has nothing yet.
pub(super) fn abandon(d: &Arc<Domain>) {
    let mut work = mm::work();
    while lifecycle::destroy(d, &mut work) == Err(Stop::Retry) {}
}

/// The control domain does nothing of this to itself.
fn not_self(cur: &Current<'_>, d: &Domain) -> Result<(), Stop> {
    if cur.dom.id == d.id { Err(Errno::EINVAL.into()) } else { Ok(()) }
}

pub(super) fn destroy(cur: &mut Current<'_>, d: &Arc<Domain>) -> Result<(), Stop> {
    not_self(cur, d)?;
    lifecycle::destroy(d, &mut cur.cx.work)?;
    // What this domain had goes when the caller lets go of it; the ones before it have gone.
    hv_machine::heap::shrink();
    Ok(())
}

pub(super) fn pause(cur: &Current<'_>, d: &Domain) -> Result<(), Stop> {
    not_self(cur, d)?;
    lifecycle::pause_domain(d);
    Ok(())
}

pub(super) fn unpause(cur: &Current<'_>, d: &Domain) -> Result<(), Stop> {
    not_self(cur, d)?;
    Ok(lifecycle::unpause_domain(d)?)
}

pub(super) fn resume(cur: &Current<'_>, d: &Domain) -> Result<(), Stop> {
    not_self(cur, d)?;
    lifecycle::resume_domain(d);
    Ok(())
}

/// `XEN_DOMCTL_getdomaininfo`, and an element of `XEN_SYSCTL_getdomaininfolist`.
pub fn info(d: &Domain) -> DomctlGetdomaininfo {
    let online = d.vcpus().iter().filter(|v| v.blocked.load(SeqCst) & pause::DOWN == 0);
    let mut flags = 0;
    let shutdown = d.shutdown.load(SeqCst);
    if shutdown >= 0 {
        flags |=
            XEN_DOMINF_SHUTDOWN | (shutdown as u32 & XEN_DOMINF_SHUTDOWNMASK) << XEN_DOMINF_SHUTDOWNSHIFT;
    }
    if d.dying.load(SeqCst) {
        flags |= XEN_DOMINF_DYING;
    }
    if d.pauses.load(SeqCst) > 0 {
        flags |= XEN_DOMINF_PAUSED;
    }
    if online.clone().any(|v| v.runs()) {
        flags |= XEN_DOMINF_RUNNING;
    }
    if online.clone().all(|v| v.blocked.load(SeqCst) & pause::BLOCKED != 0) {
        flags |= XEN_DOMINF_BLOCKED;
    }
    DomctlGetdomaininfo {
        domain: d.id,
        flags,
        tot_pages: d.memory.total(),
        max_pages: d.memory.max(),
        outstanding_pages: d.memory.claimed(),
        shared_info_frame: Gfn(d.shared.mfn().0),
        cpu_time: d.vcpus().iter().map(|v| crate::run::cpu_time(v)).sum(),
        nr_online_vcpus: online.count() as u32,
        max_vcpu_id: (d.vcpus().len() as u32).wrapping_sub(1),
        handle: *d.handle.lock(),
        gpaddr_bits: 0,
        ..Default::default()
    }
}

pub(super) fn hypercall_page(d: &Domain, gmfn: Gfn) -> Result<(), Stop> {
    let f = mm::hold_writable(d, Mfn(gmfn.0))?;
    dom0::write_hypercall_page(&f.page());
    Ok(())
}

pub(super) fn set_time_offset(d: &Domain, seconds: i64) {
    d.time_offset.store(seconds, SeqCst);
    time_of_day::publish(&d.shared.page(), seconds);
}

pub(super) fn send_trigger(d: &Domain, t: DomctlSendtrigger) -> Result<(), Stop> {
    let v = d.vcpu(t.vcpu).ok_or(Errno::ESRCH)?;
    match t.trigger {
        XEN_DOMCTL_SENDTRIGGER_NMI => {
            if !v.nmi.swap(true, SeqCst) {
                v.notify();
            }
            Ok(())
        }
        // buttons that only a machine of its own has
        XEN_DOMCTL_SENDTRIGGER_POWER | XEN_DOMCTL_SENDTRIGGER_SLEEP => Err(Errno::EINVAL.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}

pub(super) fn tsc_info() -> DomctlTscInfo {
    DomctlTscInfo {
        tsc_mode: 0,
        gtsc_khz: (clock::tsc_hz() / 1000) as u32,
        elapsed_nsec: clock::now(),
        ..Default::default()
    }
}
