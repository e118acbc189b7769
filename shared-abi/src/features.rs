//! Restates `features.h`: what a hypervisor offers and a kernel asks for, as bit numbers.

abi_constants! {
    "A feature's bit number in `XENVER_GET_FEATURES` and in a kernel's notes.": u32 {
        XENFEAT_WRITABLE_PAGE_TABLES = 0,
        XENFEAT_WRITABLE_DESCRIPTOR_TABLES = 1,
        XENFEAT_AUTO_TRANSLATED_PHYSMAP = 2,
        XENFEAT_SUPERVISOR_MODE_KERNEL = 3,
        XENFEAT_PAE_PGDIR_ABOVE_4GB = 4,
        XENFEAT_MMU_PT_UPDATE_PRESERVE_AD = 5,
        XENFEAT_HIGHMEM_ASSIST = 6,
        XENFEAT_GNTTAB_MAP_AVAIL_BITS = 7,
        XENFEAT_HVM_CALLBACK_VECTOR = 8,
        XENFEAT_HVM_SAFE_PVCLOCK = 9,
        XENFEAT_HVM_PIRQS = 10,
        XENFEAT_DOM0 = 11,
        XENFEAT_MEMORY_OP_VNODE_SUPPORTED = 13,
        XENFEAT_ARM_SMCCC_SUPPORTED = 14,
        XENFEAT_LINUX_RSDP_UNRESTRICTED = 15,
        XENFEAT_NOT_DIRECT_MAPPED = 16,
        XENFEAT_DIRECT_MAPPED = 17,
        XENFEAT_NR_SUBMAPS = 1,
    }
}
