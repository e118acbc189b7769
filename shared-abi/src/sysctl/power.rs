//! `sysctl.h`: power states, frequencies and hot-plugging of CPUs.

use crate::GuestAddr;

abi_constants! {
    "`SysctlGetPmstat::type`.": u32 {
        PMSTAT_CATEGORY_MASK = 0xf0,
        PMSTAT_PX = 0x10,
        PMSTAT_CX = 0x20,
        PMSTAT_GET_MAX_PX = PMSTAT_PX | 1,
        PMSTAT_GET_PXSTAT = PMSTAT_PX | 2,
        PMSTAT_RESET_PXSTAT = PMSTAT_PX | 3,
        PMSTAT_GET_MAX_CX = PMSTAT_CX | 1,
        PMSTAT_GET_CXSTAT = PMSTAT_CX | 2,
        PMSTAT_RESET_CXSTAT = PMSTAT_CX | 3,
    }
    "`SysctlCpuHotplug::op`.": u32 {
        XEN_SYSCTL_CPU_HOTPLUG_ONLINE = 0,
        XEN_SYSCTL_CPU_HOTPLUG_OFFLINE = 1,
        XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE = 2,
        XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE = 3,
    }
    "`SysctlPmOp::cmd`.": u32 {
        PM_PARA_CATEGORY_MASK = 0xf0,
        CPUFREQ_PARA = 0x10,
        GET_CPUFREQ_PARA = CPUFREQ_PARA | 1,
        SET_CPUFREQ_GOV = CPUFREQ_PARA | 2,
        SET_CPUFREQ_PARA = CPUFREQ_PARA | 3,
        GET_CPUFREQ_AVGFREQ = CPUFREQ_PARA | 4,
        XEN_SYSCTL_PM_OP_SET_SCHED_OPT_SMT = 0x21,
        XEN_SYSCTL_PM_OP_GET_MAX_CSTATE = 0x22,
        XEN_SYSCTL_PM_OP_SET_MAX_CSTATE = 0x23,
        XEN_SYSCTL_PM_OP_SET_VCPU_MIGRATION_DELAY = 0x24,
        XEN_SYSCTL_PM_OP_GET_VCPU_MIGRATION_DELAY = 0x25,
        XEN_SYSCTL_PM_OP_ENABLE_TURBO = 0x26,
        XEN_SYSCTL_PM_OP_DISABLE_TURBO = 0x27,
    }
}

abi_structs! {
    /// Statistics of a CPU's power states.
    pub struct SysctlGetPmstat("struct xen_sysctl_get_pmstat", 64) {
        r#type: u32,
        cpuid: u32,
        /// Union: see `getpx`, `getcx`.
        u: [u64; 7],
    }

    /// `SysctlGetPmstat::u` for performance states.
    pub struct PmPxStat("struct pm_px_stat", 24) {
        total: u8,
        usable: u8,
        last: u8,
        cur: u8,
        _pad: u32,
        trans_pt: GuestAddr,
        pt: GuestAddr,
    }

    /// `SysctlGetPmstat::u` for idle states.
    pub struct PmCxStat("struct pm_cx_stat", 56) {
        nr: u32,
        last: u32,
        idle_time: u64,
        triggers: GuestAddr,
        residencies: GuestAddr,
        nr_pc: u32,
        nr_cc: u32,
        pc: GuestAddr,
        cc: GuestAddr,
    }

    /// Bring a CPU on- or offline.
    pub struct SysctlCpuHotplug("struct xen_sysctl_cpu_hotplug", 8) {
        cpu: u32,
        op: u32,
    }

    /// Power policy. Of the union's members only the integers are restated: they start the first word.
    pub struct SysctlPmOp("struct xen_sysctl_pm_op", 128) {
        cmd: u32,
        cpuid: u32,
        /// Union.
        u: [u64; 15],
    }
}

union_views!(SysctlGetPmstat.u {
    /// Performance states.
    getpx, set_getpx: PmPxStat,
    /// Idle states.
    getcx, set_getcx: PmCxStat,
});
