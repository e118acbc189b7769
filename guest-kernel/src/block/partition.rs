//! A run of sectors of a device, as a device of its own.

use super::{BlockDevice, BlockError, Geometry};

/// `count` sectors of `disk`, starting at `first`. No operation reaches outside them.
pub struct Partition<D> {
    disk: D,
    first: u64,
    count: u64,
    read_only: bool,
}

impl<D: BlockDevice> Partition<D> {
    /// A view of `disk`; the range must be inside it.
    pub fn new(disk: D, first: u64, count: u64) -> Result<Self, BlockError> {
        disk.geometry().check_sectors(first, count)?;
        Ok(Partition { disk, first, count, read_only: false })
    }

    /// The same view, refusing writes.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    fn writable(&self) -> Result<(), BlockError> {
        if self.read_only { Err(BlockError::ReadOnly) } else { Ok(()) }
    }
}

impl<D: BlockDevice> BlockDevice for Partition<D> {
    fn geometry(&self) -> Geometry {
        let disk = self.disk.geometry();
        Geometry { sectors: self.count, read_only: self.read_only || disk.read_only, ..disk }
    }

    async fn read(&self, sector: u64, to: &mut [u8]) -> Result<(), BlockError> {
        self.geometry().check(sector, to.len())?;
        self.disk.read(self.first + sector, to).await
    }

    async fn write(&self, sector: u64, from: &[u8]) -> Result<(), BlockError> {
        self.writable()?;
        self.geometry().check(sector, from.len())?;
        self.disk.write(self.first + sector, from).await
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.disk.flush().await
    }

    async fn discard(&self, sector: u64, count: u64) -> Result<(), BlockError> {
        self.writable()?;
        self.geometry().check_sectors(sector, count)?;
        self.disk.discard(self.first + sector, count).await
    }
}
