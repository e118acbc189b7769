//! Restates `grant_table.h`: grant table entries of both versions and the operations on them.

use crate::{DomId, Gfn, GrantRef, GuestAddr};

abi_constants! {
    "Grant references set aside for the toolstack.": u32 {
        GNTTAB_NR_RESERVED_ENTRIES = 8,
        GNTTAB_RESERVED_CONSOLE = 0,
        GNTTAB_RESERVED_XENSTORE = 1,
    }
    "A grant entry's `flags`.": u16 {
        GTF_INVALID = 0,
        GTF_PERMIT_ACCESS = 1,
        GTF_ACCEPT_TRANSFER = 2,
        GTF_TRANSITIVE = 3,
        GTF_TYPE_MASK = 3,
        GTF_READONLY = 1 << 2,
        /// Set by the hypervisor: mapped for reading.
        GTF_READING = 1 << 3,
        /// Set by the hypervisor: mapped for writing.
        GTF_WRITING = 1 << 4,
        GTF_PWT = 1 << 5,
        GTF_PCD = 1 << 6,
        GTF_PAT = 1 << 7,
        GTF_SUB_PAGE = 1 << 8,
        GTF_TRANSFER_COMMITTED = 1 << 2,
        GTF_TRANSFER_COMPLETED = 1 << 3,
    }
    "`grant_table_op` command.": u32 {
        GNTTABOP_MAP_GRANT_REF = 0,
        GNTTABOP_UNMAP_GRANT_REF = 1,
        GNTTABOP_SETUP_TABLE = 2,
        GNTTABOP_DUMP_TABLE = 3,
        GNTTABOP_TRANSFER = 4,
        GNTTABOP_COPY = 5,
        GNTTABOP_QUERY_SIZE = 6,
        GNTTABOP_UNMAP_AND_REPLACE = 7,
        GNTTABOP_SET_VERSION = 8,
        GNTTABOP_GET_STATUS_FRAMES = 9,
        GNTTABOP_GET_VERSION = 10,
        GNTTABOP_SWAP_GRANT_REF = 11,
        GNTTABOP_CACHE_FLUSH = 12,
    }
    "`GnttabCopy::flags`: which side is named by reference.": u16 {
        GNTCOPY_SOURCE_GREF = 1 << 0,
        GNTCOPY_DEST_GREF = 1 << 1,
    }
    "`GnttabCacheFlush::op`.": u32 {
        GNTTAB_CACHE_CLEAN = 1 << 0,
        GNTTAB_CACHE_INVAL = 1 << 1,
        GNTTAB_CACHE_SOURCE_GREF = 1 << 31,
    }
    "`GnttabMapGrantRef::flags`.": u32 {
        /// Map for a device's direct memory access.
        GNTMAP_DEVICE_MAP = 1 << 0,
        /// Map for the processor.
        GNTMAP_HOST_MAP = 1 << 1,
        GNTMAP_READONLY = 1 << 2,
        /// Let ring 3 programs reach the mapping.
        GNTMAP_APPLICATION_MAP = 1 << 3,
        /// `host_addr` is the machine address of the entry to write.
        GNTMAP_CONTAINS_PTE = 1 << 4,
        /// Bits put into the entry's bits left to software.
        GNTMAP_GUEST_AVAIL_MASK = !0 << 16,
    }
    "A grant operation's own `status`.": i16 {
        GNTST_OKAY = 0,
        GNTST_GENERAL_ERROR = -1,
        GNTST_BAD_DOMAIN = -2,
        GNTST_BAD_GNTREF = -3,
        GNTST_BAD_HANDLE = -4,
        GNTST_BAD_VIRT_ADDR = -5,
        GNTST_BAD_DEV_ADDR = -6,
        GNTST_NO_DEVICE_SPACE = -7,
        GNTST_PERMISSION_DENIED = -8,
        GNTST_BAD_PAGE = -9,
        GNTST_BAD_COPY_ARG = -10,
        GNTST_ADDRESS_TOO_BIG = -11,
        GNTST_EAGAIN = -12,
        GNTST_NO_SPACE = -13,
    }
}

