//! Restates `sysctl.h`: how a toolstack inspects and changes the machine and the hypervisor.
//!
//! The interface is versioned as a whole: a call with another `interface_version` gets `EACCES`.
//! Structures of live patching, coverage, performance counters, cache allocation and ARINC 653 are left
//! out; their commands are listed, so that they can be told from unknown ones.

use crate::xen::CtlBitmap;
use crate::{DomId, GuestAddr};

pub mod power;
pub use power::*;

abi_constants! {
    "`Sysctl::interface_version`.": u32 {
        XEN_SYSCTL_INTERFACE_VERSION = 0x15,
    }
    "`Sysctl::cmd`.": u32 {
        XEN_SYSCTL_READCONSOLE = 1,
        XEN_SYSCTL_TBUF_OP = 2,
        XEN_SYSCTL_PHYSINFO = 3,
        XEN_SYSCTL_SCHED_ID = 4,
        XEN_SYSCTL_PERFC_OP = 5,
        XEN_SYSCTL_GETDOMAININFOLIST = 6,
        XEN_SYSCTL_DEBUG_KEYS = 7,
        XEN_SYSCTL_GETCPUINFO = 8,
        XEN_SYSCTL_AVAILHEAP = 9,
        XEN_SYSCTL_GET_PMSTAT = 10,
        XEN_SYSCTL_CPU_HOTPLUG = 11,
        XEN_SYSCTL_PM_OP = 12,
        XEN_SYSCTL_PAGE_OFFLINE_OP = 14,
        XEN_SYSCTL_LOCKPROF_OP = 15,
        XEN_SYSCTL_CPUTOPOINFO = 16,
        XEN_SYSCTL_NUMAINFO = 17,
        XEN_SYSCTL_CPUPOOL_OP = 18,
        XEN_SYSCTL_SCHEDULER_OP = 19,
        XEN_SYSCTL_COVERAGE_OP = 20,
        XEN_SYSCTL_PSR_CMT_OP = 21,
        XEN_SYSCTL_PCITOPOINFO = 22,
        XEN_SYSCTL_PSR_ALLOC = 23,
        XEN_SYSCTL_GET_CPU_LEVELLING_CAPS = 25,
        XEN_SYSCTL_GET_CPU_FEATURESET = 26,
        XEN_SYSCTL_LIVEPATCH_OP = 27,
        XEN_SYSCTL_GET_CPU_POLICY = 29,
    }
    "`SysctlTbufOp::cmd`.": u32 {
        XEN_SYSCTL_TBUFOP_GET_INFO = 0,
        XEN_SYSCTL_TBUFOP_SET_CPU_MASK = 1,
        XEN_SYSCTL_TBUFOP_SET_EVT_MASK = 2,
        XEN_SYSCTL_TBUFOP_SET_SIZE = 3,
        XEN_SYSCTL_TBUFOP_ENABLE = 4,
        XEN_SYSCTL_TBUFOP_DISABLE = 5,
    }
    "`SysctlPhysinfo::capabilities`.": u32 {
        XEN_SYSCTL_PHYSCAP_HVM = 1 << 0,
        XEN_SYSCTL_PHYSCAP_PV = 1 << 1,
        XEN_SYSCTL_PHYSCAP_DIRECTIO = 1 << 2,
        XEN_SYSCTL_PHYSCAP_HAP = 1 << 3,
        XEN_SYSCTL_PHYSCAP_SHADOW = 1 << 4,
        XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE = 1 << 5,
        XEN_SYSCTL_PHYSCAP_VMTRACE = 1 << 6,
        XEN_SYSCTL_PHYSCAP_VPMU = 1 << 7,
        XEN_SYSCTL_PHYSCAP_GNTTAB_V1 = 1 << 8,
        XEN_SYSCTL_PHYSCAP_GNTTAB_V2 = 1 << 9,
        XEN_SYSCTL_PHYSCAP_MAX = XEN_SYSCTL_PHYSCAP_GNTTAB_V2,
    }
    "`SysctlPageOfflineOp::cmd`.": u32 {
        SYSCTL_PAGE_OFFLINE = 1,
        SYSCTL_PAGE_ONLINE = 2,
        SYSCTL_QUERY_PAGE_OFFLINE = 3,
    }
    "Nothing there, in a topology.": u32 {
        XEN_INVALID_CORE_ID = !0,
        XEN_INVALID_SOCKET_ID = !0,
        XEN_INVALID_NODE_ID = !0,
        XEN_INVALID_MEM_SZ = !0,
        XEN_INVALID_NODE_DIST = !0,
        XEN_INVALID_DEV = XEN_INVALID_NODE_ID - 1,
    }
    "`SysctlCpupoolOp::op`.": u32 {
        XEN_SYSCTL_CPUPOOL_OP_CREATE = 1,
        XEN_SYSCTL_CPUPOOL_OP_DESTROY = 2,
        XEN_SYSCTL_CPUPOOL_OP_INFO = 3,
        XEN_SYSCTL_CPUPOOL_OP_ADDCPU = 4,
        XEN_SYSCTL_CPUPOOL_OP_RMCPU = 5,
        XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN = 6,
        XEN_SYSCTL_CPUPOOL_OP_FREEINFO = 7,
    }
    "Any pool, or any CPU.": u32 {
        XEN_SYSCTL_CPUPOOL_PAR_ANY = 0xffff_ffff,
    }
    "A limit of a scheduler's parameters, in its unit.": u32 {
        XEN_SYSCTL_SCHED_RATELIMIT_MAX = 500_000,
        XEN_SYSCTL_SCHED_RATELIMIT_MIN = 100,
        XEN_SYSCTL_CSCHED_TSLICE_MAX = 1000,
        XEN_SYSCTL_CSCHED_TSLICE_MIN = 1,
        XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US = 100 * 1000,
    }
    "`SysctlSchedulerOp::cmd`.": u32 {
        XEN_SYSCTL_SCHEDOP_PUTINFO = 0,
        XEN_SYSCTL_SCHEDOP_GETINFO = 1,
    }
    "`SysctlCpuLevellingCaps::caps`.": u32 {
        XEN_SYSCTL_CPU_LEVELCAP_FAULTING = 1 << 0,
        XEN_SYSCTL_CPU_LEVELCAP_ECX = 1 << 1,
        XEN_SYSCTL_CPU_LEVELCAP_EDX = 1 << 2,
        XEN_SYSCTL_CPU_LEVELCAP_EXTD_ECX = 1 << 3,
        XEN_SYSCTL_CPU_LEVELCAP_EXTD_EDX = 1 << 4,
        XEN_SYSCTL_CPU_LEVELCAP_XSAVE_EAX = 1 << 5,
        XEN_SYSCTL_CPU_LEVELCAP_THERMAL_ECX = 1 << 6,
        XEN_SYSCTL_CPU_LEVELCAP_L7S0_EAX = 1 << 7,
        XEN_SYSCTL_CPU_LEVELCAP_L7S0_EBX = 1 << 8,
    }
    "`SysctlCpuFeatureset::index`.": u32 {
        XEN_SYSCTL_CPU_FEATURESET_RAW = 0,
        XEN_SYSCTL_CPU_FEATURESET_HOST = 1,
        XEN_SYSCTL_CPU_FEATURESET_PV = 2,
        XEN_SYSCTL_CPU_FEATURESET_HVM = 3,
        XEN_SYSCTL_CPU_FEATURESET_PV_MAX = 4,
        XEN_SYSCTL_CPU_FEATURESET_HVM_MAX = 5,
    }
    "`SysctlCpuPolicy::index`.": u32 {
        XEN_SYSCTL_CPU_POLICY_RAW = 0,
        XEN_SYSCTL_CPU_POLICY_HOST = 1,
        XEN_SYSCTL_CPU_POLICY_PV_MAX = 2,
        XEN_SYSCTL_CPU_POLICY_HVM_MAX = 3,
        XEN_SYSCTL_CPU_POLICY_PV_DEFAULT = 4,
        XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT = 5,
    }
}

