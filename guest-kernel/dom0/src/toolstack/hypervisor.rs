//! What the toolstack asks of the hypervisor, as a trait: [`super::xen`] is the real one, the tests have one
//! that can fail at any step. All calls return at once; errors are Xen's.

use alloc::string::String;
use alloc::vec::Vec;
use shared_abi::arch_x86::VcpuGuestContext;
use shared_abi::{DomId, Errno, Mfn, Pfn, Port};

/// The state of one domain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DomainInfo {
    /// Its number.
    pub domain: DomId,
    /// Its identity.
    pub uuid: [u8; 16],
    /// It is being taken apart.
    pub dying: bool,
    /// It has ended; the reason is one of sched.h's `SHUTDOWN_*`.
    pub shutdown: Option<u32>,
    /// The toolstack stopped it.
    pub paused: bool,
    /// All its vcpus wait for events.
    pub blocked: bool,
    /// One of its vcpus runs.
    pub running: bool,
    /// Pages it has.
    pub pages: u64,
    /// Pages it may have.
    pub max_pages: u64,
    /// CPU time, nanoseconds.
    pub cpu_time: u64,
    /// Vcpus that are online.
    pub vcpus_online: u32,
    /// Vcpus it has.
    pub vcpus: u32,
    /// Its shared info.
    pub shared_info: Mfn,
}

/// The state of one vcpu.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VcpuInfo {
    /// It may run.
    pub online: bool,
    /// It waits for an event.
    pub blocked: bool,
    /// It runs.
    pub running: bool,
    /// CPU time, nanoseconds.
    pub cpu_time: u64,
    /// The CPU it is or was on.
    pub cpu: u32,
    /// The CPUs it may run on.
    pub hard: Vec<u32>,
    /// The CPUs it prefers.
    pub soft: Vec<u32>,
}

/// The machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MachineInfo {
    /// Threads per core.
    pub threads_per_core: u32,
    /// Cores per socket.
    pub cores_per_socket: u32,
    /// CPUs in use.
    pub cpus: u32,
    /// The highest CPU number.
    pub max_cpu: u32,
    /// NUMA nodes.
    pub nodes: u32,
    /// kHz.
    pub cpu_khz: u32,
    /// Pages of RAM.
    pub total_pages: u64,
    /// Pages that nobody has.
    pub free_pages: u64,
    /// Pages still to be cleared before they are free.
    pub scrub_pages: u64,
    /// Pages that were promised to domains.
    pub outstanding_pages: u64,
    /// CPUID feature words.
    pub hw_cap: [u32; 8],
}

/// Where a CPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuPlace {
    /// Its core, within the socket.
    pub core: u32,
    /// Its socket.
    pub socket: u32,
    /// Its NUMA node.
    pub node: u32,
}

/// A NUMA node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NumaNode {
    /// Bytes of its memory.
    pub memory: u64,
    /// Those that nobody has.
    pub free: u64,
    /// How far it is to each node.
    pub distances: Vec<u32>,
}

/// What the hypervisor says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Version {
    /// Major and minor number.
    pub number: (u32, u32),
    /// What follows them.
    pub extra: String,
    /// The guest types it runs.
    pub capabilities: String,
    /// Where its part of the address space starts.
    pub virt_start: u64,
    /// Its source's identity.
    pub changeset: String,
    /// Its command line.
    pub commandline: String,
    /// The compiler.
    pub compiler: String,
    /// Who built it.
    pub compile_by: String,
    /// Where.
    pub compile_domain: String,
    /// When.
    pub compile_date: String,
}

/// A domain's share of CPU time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Against other domains; 256 is usual.
    pub weight: u16,
    /// Percent of one CPU at most; 0 is no limit.
    pub cap: u16,
}

/// Pages of another domain, mapped until dropped. Offsets are bytes; one past the end panics.
pub trait ForeignPages {
    /// Copies bytes in.
    fn write(&self, at: usize, bytes: &[u8]);
    /// Copies bytes out.
    fn read(&self, at: usize, bytes: &mut [u8]);
}

/// The hypervisor's operations on domains.
pub trait Hypervisor {
    /// Another domain's pages.
    type Pages: ForeignPages;

