//! `domctl.h`: a domain as a whole.

use crate::arch_x86::ArchDomainconfig;
use crate::xen::DomainHandle;
use crate::{DomId, Gfn, Port};

abi_constants! {
    "`DomctlCreatedomain::flags`.": u32 {
        XEN_DOMCTL_CDF_HVM = 1 << 0,
        XEN_DOMCTL_CDF_HAP = 1 << 1,
        XEN_DOMCTL_CDF_S3_INTEGRITY = 1 << 2,
        XEN_DOMCTL_CDF_OOS_OFF = 1 << 3,
        /// The domain runs the store.
        XEN_DOMCTL_CDF_XS_DOMAIN = 1 << 4,
        XEN_DOMCTL_CDF_IOMMU = 1 << 5,
        XEN_DOMCTL_CDF_NESTED_VIRT = 1 << 6,
        XEN_DOMCTL_CDF_VPMU = 1 << 7,
        XEN_DOMCTL_CDF_MAX = XEN_DOMCTL_CDF_VPMU,
    }
    "`DomctlCreatedomain::iommu_opts`.": u32 {
        XEN_DOMCTL_IOMMU_NO_SHAREPT = 1 << 0,
        XEN_DOMCTL_IOMMU_MAX = XEN_DOMCTL_IOMMU_NO_SHAREPT,
    }
    "`DomctlCreatedomain::grant_opts`: the highest grant table version.": u32 {
        XEN_DOMCTL_GRANT_VERSION_MASK = 0xf,
    }
    "`DomctlGetdomaininfo::flags`.": u32 {
        XEN_DOMINF_DYING = 1 << 0,
        XEN_DOMINF_HVM_GUEST = 1 << 1,
        XEN_DOMINF_SHUTDOWN = 1 << 2,
        XEN_DOMINF_PAUSED = 1 << 3,
        XEN_DOMINF_BLOCKED = 1 << 4,
        XEN_DOMINF_RUNNING = 1 << 5,
        XEN_DOMINF_DEBUGGED = 1 << 6,
        XEN_DOMINF_XS_DOMAIN = 1 << 7,
        XEN_DOMINF_HAP = 1 << 8,
        /// Of the shutdown reason, once shifted down.
        XEN_DOMINF_SHUTDOWNMASK = 255,
        XEN_DOMINF_SHUTDOWNSHIFT = 16,
    }
    "`DomctlGetdomaininfo::max_vcpu_id` of a domain without vcpus.": u32 {
        XEN_INVALID_MAX_VCPU_ID = !0,
    }
    "`DomctlSendtrigger::trigger`.": u32 {
        XEN_DOMCTL_SENDTRIGGER_NMI = 0,
        XEN_DOMCTL_SENDTRIGGER_RESET = 1,
        XEN_DOMCTL_SENDTRIGGER_INIT = 2,
        XEN_DOMCTL_SENDTRIGGER_POWER = 3,
        XEN_DOMCTL_SENDTRIGGER_SLEEP = 4,
    }
}

abi_structs! {
    /// Make a domain. The number is in `Domctl::domain`: given, or 0 to have one chosen.
    pub struct DomctlCreatedomain("struct xen_domctl_createdomain", 64) {
        ssidref: u32,
        handle: DomainHandle,
        flags: u32,
        iommu_opts: u32,
        max_vcpus: u32,
        max_evtchn_port: u32,
        /// Negative: the hypervisor's default.
        max_grant_frames: i32,
        /// Negative: the hypervisor's default.
        max_maptrack_frames: i32,
        grant_opts: u32,
        vmtrace_size: u32,
        cpupool_id: u32,
        arch: ArchDomainconfig,
    }

    /// What a domain is and does.
    pub struct DomctlGetdomaininfo("struct xen_domctl_getdomaininfo", 112) {
        domain: DomId,
        pad1: u16,
        flags: u32,
        tot_pages: u64,
        max_pages: u64,
        outstanding_pages: u64,
        shr_pages: u64,
        paged_pages: u64,
        shared_info_frame: Gfn,
        /// Nanoseconds.
        cpu_time: u64,
        nr_online_vcpus: u32,
        max_vcpu_id: u32,
        ssidref: u32,
        handle: DomainHandle,
        cpupool: u32,
        gpaddr_bits: u8,
        pad2: [u8; 7],
        arch_config: ArchDomainconfig,
    }

    /// Give a domain another UUID.
    pub struct DomctlSetdomainhandle("struct xen_domctl_setdomainhandle", 16) {
        handle: DomainHandle,
    }

    /// Whether a debugger is attached.
    pub struct DomctlSetdebugging("struct xen_domctl_setdebugging", 1) {
        enable: u8,
    }

    /// Fill a page with hypercall stubs.
    pub struct DomctlHypercallInit("struct xen_domctl_hypercall_init", 8) {
        gmfn: Gfn,
    }

    /// The domain's wall clock against UTC.
    pub struct DomctlSettimeoffset("struct xen_domctl_settimeoffset", 8) {
        time_offset_seconds: i64,
    }

    /// How the domain sees the TSC.
    pub struct DomctlTscInfo("struct xen_domctl_tsc_info", 24) {
        tsc_mode: u32,
        gtsc_khz: u32,
        incarnation: u32,
        pad: u32,
        elapsed_nsec: u64,
    }

    /// A guest's word size in bits.
    pub struct DomctlAddressSize("struct xen_domctl_address_size", 4) {
        size: u32,
    }

    /// Press a button.
    pub struct DomctlSendtrigger("struct xen_domctl_sendtrigger", 8) {
        trigger: u32,
        vcpu: u32,
    }

    /// The domain this one serves as device model.
    pub struct DomctlSetTarget("struct xen_domctl_set_target", 2) {
        target: DomId,
    }

    /// The port of the domain that hears of its suspension.
    pub struct DomctlSubscribe("struct xen_domctl_subscribe", 4) {
        port: Port,
    }

    /// The domain that handles a global virtual interrupt.
    pub struct DomctlSetVirqHandler("struct xen_domctl_set_virq_handler", 4) {
        virq: u32,
    }
}

impl DomctlGetdomaininfo {
    /// Why the domain stopped (`sched::SHUTDOWN_*`), if it has.
    pub const fn shutdown_reason(&self) -> Option<u32> {
        if self.flags & XEN_DOMINF_SHUTDOWN == 0 {
            return None;
        }
        Some(self.flags >> XEN_DOMINF_SHUTDOWNSHIFT & XEN_DOMINF_SHUTDOWNMASK)
    }
}
