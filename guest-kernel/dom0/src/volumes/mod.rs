//! The disks' partitions by name, as guests' disks.
//!
//! `phy:web` in an `xl.cfg` names the partition `web`; `phy:/dev/disk/by-partlabel/web` is the same
//! in Linux's words, `phy:/dev/vda3` the third partition of the first disk, `phy:/dev/vda` all of
//! it. The hardest decision was who may share: two writers, or a writer and a reader that caches,
//! ruin a file system, so a volume that is written has one user, and overlapping names (a disk and
//! its partition) count as the same volume. That is what Xen's block script enforces under Linux.

pub mod gpt;

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use gpt::Entry;
use guest_kernel::block::{BlockDevice, BlockError, Geometry, Partition};

struct Disk<D> {
    name: String,
    device: Rc<D>,
    partitions: Vec<Entry>,
}

/// Sectors of a disk that somebody uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Use {
    disk: usize,
    first: u64,
    count: u64,
    writable: bool,
    /// Tells uses of the same sectors apart.
    number: u64,
}

impl Use {
    fn meets(&self, other: &Use) -> bool {
        self.disk == other.disk
            && self.first < other.first + other.count
            && other.first < self.first + self.count
    }
}

/// All disks and what is in use.
pub struct Volumes<D> {
    disks: RefCell<Vec<Disk<D>>>,
    uses: RefCell<Vec<Use>>,
}

/// A volume that exists, for a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// The disk's name, such as `vda`.
    pub disk: String,
    /// The partition's number; 0 for the whole disk.
    pub number: u32,
    /// The partition's name; may be empty.
    pub name: String,
    /// Its size in sectors.
    pub sectors: u64,
}

/// Why a volume was not opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VolumeError {
    /// There is none of this name.
    Absent,
    /// Two partitions have this name.
    Ambiguous,
    /// It is in use, and one of its users writes.
    Busy,
    /// It cannot be written.
    ReadOnly,
}

impl fmt::Display for VolumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VolumeError::Absent => "no such volume",
            VolumeError::Ambiguous => "two volumes have this name",
            VolumeError::Busy => "in use already, and not by readers alone",
            VolumeError::ReadOnly => "the disk is read-only",
        })
    }
}

impl<D: BlockDevice> Default for Volumes<D> {
    fn default() -> Self {
        Volumes { disks: RefCell::default(), uses: RefCell::default() }
    }
}

impl<D: BlockDevice> Volumes<D> {
    /// Adds a disk with its partitions and says its name: `vda`, `vdb`…
    pub fn add(&self, device: Rc<D>, partitions: Vec<Entry>) -> String {
        let mut disks = self.disks.borrow_mut();
        let name = disk_name(disks.len());
        disks.push(Disk { name: name.clone(), device, partitions });
        name
    }

    /// Every disk and partition.
    pub fn list(&self) -> Vec<Description> {
        let mut list = Vec::new();
        for disk in &*self.disks.borrow() {
            let whole =
                Entry { number: 0, name: String::new(), first: 0, count: disk.device.geometry().sectors };
            list.extend(core::iter::once(&whole).chain(&disk.partitions).map(|entry| Description {
                disk: disk.name.clone(),
                number: entry.number,
                name: entry.name.clone(),
                sectors: entry.count,
            }));
        }
        list
    }

