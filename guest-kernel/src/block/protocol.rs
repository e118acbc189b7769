//! `io/blkif.h` messages, between the ring's raw slots and values that are easy to get right.
//!
//! One slot has three layouts, told apart by its first byte. Both directions are here, so that a
//! test can ask that decoding what was encoded gives the same request.

use crate::ring::RingKind;
use crate::share::PAGE_SIZE;
use arrayvec::ArrayVec;
use shared_abi::GrantRef;
use shared_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT,
    BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BlkifRequest, BlkifRequestDiscard,
    BlkifRequestIndirect, BlkifRequestSegment, BlkifResponse,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// The block ring.
pub struct Blkif;

impl RingKind for Blkif {
    type Request = RawRequest;
    type Response = BlkifResponse;
}

/// A request slot's bytes, of whichever layout.
pub type RawRequest = [u8; size_of::<BlkifRequest>()];

/// Most segments a request without an indirect page can hold.
pub const DIRECT_SEGMENTS: usize = BLKIF_MAX_SEGMENTS_PER_REQUEST;
/// Most segments of an indirect request this implementation sends or takes: 128 KiB.
pub const MAX_SEGMENTS: usize = 32;
/// Sectors in a page, and so in a segment at most.
pub const SECTORS_PER_PAGE: u64 = (PAGE_SIZE / super::SECTOR_SIZE) as u64;
/// Bytes of one segment descriptor in an indirect page.
pub const SEGMENT_SIZE: usize = size_of::<BlkifRequestSegment>();

/// Part of one granted page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The page.
    pub gref: GrantRef,
    /// First sector in it.
    pub first: u8,
    /// Last sector in it, inclusive.
    pub last: u8,
}

impl Segment {
    /// Number of sectors, or `None` if the bounds are not those of a page.
    pub fn sectors(&self) -> Option<u64> {
        let inside = self.first <= self.last && u64::from(self.last) < SECTORS_PER_PAGE;
        inside.then(|| u64::from(self.last - self.first) + 1)
    }

    /// The descriptor as it stands in a request or an indirect page.
    pub fn to_wire(self) -> BlkifRequestSegment {
        let mut wire = BlkifRequestSegment::new_zeroed();
        wire.gref = self.gref;
        wire.first_sect = self.first;
        wire.last_sect = self.last;
        wire
    }

    /// The reverse of [`to_wire`](Self::to_wire); nothing is checked.
    pub fn from_wire(wire: &BlkifRequestSegment) -> Self {
        Segment { gref: wire.gref, first: wire.first_sect, last: wire.last_sect }
    }
}

/// What a transfer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk into the segments.
    Read,
    /// From the segments to the disk.
    Write,
    /// The same, after every earlier write and before every later one.
    Barrier,
}

impl Direction {
    fn op(self) -> u8 {
        match self {
            Direction::Read => BLKIF_OP_READ,
            Direction::Write => BLKIF_OP_WRITE,
            Direction::Barrier => BLKIF_OP_WRITE_BARRIER,
        }
    }
}

/// A request as taken from the ring. Its numbers are the peer's allegations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A transfer whose segments are in the request.
    Direct { direction: Direction, sector: u64, segments: ArrayVec<Segment, DIRECT_SEGMENTS> },
    /// A transfer whose `count` segments are listed in the page `list`. More than one page's worth
    /// is beyond [`MAX_SEGMENTS`] anyway.
    Indirect { direction: Direction, sector: u64, count: u16, list: GrantRef },
    /// Make completed writes durable.
    Flush,
    /// Forget `count` sectors.
    Discard { sector: u64, count: u64 },
    /// An operation, or a segment count, that does not exist.
    Unknown,
}

