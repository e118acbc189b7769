//! The GUID partition table of our images (UEFI specification, chapter 5).
//!
//! Identifiers are fixed, derived from the partition's number: the same content gives the same disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{ALIGNMENT, SECTOR};

/// A partition's type, as it stands on the disk (the first three groups little-endian).
pub type TypeId = [u8; 16];

/// `21686148-6449-6E6F-744E-656564454649`: GRUB's core for BIOS.
pub const BIOS_BOOT: TypeId = *b"Hah!IdontNeedEFI";
/// `C12A7328-F81F-11D2-BA4B-00A0C93EC93B`
pub const EFI_SYSTEM: TypeId =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// `0FC63DAF-8483-4772-8E79-3D69D8477DE4`
pub const LINUX_DATA: TypeId =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

const ENTRIES: usize = 128;
const ENTRY_SIZE: usize = 128;
const HEADER_SIZE: usize = 92;
/// Sectors of the entry array.
const ARRAY_SECTORS: u64 = (ENTRIES * ENTRY_SIZE) as u64 / SECTOR;

/// A disk's partitions, each added after the one before.
#[derive(Default)]
pub struct Disk {
    partitions: Vec<Partition>,
}

struct Partition {
    name: &'static str,
    kind: TypeId,
    first: u64,
    last: u64,
}

/// A partition of a [`Disk`].
#[derive(Clone, Copy)]
pub struct Index(usize);

impl Disk {
    /// Adds a partition of at least `size` bytes.
    pub fn add(&mut self, name: &'static str, kind: TypeId, size: u64) -> Index {
        let start = self.end().next_multiple_of(ALIGNMENT);
        let (first, sectors) = (start / SECTOR, size.next_multiple_of(ALIGNMENT) / SECTOR);
        self.partitions.push(Partition { name, kind, first, last: first + sectors - 1 });
        Index(self.partitions.len() - 1)
    }

    /// The end of the last partition in bytes; at first, of the tables.
    fn end(&self) -> u64 {
        self.partitions.last().map_or(ALIGNMENT, |p| (p.last + 1) * SECTOR)
    }

    /// The disk's size in bytes, with room for the second table.
    pub fn size(&self) -> u64 {
        self.end() + ALIGNMENT
    }

    /// The partition's first sector.
    pub fn first_lba(&self, index: Index) -> u64 {
        self.partitions[index.0].first
    }

    /// The partition's length in sectors.
    pub fn sectors(&self, index: Index) -> u64 {
        let partition = &self.partitions[index.0];
        partition.last - partition.first + 1
    }

    /// The partition's offset in bytes.
    pub fn offset(&self, index: Index) -> u64 {
        self.first_lba(index) * SECTOR
    }

    /// Writes both tables, and the boot sector `mbr` with a protective partition in it.
    pub fn write_tables(&self, file: &File, mbr: &[u8; 512]) -> Result<()> {
        let last = self.size() / SECTOR - 1;
        let mut mbr = *mbr;
        mbr[446..510].fill(0);
        // one partition of type EE over the whole disk, its CHS numbers at their largest
        mbr[446..454].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
        mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
        mbr[458..462].copy_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
        mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
        file.write_all_at(&mbr, 0)?;

        let array = self.array();
        file.write_all_at(&self.header(1, last, 2, &array), SECTOR)?;
        file.write_all_at(&array, 2 * SECTOR)?;
        file.write_all_at(&array, (last - ARRAY_SECTORS) * SECTOR)?;
        file.write_all_at(&self.header(last, 1, last - ARRAY_SECTORS, &array), last * SECTOR)?;
        Ok(())
    }

    fn array(&self) -> Vec<u8> {
        let mut array = vec![0; ENTRIES * ENTRY_SIZE];
        for (i, (partition, entry)) in self.partitions.iter().zip(array.chunks_mut(ENTRY_SIZE)).enumerate() {
            entry[..16].copy_from_slice(&partition.kind);
            entry[16..32].copy_from_slice(&id(i + 1));
            entry[32..40].copy_from_slice(&partition.first.to_le_bytes());
            entry[40..48].copy_from_slice(&partition.last.to_le_bytes());
            for (unit, at) in partition.name.encode_utf16().zip(entry[56..].chunks_exact_mut(2)) {
                at.copy_from_slice(&unit.to_le_bytes());
            }
        }
        array
    }

