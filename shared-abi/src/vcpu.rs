//! Restates `vcpu.h`: bringing vcpus up, their runstates and their timers.

use crate::Gfn;

abi_constants! {
    "`vcpu_op` command.": u32 {
        VCPUOP_INITIALISE = 0,
        VCPUOP_UP = 1,
        VCPUOP_DOWN = 2,
        VCPUOP_IS_UP = 3,
        VCPUOP_GET_RUNSTATE_INFO = 4,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA = 5,
        VCPUOP_SET_PERIODIC_TIMER = 6,
        VCPUOP_STOP_PERIODIC_TIMER = 7,
        VCPUOP_SET_SINGLESHOT_TIMER = 8,
        VCPUOP_STOP_SINGLESHOT_TIMER = 9,
        VCPUOP_REGISTER_VCPU_INFO = 10,
        VCPUOP_SEND_NMI = 11,
        VCPUOP_GET_PHYSID = 12,
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA = 13,
    }
    "`VcpuRunstateInfo::state`, and the index into its `time`.": i32 {
        RUNSTATE_RUNNING = 0,
        RUNSTATE_RUNNABLE = 1,
        RUNSTATE_BLOCKED = 2,
        RUNSTATE_OFFLINE = 3,
    }
    "In `VcpuRunstateInfo::state_entry_time`: an update is going on.": u64 {
        XEN_RUNSTATE_UPDATE = 1 << 63,
    }
    "`VcpuSetSingleshotTimer::flags`.": u32 {
        /// Fail with `ETIME` if the time has passed.
        VCPU_SSHOTTMR_FUTURE = 1 << 0,
    }
}

abi_structs! {
    /// How long a vcpu has been in each state.
    pub struct VcpuRunstateInfo("struct vcpu_runstate_info", 48) {
        state: i32,
        _pad: u32,
        /// System time in nanoseconds.
        state_entry_time: u64,
        /// Nanoseconds in each `RUNSTATE_*`.
        time: [u64; 4],
    }

    /// Where the hypervisor is to keep a `VcpuRunstateInfo` up to date.
    pub struct VcpuRegisterRunstateMemoryArea("struct vcpu_register_runstate_memory_area", 8) {
        /// Union: a virtual address.
        addr: u64,
    }

    /// Start a periodic timer.
    pub struct VcpuSetPeriodicTimer("struct vcpu_set_periodic_timer", 8) {
        period_ns: u64,
    }

    /// Start a timer that fires once.
    pub struct VcpuSetSingleshotTimer("struct vcpu_set_singleshot_timer", 16) {
        timeout_abs_ns: u64,
        flags: u32,
        _pad: u32,
    }

    /// Move a vcpu's `VcpuInfo` out of the shared info page.
    pub struct VcpuRegisterVcpuInfo("struct vcpu_register_vcpu_info", 16) {
        mfn: Gfn,
        offset: u32,
        rsvd: u32,
    }

    /// A vcpu's physical identity: APIC id in the low half, ACPI id in the high.
    pub struct VcpuGetPhysid("struct vcpu_get_physid", 8) {
        phys_id: u64,
    }

    /// Where the hypervisor is to keep a second `VcpuTimeInfo` up to date.
    pub struct VcpuRegisterTimeMemoryArea("struct vcpu_register_time_memory_area", 8) {
        /// Union: a virtual address.
        addr: u64,
    }
}
