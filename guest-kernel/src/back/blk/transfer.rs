//! Moves a request's data between the guest's pages and a buffer.
//!
//! Two ways: a copy by grant reference, a batch in one hypercall; or, for a frontend that keeps
//! using the same grants, a copy through mappings kept from request to request. The number of
//! kept mappings is bounded; past it the first way is always there.

use crate::block::SECTOR_SIZE;
use crate::block::protocol::{MAX_SEGMENTS, SEGMENT_SIZE, Segment};
use crate::share::{CopyIn, CopyOut, PeerMemory, ShareError, SharedMem};
use alloc::collections::BTreeMap;
use arrayvec::ArrayVec;
use shared_abi::GrantRef;
use shared_abi::io::blkif::BlkifRequestSegment;
use zerocopy::FromBytes;

/// The segments of one request.
pub type Segments = ArrayVec<Segment, MAX_SEGMENTS>;

/// The guest's memory as one block device reaches it.
pub struct Transfer<G: PeerMemory> {
    memory: G,
    kept: BTreeMap<GrantRef, G::Mapping>,
    /// Most mappings to keep; 0 for a frontend without `feature-persistent`.
    keep: usize,
}

impl<G: PeerMemory> Transfer<G> {
    /// Access to `memory`, keeping up to `keep` pages mapped.
    pub fn new(memory: G, keep: usize) -> Self {
        Transfer { memory, kept: BTreeMap::new(), keep }
    }

    /// Number of mappings kept.
    pub fn mapped(&self) -> usize {
        self.kept.len()
    }

    /// Copies `count` segment descriptors out of an indirect page.
    pub fn read_list(&self, list: GrantRef, count: usize) -> Result<Segments, ShareError> {
        let mut bytes = [0; MAX_SEGMENTS * SEGMENT_SIZE];
        let to = bytes.get_mut(..count * SEGMENT_SIZE).ok_or(ShareError::BadGrant)?;
        let mut copy = [CopyIn { gref: list, offset: 0, to, result: Ok(()) }];
        self.memory.copy_in(&mut copy);
        let [CopyIn { to, result, .. }] = copy;
        result?;
        let wire = to.chunks_exact(SEGMENT_SIZE);
        Ok(wire
            .filter_map(|bytes| BlkifRequestSegment::read_from_bytes(bytes).ok())
            .map(|wire| Segment::from_wire(&wire))
            .collect())
    }

    /// Copies the segments, whose bounds have been checked, into `buffer` one behind the other.
    pub fn gather(&mut self, segments: &Segments, buffer: &mut [u8]) -> Result<(), ShareError> {
        if self.keep_all(segments) {
            let mut rest = buffer;
            for segment in segments {
                let (offset, len) = span(segment);
                let (to, tail) = rest.split_at_mut(len);
                self.kept[&segment.gref].read(offset, to);
                rest = tail;
            }
            return Ok(());
        }
        let mut rest = buffer;
        let mut batch = ArrayVec::<CopyIn<'_>, MAX_SEGMENTS>::new();
        for segment in segments {
            let (offset, len) = span(segment);
            let (to, tail) = rest.split_at_mut(len);
            batch.push(CopyIn { gref: segment.gref, offset: offset as u16, to, result: Ok(()) });
            rest = tail;
        }
        self.memory.copy_in(&mut batch);
        batch.iter().try_for_each(|copy| copy.result)
    }

    /// The reverse of [`gather`](Self::gather).
    pub fn scatter(&mut self, segments: &Segments, buffer: &[u8]) -> Result<(), ShareError> {
        let mut rest = buffer;
        if self.keep_all(segments) {
            for segment in segments {
                let (offset, len) = span(segment);
                let (from, tail) = rest.split_at(len);
                self.kept[&segment.gref].write(offset, from);
                rest = tail;
            }
            return Ok(());
        }
        let mut batch = ArrayVec::<CopyOut<'_>, MAX_SEGMENTS>::new();
        for segment in segments {
            let (offset, len) = span(segment);
            let (from, tail) = rest.split_at(len);
            batch.push(CopyOut { gref: segment.gref, offset: offset as u16, from, result: Ok(()) });
            rest = tail;
        }
        self.memory.copy_out(&mut batch);
        batch.iter().try_for_each(|copy| copy.result)
    }

    /// Maps those of the pages that are not mapped yet, and says whether all of them now are.
    fn keep_all(&mut self, segments: &Segments) -> bool {
        for segment in segments {
            if self.kept.contains_key(&segment.gref) {
                continue;
            }
            if self.kept.len() >= self.keep {
                return false;
            }
            match self.memory.map(segment.gref) {
                Ok(mapping) => self.kept.insert(segment.gref, mapping),
                Err(_) => return false,
            };
        }
        true
    }
}

/// First byte and length of a checked segment within its page.
fn span(segment: &Segment) -> (usize, usize) {
    let sectors = usize::from(segment.last - segment.first) + 1;
    (usize::from(segment.first) * SECTOR_SIZE, sectors * SECTOR_SIZE)
}
