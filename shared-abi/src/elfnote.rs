//! Restates `elfnote.h`: what a kernel's image tells its builder. The notes' name is "Xen".

abi_constants! {
    "A note's type.": u32 {
        XEN_ELFNOTE_INFO = 0,
        XEN_ELFNOTE_ENTRY = 1,
        XEN_ELFNOTE_HYPERCALL_PAGE = 2,
        XEN_ELFNOTE_VIRT_BASE = 3,
        XEN_ELFNOTE_PADDR_OFFSET = 4,
        XEN_ELFNOTE_XEN_VERSION = 5,
        XEN_ELFNOTE_GUEST_OS = 6,
        XEN_ELFNOTE_GUEST_VERSION = 7,
        XEN_ELFNOTE_LOADER = 8,
        XEN_ELFNOTE_PAE_MODE = 9,
        XEN_ELFNOTE_FEATURES = 10,
        XEN_ELFNOTE_BSD_SYMTAB = 11,
        XEN_ELFNOTE_HV_START_LOW = 12,
        XEN_ELFNOTE_L1_MFN_VALID = 13,
        XEN_ELFNOTE_SUSPEND_CANCEL = 14,
        XEN_ELFNOTE_INIT_P2M = 15,
        XEN_ELFNOTE_MOD_START_PFN = 16,
        XEN_ELFNOTE_SUPPORTED_FEATURES = 17,
        XEN_ELFNOTE_PHYS32_ENTRY = 18,
        XEN_ELFNOTE_MAX = 18,
        XEN_ELFNOTE_CRASH_INFO = 0x0100_0001,
        XEN_ELFNOTE_CRASH_REGS = 0x0100_0002,
        XEN_ELFNOTE_DUMPCORE_NONE = 0x0200_0000,
        XEN_ELFNOTE_DUMPCORE_HEADER = 0x0200_0001,
        XEN_ELFNOTE_DUMPCORE_XEN_VERSION = 0x0200_0002,
        XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION = 0x0200_0003,
    }
}

/// The notes' name, with the NUL the ELF format asks for.
pub const NAME: &[u8; 4] = b"Xen\0";
