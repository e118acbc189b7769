//! `domctl.h`: a domain's vcpus: state, affinity, scheduling, CPUID and MSR policy.

use crate::xen::CtlBitmap;
use crate::{GuestAddr, VcpuId};

abi_constants! {
    "`DomctlVcpuaffinity::flags`.": u32 {
        XEN_VCPUAFFINITY_HARD = 1 << 0,
        XEN_VCPUAFFINITY_SOFT = 1 << 1,
        XEN_VCPUAFFINITY_FORCE = 1 << 2,
    }
    "A scheduler: `sched_id`.": u32 {
        XEN_SCHEDULER_CREDIT = 5,
        XEN_SCHEDULER_CREDIT2 = 6,
        XEN_SCHEDULER_ARINC653 = 7,
        XEN_SCHEDULER_RTDS = 8,
        XEN_SCHEDULER_NULL = 9,
    }
    "`DomctlSchedRtds::flags`.": u32 {
        XEN_DOMCTL_SCHEDRT_EXTRA = 1 << 0,
    }
    "`DomctlSchedulerOp::cmd`.": u32 {
        XEN_DOMCTL_SCHEDOP_PUTINFO = 0,
        XEN_DOMCTL_SCHEDOP_GETINFO = 1,
        XEN_DOMCTL_SCHEDOP_PUTVCPUINFO = 2,
        XEN_DOMCTL_SCHEDOP_GETVCPUINFO = 3,
    }
    "An unused input of a CPUID leaf.": u32 {
        XEN_CPUID_INPUT_UNUSED = 0xffff_ffff,
    }
    "`DomctlDebugOp::op`.": u32 {
        XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF = 0,
        XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_ON = 1,
    }
}

abi_structs! {
    /// How many vcpus the domain may have.
    pub struct DomctlMaxVcpus("struct xen_domctl_max_vcpus", 4) {
        max: u32,
    }

    /// Get or set a vcpu's `VcpuGuestContext`.
    pub struct DomctlVcpucontext("struct xen_domctl_vcpucontext", 16) {
        vcpu: VcpuId,
        _pad: u32,
        ctxt: GuestAddr,
    }

    /// What a vcpu does.
    pub struct DomctlGetvcpuinfo("struct xen_domctl_getvcpuinfo", 24) {
        vcpu: VcpuId,
        online: u8,
        blocked: u8,
        running: u8,
        _pad0: u8,
        /// Nanoseconds.
        cpu_time: u64,
        cpu: u32,
        _pad1: u32,
    }

    /// The CPUs a vcpu may (hard) and should (soft) run on.
    pub struct DomctlVcpuaffinity("struct xen_domctl_vcpuaffinity", 40) {
        vcpu: VcpuId,
        flags: u32,
        cpumap_hard: CtlBitmap,
        cpumap_soft: CtlBitmap,
    }

    /// The NUMA nodes a domain should get memory from.
    pub struct DomctlNodeaffinity("struct xen_domctl_nodeaffinity", 16) {
        nodemap: CtlBitmap,
    }

    /// A domain's share under the credit scheduler.
    pub struct DomctlSchedCredit("struct xen_domctl_sched_credit", 4) {
        weight: u16,
        /// Per cent of one CPU; 0: none.
        cap: u16,
    }

    /// A domain's share under the credit2 scheduler.
    pub struct DomctlSchedCredit2("struct xen_domctl_sched_credit2", 4) {
        weight: u16,
        /// Per cent of one CPU; 0: none.
        cap: u16,
    }

    /// A vcpu's budget under the real-time scheduler, in microseconds.
    pub struct DomctlSchedRtds("struct xen_domctl_sched_rtds", 12) {
        period: u32,
        budget: u32,
        flags: u32,
    }

    /// One vcpu's parameters.
    pub struct DomctlSchedparamVcpu("struct xen_domctl_schedparam_vcpu", 16) {
        /// Union: see `credit`, `credit2`, `rtds`.
        u: [u32; 3],
        vcpuid: VcpuId,
    }

    /// Get or set scheduling parameters.
    pub struct DomctlSchedulerOp("struct xen_domctl_scheduler_op", 24) {
        sched_id: u32,
        cmd: u32,
        /// Union: see `credit`, `credit2`, `rtds`, `v`.
        u: [u64; 2],
    }

    /// `DomctlSchedulerOp::u` for the commands on vcpus: an array of `DomctlSchedparamVcpu`.
    pub struct DomctlSchedulerOpV("__typeof__(((struct xen_domctl_scheduler_op *)0)->u.v)", 16) {
        vcpus: GuestAddr,
        nr_vcpus: u32,
        padding: u32,
    }

    /// The rest of a vcpu's state.
    pub struct DomctlExtVcpucontext("struct xen_domctl_ext_vcpucontext", 64) {
        vcpu: VcpuId,
        size: u32,
        syscall32_callback_eip: u64,
        sysenter_callback_eip: u64,
        syscall32_callback_cs: u16,
        sysenter_callback_cs: u16,
        syscall32_disables_events: u8,
        sysenter_disables_events: u8,
        _pad: u16,
        /// Union: machine-check state; the first word is `mcg_cap`.
        vmce: [u64; 4],
    }

    /// A domain's CPUID and MSR policy: arrays of `CpuidLeaf` and `MsrEntry`.
    pub struct DomctlCpuPolicy("struct xen_domctl_cpu_policy", 40) {
        nr_leaves: u32,
        nr_msrs: u32,
        leaves: GuestAddr,
        msrs: GuestAddr,
        /// Out: what was wrong.
        err_leaf: u32,
        err_subleaf: u32,
        err_msr: u32,
        _pad: u32,
    }

    /// Switch single-stepping.
    pub struct DomctlDebugOp("struct xen_domctl_debug_op", 8) {
        op: u32,
        vcpu: VcpuId,
    }

    /// A vcpu's extended register state.
    pub struct DomctlVcpuextstate("struct xen_domctl_vcpuextstate", 32) {
        vcpu: VcpuId,
        _pad: u32,
        xfeature_mask: u64,
        size: u64,
        buffer: GuestAddr,
    }

    /// One register of a vcpu.
    pub struct DomctlVcpuMsr("struct xen_domctl_vcpu_msr", 16) {
        index: u32,
        reserved: u32,
        value: u64,
    }

    /// A vcpu's registers: an array of `DomctlVcpuMsr`.
    pub struct DomctlVcpuMsrs("struct xen_domctl_vcpu_msrs", 16) {
        vcpu: VcpuId,
        msr_count: u32,
        msrs: GuestAddr,
    }
}

union_views!(DomctlSchedparamVcpu.u {
    /// `u.credit`.
    credit, set_credit: DomctlSchedCredit,
    /// `u.credit2`.
    credit2, set_credit2: DomctlSchedCredit2,
    /// `u.rtds`.
    rtds, set_rtds: DomctlSchedRtds,
});

union_views!(DomctlSchedulerOp.u {
    /// `u.credit`.
    credit, set_credit: DomctlSchedCredit,
    /// `u.credit2`.
    credit2, set_credit2: DomctlSchedCredit2,
    /// `u.rtds`.
    rtds, set_rtds: DomctlSchedRtds,
    /// `u.v`.
    v, set_v: DomctlSchedulerOpV,
});
