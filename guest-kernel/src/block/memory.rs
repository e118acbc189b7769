//! A disk in memory: a ramdisk for a guest, and the oracle of the driver tests.

use super::{BlockDevice, BlockError, Geometry, SECTOR_SIZE};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

/// A block device whose medium is a `Vec`.
pub struct MemoryDisk {
    bytes: RefCell<Vec<u8>>,
    read_only: bool,
}

impl MemoryDisk {
    /// A disk of zeroes.
    pub fn new(sectors: u64) -> Self {
        Self::from_bytes(vec![0; sectors as usize * SECTOR_SIZE])
    }

    /// A disk with these contents; a last partial sector is filled up with zeroes.
    pub fn from_bytes(mut bytes: Vec<u8>) -> Self {
        bytes.resize(bytes.len().next_multiple_of(SECTOR_SIZE), 0);
        MemoryDisk { bytes: RefCell::new(bytes), read_only: false }
    }

    /// The same disk, refusing writes.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// A copy of the whole medium.
    pub fn contents(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }

    fn writable(&self) -> Result<(), BlockError> {
        if self.read_only { Err(BlockError::ReadOnly) } else { Ok(()) }
    }
}

impl BlockDevice for MemoryDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: (self.bytes.borrow().len() / SECTOR_SIZE) as u64,
            read_only: self.read_only,
            flush: true,
            discard: true,
        }
    }

    async fn read(&self, sector: u64, to: &mut [u8]) -> Result<(), BlockError> {
        self.geometry().check(sector, to.len())?;
        let at = sector as usize * SECTOR_SIZE;
        to.copy_from_slice(&self.bytes.borrow()[at..at + to.len()]);
        Ok(())
    }

    async fn write(&self, sector: u64, from: &[u8]) -> Result<(), BlockError> {
        self.writable()?;
        self.geometry().check(sector, from.len())?;
        let at = sector as usize * SECTOR_SIZE;
        self.bytes.borrow_mut()[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    async fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    async fn discard(&self, sector: u64, count: u64) -> Result<(), BlockError> {
        self.writable()?;
        self.geometry().check_sectors(sector, count)?;
        let at = sector as usize * SECTOR_SIZE;
        self.bytes.borrow_mut()[at..at + count as usize * SECTOR_SIZE].fill(0);
        Ok(())
    }
}
