//! `platform.h`: sleep, idle and performance states, as ACPI's interpreter in the initial domain finds them.

use crate::GuestAddr;

abi_constants! {
    "`XenpfEnterAcpiSleep::flags`.": u32 {
        XENPF_ACPI_SLEEP_EXTENDED = 1,
    }
    "What of the processors' power the hypervisor manages.": u32 {
        XEN_PROCESSOR_PM_CX = 1,
        XEN_PROCESSOR_PM_PX = 2,
        XEN_PROCESSOR_PM_TX = 4,
    }
    "`XenpfSetProcessorPminfo::type`.": u32 {
        XEN_PM_CX = 0,
        XEN_PM_PX = 1,
        XEN_PM_TX = 2,
        XEN_PM_PDC = 3,
    }
    "`ProcessorPerformance::flags`: what is filled in.": u32 {
        XEN_PX_PCT = 1,
        XEN_PX_PSS = 2,
        XEN_PX_PPC = 4,
        XEN_PX_PSD = 8,
    }
    "`ProcessorPerformance::shared_type`.": u32 {
        XEN_CPUPERF_SHARED_TYPE_HW = 1,
        XEN_CPUPERF_SHARED_TYPE_ALL = 2,
        XEN_CPUPERF_SHARED_TYPE_ANY = 3,
    }
}

abi_structs! {
    /// Enter a sleep state by writing these to the control registers.
    pub struct XenpfEnterAcpiSleep("struct xenpf_enter_acpi_sleep", 12) {
        val_a: u16,
        val_b: u16,
        sleep_state: u32,
        flags: u32,
    }

    /// Tell of a new CPU frequency.
    pub struct XenpfChangeFreq("struct xenpf_change_freq", 16) {
        flags: u32,
        cpu: u32,
        freq: u64,
    }

    /// How long these CPUs were idle.
    pub struct XenpfGetidletime("struct xenpf_getidletime", 32) {
        cpumap_bitmap: GuestAddr,
        cpumap_nr_cpus: u32,
        _pad: u32,
        idletime: GuestAddr,
        /// Out: system time.
        now: u64,
    }

    /// How many CPUs are to be parked.
    pub struct XenpfCoreParking("struct xenpf_core_parking", 8) {
        r#type: u32,
        idle_nums: u32,
    }

    /// A register ACPI names.
    pub struct PowerRegister("struct xen_power_register", 24) {
        space_id: u32,
        bit_width: u32,
        bit_offset: u32,
        access_size: u32,
        address: u64,
    }

    /// Which processors enter an idle state together.
    pub struct ProcessorCsd("struct xen_processor_csd", 12) {
        domain: u32,
        coord_type: u32,
        num: u32,
    }

    /// An idle state.
    pub struct ProcessorCx("struct xen_processor_cx", 48) {
        reg: PowerRegister,
        r#type: u8,
        _pad: [u8; 3],
        latency: u32,
        power: u32,
        dpcnt: u32,
        dp: GuestAddr,
    }

    /// A processor's idle states: an array of `ProcessorCx`.
    pub struct ProcessorPower("struct xen_processor_power", 16) {
        count: u32,
        /// Bits, from the lowest: bm_control, bm_check, has_cst, power_setup_done, bm_rld_set.
        flags: u32,
        states: GuestAddr,
    }

    /// A performance control register.
    pub struct PctRegister("struct xen_pct_register", 16) {
        descriptor: u8,
        _pad: u8,
        length: u16,
        space_id: u8,
        bit_width: u8,
        bit_offset: u8,
        reserved: u8,
        address: u64,
    }

    /// A performance state.
    pub struct ProcessorPx("struct xen_processor_px", 48) {
        core_frequency: u64,
        power: u64,
        transition_latency: u64,
        bus_master_latency: u64,
        control: u64,
        status: u64,
    }

    /// Which processors change their frequency together.
    pub struct PsdPackage("struct xen_psd_package", 40) {
        num_entries: u64,
        revision: u64,
        domain: u64,
        coord_type: u64,
        num_processors: u64,
    }

    /// A processor's performance states: an array of `ProcessorPx`.
    pub struct ProcessorPerformance("struct xen_processor_performance", 104) {
        flags: u32,
        platform_limit: u32,
        control_register: PctRegister,
        status_register: PctRegister,
        state_count: u32,
        _pad0: u32,
        states: GuestAddr,
        domain_info: PsdPackage,
        shared_type: u32,
        _pad1: u32,
    }

    /// Tell of a processor's power states.
    pub struct XenpfSetProcessorPminfo("struct xenpf_set_processor_pminfo", 112) {
        id: u32,
        r#type: u32,
        /// Union: see `power`, `perf`, `pdc`.
        u: [u64; 13],
    }
}

union_views!(XenpfSetProcessorPminfo.u {
    /// `u.power`.
    power, set_power: ProcessorPower,
    /// `u.perf`.
    perf, set_perf: ProcessorPerformance,
    /// `u.pdc`.
    pdc, set_pdc: GuestAddr,
});
