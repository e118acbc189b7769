//! Restates `callback.h`: registering the entry points of a PV kernel.

abi_constants! {
    "`callback_op` command.": u32 {
        CALLBACKOP_REGISTER = 0,
        CALLBACKOP_UNREGISTER = 1,
    }
    "Which entry point.": u16 {
        CALLBACKTYPE_EVENT = 0,
        CALLBACKTYPE_FAILSAFE = 1,
        CALLBACKTYPE_SYSCALL = 2,
        CALLBACKTYPE_SYSENTER_DEPRECATED = 3,
        CALLBACKTYPE_NMI = 4,
        CALLBACKTYPE_SYSENTER = 5,
        CALLBACKTYPE_SYSCALL32 = 7,
    }
    "`CallbackRegister::flags`.": u16 {
        /// Events are masked on entry.
        CALLBACKF_MASK_EVENTS = 1 << 0,
    }
}

abi_structs! {
    /// Set an entry point.
    pub struct CallbackRegister("struct callback_register", 16) {
        r#type: u16,
        flags: u16,
        _pad: u32,
        /// A virtual address: `xen_callback_t`.
        address: u64,
    }

    /// Clear an entry point.
    pub struct CallbackUnregister("struct callback_unregister", 4) {
        r#type: u16,
        _unused: u16,
    }
}
