//! The GUID partition table (UEFI specification, chapter 5).
//!
//! A table is read like a message from a stranger: whoever could write to the whole disk wrote it.
//! Both checksums must be right, every bound must lie inside the disk and no two partitions may
//! overlap, for each will be somebody's disk. The hardest decision was to refuse a table with one
//! bad entry altogether, rather than to serve the good ones: its other copy may be whole.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use guest_kernel::block::{BlockDevice, BlockError, SECTOR_SIZE};

/// Bytes of a header that have a meaning and a checksum at least.
const HEADER: usize = 92;
/// Bytes of an entry at least; larger ones carry nothing more that matters here.
const ENTRY: usize = 128;
/// The largest array of entries that is read: eight times the usual.
const ARRAY_MAX: usize = 128 << 10;

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its number, from 1.
    pub number: u32,
    /// Its name; may be empty.
    pub name: String,
    /// Its first sector.
    pub first: u64,
    /// Its length in sectors.
    pub count: u64,
}

/// Why there is no usable table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GptError {
    /// No signature.
    Absent,
    /// A checksum is wrong.
    Checksum,
    /// A field has a value that it can't have on this disk; this names it.
    Invalid(&'static str),
    /// The disk failed.
    Disk(BlockError),
}

impl fmt::Display for GptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GptError::Absent => f.write_str("no partition table"),
            GptError::Checksum => f.write_str("partition table with a wrong checksum"),
            GptError::Invalid(what) => write!(f, "partition table with an impossible {what}"),
            GptError::Disk(error) => write!(f, "partition table cannot be read: {error:?}"),
        }
    }
}

/// What a header says, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    usable: (u64, u64),
    array_at: u64,
    entries: usize,
    entry_size: usize,
    array_checksum: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Header {
    /// Reads the header in `sector`, which came from sector `at` of a disk of `sectors`.
    pub fn parse(sector: &[u8; SECTOR_SIZE], at: u64, sectors: u64) -> Result<Header, GptError> {
        if &sector[..8] != b"EFI PART" {
            return Err(GptError::Absent);
        }
        let size = u32_at(sector, 12) as usize;
        if !(HEADER..=SECTOR_SIZE).contains(&size) {
            return Err(GptError::Invalid("header size"));
        }
        let mut blank = *sector;
        blank[16..20].fill(0);
        if crc32fast::hash(&blank[..size]) != u32_at(sector, 16) {
            return Err(GptError::Checksum);
        }
        let invalid = |what| Err(GptError::Invalid(what));
        if u64_at(sector, 24) != at {
            return invalid("place");
        }
        let usable = (u64_at(sector, 40), u64_at(sector, 48));
        if usable.1 >= sectors || usable.0 > usable.1.saturating_add(1) {
            return invalid("usable range");
        }
        let (entries, entry_size) = (u32_at(sector, 80) as usize, u32_at(sector, 84) as usize);
        if entry_size < ENTRY || !entry_size.is_power_of_two() {
            return invalid("entry size");
        }
        if entries.checked_mul(entry_size).is_none_or(|bytes| bytes > ARRAY_MAX) {
            return invalid("number of entries");
        }
        let array_checksum = u32_at(sector, 88);
        let header = Header { usable, array_at: u64_at(sector, 72), entries, entry_size, array_checksum };
        let end = header.array_at.checked_add((header.array_bytes() / SECTOR_SIZE) as u64);
        if end.is_none_or(|end| end > sectors) {
            return invalid("place of the entries");
        }
        Ok(header)
    }

    /// Bytes of the array of entries, in whole sectors.
    fn array_bytes(&self) -> usize {
        (self.entries * self.entry_size).next_multiple_of(SECTOR_SIZE)
    }

    /// Reads the entries that are in use, in the order of their numbers.
    pub fn entries(&self, array: &[u8]) -> Result<Vec<Entry>, GptError> {
        let array = array.get(..self.entries * self.entry_size).ok_or(GptError::Checksum)?;
        if crc32fast::hash(array) != self.array_checksum {
            return Err(GptError::Checksum);
        }
        let mut found = Vec::new();
        for (number, bytes) in (1..).zip(array.chunks_exact(self.entry_size)) {
            if bytes[..16] == [0; 16] {
                continue;
            }
            let (first, last) = (u64_at(bytes, 32), u64_at(bytes, 40));
            if first > last || first < self.usable.0 || last > self.usable.1 {
                return Err(GptError::Invalid("partition"));
            }
            let units = bytes[56..ENTRY].chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
            let name = char::decode_utf16(units.take_while(|unit| *unit != 0));
            let name = name.map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
            found.push(Entry { number, name, first, count: last - first + 1 });
        }
        let mut ranges: Vec<_> = found.iter().map(|entry| (entry.first, entry.count)).collect();
        ranges.sort_unstable();
        if ranges.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
            return Err(GptError::Invalid("overlap"));
        }
        Ok(found)
    }
}

