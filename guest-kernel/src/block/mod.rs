//! Block devices: sectors of 512 bytes, read and written asynchronously.
//!
//! The hardest decision was whose memory a transfer uses. Callers pass ordinary slices and drivers
//! copy through pages of their own, so a future that is dropped half-way never leaves a device
//! writing into memory its owner has taken back.

mod memory;
mod partition;
pub(crate) mod protocol;

pub use memory::MemoryDisk;
pub use partition::Partition;

use alloc::rc::Rc;

/// Bytes in a sector. The block interface counts in these whatever the medium uses.
pub const SECTOR_SIZE: usize = 512;

/// Why a block operation failed. Nothing is known about how much of a failed write took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The range is not within the device, or the buffer is no multiple of [`SECTOR_SIZE`].
    OutOfRange,
    /// The device was opened read-only.
    ReadOnly,
    /// The device does not have this operation.
    Unsupported,
    /// The medium failed.
    Io,
    /// The device is gone and will not come back.
    Gone,
}

/// What a block device is and can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in sectors of [`SECTOR_SIZE`].
    pub sectors: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// There is a volatile cache, and [`BlockDevice::flush`] empties it.
    pub flush: bool,
    /// [`BlockDevice::discard`] does something.
    pub discard: bool,
}

impl Geometry {
    /// Checks that `bytes` at `sector` are whole sectors inside the device and returns their count.
    pub fn check(&self, sector: u64, bytes: usize) -> Result<u64, BlockError> {
        let count = (bytes / SECTOR_SIZE) as u64;
        if !bytes.is_multiple_of(SECTOR_SIZE) {
            return Err(BlockError::OutOfRange);
        }
        self.check_sectors(sector, count)
    }

    /// Checks that `count` sectors at `sector` are inside the device and returns `count`.
    pub fn check_sectors(&self, sector: u64, count: u64) -> Result<u64, BlockError> {
        match sector.checked_add(count) {
            Some(end) if end <= self.sectors => Ok(count),
            _ => Err(BlockError::OutOfRange),
        }
    }
}

/// A disk, a part of one, or something that behaves like one.
///
/// Operations that are in progress at the same time may take effect in any order.
#[allow(async_fn_in_trait, reason = "one executor per vcpu: futures are never sent across threads")]
pub trait BlockDevice {
    /// Size and abilities.
    fn geometry(&self) -> Geometry;
    /// Reads whole sectors starting at `sector` into `to`.
    async fn read(&self, sector: u64, to: &mut [u8]) -> Result<(), BlockError>;
    /// Writes whole sectors starting at `sector`. Durable only after a later [`flush`](Self::flush).
    async fn write(&self, sector: u64, from: &[u8]) -> Result<(), BlockError>;
    /// Makes every write that has completed durable.
    async fn flush(&self) -> Result<(), BlockError>;
    /// Says that the contents of `count` sectors are no longer needed; they read as anything.
    async fn discard(&self, sector: u64, count: u64) -> Result<(), BlockError>;
}

impl<D: BlockDevice + ?Sized> BlockDevice for Rc<D> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }
    async fn read(&self, sector: u64, to: &mut [u8]) -> Result<(), BlockError> {
        (**self).read(sector, to).await
    }
    async fn write(&self, sector: u64, from: &[u8]) -> Result<(), BlockError> {
        (**self).write(sector, from).await
    }
    async fn flush(&self) -> Result<(), BlockError> {
        (**self).flush().await
    }
    async fn discard(&self, sector: u64, count: u64) -> Result<(), BlockError> {
        (**self).discard(sector, count).await
    }
}
