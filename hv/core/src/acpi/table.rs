//! One table, copied and verified, and bounded reads of little-endian fields.

use alloc::vec;
use alloc::vec::Vec;

use super::Memory;

/// Bytes of the header that every table begins with.
pub const HEADER: usize = 36;
/// A longer table is not believed.
const MAX_LEN: u32 = 1 << 20;

/// A table in private memory, its checksum verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    bytes: Vec<u8>,
}

/// Whether the bytes sum to zero.
pub fn checksum_ok(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

impl Table {
    /// Copies the table at `address`. `None` where it can't be read, its length is absurd, its
    /// checksum is wrong, or its signature is not the one asked for.
    pub fn read(memory: &impl Memory, address: u64, signature: Option<&[u8; 4]>) -> Option<Table> {
        let mut header = [0; HEADER];
        if address == 0 || !memory.read(address, &mut header) {
            return None;
        }
        let header = Table { bytes: header.to_vec() };
        let len = header.u32(4)?;
        let named = signature.is_none_or(|signature| header.signature() == *signature);
        if !named || !(HEADER as u32..=MAX_LEN).contains(&len) {
            return None;
        }
        let mut bytes = vec![0; len as usize];
        address.checked_add(u64::from(len))?;
        if !memory.read(address, &mut bytes) {
            return None;
        }
        // Judge the copy: what was read first may have been something else.
        let table = Table { bytes };
        let same = table.bytes[..8] == header.bytes[..8];
        (same && checksum_ok(&table.bytes)).then_some(table)
    }

    /// The four letters that say what the table is.
    pub fn signature(&self) -> [u8; 4] {
        self.bytes(0).unwrap_or_default()
    }

    /// The table's revision.
    pub fn revision(&self) -> u8 {
        self.u8(8).unwrap_or_default()
    }

    /// The bytes behind the header.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// `N` bytes at `offset` from the table's start, if they are within it.
    pub fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..)?.first_chunk().copied()
    }

    /// A byte.
    pub fn u8(&self, offset: usize) -> Option<u8> {
        self.bytes.get(offset).copied()
    }

    /// Two bytes.
    pub fn u16(&self, offset: usize) -> Option<u16> {
        self.bytes(offset).map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&self, offset: usize) -> Option<u32> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&self, offset: usize) -> Option<u64> {
        self.bytes(offset).map(u64::from_le_bytes)
    }

    /// The entries of a table whose rest, from `offset` on, is a list of (type, length, data).
    /// Ends at the first entry that doesn't fit.
    pub fn entries(&self, offset: usize) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest = self.bytes.get(offset..).unwrap_or_default();
        core::iter::from_fn(move || {
            let (&[kind, len], _) = rest.split_first_chunk()?;
            let entry = rest.get(..usize::from(len)).filter(|entry| entry.len() >= 2)?;
            rest = &rest[entry.len()..];
            Some((kind, entry))
        })
    }
}

/// A little-endian field of an entry, if it is within it.
pub fn field<const N: usize>(entry: &[u8], offset: usize) -> Option<[u8; N]> {
    entry.get(offset..)?.first_chunk().copied()
}
