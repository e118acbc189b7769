//! Restates `platform.h`: what the initial domain tells the hypervisor of the machine, and asks of it.
//!
//! The interface is versioned as a whole: a call with another `interface_version` gets `EACCES`.

use crate::{GuestAddr, Mfn};

pub mod firmware;
pub mod power;
pub use firmware::*;
pub use power::*;

abi_constants! {
    "`PlatformOp::interface_version`.": u32 {
        XENPF_INTERFACE_VERSION = 0x0300_0001,
    }
    "`PlatformOp::cmd`.": u32 {
        XENPF_SETTIME32 = 17,
        XENPF_ADD_MEMTYPE = 31,
        XENPF_DEL_MEMTYPE = 32,
        XENPF_READ_MEMTYPE = 33,
        XENPF_MICROCODE_UPDATE = 35,
        XENPF_PLATFORM_QUIRK = 39,
        XENPF_GET_CPU_VERSION = 48,
        XENPF_EFI_RUNTIME_CALL = 49,
        XENPF_FIRMWARE_INFO = 50,
        XENPF_ENTER_ACPI_SLEEP = 51,
        XENPF_CHANGE_FREQ = 52,
        XENPF_GETIDLETIME = 53,
        XENPF_SET_PROCESSOR_PMINFO = 54,
        XENPF_GET_CPUINFO = 55,
        XENPF_CPU_ONLINE = 56,
        XENPF_CPU_OFFLINE = 57,
        XENPF_CPU_HOTADD = 58,
        XENPF_MEM_HOTADD = 59,
        XENPF_CORE_PARKING = 60,
        XENPF_RESOURCE_OP = 61,
        XENPF_SETTIME64 = 62,
        XENPF_GET_SYMBOL = 63,
    }
    "`XenpfPlatformQuirk::quirk_id`.": u32 {
        QUIRK_NOIRQBALANCING = 1,
        QUIRK_IOAPIC_BAD_REGSEL = 2,
        QUIRK_IOAPIC_GOOD_REGSEL = 3,
    }
    "`XenpfPcpuinfo::flags`.": u32 {
        XEN_PCPU_FLAGS_ONLINE = 1,
        XEN_PCPU_FLAGS_INVALID = 2,
    }
    "`XenpfCoreParking::type`.": u32 {
        XEN_CORE_PARKING_SET = 1,
        XEN_CORE_PARKING_GET = 2,
    }
    "`XenpfResourceEntry::u`.": u32 {
        XEN_RESOURCE_OP_MSR_READ = 0,
        XEN_RESOURCE_OP_MSR_WRITE = 1,
    }
}