    /// The names of the partitions that have one.
    pub fn names(&self) -> String {
        let disks = self.disks.borrow();
        let names = disks.iter().flat_map(|disk| &disk.partitions).map(|entry| entry.name.as_str());
        names.filter(|name| !name.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// The disk and the sectors that a name means.
    fn find(&self, target: &str) -> Result<(usize, u64, u64), VolumeError> {
        let disks = self.disks.borrow();
        if let Some(device) = target.strip_prefix("/dev/").filter(|name| !name.contains('/')) {
            for (index, disk) in disks.iter().enumerate() {
                let Some(number) = device.strip_prefix(disk.name.as_str()) else { continue };
                if number.is_empty() {
                    return Ok((index, 0, disk.device.geometry().sectors));
                }
                if let Some(entry) = disk.partitions.iter().find(|entry| entry.number.to_string() == number) {
                    return Ok((index, entry.first, entry.count));
                }
            }
            return Err(VolumeError::Absent);
        }
        let name = target.strip_prefix("/dev/disk/by-partlabel/").unwrap_or(target);
        let mut named = disks
            .iter()
            .enumerate()
            .flat_map(|(index, disk)| disk.partitions.iter().map(move |entry| (index, entry)))
            .filter(|(_, entry)| !name.is_empty() && entry.name == name);
        let (index, entry) = named.next().ok_or(VolumeError::Absent)?;
        if named.next().is_some() {
            return Err(VolumeError::Ambiguous);
        }
        Ok((index, entry.first, entry.count))
    }

    /// Opens the volume that `target` names. It is in use until dropped.
    pub fn open(self: &Rc<Self>, target: &str, writable: bool) -> Result<Volume<D>, VolumeError> {
        let (disk, first, count) = self.find(target)?;
        let device = self.disks.borrow()[disk].device.clone();
        if writable && device.geometry().read_only {
            return Err(VolumeError::ReadOnly);
        }
        let mut uses = self.uses.borrow_mut();
        let number = uses.last().map_or(0, |last| last.number + 1);
        let new = Use { disk, first, count, writable, number };
        if uses.iter().any(|other| new.meets(other) && (writable || other.writable)) {
            return Err(VolumeError::Busy);
        }
        let part = Partition::new(device, first, count).map_err(|_| VolumeError::Absent)?;
        uses.push(new);
        drop(uses);
        let part = if writable { part } else { part.read_only() };
        Ok(Volume { part, lease: Lease { volumes: self.clone(), number } })
    }
}

/// `vda`, `vdb`… `vdz`, `vdaa`…, as Linux names virtio disks.
fn disk_name(index: usize) -> String {
    let letter = char::from(b'a' + (index % 26) as u8);
    match index / 26 {
        0 => format!("vd{letter}"),
        more => format!("{}{letter}", disk_name(more - 1)),
    }
}

struct Lease<D> {
    volumes: Rc<Volumes<D>>,
    number: u64,
}

impl<D> Drop for Lease<D> {
    fn drop(&mut self) {
        self.volumes.uses.borrow_mut().retain(|other| other.number != self.number);
    }
}

/// An open volume.
pub struct Volume<D> {
    part: Partition<Rc<D>>,
    #[allow(dead_code, reason = "held for its drop")]
    lease: Lease<D>,
}

impl<D: BlockDevice> BlockDevice for Volume<D> {
    fn geometry(&self) -> Geometry {
        self.part.geometry()
    }
    async fn read(&self, sector: u64, to: &mut [u8]) -> Result<(), BlockError> {
        self.part.read(sector, to).await
    }
    async fn write(&self, sector: u64, from: &[u8]) -> Result<(), BlockError> {
        self.part.write(sector, from).await
    }
    async fn flush(&self) -> Result<(), BlockError> {
        self.part.flush().await
    }
    async fn discard(&self, sector: u64, count: u64) -> Result<(), BlockError> {
        self.part.discard(sector, count).await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::vec;
    use core::pin::pin;
    use core::task::{Context, Poll, Waker};
    use guest_kernel::block::MemoryDisk;

    /// Polls once what a memory disk completes at once.
    pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("waits"),
        }
    }

    /// The image of a disk with these partitions (name, first sector, last), written by gptman.
    pub(crate) fn disk_with(sectors: u64, parts: &[(&str, u64, u64)]) -> Vec<u8> {
        let mut file = std::io::Cursor::new(vec![0; sectors as usize * 512]);
        let mut table = gptman::GPT::new_from(&mut file, 512, [7; 16]).unwrap();
        for (number, (name, first, last)) in (1..).zip(parts) {
            table[number] = gptman::GPTPartitionEntry {
                partition_type_guid: [1; 16],
                unique_partition_guid: [number as u8; 16],
                starting_lba: *first,
                ending_lba: *last,
                attribute_bits: 0,
                partition_name: (*name).into(),
            };
        }
        table.write_into(&mut file).unwrap();
        file.into_inner()
    }

    fn volumes() -> Rc<Volumes<MemoryDisk>> {
        let volumes = Rc::new(Volumes::default());
        let image =
            disk_with(4096, &[("web", 64, 163), ("kv", 200, 299), ("twin", 400, 409), ("twin", 500, 509)]);
        for disk in [MemoryDisk::from_bytes(image), MemoryDisk::new(100).read_only()] {
            let partitions = now(gpt::read(&disk)).unwrap_or_default();
            volumes.add(Rc::new(disk), partitions);
        }
        volumes
    }

    fn size(volumes: &Rc<Volumes<MemoryDisk>>, target: &str) -> Result<u64, VolumeError> {
        volumes.open(target, false).map(|volume| volume.geometry().sectors)
    }

    #[test]
    fn a_volume_has_its_partlabel_and_its_device_as_names() {
        let volumes = volumes();
        for name in ["web", "/dev/disk/by-partlabel/web", "/dev/vda1"] {
            assert_eq!(size(&volumes, name), Ok(100), "{name}");
        }
        assert_eq!(size(&volumes, "/dev/vda"), Ok(4096));
        assert_eq!(size(&volumes, "/dev/vdb"), Ok(100));
        for name in
            ["", "vda", "/dev/vda9", "/dev/vda01", "/dev/vdc", "/dev/", "we", "/dev/disk/by-partlabel/"]
        {
            assert_eq!(size(&volumes, name), Err(VolumeError::Absent), "{name}");
        }
        assert_eq!(size(&volumes, "twin"), Err(VolumeError::Ambiguous));
        assert_eq!(volumes.list().len(), 6);
    }

    #[test]
    fn writers_are_alone() {
        let volumes = volumes();
        let kv = volumes.open("kv", true).unwrap();
        assert_eq!(volumes.open("kv", true).err(), Some(VolumeError::Busy));
        assert_eq!(volumes.open("/dev/vda2", false).err(), Some(VolumeError::Busy));
        assert_eq!(volumes.open("/dev/vda", false).err(), Some(VolumeError::Busy));
        let web = [volumes.open("web", false).unwrap(), volumes.open("web", false).unwrap()];
        drop(kv);
        let all = volumes.open("/dev/vda", false).unwrap();
        assert_eq!(volumes.open("web", true).err(), Some(VolumeError::Busy));
        drop((web, all));
        assert!(volumes.open("web", true).is_ok());
        assert_eq!(volumes.open("/dev/vdb", true).err(), Some(VolumeError::ReadOnly));
    }

    #[test]
    fn a_volume_is_its_sectors_and_no_others() {
        let volumes = volumes();
        let kv = volumes.open("kv", true).unwrap();
        now(kv.write(99, &[7; 512])).unwrap();
        assert_eq!(now(kv.write(100, &[7; 512])), Err(BlockError::OutOfRange));
        drop(kv);
        let disk = volumes.open("/dev/vda", false).unwrap();
        let mut sector = [0; 512];
        now(disk.read(299, &mut sector)).unwrap();
        assert_eq!(sector, [7; 512]);
        assert_eq!(now(disk.write(0, &sector)), Err(BlockError::ReadOnly));
    }

    #[test]
    fn disks_are_named_as_linux_does() {
        let names = [0, 1, 25, 26, 27, 701, 702].map(disk_name);
        assert_eq!(names, ["vda", "vdb", "vdz", "vdaa", "vdab", "vdzz", "vdaaa"]);
    }
}
