//! The GUID partition table of our images (UEFI specification, chapter 5).
//!
//! Identifiers are fixed, derived from the partition's number: the same content gives the same disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

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
    name: String,
    kind: TypeId,
    first: u64,
    last: u64,
}

/// A partition of a [`Disk`].
#[derive(Clone, Copy)]
pub struct Index(usize);

impl Disk {
    /// Adds a partition of at least `size` bytes.
    pub fn add(&mut self, name: &str, kind: TypeId, size: u64) -> Result<Index> {
        if self.partitions.len() == ENTRIES {
            bail!("a disk has room for {ENTRIES} partitions");
        }
        let start = self.end().next_multiple_of(ALIGNMENT);
        let (first, sectors) = (start / SECTOR, size.next_multiple_of(ALIGNMENT) / SECTOR);
        self.partitions.push(Partition { name: name.into(), kind, first, last: first + sectors - 1 });
        Ok(Index(self.partitions.len() - 1))
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

/// The volumes of an image that was written before.
pub struct Volumes {
    /// The image.
    pub file: File,
    /// Its partitions for guests.
    pub list: Vec<Place>,
}

/// Where a volume lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl Volumes {
    /// Opens an image of ours.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut array = vec![0; ENTRIES * ENTRY_SIZE];
        file.read_exact_at(&mut array, 2 * SECTOR)
            .with_context(|| format!("{} is no disk image", path.display()))?;
        let end = file.metadata()?.len() / SECTOR;
        let mut list = Vec::new();
        for entry in array.chunks_exact(ENTRY_SIZE).filter(|entry| entry[..16] == LINUX_DATA) {
            let number = |at: usize| {
                entry[at..at + 8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
            };
            let (first, last) = (number(32), number(40));
            let units = entry[56..].chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
            let name = char::decode_utf16(units.take_while(|&unit| unit != 0)).collect::<Result<String, _>>();
            match name {
                Ok(name) if first <= last && last < end => {
                    list.push(Place { name, offset: first * SECTOR, size: (last + 1 - first) * SECTOR });
                }
                _ => bail!("the partitions of {} are damaged: run without --keep", path.display()),
            }
        }
        Ok(Self { file, list })
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
    fn volumes_are_found_by_their_names_wherever_they_lie() {
        let mut disk = Disk::default();
        disk.add("efi", EFI_SYSTEM, 1 << 20).expect("room");
        let web = disk.add("web", LINUX_DATA, 9 << 20).expect("room");
        let kv = disk.add("kv", LINUX_DATA, (64 << 20) - 1).expect("room");
        let path = std::env::temp_dir().join(format!("oxen-gpt-{}", std::process::id()));
        let file = File::create(&path).expect("a file");
        disk.write_tables(&file, &[0; 512]).expect("written");
        file.set_len(8 << 20).expect("shorter");
        let cut = Volumes::open(&path).err().expect("the file ends before its partitions");
        file.set_len(disk.size()).expect("as it was");
        let volumes = Volumes::open(&path).expect("opened");
        std::fs::remove_file(&path).expect("removed");
        assert!(cut.to_string().contains("damaged"), "{cut}");
        let place = |name: &str, index, mib: u64| Place {
            name: name.into(),
            offset: disk.offset(index),
            size: mib << 20,
        };
        assert_eq!(volumes.list, [place("web", web, 9), place("kv", kv, 64)]);
    }

    #[test]
    fn a_disk_has_room_for_so_many_partitions() {
        let mut disk = Disk::default();
        assert!((0..ENTRIES).all(|n| disk.add(&n.to_string(), LINUX_DATA, 1).is_ok()));
        assert!(disk.add("one more", LINUX_DATA, 1).is_err());
    }
}
