//! `sysctl`: looking at the machine and the hypervisor. Only the control domain may.

use super::domctl::{domain_info, policy, write_map};
use crate::domain::{Current, next_from};
use crate::error::{HcResult, Stop};
use crate::irq::pci::Sbdf;
use crate::mm::frames;
use crate::sched::Policy as _;
use crate::{access, console, keys, run};
use hv_machine::guest_mem;
use hv_machine::x86_64::{clock, cpu, tlb};
use shared_abi::errno::Errno;
use shared_abi::physdev::PhysdevPciDevice;
use shared_abi::sysctl::*;
use shared_abi::{DomId, GuestAddr};

/// Keys pressed in one call.
const MAX_KEYS: u32 = 32;
/// Devices looked up in one call.
const MAX_DEVICES: u32 = 64;
/// Domains listed in one call.
const MAX_LIST: u32 = 1024;

/// `sysctl(op)`.
pub fn sysctl(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    access::control_only(cur.dom)?;
    let at = GuestAddr(a[0]);
    let mut op: Sysctl = guest_mem::read(at)?;
    if op.interface_version != XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    let done = run_op(&mut op)?;
    guest_mem::write(at, &op)?;
    Ok(done.map(|()| 0)?)
}

fn cpus() -> u32 {
    tlb::online().count_ones()
}

