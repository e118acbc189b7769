//! `platform.h`: what the firmware left behind.

use crate::GuestAddr;

abi_constants! {
    "`XenpfFirmwareInfo::type`.": u32 {
        XEN_FW_DISK_INFO = 1,
        XEN_FW_DISK_MBR_SIGNATURE = 2,
        XEN_FW_VBEDDC_INFO = 3,
        XEN_FW_EFI_INFO = 4,
        XEN_FW_KBD_SHIFT_FLAGS = 5,
    }
    "`XenpfFirmwareInfo::index` of `XEN_FW_EFI_INFO`.": u32 {
        XEN_FW_EFI_VERSION = 0,
        XEN_FW_EFI_CONFIG_TABLE = 1,
        XEN_FW_EFI_VENDOR = 2,
        XEN_FW_EFI_MEM_INFO = 3,
        XEN_FW_EFI_RT_VERSION = 4,
        XEN_FW_EFI_PCI_ROM = 5,
        XEN_FW_EFI_APPLE_PROPERTIES = 6,
    }
    "`XenpfEfiRuntimeCall::function`.": u32 {
        XEN_EFI_GET_TIME = 1,
        XEN_EFI_SET_TIME = 2,
        XEN_EFI_GET_WAKEUP_TIME = 3,
        XEN_EFI_SET_WAKEUP_TIME = 4,
        XEN_EFI_GET_NEXT_HIGH_MONOTONIC_COUNT = 5,
        XEN_EFI_GET_VARIABLE = 6,
        XEN_EFI_SET_VARIABLE = 7,
        XEN_EFI_GET_NEXT_VARIABLE_NAME = 8,
        XEN_EFI_QUERY_VARIABLE_INFO = 9,
        XEN_EFI_QUERY_CAPSULE_CAPABILITIES = 10,
        XEN_EFI_UPDATE_CAPSULE = 11,
    }
}

abi_structs! {
    /// A date as EFI gives it.
    pub struct XenpfEfiTime("struct xenpf_efi_time", 16) {
        year: u16,
        month: u8,
        day: u8,
        hour: u8,
        min: u8,
        sec: u8,
        _pad0: u8,
        ns: u32,
        tz: i16,
        daylight: u8,
        _pad1: u8,
    }

    /// A GUID.
    pub struct XenpfEfiGuid("struct xenpf_efi_guid", 16) {
        data1: u32,
        data2: u16,
        data3: u16,
        data4: [u8; 8],
    }

    /// Call an EFI runtime service.
    pub struct XenpfEfiRuntimeCall("struct xenpf_efi_runtime_call", 56) {
        function: u32,
        misc: u32,
        /// Out.
        status: u64,
        /// Union: the function's argument.
        u: [u64; 5],
    }

    /// Ask what the firmware said.
    pub struct XenpfFirmwareInfo("struct xenpf_firmware_info", 40) {
        r#type: u32,
        index: u32,
        /// Out, union: see the accessors; `kbd_shift_flags` is the first byte.
        u: [u64; 4],
    }

    /// A BIOS disk.
    pub struct XenpfDiskInfo("__typeof__(((struct xenpf_firmware_info *)0)->u.disk_info)", 16) {
        device: u8,
        version: u8,
        interface_support: u16,
        legacy_max_cylinder: u16,
        legacy_max_head: u8,
        legacy_sectors_per_track: u8,
        edd_params: GuestAddr,
    }

    /// A BIOS disk's signature.
    pub struct XenpfDiskMbrSignature("__typeof__(((struct xenpf_firmware_info *)0)->u.disk_mbr_signature)", 8) {
        device: u8,
        _pad: [u8; 3],
        mbr_signature: u32,
    }

    /// The screen's own description.
    pub struct XenpfVbeddcInfo("__typeof__(((struct xenpf_firmware_info *)0)->u.vbeddc_info)", 16) {
        capabilities: u8,
        edid_transfer_time: u8,
        _pad: [u8; 6],
        edid: GuestAddr,
    }

    /// The EFI configuration table.
    pub struct XenpfEfiCfg("__typeof__(((union xenpf_efi_info *)0)->cfg)", 16) {
        addr: u64,
        nent: u32,
        _pad: u32,
    }

    /// EFI's vendor.
    pub struct XenpfEfiVendor("__typeof__(((union xenpf_efi_info *)0)->vendor)", 16) {
        revision: u32,
        bufsz: u32,
        name: GuestAddr,
    }

    /// A range of EFI's memory map.
    pub struct XenpfEfiMem("__typeof__(((union xenpf_efi_info *)0)->mem)", 32) {
        addr: u64,
        size: u64,
        attr: u64,
        r#type: u32,
        _pad: u32,
    }
}

union_views!(XenpfFirmwareInfo.u {
    /// `u.disk_info`.
    disk_info, set_disk_info: XenpfDiskInfo,
    /// `u.disk_mbr_signature`.
    disk_mbr_signature, set_disk_mbr_signature: XenpfDiskMbrSignature,
    /// `u.vbeddc_info`.
    vbeddc_info, set_vbeddc_info: XenpfVbeddcInfo,
    /// `u.efi_info.version`.
    efi_version, set_efi_version: u32,
    /// `u.efi_info.cfg`.
    efi_cfg, set_efi_cfg: XenpfEfiCfg,
    /// `u.efi_info.vendor`.
    efi_vendor, set_efi_vendor: XenpfEfiVendor,
    /// `u.efi_info.mem`.
    efi_mem, set_efi_mem: XenpfEfiMem,
});

union_views!(XenpfEfiRuntimeCall.u {
    /// `u.set_time` and `u.get_wakeup_time`, and the start of `u.get_time`.
    time, set_time: XenpfEfiTime,
});
