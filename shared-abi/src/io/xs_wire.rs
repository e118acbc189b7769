//! Restates `io/xs_wire.h`: the store's messages and the page they travel in.
//!
//! Index arithmetic: [`super::ring::bytes`] with `XENSTORE_RING_SIZE`.

abi_constants! {
    "`XsdSockmsg::type`.": u32 {
        XS_CONTROL = 0,
        /// The older name of `XS_CONTROL`.
        XS_DEBUG = XS_CONTROL,
        XS_DIRECTORY = 1,
        XS_READ = 2,
        XS_GET_PERMS = 3,
        XS_WATCH = 4,
        XS_UNWATCH = 5,
        XS_TRANSACTION_START = 6,
        XS_TRANSACTION_END = 7,
        XS_INTRODUCE = 8,
        XS_RELEASE = 9,
        XS_GET_DOMAIN_PATH = 10,
        XS_WRITE = 11,
        XS_MKDIR = 12,
        XS_RM = 13,
        XS_SET_PERMS = 14,
        XS_WATCH_EVENT = 15,
        XS_ERROR = 16,
        XS_IS_DOMAIN_INTRODUCED = 17,
        XS_RESUME = 18,
        XS_SET_TARGET = 19,
        XS_RESET_WATCHES = 21,
        XS_DIRECTORY_PART = 22,
        XS_TYPE_COUNT = 23,
        XS_INVALID = 0xffff,
    }
    "The parts of a watch event.": u32 {
        XS_WATCH_PATH = 0,
        XS_WATCH_TOKEN = 1,
    }
    "A limit of the protocol, in bytes.": usize {
        XENSTORE_RING_SIZE = 1024,
        XENSTORE_PAYLOAD_MAX = 4096,
        XENSTORE_ABS_PATH_MAX = 3072,
        XENSTORE_REL_PATH_MAX = 2048,
    }
    "`XenstoreDomainInterface::server_features`.": u32 {
        XENSTORE_SERVER_FEATURE_RECONNECTION = 1,
        XENSTORE_SERVER_FEATURE_ERROR = 2,
    }
    "`XenstoreDomainInterface::connection`.": u32 {
        XENSTORE_CONNECTED = 0,
        XENSTORE_RECONNECT = 1,
    }
    "`XenstoreDomainInterface::error`.": u32 {
        XENSTORE_ERROR_NONE = 0,
        XENSTORE_ERROR_COMM = 1,
        XENSTORE_ERROR_RINGIDX = 2,
        XENSTORE_ERROR_PROTO = 3,
    }
}

/// The errors an `XS_ERROR` message may name: its payload is one of these words. C: `xsd_errors`.
pub const XSD_ERRORS: &[crate::Errno] = {
    use crate::Errno::*;
    &[
        EINVAL, EACCES, EEXIST, EISDIR, ENOENT, ENOMEM, ENOSPC, EIO, ENOTEMPTY, ENOSYS, EROFS, EBUSY, EAGAIN,
        EISCONN, E2BIG, EPERM,
    ]
};

abi_structs! {
    /// What every message starts with; `len` bytes follow.
    pub struct XsdSockmsg("struct xsd_sockmsg", 16) {
        r#type: u32,
        /// Chosen by the client, repeated in the answer.
        req_id: u32,
        /// 0: none.
        tx_id: u32,
        len: u32,
    }

    /// The store's page. Requests flow to the store.
    pub struct XenstoreDomainInterface("struct xenstore_domain_interface", 2076) {
        req: [u8; XENSTORE_RING_SIZE],
        rsp: [u8; XENSTORE_RING_SIZE],
        req_cons: u32,
        req_prod: u32,
        rsp_cons: u32,
        rsp_prod: u32,
        server_features: u32,
        connection: u32,
        error: u32,
    }
}
