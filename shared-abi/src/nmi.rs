//! Restates `nmi.h`: non-maskable interrupts of the initial domain.

abi_constants! {
    "`nmi_op` command.": u32 {
        XENNMI_REGISTER_CALLBACK = 0,
        XENNMI_UNREGISTER_CALLBACK = 1,
    }
    "`ArchSharedInfo::nmi_reason`.": u64 {
        XEN_NMIREASON_IO_ERROR = 1 << 0,
        XEN_NMIREASON_PCI_SERR = 1 << 1,
        XEN_NMIREASON_UNKNOWN = 1 << 2,
    }
}

abi_structs! {
    /// Where NMIs are to be delivered.
    pub struct XennmiCallback("struct xennmi_callback", 16) {
        handler_address: u64,
        pad: u64,
    }
}
