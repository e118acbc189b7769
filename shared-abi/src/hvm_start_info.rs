//! Restates `arch-x86/hvm/start_info.h`: what a PVH entry finds, pointed to by `ebx`.

abi_constants! {
    "`HvmStartInfo::magic`.": u32 {
        XEN_HVM_START_MAGIC_VALUE = 0x336e_c578,
    }
    "`HvmMemmapTableEntry::type`.": u32 {
        XEN_HVM_MEMMAP_TYPE_RAM = 1,
        XEN_HVM_MEMMAP_TYPE_RESERVED = 2,
        XEN_HVM_MEMMAP_TYPE_ACPI = 3,
        XEN_HVM_MEMMAP_TYPE_NVS = 4,
        XEN_HVM_MEMMAP_TYPE_UNUSABLE = 5,
        XEN_HVM_MEMMAP_TYPE_DISABLED = 6,
        XEN_HVM_MEMMAP_TYPE_PMEM = 7,
    }
}

abi_structs! {
    /// All addresses are physical.
    pub struct HvmStartInfo("struct hvm_start_info", 56) {
        magic: u32,
        /// From 1 on there is a memory map.
        version: u32,
        flags: u32,
        nr_modules: u32,
        modlist_paddr: u64,
        cmdline_paddr: u64,
        rsdp_paddr: u64,
        memmap_paddr: u64,
        memmap_entries: u32,
        reserved: u32,
    }

    /// A module.
    pub struct HvmModlistEntry("struct hvm_modlist_entry", 32) {
        paddr: u64,
        size: u64,
        cmdline_paddr: u64,
        reserved: u64,
    }

    /// A range of the memory map.
    pub struct HvmMemmapTableEntry("struct hvm_memmap_table_entry", 24) {
        addr: u64,
        size: u64,
        r#type: u32,
        reserved: u32,
    }
}