abi_structs! {
    /// The argument of the `sysctl` hypercall.
    pub struct Sysctl("struct xen_sysctl", 136) {
        cmd: u32,
        interface_version: u32,
        /// Union: the command's own argument, see the accessors named after it.
        u: [u64; 16],
    }

    /// Read the hypervisor's log.
    pub struct SysctlReadconsole("struct xen_sysctl_readconsole", 24) {
        /// Empty the log.
        clear: u8,
        /// Start at `index`, and say where to go on.
        incremental: u8,
        pad0: u8,
        pad1: u8,
        index: u32,
        buffer: GuestAddr,
        /// In: the buffer's bytes. Out: what was read.
        count: u32,
        _pad: u32,
    }

    /// Trace buffers.
    pub struct SysctlTbufOp("struct xen_sysctl_tbuf_op", 48) {
        cmd: u32,
        _pad0: u32,
        cpu_mask: CtlBitmap,
        evt_mask: u32,
        _pad1: u32,
        buffer_mfn: u64,
        size: u32,
        _pad2: u32,
    }

    /// The machine.
    pub struct SysctlPhysinfo("struct xen_sysctl_physinfo", 112) {
        threads_per_core: u32,
        cores_per_socket: u32,
        nr_cpus: u32,
        max_cpu_id: u32,
        nr_nodes: u32,
        max_node_id: u32,
        cpu_khz: u32,
        capabilities: u32,
        arch_capabilities: u32,
        pad: u32,
        total_pages: u64,
        free_pages: u64,
        scrub_pages: u64,
        outstanding_pages: u64,
        max_mfn: u64,
        /// CPUID leaf 1's and 0x80000001's feature words, and more.
        hw_cap: [u32; 8],
    }

    /// The default scheduler.
    pub struct SysctlSchedId("struct xen_sysctl_sched_id", 4) {
        sched_id: u32,
    }

    /// All domains from `first_domain` on: an array of `DomctlGetdomaininfo`.
    pub struct SysctlGetdomaininfolist("struct xen_sysctl_getdomaininfolist", 24) {
        first_domain: DomId,
        _pad0: u16,
        max_domains: u32,
        buffer: GuestAddr,
        /// Out.
        num_domains: u32,
        _pad1: u32,
    }

    /// Press keys of the hypervisor's console.
    pub struct SysctlDebugKeys("struct xen_sysctl_debug_keys", 16) {
        keys: GuestAddr,
        nr_keys: u32,
        _pad: u32,
    }

    /// How long a CPU was idle, in nanoseconds.
    pub struct SysctlCpuinfo("struct xen_sysctl_cpuinfo", 8) {
        idletime: u64,
    }

    /// How long each CPU was idle: an array of `SysctlCpuinfo`.
    pub struct SysctlGetcpuinfo("struct xen_sysctl_getcpuinfo", 24) {
        max_cpus: u32,
        _pad0: u32,
        info: GuestAddr,
        /// Out.
        nr_cpus: u32,
        _pad1: u32,
    }

    /// Free memory below an address width, on a node.
    pub struct SysctlAvailheap("struct xen_sysctl_availheap", 24) {
        min_bitwidth: u32,
        max_bitwidth: u32,
        /// -1: all.
        node: i32,
        _pad: u32,
        avail_bytes: u64,
    }

    /// Take frames out of use.
    pub struct SysctlPageOfflineOp("struct xen_sysctl_page_offline_op", 24) {
        cmd: u32,
        start: u32,
        end: u32,
        _pad: u32,
        status: GuestAddr,
    }

    /// Where a CPU is.
    pub struct SysctlCputopo("struct xen_sysctl_cputopo", 12) {
        core: u32,
        socket: u32,
        node: u32,
    }

    /// Where each CPU is: an array of `SysctlCputopo`. A null array asks for the number alone.
    pub struct SysctlCputopoinfo("struct xen_sysctl_cputopoinfo", 16) {
        num_cpus: u32,
        _pad: u32,
        cputopo: GuestAddr,
    }

    /// A node's memory in bytes.
    pub struct SysctlMeminfo("struct xen_sysctl_meminfo", 16) {
        memsize: u64,
        memfree: u64,
    }

    /// The nodes: an array of `SysctlMeminfo`, and the matrix of distances.
    pub struct SysctlNumainfo("struct xen_sysctl_numainfo", 24) {
        num_nodes: u32,
        _pad: u32,
        meminfo: GuestAddr,
        distance: GuestAddr,
    }

    /// CPU pools.
    pub struct SysctlCpupoolOp("struct xen_sysctl_cpupool_op", 40) {
        op: u32,
        cpupool_id: u32,
        sched_id: u32,
        domid: u32,
        cpu: u32,
        n_dom: u32,
        cpumap: CtlBitmap,
    }

    /// The credit scheduler's parameters.
    pub struct SysctlCreditSchedule("struct xen_sysctl_credit_schedule", 12) {
        tslice_ms: u32,
        ratelimit_us: u32,
        vcpu_migr_delay_us: u32,
    }

    /// The credit2 scheduler's parameters.
    pub struct SysctlCredit2Schedule("struct xen_sysctl_credit2_schedule", 4) {
        ratelimit_us: u32,
    }

    /// Get or set a scheduler's parameters.
    pub struct SysctlSchedulerOp("struct xen_sysctl_scheduler_op", 32) {
        cpupool_id: u32,
        sched_id: u32,
        cmd: u32,
        _pad: u32,
        /// Union: see `sched_credit`, `sched_credit2`.
        u: [u64; 2],
    }

    /// The NUMA node of each of these PCI devices.
    pub struct SysctlPcitopoinfo("struct xen_sysctl_pcitopoinfo", 24) {
        num_devs: u32,
        _pad: u32,
        /// An array of `PhysdevPciDevice`.
        devs: GuestAddr,
        nodes: GuestAddr,
    }

    /// How the hypervisor can change what CPUID says.
    pub struct SysctlCpuLevellingCaps("struct xen_sysctl_cpu_levelling_caps", 4) {
        caps: u32,
    }

    /// CPU features as an array of words.
    pub struct SysctlCpuFeatureset("struct xen_sysctl_cpu_featureset", 16) {
        index: u32,
        nr_features: u32,
        features: GuestAddr,
    }

    /// A CPUID and MSR policy the hypervisor knows: arrays of `CpuidLeaf` and `MsrEntry`.
    pub struct SysctlCpuPolicy("struct xen_sysctl_cpu_policy", 32) {
        index: u32,
        nr_leaves: u32,
        nr_msrs: u32,
        _rsvd: u32,
        leaves: GuestAddr,
        msrs: GuestAddr,
    }
}

