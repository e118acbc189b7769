//! The real hypervisor behind [`Hypervisor`].

use super::hypervisor::{
    CpuPlace, DomainInfo, ForeignPages, Hypervisor, MachineInfo, NumaNode, Share, VcpuInfo, Version,
};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use guest_kernel::events::EventChannel;
use guest_kernel::memory::Mapping;
use guest_kernel::time::{Instant, wallclock};
use guest_kernel::{domctl, sysctl};
use shared_abi::arch_x86::VcpuGuestContext;
use shared_abi::domctl::*;
use shared_abi::sysctl::{SysctlCputopo, SysctlMeminfo};
use shared_abi::{DomId, Errno, Gfn, Mfn, Pfn, Port, VcpuId};

/// The hypervisor that dom0 runs on.
#[derive(Clone, Copy, Default, Debug)]
pub struct Xen;

impl ForeignPages for Mapping {
    fn write(&self, at: usize, bytes: &[u8]) {
        self.write_bytes(at, bytes);
    }

    fn read(&self, at: usize, bytes: &mut [u8]) {
        self.read_bytes(at, bytes);
    }
}

fn domain_info(info: &DomctlGetdomaininfo) -> DomainInfo {
    let is = |flag| info.flags & flag != 0;
    DomainInfo {
        domain: info.domain,
        uuid: info.handle,
        dying: is(XEN_DOMINF_DYING),
        shutdown: info.shutdown_reason(),
        paused: is(XEN_DOMINF_PAUSED),
        blocked: is(XEN_DOMINF_BLOCKED),
        running: is(XEN_DOMINF_RUNNING),
        pages: info.tot_pages,
        max_pages: info.max_pages,
        cpu_time: info.cpu_time,
        vcpus_online: info.nr_online_vcpus,
        vcpus: info.max_vcpu_id.wrapping_add(1),
        shared_info: Mfn(info.shared_info_frame.0),
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().into()
}

impl Hypervisor for Xen {
    type Pages = Mapping;

    fn create(&self, uuid: [u8; 16], max_vcpus: u32) -> Result<DomId, Errno> {
        domctl::create(uuid, max_vcpus)
    }

    fn set_max_memory(&self, domain: DomId, kib: u64) -> Result<(), Errno> {
        domctl::set_max_memory(domain, kib)
    }

    fn set_memory_map(&self, domain: DomId, bytes: u64) -> Result<(), Errno> {
        domctl::set_memory_limit_map(domain, bytes)
    }

    fn populate(&self, domain: DomId, first: Pfn, count: u64) -> Result<Vec<Mfn>, Errno> {
        let mut frames = vec![Mfn(0); usize::try_from(count).map_err(|_| Errno::ENOMEM)?];
        domctl::populate(domain, first, &mut frames)?;
        Ok(frames)
    }

    fn map(&self, domain: DomId, frames: &[Mfn]) -> Result<Mapping, Errno> {
        let frames: Vec<Gfn> = frames.iter().map(|frame| Gfn(frame.0)).collect();
        Mapping::foreign(domain, &frames)
    }

    fn alloc_port(&self, domain: DomId) -> Result<Port, Errno> {
        EventChannel::alloc_unbound_for(domain, DomId(0))
    }

    fn grant_frame(&self, domain: DomId) -> Result<Mfn, Errno> {
        domctl::grant_table_frame(domain)
    }

    fn fill_hypercall_page(&self, domain: DomId, frame: Mfn) -> Result<(), Errno> {
        domctl::fill_hypercall_page(domain, Gfn(frame.0))
    }

    fn pin(&self, domain: DomId, root: Mfn) -> Result<(), Errno> {
        domctl::pin_l4(domain, root)
    }

    fn set_context(&self, domain: DomId, context: &VcpuGuestContext) -> Result<(), Errno> {
        domctl::set_vcpu_context(domain, VcpuId(0), context)
    }

    fn set_affinity(&self, domain: DomId, vcpu: u32, cpus: &[u32]) -> Result<(), Errno> {
        domctl::set_vcpu_affinity(domain, VcpuId(vcpu), cpus)
    }

    fn set_tsc_mode(&self, domain: DomId, mode: u32) -> Result<(), Errno> {
        domctl::set_tsc_mode(domain, mode)
    }

    fn send_nmi(&self, domain: DomId, vcpu: u32) -> Result<(), Errno> {
        domctl::send_nmi(domain, VcpuId(vcpu))
    }

    fn share(&self, domain: DomId) -> Result<Share, Errno> {
        let share = domctl::share(domain, sysctl::scheduler()?)?;
        Ok(Share { weight: share.weight, cap: share.cap })
    }

    fn set_share(&self, domain: DomId, share: Share) -> Result<(), Errno> {
        let share = DomctlSchedCredit2 { weight: share.weight, cap: share.cap };
        domctl::set_share(domain, sysctl::scheduler()?, share)
    }

    fn pause(&self, domain: DomId) -> Result<(), Errno> {
        domctl::pause(domain)
    }

    fn unpause(&self, domain: DomId) -> Result<(), Errno> {
        domctl::unpause(domain)
    }

    fn destroy(&self, domain: DomId) -> Result<(), Errno> {
        domctl::destroy(domain)
    }

    fn info(&self, domain: DomId) -> Result<DomainInfo, Errno> {
        domctl::info(domain).map(|info| domain_info(&info))
    }

    fn list(&self) -> Result<Vec<DomainInfo>, Errno> {
        Ok(sysctl::domains()?.iter().map(domain_info).collect())
    }

    fn vcpu(&self, domain: DomId, vcpu: u32) -> Result<VcpuInfo, Errno> {
        let info = domctl::vcpu_info(domain, VcpuId(vcpu))?;
        let cpus = sysctl::physinfo()?.max_cpu_id.saturating_add(1).min(4096);
        let (hard, soft) = domctl::vcpu_affinity(domain, VcpuId(vcpu), cpus)?;
        Ok(VcpuInfo {
            online: info.online != 0,
            blocked: info.blocked != 0,
            running: info.running != 0,
            cpu_time: info.cpu_time,
            cpu: info.cpu,
            hard,
            soft,
        })
    }

    fn machine(&self) -> Result<MachineInfo, Errno> {
        let info = sysctl::physinfo()?;
        Ok(MachineInfo {
            threads_per_core: info.threads_per_core,
            cores_per_socket: info.cores_per_socket,
            cpus: info.nr_cpus,
            max_cpu: info.max_cpu_id,
            nodes: info.nr_nodes,
            cpu_khz: info.cpu_khz,
            total_pages: info.total_pages,
            free_pages: info.free_pages,
            scrub_pages: info.scrub_pages,
            outstanding_pages: info.outstanding_pages,
            hw_cap: info.hw_cap,
        })
    }

    fn cpu_places(&self) -> Result<Vec<CpuPlace>, Errno> {
        let place = |cpu: &SysctlCputopo| CpuPlace { core: cpu.core, socket: cpu.socket, node: cpu.node };
        Ok(sysctl::cpu_topology()?.iter().map(place).collect())
    }

    fn numa_nodes(&self) -> Result<Vec<NumaNode>, Errno> {
        let nodes = sysctl::numa_nodes()?.into_iter();
        let node = |(info, distances): (SysctlMeminfo, _)| NumaNode {
            memory: info.memsize,
            free: info.memfree,
            distances,
        };
        Ok(nodes.map(node).collect())
    }

    fn scheduler(&self) -> Result<String, Errno> {
        let name = match sysctl::scheduler()? {
            XEN_SCHEDULER_CREDIT => "credit",
            XEN_SCHEDULER_CREDIT2 => "credit2",
            XEN_SCHEDULER_ARINC653 => "arinc653",
            XEN_SCHEDULER_RTDS => "rtds",
            XEN_SCHEDULER_NULL => "null",
            _ => "unknown",
        };
        Ok(name.into())
    }

    fn ratelimit(&self) -> Result<u32, Errno> {
        sysctl::credit2_ratelimit()
    }

    fn version(&self) -> Version {
        use sysctl::VersionText::*;
        let get = |what| sysctl::version_text(what).map(|bytes| text(&bytes)).unwrap_or_default();
        let number = sysctl::version().unwrap_or(0);
        let mut version = Version {
            number: (number >> 16, number & 0xffff),
            extra: get(Extra),
            capabilities: get(Capabilities),
            changeset: get(Changeset),
            commandline: get(CommandLine),
            ..Version::default()
        };
        if let Ok((compile, platform)) = sysctl::build_info() {
            version.virt_start = platform.virt_start;
            version.compiler = text(&compile.compiler);
            version.compile_by = text(&compile.compile_by);
            version.compile_domain = text(&compile.compile_domain);
            version.compile_date = text(&compile.compile_date);
        }
        version
    }

    fn log(&self, clear: bool) -> Result<Vec<u8>, Errno> {
        sysctl::log(clear)
    }

    fn debug_keys(&self, keys: &str) -> Result<(), Errno> {
        sysctl::debug_keys(&mut Vec::from(keys))
    }

    fn wallclock(&self) -> u64 {
        wallclock().as_secs()
    }

    fn uptime(&self) -> u64 {
        Instant::now().as_nanos()
    }
}