    fn header(&self, own: u64, other: u64, array_at: u64, array: &[u8]) -> [u8; HEADER_SIZE] {
        let last_usable = self.size() / SECTOR - 2 - ARRAY_SECTORS;
        let mut header = [0; HEADER_SIZE];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"EFI PART");
        put(8, &0x0001_0000u32.to_le_bytes());
        put(12, &(HEADER_SIZE as u32).to_le_bytes());
        put(24, &own.to_le_bytes());
        put(32, &other.to_le_bytes());
        put(40, &(2 + ARRAY_SECTORS).to_le_bytes());
        put(48, &last_usable.to_le_bytes());
        put(56, &id(0));
        put(72, &array_at.to_le_bytes());
        put(80, &(ENTRIES as u32).to_le_bytes());
        put(84, &(ENTRY_SIZE as u32).to_le_bytes());
        put(88, &crc32fast::hash(array).to_le_bytes());
        let checksum = crc32fast::hash(&header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        header
    }
}

/// The partitions of an image that was written before.
pub struct Volumes {
    /// The image.
    pub file: File,
    array: Vec<u8>,
    path: PathBuf,
}

impl Volumes {
    /// Opens an image of ours.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut array = vec![0; ENTRIES * ENTRY_SIZE];
        file.read_exact_at(&mut array, 2 * SECTOR)
            .with_context(|| format!("{} is no disk image", path.display()))?;
        Ok(Self { file, array, path: path.to_path_buf() })
    }

    /// Where the partition called `name` begins, in bytes, and its size, which must be `size`.
    pub fn find(&self, name: &str, size: u64) -> Result<(u64, u64)> {
        let number = |entry: &[u8], at: usize| {
            entry[at..at + 8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
        };
        let named = |entry: &&[u8]| {
            let units = entry[56..].chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
            units.take_while(|&unit| unit != 0).eq(name.encode_utf16())
        };
        let entry = self.array.chunks_exact(ENTRY_SIZE).find(named);
        let place = entry.map(|entry| (number(entry, 32), number(entry, 40)));
        let place = place.filter(|&(first, last)| first <= last && last < u64::MAX / SECTOR);
        match place.map(|(first, last)| (first * SECTOR, (last + 1 - first) * SECTOR)) {
            Some((offset, there)) if there == size => Ok((offset, size)),
            _ => bail!(
                "{} has no volume {name} of {} MiB to keep: run without --keep",
                self.path.display(),
                size >> 20
            ),
        }
    }
}

/// A fixed version-4 identifier for number `n`: 0 the disk, from 1 the partitions.
fn id(n: usize) -> [u8; 16] {
    let mut id = *b"Oxen disk\0\0\0\0\0\0\0";
    id[7] = 0x40 | (id[7] & 0x0f);
    id[8] = 0x80 | (id[8] & 0x3f);
    id[15] = u8::try_from(n).unwrap_or(u8::MAX);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_found_by_its_name_wherever_it_lies() {
        let mut disk = Disk::default();
        disk.add("web", LINUX_DATA, 9 << 20);
        let kv = disk.add("kv", LINUX_DATA, 64 << 20);
        let path = std::env::temp_dir().join(format!("oxen-gpt-{}", std::process::id()));
        let file = File::create(&path).expect("a file");
        disk.write_tables(&file, &[0; 512]).expect("written");
        let volumes = Volumes::open(&path).expect("opened");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(volumes.find("kv", 64 << 20).expect("there"), (disk.offset(kv), 64 << 20));
        assert!(volumes.find("kv", 32 << 20).is_err(), "another size");
        assert!(volumes.find("k", 64 << 20).is_err(), "another name");
    }
}