/// What a status means, in the words of `GNTTABOP_error_msgs`; `None` if it is none of this ABI.
pub const fn status_message(status: i16) -> Option<&'static str> {
    Some(match status {
        GNTST_OKAY => "okay",
        GNTST_GENERAL_ERROR => "undefined error",
        GNTST_BAD_DOMAIN => "unrecognised domain id",
        GNTST_BAD_GNTREF => "invalid grant reference",
        GNTST_BAD_HANDLE => "invalid mapping handle",
        GNTST_BAD_VIRT_ADDR => "invalid virtual address",
        GNTST_BAD_DEV_ADDR => "invalid device address",
        GNTST_NO_DEVICE_SPACE => "no spare translation slot in the I/O MMU",
        GNTST_PERMISSION_DENIED => "permission denied",
        GNTST_BAD_PAGE => "bad page",
        GNTST_BAD_COPY_ARG => "copy arguments cross page boundary",
        GNTST_ADDRESS_TOO_BIG => "page address size too large",
        GNTST_EAGAIN => "operation not done; try again",
        GNTST_NO_SPACE => "out of space",
        _ => return None,
    })
}

/// Version-1 entries in a page of the grant table.
pub const ENTRIES_PER_PAGE_V1: usize = crate::PAGE_SIZE / size_of::<GrantEntryV1>();
/// Version-2 entries in a page of the grant table.
pub const ENTRIES_PER_PAGE_V2: usize = crate::PAGE_SIZE / size_of::<GrantEntryV2>();
/// Version-2 status words in a page of the status table.
pub const STATUSES_PER_PAGE: usize = crate::PAGE_SIZE / size_of::<GrantStatus>();

/// Names a mapping made by `GNTTABOP_MAP_GRANT_REF`: `grant_handle_t`.
pub type GrantHandle = u32;
/// A version-2 grant's `GTF_READING` and `GTF_WRITING`, in the status table: `grant_status_t`.
pub type GrantStatus = u16;