/// Carries it out. An error in the result is told besides what was written.
fn run_op(op: &mut Sysctl) -> Result<Result<(), Errno>, Stop> {
    match op.cmd {
        XEN_SYSCTL_READCONSOLE => {
            let mut r = op.readconsole();
            let from = if r.incremental != 0 { r.index.into() } else { 0 };
            let (bytes, next) =
                console::log_from(from, r.count as usize, r.clear != 0).ok_or(Errno::ENOMEM)?;
            guest_mem::copy_out(r.buffer, &bytes)?;
            r.count = bytes.len() as u32;
            r.index = next as u32;
            op.set_readconsole(r);
        }
        XEN_SYSCTL_PHYSINFO => op.set_physinfo(physinfo()),
        XEN_SYSCTL_SCHED_ID => op.set_sched_id(SysctlSchedId { sched_id: run::scheduler().id() }),
        XEN_SYSCTL_GETDOMAININFOLIST => {
            let mut l = op.getdomaininfolist();
            let mut next = l.first_domain;
            let mut n = 0;
            while n < l.max_domains.min(MAX_LIST) {
                let Some(d) = next_from(next) else { break };
                guest_mem::write_at(l.buffer, n.into(), &domain_info(&d))?;
                next = DomId(d.id.0 + 1);
                n += 1;
            }
            l.num_domains = n;
            op.set_getdomaininfolist(l);
        }
        XEN_SYSCTL_GETCPUINFO => {
            let mut g = op.getcpuinfo();
            let n = g.max_cpus.min(cpus());
            for c in 0..n {
                guest_mem::write_at(g.info, c.into(), &SysctlCpuinfo { idletime: run::idle_ns(c as usize) })?;
            }
            g.nr_cpus = n;
            op.set_getcpuinfo(g);
        }
        XEN_SYSCTL_AVAILHEAP => {
            let mut h = op.availheap();
            h.avail_bytes = frames().free_frames() << 12;
            op.set_availheap(h);
        }
        XEN_SYSCTL_CPUTOPOINFO => {
            let mut t = op.cputopoinfo();
            if t.cputopo.0 != 0 {
                for c in 0..cpus().min(t.num_cpus) {
                    guest_mem::write_at(t.cputopo, c.into(), &SysctlCputopo { core: c, socket: 0, node: 0 })?;
                }
            }
            t.num_cpus = cpus();
            op.set_cputopoinfo(t);
        }
        XEN_SYSCTL_NUMAINFO => {
            let mut n = op.numainfo();
            if n.num_nodes >= 1 {
                if n.meminfo.0 != 0 {
                    let info = SysctlMeminfo {
                        memsize: frames().frames() << 12,
                        memfree: frames().free_frames() << 12,
                    };
                    guest_mem::write(n.meminfo, &info)?;
                }
                if n.distance.0 != 0 {
                    guest_mem::write(n.distance, &10u32)?;
                }
            }
            n.num_nodes = 1;
            op.set_numainfo(n);
        }
        XEN_SYSCTL_CPUPOOL_OP => {
            let mut p = op.cpupool_op();
            cpupool(&mut p)?;
            op.set_cpupool_op(p);
        }
        XEN_SYSCTL_SCHEDULER_OP => {
            let mut s = op.scheduler_op();
            if s.sched_id != run::scheduler().id() || s.cpupool_id != 0 {
                return Err(Errno::EINVAL.into());
            }
            match s.cmd {
                XEN_SYSCTL_SCHEDOP_PUTINFO => {
                    run::scheduler().set_ratelimit_us(s.sched_credit2().ratelimit_us)?;
                }
                XEN_SYSCTL_SCHEDOP_GETINFO => {}
                _ => return Err(Errno::EINVAL.into()),
            }
            s.set_sched_credit2(SysctlCredit2Schedule { ratelimit_us: run::scheduler().ratelimit_us() });
            op.set_scheduler_op(s);
        }
        XEN_SYSCTL_GET_CPU_LEVELLING_CAPS => {
            op.set_cpu_levelling_caps(SysctlCpuLevellingCaps { caps: 0 });
        }
        // Frequencies, cache shares: the processor's own affair.
        XEN_SYSCTL_GET_PMSTAT | XEN_SYSCTL_PSR_CMT_OP | XEN_SYSCTL_PSR_ALLOC => {
            return Err(Errno::ENODEV.into());
        }
        XEN_SYSCTL_PM_OP => {
            let p = op.pm_op();
            return Err(match p.cmd {
                _ if p.cpuid >= cpus() => Errno::EINVAL,
                // nobody told of the processors' frequencies
                cmd if cmd & PM_PARA_CATEGORY_MASK == CPUFREQ_PARA => Errno::EINVAL,
                XEN_SYSCTL_PM_OP_ENABLE_TURBO | XEN_SYSCTL_PM_OP_DISABLE_TURBO => Errno::EACCES,
                _ => Errno::EOPNOTSUPP,
            }
            .into());
        }
        XEN_SYSCTL_COVERAGE_OP | XEN_SYSCTL_CPU_HOTPLUG => return Err(Errno::EOPNOTSUPP.into()),
        XEN_SYSCTL_GET_CPU_FEATURESET => {
            let mut f = op.cpu_featureset();
            let done = policy::featureset(&mut f)?;
            op.set_cpu_featureset(f);
            return Ok(done);
        }
        XEN_SYSCTL_GET_CPU_POLICY => {
            let mut p = op.cpu_policy();
            policy::get_system(&mut p)?;
            op.set_cpu_policy(p);
        }
        XEN_SYSCTL_PCITOPOINFO => {
            let mut t = op.pcitopoinfo();
            pci_nodes(&mut t)?;
            op.set_pcitopoinfo(t);
        }
        XEN_SYSCTL_DEBUG_KEYS => {
            let k = op.debug_keys();
            for i in 0..k.nr_keys.min(MAX_KEYS) {
                keys::press(guest_mem::read_at(k.keys, i.into())?);
            }
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(Ok(()))
}

/// The node of each of these devices: nobody told of any.
fn pci_nodes(t: &mut SysctlPcitopoinfo) -> Result<(), Stop> {
    if t.devs.0 == 0 || t.nodes.0 == 0 {
        return Err(Errno::EINVAL.into());
    }
    // The caller asks for the rest.
    t.num_devs = t.num_devs.min(MAX_DEVICES);
    for i in 0..t.num_devs {
        let dev: PhysdevPciDevice = guest_mem::read_at(t.devs, i.into())?;
        let there = dev.seg == 0 && Sbdf { bus: dev.bus, devfn: dev.devfn }.read(0, 4) != !0;
        let node = if there { XEN_INVALID_NODE_ID } else { XEN_INVALID_DEV };
        guest_mem::write_at(t.nodes, i.into(), &node)?;
    }
    Ok(())
}

fn physinfo() -> SysctlPhysinfo {
    let l1 = cpu::cpuid(1, 0);
    let e1 = cpu::cpuid(0x8000_0001, 0);
    let l7 = cpu::cpuid(7, 0);
    let total = run::BOOT.get().map_or(0, |b| b.ram().map(|r| r.end - r.start).sum::<u64>() >> 12);
    SysctlPhysinfo {
        threads_per_core: 1,
        cores_per_socket: cpus(),
        nr_cpus: cpus(),
        max_cpu_id: cpus() - 1,
        nr_nodes: 1,
        max_node_id: 0,
        cpu_khz: (clock::tsc_hz() / 1000) as u32,
        capabilities: XEN_SYSCTL_PHYSCAP_PV | XEN_SYSCTL_PHYSCAP_GNTTAB_V1 | XEN_SYSCTL_PHYSCAP_GNTTAB_V2,
        total_pages: total,
        free_pages: frames().free_frames(),
        outstanding_pages: crate::mm::account::claimed(),
        max_mfn: frames().frames() - 1,
        hw_cap: [
            l1.edx,
            l1.ecx,
            e1.edx,
            e1.ecx,
            cpu::cpuid(0xd, 1).eax,
            l7.ebx,
            l7.ecx,
            cpu::cpuid(0x8000_0007, 0).edx,
        ],
        ..Default::default()
    }
}

/// One pool, number 0, with all CPUs.
fn cpupool(p: &mut SysctlCpupoolOp) -> Result<(), Stop> {
    match p.op {
        XEN_SYSCTL_CPUPOOL_OP_INFO => {
            if !matches!(p.cpupool_id, 0 | XEN_SYSCTL_CPUPOOL_PAR_ANY) {
                return Err(Errno::ENOENT.into());
            }
            p.cpupool_id = 0;
            p.sched_id = run::scheduler().id();
            let mut next = DomId(0);
            p.n_dom = 0;
            while let Some(d) = next_from(next) {
                p.n_dom += 1;
                next = DomId(d.id.0 + 1);
            }
            write_map(&p.cpumap, tlb::online())
        }
        XEN_SYSCTL_CPUPOOL_OP_FREEINFO => write_map(&p.cpumap, 0),
        XEN_SYSCTL_CPUPOOL_OP_CREATE..=XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN => Err(Errno::EOPNOTSUPP.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}