/// Reads the partitions of a disk, from the copy of the table at its end if need be.
pub async fn read<D: BlockDevice>(disk: &D) -> Result<Vec<Entry>, GptError> {
    let primary = read_copy(disk, 1).await;
    let last = disk.geometry().sectors.saturating_sub(1);
    match primary {
        Err(error) if last > 1 => read_copy(disk, last).await.map_err(|_| error),
        result => result,
    }
}

async fn read_copy<D: BlockDevice>(disk: &D, at: u64) -> Result<Vec<Entry>, GptError> {
    let mut sector = [0; SECTOR_SIZE];
    disk.read(at, &mut sector).await.map_err(GptError::Disk)?;
    let header = Header::parse(&sector, at, disk.geometry().sectors)?;
    let mut array = vec![0; header.array_bytes()];
    disk.read(header.array_at, &mut array).await.map_err(GptError::Disk)?;
    header.entries(&array)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::tests::{disk_with, now};
    use guest_kernel::block::MemoryDisk;
    use proptest::prelude::*;

    const SECTORS: u64 = 8192;

    fn parts() -> Vec<u8> {
        disk_with(SECTORS, &[("web", 64, 163), ("größe", 1000, 1000), ("kv", 200, 299)])
    }

    #[test]
    fn reads_what_gptman_wrote_from_either_copy() {
        let good = parts();
        let expected = [("web", 64, 100), ("größe", 1000, 1), ("kv", 200, 100)];
        let mut broken = good.clone();
        broken[512 + 57] ^= 1;
        let mut no_array = good.clone();
        no_array[1024 + 40] ^= 1;
        for image in [good, broken, no_array] {
            let found = now(read(&MemoryDisk::from_bytes(image))).unwrap();
            let found: Vec<_> = found.iter().map(|e| (e.name.as_str(), e.first, e.count)).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let disk = |bytes| now(read(&MemoryDisk::from_bytes(bytes)));
        assert_eq!(disk(vec![0; 1 << 20]), Err(GptError::Absent));
        assert_eq!(disk(vec![]), Err(GptError::Disk(BlockError::OutOfRange)));
        // The copy is out of reach when the disk was cut; then the first must be good, and is not,
        // for partitions may now end outside.
        let mut cut = parts();
        cut.truncate(2048 * 512);
        assert_eq!(disk(cut), Err(GptError::Invalid("usable range")));
    }

    /// Changes bytes of the array and of the header, and makes both checksums right again.
    fn forge(image: &mut [u8], changes: &[(usize, Vec<u8>)]) {
        for (at, bytes) in changes {
            image[512 + at..][..bytes.len()].copy_from_slice(bytes);
        }
        let count = u32_at(&image[512..], 80) as usize * u32_at(&image[512..], 84) as usize;
        let sum = crc32fast::hash(&image[1024..][..count.min(64 << 10)]);
        image[512 + 88..][..4].copy_from_slice(&sum.to_le_bytes());
        let size = (u32_at(&image[512..], 12) as usize).min(512);
        image[512 + 16..][..4].fill(0);
        let sum = crc32fast::hash(&image[512..][..size]);
        image[512 + 16..][..4].copy_from_slice(&sum.to_le_bytes());
    }

    #[test]
    fn refuses_overlap() {
        let mut image = parts();
        // The first partition now ends inside the third.
        forge(&mut image, &[(512 + 40, 250u64.to_le_bytes().to_vec())]);
        let header = Header::parse(image[512..1024].try_into().unwrap(), 1, SECTORS).unwrap();
        assert_eq!(header.entries(&image[1024..]), Err(GptError::Invalid("overlap")));
    }

    proptest! {
        /// Whatever stands in the table, with right checksums: no panic, and what comes out is
        /// disjoint and inside the disk.
        #[test]
        fn takes_any_table(
            fields in prop::collection::vec((0usize..96, prop::collection::vec(any::<u8>(), 1..9)), 0..4),
            entries in prop::collection::vec((512usize..1100, prop::collection::vec(any::<u8>(), 1..9)), 0..4),
            small in prop::collection::vec((prop::sample::select(vec![40usize, 48, 72, 80, 84, 544, 552, 672, 680, 808]), 0u64..9000), 0..4),
        ) {
            let mut image = parts();
            let small = small.iter().map(|(at, value)| (*at, value.to_le_bytes()[..4].to_vec()));
            let changes: Vec<_> = fields.into_iter().chain(entries).chain(small).collect();
            forge(&mut image, &changes);
            if let Ok(found) = now(read_copy(&MemoryDisk::from_bytes(image), 1)) {
                let mut used = vec![false; SECTORS as usize];
                for entry in found {
                    for sector in entry.first..entry.first + entry.count {
                        prop_assert!(!core::mem::replace(&mut used[sector as usize], true));
                    }
                }
            }
        }
    }
}