/// Reads a slot: the frontend's id, the operation to echo, and the request.
pub fn decode(raw: &RawRequest) -> (u64, u8, Request) {
    // The three layouts agree on `operation`, and all are plain data no larger than the slot.
    match raw[0] {
        BLKIF_OP_DISCARD => {
            let wire = read_prefix::<BlkifRequestDiscard>(raw);
            let request = Request::Discard { sector: wire.sector_number, count: wire.nr_sectors };
            (wire.id, wire.operation, request)
        }
        BLKIF_OP_INDIRECT => {
            let wire = read_prefix::<BlkifRequestIndirect>(raw);
            let direction = match wire.indirect_op {
                BLKIF_OP_READ => Some(Direction::Read),
                BLKIF_OP_WRITE => Some(Direction::Write),
                _ => None,
            };
            let request = match direction {
                Some(direction) => Request::Indirect {
                    direction,
                    sector: wire.sector_number,
                    count: wire.nr_segments,
                    list: wire.indirect_grefs[0],
                },
                None => Request::Unknown,
            };
            // Linux calls it a wrong answer to echo anything but what the request does.
            (wire.id, wire.indirect_op, request)
        }
        op => {
            let wire = read_prefix::<BlkifRequest>(raw);
            let count = usize::from(wire.nr_segments);
            let transfer = |direction| match wire.seg.get(..count) {
                Some(segments) => Request::Direct {
                    direction,
                    sector: wire.sector_number,
                    segments: segments.iter().map(Segment::from_wire).collect(),
                },
                None => Request::Unknown,
            };
            let request = match op {
                BLKIF_OP_READ => transfer(Direction::Read),
                BLKIF_OP_WRITE => transfer(Direction::Write),
                BLKIF_OP_WRITE_BARRIER => transfer(Direction::Barrier),
                BLKIF_OP_FLUSH_DISKCACHE if count == 0 => Request::Flush,
                _ => Request::Unknown,
            };
            (wire.id, op, request)
        }
    }
}

/// Fills a slot for `request`, which must not be [`Request::Unknown`].
pub fn encode(id: u64, request: &Request) -> RawRequest {
    match request {
        Request::Direct { direction, sector, segments } => {
            let mut wire = BlkifRequest::new_zeroed();
            wire.operation = direction.op();
            wire.nr_segments = segments.len() as u8;
            wire.id = id;
            wire.sector_number = *sector;
            for (to, segment) in wire.seg.iter_mut().zip(segments) {
                *to = segment.to_wire();
            }
            to_slot(&wire)
        }
        Request::Indirect { direction, sector, count, list } => {
            let mut wire = BlkifRequestIndirect::new_zeroed();
            wire.operation = BLKIF_OP_INDIRECT;
            wire.indirect_op = direction.op();
            wire.nr_segments = *count;
            wire.id = id;
            wire.sector_number = *sector;
            wire.indirect_grefs[0] = *list;
            to_slot(&wire)
        }
        Request::Discard { sector, count } => {
            let mut wire = BlkifRequestDiscard::new_zeroed();
            wire.operation = BLKIF_OP_DISCARD;
            wire.id = id;
            wire.sector_number = *sector;
            wire.nr_sectors = *count;
            to_slot(&wire)
        }
        Request::Flush | Request::Unknown => {
            let mut wire = BlkifRequest::new_zeroed();
            wire.operation = BLKIF_OP_FLUSH_DISKCACHE;
            wire.id = id;
            to_slot(&wire)
        }
    }
}

fn read_prefix<T: FromBytes + IntoBytes>(raw: &RawRequest) -> T {
    let mut value = T::new_zeroed();
    let bytes = value.as_mut_bytes();
    bytes.copy_from_slice(&raw[..bytes.len()]);
    value
}

fn to_slot<T: IntoBytes + zerocopy::Immutable>(value: &T) -> RawRequest {
    let mut raw = [0; size_of::<RawRequest>()];
    let bytes = value.as_bytes();
    raw[..bytes.len()].copy_from_slice(bytes);
    raw
}

const _: () = assert!(size_of::<BlkifRequestDiscard>() <= size_of::<RawRequest>());
const _: () = assert!(size_of::<BlkifRequestIndirect>() <= size_of::<RawRequest>());
