//! Restates `io/blkif.h`: the split block device's ring.

use crate::GrantRef;

abi_constants! {
    "`BlkifRequest::operation`.": u8 {
        BLKIF_OP_READ = 0,
        BLKIF_OP_WRITE = 1,
        BLKIF_OP_WRITE_BARRIER = 2,
        BLKIF_OP_FLUSH_DISKCACHE = 3,
        BLKIF_OP_RESERVED_1 = 4,
        BLKIF_OP_DISCARD = 5,
        BLKIF_OP_INDIRECT = 6,
    }
    "A limit of one request.": usize {
        BLKIF_MAX_SEGMENTS_PER_REQUEST = 11,
        BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST = 8,
    }
    "`BlkifRequestDiscard::flag`.": u8 {
        BLKIF_DISCARD_SECURE = 1 << 0,
    }
    "`BlkifResponse::status`.": i16 {
        BLKIF_RSP_EOPNOTSUPP = -2,
        BLKIF_RSP_ERROR = -1,
        BLKIF_RSP_OKAY = 0,
    }
    "The store's `info` node.": u32 {
        VDISK_CDROM = 1,
        VDISK_REMOVABLE = 2,
        VDISK_READONLY = 4,
    }
}

/// Bytes of a sector as `sector_number` and segments count them, whatever the disk's own are.
pub const SECTOR_SIZE: usize = 512;
/// Bytes of a ring entry: the longer of request and response.
pub const ENTRY_SIZE: usize = size_of::<BlkifRequest>();
/// Segments in one page of an indirect request.
pub const SEGMENTS_PER_INDIRECT_PAGE: usize = crate::PAGE_SIZE / size_of::<BlkifRequestSegment>();

/// Entries of a ring of `pages` pages.
pub const fn ring_size(pages: usize) -> u32 {
    super::ring::ring_size(pages * crate::PAGE_SIZE, ENTRY_SIZE)
}

abi_structs! {
    /// A part of a granted page, in sectors, both ends included.
    pub struct BlkifRequestSegment("struct blkif_request_segment", 8) {
        gref: GrantRef,
        first_sect: u8,
        last_sect: u8,
        _pad: u16,
    }

    /// A read, write, barrier or flush.
    pub struct BlkifRequest("struct blkif_request", 112) {
        operation: u8,
        nr_segments: u8,
        handle: u16,
        _pad: u32,
        id: u64,
        sector_number: u64,
        seg: [BlkifRequestSegment; BLKIF_MAX_SEGMENTS_PER_REQUEST],
    }

    /// The request's form for `BLKIF_OP_DISCARD`.
    pub struct BlkifRequestDiscard("struct blkif_request_discard", 32) {
        operation: u8,
        flag: u8,
        handle: u16,
        _pad: u32,
        id: u64,
        sector_number: u64,
        nr_sectors: u64,
    }

    /// The request's form for `BLKIF_OP_INDIRECT`: the segments are in pages of their own.
    pub struct BlkifRequestIndirect("struct blkif_request_indirect", 64) {
        operation: u8,
        /// `BLKIF_OP_READ` or `BLKIF_OP_WRITE`.
        indirect_op: u8,
        nr_segments: u16,
        _pad0: u32,
        id: u64,
        sector_number: u64,
        handle: u16,
        _pad1: u16,
        indirect_grefs: [GrantRef; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
        _pad2: u32,
    }

    /// What became of a request.
    pub struct BlkifResponse("struct blkif_response", 16) {
        id: u64,
        operation: u8,
        _pad0: u8,
        status: i16,
        _pad1: u32,
    }
}
