//! Restates `hypfs.h`: the hypervisor's file system of parameters.

abi_constants! {
    "The interface's version.": u32 {
        XEN_HYPFS_VERSION = 1,
    }
    "Bytes of a path, its NUL included.": u64 {
        XEN_HYPFS_MAX_PATHLEN = 1024,
    }
    "`hypfs_op` command.": u32 {
        XEN_HYPFS_OP_GET_VERSION = 0,
        XEN_HYPFS_OP_READ = 1,
        XEN_HYPFS_OP_WRITE_CONTENTS = 2,
    }
    "`HypfsDirentry::type`.": u8 {
        XEN_HYPFS_TYPE_DIR = 0,
        XEN_HYPFS_TYPE_BLOB = 1,
        XEN_HYPFS_TYPE_STRING = 2,
        XEN_HYPFS_TYPE_UINT = 3,
        XEN_HYPFS_TYPE_INT = 4,
        XEN_HYPFS_TYPE_BOOL = 5,
    }
    "`HypfsDirentry::encoding`.": u8 {
        XEN_HYPFS_ENC_PLAIN = 0,
        XEN_HYPFS_ENC_GZIP = 1,
    }
}

abi_structs! {
    /// What an entry is; its contents follow.
    pub struct HypfsDirentry("struct xen_hypfs_direntry", 12) {
        r#type: u8,
        encoding: u8,
        pad: u16,
        content_len: u32,
        max_write_len: u32,
    }
}