abi_structs! {
    /// A version-1 grant table entry.
    pub struct GrantEntryV1("struct grant_entry_v1", 8) {
        flags: u16,
        domid: DomId,
        frame: u32,
    }

    /// What every version-2 entry starts with.
    pub struct GrantEntryHeader("struct grant_entry_header", 4) {
        flags: u16,
        domid: DomId,
    }

    /// A version-2 grant table entry: a union, see its views.
    pub struct GrantEntryV2("union grant_entry_v2", 16) {
        _union: [u64; 2],
    }

    /// A version-2 entry that grants a page.
    pub struct GrantEntryV2FullPage("__typeof__(((union grant_entry_v2 *)0)->full_page)", 16) {
        hdr: GrantEntryHeader,
        pad0: u32,
        frame: u64,
    }

    /// A version-2 entry that grants a part of a page, for copying.
    pub struct GrantEntryV2SubPage("__typeof__(((union grant_entry_v2 *)0)->sub_page)", 16) {
        hdr: GrantEntryHeader,
        page_off: u16,
        length: u16,
        frame: u64,
    }

    /// A version-2 entry that passes another domain's grant on, for copying.
    pub struct GrantEntryV2Transitive("__typeof__(((union grant_entry_v2 *)0)->transitive)", 12) {
        hdr: GrantEntryHeader,
        trans_domid: DomId,
        pad0: u16,
        gref: GrantRef,
    }

    /// Map a grant.
    pub struct GnttabMapGrantRef("struct gnttab_map_grant_ref", 32) {
        host_addr: u64,
        flags: u32,
        r#ref: GrantRef,
        dom: DomId,
        /// Out: `GNTST_*`.
        status: i16,
        /// Out.
        handle: GrantHandle,
        /// Out.
        dev_bus_addr: u64,
    }

    /// Undo a mapping.
    pub struct GnttabUnmapGrantRef("struct gnttab_unmap_grant_ref", 24) {
        host_addr: u64,
        dev_bus_addr: u64,
        handle: GrantHandle,
        /// Out: `GNTST_*`.
        status: i16,
        _pad: u16,
    }

    /// Size the grant table and learn its frames.
    pub struct GnttabSetupTable("struct gnttab_setup_table", 24) {
        dom: DomId,
        _pad0: u16,
        nr_frames: u32,
        /// Out: `GNTST_*`.
        status: i16,
        _pad1: [u16; 3],
        frame_list: GuestAddr,
    }

    /// Log a domain's grant table.
    pub struct GnttabDumpTable("struct gnttab_dump_table", 4) {
        dom: DomId,
        /// Out: `GNTST_*`.
        status: i16,
    }

    /// Give a frame away.
    pub struct GnttabTransfer("struct gnttab_transfer", 24) {
        mfn: Gfn,
        domid: DomId,
        _pad0: u16,
        r#ref: GrantRef,
        /// Out: `GNTST_*`.
        status: i16,
        _pad1: [u16; 3],
    }

    /// One side of a copy.
    pub struct GnttabCopyPtr("struct gnttab_copy_ptr", 16) {
        /// Union: `gref` or `gmfn`.
        u: u64,
        domid: DomId,
        offset: u16,
        _pad: u32,
    }

    /// Copy between two frames, each the caller's own or granted.
    pub struct GnttabCopy("struct gnttab_copy", 40) {
        source: GnttabCopyPtr,
        dest: GnttabCopyPtr,
        len: u16,
        flags: u16,
        /// Out: `GNTST_*`.
        status: i16,
        _pad: u16,
    }

    /// How large a grant table is and may become, in frames.
    pub struct GnttabQuerySize("struct gnttab_query_size", 16) {
        dom: DomId,
        _pad0: u16,
        /// Out.
        nr_frames: u32,
        /// Out.
        max_nr_frames: u32,
        /// Out: `GNTST_*`.
        status: i16,
        _pad1: u16,
    }

    /// Undo a mapping and put another page's mapping there.
    pub struct GnttabUnmapAndReplace("struct gnttab_unmap_and_replace", 24) {
        host_addr: u64,
        new_addr: u64,
        handle: GrantHandle,
        /// Out: `GNTST_*`.
        status: i16,
        _pad: u16,
    }

    /// Choose the entries' version.
    pub struct GnttabSetVersion("struct gnttab_set_version", 4) {
        version: u32,
    }

    /// Learn the status table's frames.
    pub struct GnttabGetStatusFrames("struct gnttab_get_status_frames", 16) {
        nr_frames: u32,
        dom: DomId,
        /// Out: `GNTST_*`.
        status: i16,
        frame_list: GuestAddr,
    }

    /// Ask for the entries' version.
    pub struct GnttabGetVersion("struct gnttab_get_version", 8) {
        dom: DomId,
        pad: u16,
        /// Out.
        version: u32,
    }

    /// Exchange two entries.
    pub struct GnttabSwapGrantRef("struct gnttab_swap_grant_ref", 12) {
        ref_a: GrantRef,
        ref_b: GrantRef,
        /// Out: `GNTST_*`.
        status: i16,
        _pad: u16,
    }

    /// Clean or invalidate caches for a granted frame.
    pub struct GnttabCacheFlush("struct gnttab_cache_flush", 16) {
        /// Union: `dev_bus_addr` or `ref`.
        a: u64,
        offset: u16,
        length: u16,
        op: u32,
    }
}

union_views!(GrantEntryV2._union {
    /// The header every entry has.
    hdr, set_hdr: GrantEntryHeader,
    /// A page granted.
    full_page, set_full_page: GrantEntryV2FullPage,
    /// A part of a page granted.
    sub_page, set_sub_page: GrantEntryV2SubPage,
    /// Another's grant passed on.
    transitive, set_transitive: GrantEntryV2Transitive,
});

impl GnttabCopyPtr {
    /// A side named by grant reference.
    pub const fn by_ref(domid: DomId, gref: GrantRef, offset: u16) -> Self {
        Self { u: gref.0 as u64, domid, offset, _pad: 0 }
    }

    /// A side named by frame.
    pub const fn by_frame(domid: DomId, gmfn: Gfn, offset: u16) -> Self {
        Self { u: gmfn.0, domid, offset, _pad: 0 }
    }

    /// `u.ref`.
    pub const fn gref(&self) -> GrantRef {
        GrantRef(self.u as u32)
    }

    /// `u.gmfn`.
    pub const fn gmfn(&self) -> Gfn {
        Gfn(self.u)
    }
}
