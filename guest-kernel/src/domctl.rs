//! What a control domain does to domains: `domctl`, and the memory operations that go with it.

use guest_machine::control;
use shared_abi::domctl::*;
use shared_abi::memory::E820Entry;
use shared_abi::xen::DomainHandle;
use shared_abi::{DomId, Errno, Gfn, Mfn, Pfn, VcpuId};

pub use guest_machine::control::{
    grant_table_frame, pin_l4, set_memory_map, set_vcpu_affinity, set_vcpu_context, vcpu_affinity,
};

/// What a hypercall answers.
pub type Result<T> = core::result::Result<T, Errno>;

/// Pages in the large extents that [`populate`] asks for first.
const LARGE_ORDER: u32 = 9;

fn simple(cmd: u32, domain: DomId, fill: impl FnOnce(&mut Domctl)) -> Result<Domctl> {
    let mut domctl = Domctl::new(cmd, domain);
    fill(&mut domctl);
    control::domctl(&mut domctl)?;
    Ok(domctl)
}

/// Makes a PV domain with `vcpus` vcpus and no memory, paused.
pub fn create(handle: DomainHandle, vcpus: u32) -> Result<DomId> {
    let config = DomctlCreatedomain {
        handle,
        max_vcpus: vcpus,
        max_evtchn_port: 1023,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        grant_opts: 2,
        ..Default::default()
    };
    let domain = simple(XEN_DOMCTL_CREATEDOMAIN, DomId(0), |d| d.set_createdomain(config))?.domain;
    let vcpus = simple(XEN_DOMCTL_MAX_VCPUS, domain, |d| d.set_max_vcpus(DomctlMaxVcpus { max: vcpus }));
    if let Err(errno) = vcpus {
        destroy(domain)?;
        return Err(errno);
    }
    Ok(domain)
}

/// Takes a domain apart. Its number may stay in use while others still map its frames.
pub fn destroy(domain: DomId) -> Result<()> {
    loop {
        // A long destruction is done in parts; EAGAIN says that there is more.
        match simple(XEN_DOMCTL_DESTROYDOMAIN, domain, |_| ()) {
            Err(Errno::EAGAIN) => {}
            result => return result.map(drop),
        }
    }
}

/// Stops a domain; each pause needs its unpause.
pub fn pause(domain: DomId) -> Result<()> {
    simple(XEN_DOMCTL_PAUSEDOMAIN, domain, |_| ()).map(drop)
}

/// Lets a domain run.
pub fn unpause(domain: DomId) -> Result<()> {
    simple(XEN_DOMCTL_UNPAUSEDOMAIN, domain, |_| ()).map(drop)
}

/// A domain's state; `ESRCH` if there is none such.
pub fn info(domain: DomId) -> Result<DomctlGetdomaininfo> {
    let info = simple(XEN_DOMCTL_GETDOMAININFO, domain, |_| ())?.getdomaininfo();
    // Xen answers for the next higher number where the domain does not exist.
    if info.domain == domain { Ok(info) } else { Err(Errno::ESRCH) }
}

/// Sends a vcpu a non-maskable interrupt.
pub fn send_nmi(domain: DomId, vcpu: VcpuId) -> Result<()> {
    let nmi = DomctlSendtrigger { trigger: XEN_DOMCTL_SENDTRIGGER_NMI, vcpu: vcpu.0 };
    simple(XEN_DOMCTL_SENDTRIGGER, domain, |d| d.set_sendtrigger(nmi)).map(drop)
}

/// Limits a domain's memory.
pub fn set_max_memory(domain: DomId, kib: u64) -> Result<()> {
    simple(XEN_DOMCTL_MAX_MEM, domain, |d| d.set_max_mem(DomctlMaxMem { max_memkb: kib })).map(drop)
}

/// Fills a frame of a domain with hypercall stubs.
pub fn fill_hypercall_page(domain: DomId, frame: Gfn) -> Result<()> {
    simple(XEN_DOMCTL_HYPERCALL_INIT, domain, |d| d.set_hypercall_init(DomctlHypercallInit { gmfn: frame }))
        .map(drop)
}

/// How a domain sees the time-stamp counter: one of xl.cfg's `tsc_mode`.
pub fn set_tsc_mode(domain: DomId, mode: u32) -> Result<()> {
    let arg = DomctlTscInfo { tsc_mode: mode, ..Default::default() };
    simple(XEN_DOMCTL_SETTSCINFO, domain, |d| d.set_tsc_info(arg)).map(drop)
}

/// A vcpu's state.
pub fn vcpu_info(domain: DomId, vcpu: VcpuId) -> Result<DomctlGetvcpuinfo> {
    let arg = DomctlGetvcpuinfo { vcpu, ..Default::default() };
    Ok(simple(XEN_DOMCTL_GETVCPUINFO, domain, |d| d.set_getvcpuinfo(arg))?.getvcpuinfo())
}

fn share_op(
    domain: DomId,
    scheduler: u32,
    cmd: u32,
    share: DomctlSchedCredit2,
) -> Result<DomctlSchedCredit2> {
    let mut op = DomctlSchedulerOp { sched_id: scheduler, cmd, ..Default::default() };
    op.set_credit2(share);
    Ok(simple(XEN_DOMCTL_SCHEDULER_OP, domain, |d| d.set_scheduler_op(op))?.scheduler_op().credit2())
}

/// A domain's weight and cap under `scheduler` (credit and credit2 lay them out alike).
pub fn share(domain: DomId, scheduler: u32) -> Result<DomctlSchedCredit2> {
    share_op(domain, scheduler, XEN_DOMCTL_SCHEDOP_GETINFO, DomctlSchedCredit2::default())
}

/// Sets a domain's weight and cap under `scheduler`.
pub fn set_share(domain: DomId, scheduler: u32, share: DomctlSchedCredit2) -> Result<()> {
    share_op(domain, scheduler, XEN_DOMCTL_SCHEDOP_PUTINFO, share).map(drop)
}

/// Gives a domain frames for `frames.len()` pfns from `first` on, 2 MiB at a time as far as that goes. On an
/// error it has some of them.
pub fn populate(domain: DomId, first: Pfn, frames: &mut [Mfn]) -> Result<()> {
    let large = 1usize << LARGE_ORDER;
    let mut done = 0;
    while done < frames.len() {
        let pfn = Pfn(first.0 + done as u64);
        let rest = &mut frames[done..];
        if pfn.0.is_multiple_of(large as u64) && rest.len() >= large {
            let mut extent = [Mfn(0)];
            if control::populate(domain, pfn, LARGE_ORDER, &mut extent) == Ok(1) {
                for (n, frame) in rest[..large].iter_mut().enumerate() {
                    *frame = Mfn(extent[0].0 + n as u64);
                }
                done += large;
                continue;
            }
        }
        let until = rest.len().min(large - pfn.0 as usize % large);
        match control::populate(domain, pfn, 0, &mut rest[..until])? {
            0 => return Err(Errno::ENOMEM),
            count => done += count,
        }
    }
    Ok(())
}

/// Tells a domain that its memory may reach `bytes`.
pub fn set_memory_limit_map(domain: DomId, bytes: u64) -> Result<()> {
    set_memory_map(
        domain,
        &mut [E820Entry { addr: 0, size: bytes, r#type: shared_abi::memory::e820_type::RAM }],
    )
}
