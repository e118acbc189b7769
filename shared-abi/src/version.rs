//! Restates `version.h`: what hypervisor this is.

abi_constants! {
    "`xen_version` command.": u32 {
        /// Returns major << 16 | minor.
        XENVER_VERSION = 0,
        XENVER_EXTRAVERSION = 1,
        XENVER_COMPILE_INFO = 2,
        XENVER_CAPABILITIES = 3,
        XENVER_CHANGESET = 4,
        XENVER_PLATFORM_PARAMETERS = 5,
        XENVER_GET_FEATURES = 6,
        XENVER_PAGESIZE = 7,
        XENVER_GUEST_HANDLE = 8,
        XENVER_COMMANDLINE = 9,
        XENVER_BUILD_ID = 10,
    }
    "Bytes of the string, its NUL included.": usize {
        XEN_EXTRAVERSION_LEN = 16,
        XEN_CAPABILITIES_INFO_LEN = 1024,
        XEN_CHANGESET_INFO_LEN = 64,
    }
}

/// Bytes of `xen_commandline_t`, its NUL included.
pub const XEN_COMMANDLINE_LEN: usize = 1024;

abi_structs! {
    /// Who built the hypervisor, with what, when.
    pub struct CompileInfo("struct xen_compile_info", 144) {
        compiler: [u8; 64],
        compile_by: [u8; 16],
        compile_domain: [u8; 32],
        compile_date: [u8; 32],
    }

    /// Where the hypervisor's range starts.
    pub struct PlatformParameters("struct xen_platform_parameters", 8) {
        virt_start: u64,
    }

    /// 32 of the `XENFEAT_*` bits.
    pub struct FeatureInfo("struct xen_feature_info", 8) {
        submap_idx: u32,
        /// Out.
        submap: u32,
    }

    /// The build id's length; its bytes follow.
    pub struct BuildId("struct xen_build_id", 4) {
        len: u32,
    }
}
