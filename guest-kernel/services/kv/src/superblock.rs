//! Which half of the volume holds the log.
//!
//! Two copies in sectors far apart; a change goes to the one that is not in use, so a write that is
//! cut short leaves the other. The one with the higher generation counts.
//!
//! Little-endian: magic (8 bytes), generation (u64), salt (u64), sectors of an area (u64), area (u32),
//! checksum of all before (u32).

use crate::frame::Place;
use guest_kernel::block::{BlockDevice, BlockError, SECTOR_SIZE};

const MAGIC: &[u8; 8] = b"OXENKVS1";
/// Sectors before the first area: a block of 4 KiB for each copy.
const RESERVED: u64 = 16;
/// The least an area must have.
const LEAST: u64 = 16;

/// The volume's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Counts changes.
    pub generation: u64,
    /// Begins the checksums of this area's frames.
    pub salt: u64,
    /// Sectors of each area.
    pub sectors: u64,
    /// The area in use, 0 or 1.
    pub area: u32,
}

/// Why a volume cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// It holds something, but no log.
    Foreign,
    /// It is too small, or smaller than when the log was made.
    Small,
    /// It failed.
    Disk(BlockError),
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            OpenError::Foreign => f.write_str("the volume holds other data; empty it to use it"),
            OpenError::Small => f.write_str("the volume is too small"),
            OpenError::Disk(error) => write!(f, "disk error: {error:?}"),
        }
    }
}

impl From<BlockError> for OpenError {
    fn from(error: BlockError) -> Self {
        OpenError::Disk(error)
    }
}

impl Superblock {
    /// Where the area in use begins, in sectors.
    pub fn start(&self) -> u64 {
        RESERVED + u64::from(self.area) * self.sectors
    }

    /// The place of the area's first frame.
    pub fn first(&self) -> Place {
        Place::first(self.salt)
    }

    /// The state with the other area in use, for writing there.
    pub fn other(&self, salt: u64) -> Self {
        Superblock { generation: self.generation + 1, salt, area: 1 - self.area, ..*self }
    }

    fn slot(&self) -> u64 {
        self.generation % 2 * (RESERVED / 2)
    }

    /// Writes the state so that it is durable when this returns.
    pub async fn write(&self, disk: &impl BlockDevice) -> Result<(), BlockError> {
        let mut bytes = [0; SECTOR_SIZE];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.salt.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sectors.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.area.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..36]);
        bytes[36..40].copy_from_slice(&checksum.to_le_bytes());
        disk.write(self.slot(), &bytes).await?;
        disk.flush().await
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let words = long(32);
        let (area, checksum) = (words as u32, (words >> 32) as u32);
        let valid = &bytes[..8] == MAGIC && crc32fast::hash(&bytes[..36]) == checksum && area < 2;
        valid.then(|| Superblock { generation: long(8), salt: long(16), sectors: long(24), area })
    }

    /// Reads the volume's state. An empty volume is given one; `salt` is for that.
    pub async fn open(disk: &impl BlockDevice, salt: u64) -> Result<Self, OpenError> {
        let total = disk.geometry().sectors;
        if total < RESERVED + 2 * LEAST {
            return Err(OpenError::Small);
        }
        let mut bytes = [0; RESERVED as usize * SECTOR_SIZE];
        disk.read(0, &mut bytes).await?;
        let slots = bytes.chunks_exact(bytes.len() / 2);
        if let Some(newest) = slots.clone().filter_map(Self::parse).max_by_key(|found| found.generation) {
            let fits = newest.sectors >= LEAST
                && newest
                    .sectors
                    .checked_mul(2)
                    .and_then(|all| all.checked_add(RESERVED))
                    .is_some_and(|end| end <= total);
            return if fits { Ok(newest) } else { Err(OpenError::Small) };
        }
        // The very first write may have been cut short: its beginning, then, is all there is.
        let empty = |block: &[u8]| {
            let (head, rest) = block.split_at(SECTOR_SIZE);
            (head.iter().all(|&byte| byte == 0) || head.starts_with(MAGIC))
                && rest.iter().all(|&byte| byte == 0)
        };
        if !slots.clone().all(empty) {
            return Err(OpenError::Foreign);
        }
        let new = Superblock { generation: 1, salt, sectors: (total - RESERVED) / 2, area: 0 };
        new.write(disk).await?;
        Ok(new)
    }
}
