//! The unit of the log: some changes that take effect together, or not at all.
//!
//! A frame begins at a sector of its own and is valid if its checksums are right, its number is the
//! next one and it names the frame before it. Checksums begin with the area's salt, which no client
//! knows: a value that looks like a frame, left over behind the log's end, is never taken for one.
//!
//! Little-endian: magic (8 bytes), number (u64), previous frame's checksum (u32), payload length (u32),
//! payload's checksum (u32), header's checksum (u32); then the payload, up to the end of a sector.

use alloc::vec::Vec;
use guest_kernel::block::SECTOR_SIZE;

/// Bytes of a header.
pub const HEADER: usize = 32;
const MAGIC: &[u8; 8] = b"OXENKVF1";

/// Where a frame stands: what it must agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    salt: u64,
    number: u64,
    previous: u32,
}

/// What stands at the place where the next frame would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A header; its payload is yet to be checked.
    Header(Header),
    /// Nothing: the end of the log.
    Nothing,
    /// The beginning of a frame that was not written to its end.
    Torn,
}

/// A valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload.
    pub length: usize,
    payload: u32,
    checksum: u32,
}

impl Header {
    /// Sectors of the whole frame.
    pub fn sectors(&self) -> u64 {
        (HEADER + self.length).div_ceil(SECTOR_SIZE) as u64
    }
}

impl Place {
    /// The place of an area's first frame.
    pub fn first(salt: u64) -> Self {
        Place { salt, number: 0, previous: 0 }
    }

    fn checksum(&self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.salt.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }

    fn after(&self, checksum: u32) -> Self {
        Place { salt: self.salt, number: self.number + 1, previous: checksum }
    }

    /// Makes a frame of `bytes`, [`HEADER`] bytes of room and the payload, and fills its last sector.
    /// The place of the next.
    pub fn seal(&self, bytes: &mut Vec<u8>) -> Self {
        let length = bytes.len() - HEADER;
        let payload = self.checksum(&bytes[HEADER..]);
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.previous.to_le_bytes());
        bytes[20..24].copy_from_slice(&(length as u32).to_le_bytes());
        bytes[24..28].copy_from_slice(&payload.to_le_bytes());
        let checksum = self.checksum(&bytes[..28]);
        bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(SECTOR_SIZE), 0);
        self.after(checksum)
    }

    /// Reads the header at the start of `bytes`, which are at least a sector.
    pub fn header(&self, bytes: &[u8]) -> Found {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let number = u64::from(word(8)) | u64::from(word(12)) << 32;
        if &bytes[..8] != MAGIC || number != self.number || word(16) != self.previous {
            return Found::Nothing;
        }
        if self.checksum(&bytes[..28]) != word(28) {
            return Found::Torn;
        }
        Found::Header(Header { length: word(20) as usize, payload: word(24), checksum: word(28) })
    }

    /// Checks a payload: the place of the next frame, if this one is whole.
    pub fn accept(&self, header: &Header, payload: &[u8]) -> Option<Self> {
        (self.checksum(payload) == header.payload).then(|| self.after(header.checksum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_change_of_a_frame_is_noticed(payload in prop::collection::vec(any::<u8>(), 1..2000), at: usize, bit in 0u32..8, salt: u64) {
            let place = Place::first(salt);
            let mut bytes = [0; HEADER].to_vec();
            bytes.extend(&payload);
            let next = place.seal(&mut bytes);
            prop_assert_eq!(bytes.len() % SECTOR_SIZE, 0);
            let Found::Header(header) = place.header(&bytes) else { panic!("not found") };
            prop_assert_eq!(place.accept(&header, &bytes[HEADER..HEADER + header.length]), Some(next));
            prop_assert_eq!(next.header(&bytes), Found::Nothing);
            // Neither a changed bit nor another salt gives a frame.
            bytes[at % (HEADER + payload.len())] ^= 1u8 << bit;
            if let Found::Header(header) = place.header(&bytes) {
                prop_assert_eq!(place.accept(&header, &bytes[HEADER..HEADER + header.length]), None);
            }
            bytes[at % (HEADER + payload.len())] ^= 1u8 << bit;
            prop_assert!(!matches!(Place::first(!salt).header(&bytes), Found::Header(_)));
        }
    }
}