impl Sysctl {
    /// A command with this interface version and an argument of zeroes.
    pub const fn new(cmd: u32) -> Sysctl {
        Sysctl { cmd, interface_version: XEN_SYSCTL_INTERFACE_VERSION, u: [0; 16] }
    }
}

union_views!(Sysctl.u {
    /// `u.readconsole`.
    readconsole, set_readconsole: SysctlReadconsole,
    /// `u.tbuf_op`.
    tbuf_op, set_tbuf_op: SysctlTbufOp,
    /// `u.physinfo`.
    physinfo, set_physinfo: SysctlPhysinfo,
    /// `u.cputopoinfo`.
    cputopoinfo, set_cputopoinfo: SysctlCputopoinfo,
    /// `u.pcitopoinfo`.
    pcitopoinfo, set_pcitopoinfo: SysctlPcitopoinfo,
    /// `u.numainfo`.
    numainfo, set_numainfo: SysctlNumainfo,
    /// `u.sched_id`.
    sched_id, set_sched_id: SysctlSchedId,
    /// `u.getdomaininfolist`.
    getdomaininfolist, set_getdomaininfolist: SysctlGetdomaininfolist,
    /// `u.debug_keys`.
    debug_keys, set_debug_keys: SysctlDebugKeys,
    /// `u.getcpuinfo`.
    getcpuinfo, set_getcpuinfo: SysctlGetcpuinfo,
    /// `u.availheap`.
    availheap, set_availheap: SysctlAvailheap,
    /// `u.get_pmstat`.
    get_pmstat, set_get_pmstat: SysctlGetPmstat,
    /// `u.cpu_hotplug`.
    cpu_hotplug, set_cpu_hotplug: SysctlCpuHotplug,
    /// `u.pm_op`.
    pm_op, set_pm_op: SysctlPmOp,
    /// `u.page_offline`.
    page_offline, set_page_offline: SysctlPageOfflineOp,
    /// `u.cpupool_op`.
    cpupool_op, set_cpupool_op: SysctlCpupoolOp,
    /// `u.scheduler_op`.
    scheduler_op, set_scheduler_op: SysctlSchedulerOp,
    /// `u.cpu_levelling_caps`.
    cpu_levelling_caps, set_cpu_levelling_caps: SysctlCpuLevellingCaps,
    /// `u.cpu_featureset`.
    cpu_featureset, set_cpu_featureset: SysctlCpuFeatureset,
    /// `u.cpu_policy`.
    cpu_policy, set_cpu_policy: SysctlCpuPolicy,
});

union_views!(SysctlSchedulerOp.u {
    /// `u.sched_credit`.
    sched_credit, set_sched_credit: SysctlCreditSchedule,
    /// `u.sched_credit2`.
    sched_credit2, set_sched_credit2: SysctlCredit2Schedule,
});