    /// Makes a domain without memory, paused.
    fn create(&self, uuid: [u8; 16], max_vcpus: u32) -> Result<DomId, Errno>;
    /// Limits its memory.
    fn set_max_memory(&self, domain: DomId, kib: u64) -> Result<(), Errno>;
    /// Tells it how far its memory may grow.
    fn set_memory_map(&self, domain: DomId, bytes: u64) -> Result<(), Errno>;
    /// Gives it pages for `count` pfns from `first` on: all, or an error.
    fn populate(&self, domain: DomId, first: Pfn, count: u64) -> Result<Vec<Mfn>, Errno>;
    /// Maps some of its pages.
    fn map(&self, domain: DomId, frames: &[Mfn]) -> Result<Self::Pages, Errno>;
    /// Makes an event channel in `domain` that dom0 may bind to.
    fn alloc_port(&self, domain: DomId) -> Result<Port, Errno>;
    /// The first frame of its grant table.
    fn grant_frame(&self, domain: DomId) -> Result<Mfn, Errno>;
    /// Fills one of its pages with hypercall stubs.
    fn fill_hypercall_page(&self, domain: DomId, frame: Mfn) -> Result<(), Errno>;
    /// Makes one of its frames a root page table.
    fn pin(&self, domain: DomId, root: Mfn) -> Result<(), Errno>;
    /// Sets the state of its vcpu 0.
    fn set_context(&self, domain: DomId, context: &VcpuGuestContext) -> Result<(), Errno>;
    /// Restricts a vcpu to some CPUs.
    fn set_affinity(&self, domain: DomId, vcpu: u32, cpus: &[u32]) -> Result<(), Errno>;
    /// How it sees the time-stamp counter, by the number of xl.cfg's `tsc_mode`.
    fn set_tsc_mode(&self, domain: DomId, mode: u32) -> Result<(), Errno>;
    /// Sends a vcpu a non-maskable interrupt.
    fn send_nmi(&self, domain: DomId, vcpu: u32) -> Result<(), Errno>;
    /// Its share of CPU time.
    fn share(&self, domain: DomId) -> Result<Share, Errno>;
    /// Changes its share of CPU time.
    fn set_share(&self, domain: DomId, share: Share) -> Result<(), Errno>;
    /// Stops it; pauses are counted, so one unpause undoes one pause.
    fn pause(&self, domain: DomId) -> Result<(), Errno>;
    /// Lets it run.
    fn unpause(&self, domain: DomId) -> Result<(), Errno>;
    /// Takes it apart and everything back.
    fn destroy(&self, domain: DomId) -> Result<(), Errno>;
    /// Its state; ESRCH if there is none such.
    fn info(&self, domain: DomId) -> Result<DomainInfo, Errno>;
    /// All domains, by number.
    fn list(&self) -> Result<Vec<DomainInfo>, Errno>;
    /// The state of one vcpu.
    fn vcpu(&self, domain: DomId, vcpu: u32) -> Result<VcpuInfo, Errno>;
    /// The machine.
    fn machine(&self) -> Result<MachineInfo, Errno>;
    /// Where each CPU is.
    fn cpu_places(&self) -> Result<Vec<CpuPlace>, Errno>;
    /// Its NUMA nodes.
    fn numa_nodes(&self) -> Result<Vec<NumaNode>, Errno>;
    /// Name of the scheduler.
    fn scheduler(&self) -> Result<String, Errno>;
    /// Microseconds that a vcpu may run at least before it is preempted.
    fn ratelimit(&self) -> Result<u32, Errno>;
    /// What the hypervisor says of itself.
    fn version(&self) -> Version;
    /// The hypervisor's log; it is emptied if `clear`.
    fn log(&self, clear: bool) -> Result<Vec<u8>, Errno>;
    /// Presses keys of the hypervisor's console.
    fn debug_keys(&self, keys: &str) -> Result<(), Errno>;
    /// Seconds since 1970.
    fn wallclock(&self) -> u64;
    /// Nanoseconds since the machine's start.
    fn uptime(&self) -> u64;
}