abi_structs! {
    /// The argument of the `platform_op` hypercall.
    pub struct PlatformOp("struct xen_platform_op", 136) {
        cmd: u32,
        interface_version: u32,
        /// Union: the command's own argument, see the accessors named after it.
        u: [u64; 16],
    }

    /// Set the wall clock, the old form.
    pub struct XenpfSettime32("struct xenpf_settime32", 16) {
        secs: u32,
        nsecs: u32,
        system_time: u64,
    }

    /// Set the wall clock: UTC at `system_time` nanoseconds.
    pub struct XenpfSettime64("struct xenpf_settime64", 24) {
        secs: u64,
        nsecs: u32,
        mbz: u32,
        system_time: u64,
    }

    /// Set a range's memory type.
    pub struct XenpfAddMemtype("struct xenpf_add_memtype", 32) {
        mfn: Mfn,
        nr_mfns: u64,
        r#type: u32,
        /// Out.
        handle: u32,
        /// Out.
        reg: u32,
        _pad: u32,
    }

    /// Undo it.
    pub struct XenpfDelMemtype("struct xenpf_del_memtype", 8) {
        handle: u32,
        reg: u32,
    }

    /// Read a memory type range register.
    pub struct XenpfReadMemtype("struct xenpf_read_memtype", 32) {
        reg: u32,
        _pad0: u32,
        /// Out.
        mfn: Mfn,
        /// Out.
        nr_mfns: u64,
        /// Out.
        r#type: u32,
        _pad1: u32,
    }

    /// Update the processors' microcode.
    pub struct XenpfMicrocodeUpdate("struct xenpf_microcode_update", 16) {
        data: GuestAddr,
        length: u32,
        _pad: u32,
    }

    /// Tell of a quirk.
    pub struct XenpfPlatformQuirk("struct xenpf_platform_quirk", 4) {
        quirk_id: u32,
    }

    /// A physical CPU.
    pub struct XenpfPcpuinfo("struct xenpf_pcpuinfo", 20) {
        xen_cpuid: u32,
        /// Out.
        max_present: u32,
        /// Out.
        flags: u32,
        /// Out.
        apic_id: u32,
        /// Out.
        acpi_id: u32,
    }

    /// A physical CPU's model.
    pub struct XenpfPcpuVersion("struct xenpf_pcpu_version", 32) {
        xen_cpuid: u32,
        /// Out.
        max_present: u32,
        /// Out.
        vendor_id: [u8; 12],
        /// Out.
        family: u32,
        /// Out.
        model: u32,
        /// Out.
        stepping: u32,
    }

    /// The CPU to bring on- or offline.
    pub struct XenpfCpuOl("struct xenpf_cpu_ol", 4) {
        cpuid: u32,
    }

    /// A CPU came.
    pub struct XenpfCpuHotadd("struct xenpf_cpu_hotadd", 12) {
        apic_id: u32,
        acpi_id: u32,
        pxm: u32,
    }

    /// Memory came.
    pub struct XenpfMemHotadd("struct xenpf_mem_hotadd", 24) {
        spfn: u64,
        epfn: u64,
        pxm: u32,
        flags: u32,
    }

    /// One access of a `XenpfResourceOp`.
    pub struct XenpfResourceEntry("struct xenpf_resource_entry", 24) {
        /// Union: in `cmd`, out `ret`.
        u: u32,
        rsvd: u32,
        idx: u64,
        val: u64,
    }

    /// Accesses to one CPU's registers: an array of `XenpfResourceEntry`.
    pub struct XenpfResourceOp("struct xenpf_resource_op", 16) {
        nr_entries: u32,
        cpu: u32,
        entries: GuestAddr,
    }

    /// One of the hypervisor's symbols.
    pub struct XenpfSymdata("struct xenpf_symdata", 32) {
        namelen: u32,
        symnum: u32,
        name: GuestAddr,
        /// Out.
        address: u64,
        /// Out.
        r#type: u8,
        _pad: [u8; 7],
    }
}

impl PlatformOp {
    /// A command with this interface version and an argument of zeroes.
    pub const fn new(cmd: u32) -> PlatformOp {
        PlatformOp { cmd, interface_version: XENPF_INTERFACE_VERSION, u: [0; 16] }
    }
}

union_views!(PlatformOp.u {
    /// `u.settime32`.
    settime32, set_settime32: XenpfSettime32,
    /// `u.settime64`.
    settime64, set_settime64: XenpfSettime64,
    /// `u.add_memtype`.
    add_memtype, set_add_memtype: XenpfAddMemtype,
    /// `u.del_memtype`.
    del_memtype, set_del_memtype: XenpfDelMemtype,
    /// `u.read_memtype`.
    read_memtype, set_read_memtype: XenpfReadMemtype,
    /// `u.microcode`.
    microcode, set_microcode: XenpfMicrocodeUpdate,
    /// `u.platform_quirk`.
    platform_quirk, set_platform_quirk: XenpfPlatformQuirk,
    /// `u.efi_runtime_call`.
    efi_runtime_call, set_efi_runtime_call: XenpfEfiRuntimeCall,
    /// `u.firmware_info`.
    firmware_info, set_firmware_info: XenpfFirmwareInfo,
    /// `u.enter_acpi_sleep`.
    enter_acpi_sleep, set_enter_acpi_sleep: XenpfEnterAcpiSleep,
    /// `u.change_freq`.
    change_freq, set_change_freq: XenpfChangeFreq,
    /// `u.getidletime`.
    getidletime, set_getidletime: XenpfGetidletime,
    /// `u.set_pminfo`.
    set_pminfo, set_set_pminfo: XenpfSetProcessorPminfo,
    /// `u.pcpu_info`.
    pcpu_info, set_pcpu_info: XenpfPcpuinfo,
    /// `u.pcpu_version`.
    pcpu_version, set_pcpu_version: XenpfPcpuVersion,
    /// `u.cpu_ol`.
    cpu_ol, set_cpu_ol: XenpfCpuOl,
    /// `u.cpu_add`.
    cpu_add, set_cpu_add: XenpfCpuHotadd,
    /// `u.mem_add`.
    mem_add, set_mem_add: XenpfMemHotadd,
    /// `u.core_parking`.
    core_parking, set_core_parking: XenpfCoreParking,
    /// `u.resource_op`.
    resource_op, set_resource_op: XenpfResourceOp,
    /// `u.symdata`.
    symdata, set_symdata: XenpfSymdata,
});
