//! Where the files come from: the volume, or a table in tests.

use alloc::rc::Rc;
use guest_kernel::block::{BlockDevice, BlockError, Geometry};
use guest_kernel::fs::ext4::{self, Ext4};
use guest_kernel::fs::{FsError, Metadata};

/// A tree of files.
#[allow(async_fn_in_trait, reason = "one executor per vcpu: futures are never sent across threads")]
pub trait Files {
    /// An open file.
    type File: OpenFile;
    /// Opens a file; [`FsError::NotAFile`] for a directory.
    async fn open(&self, path: &str) -> Result<Self::File, FsError>;
}

/// A file that can be read.
#[allow(async_fn_in_trait, reason = "one executor per vcpu: futures are never sent across threads")]
pub trait OpenFile {
    /// Its size, time and number.
    fn metadata(&self) -> Metadata;
    /// Fills `to` from `offset` on, as far as the file goes.
    async fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<usize, FsError>;
}

impl<D: BlockDevice> Files for Rc<Ext4<D>> {
    type File = ext4::File<D>;
    async fn open(&self, path: &str) -> Result<Self::File, FsError> {
        Ext4::open(self, path).await
    }
}

impl<D: BlockDevice> OpenFile for ext4::File<D> {
    fn metadata(&self) -> Metadata {
        self.metadata()
    }
    async fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<usize, FsError> {
        self.read_at(offset, to).await
    }
}

/// A disk that counts what is read from it.
pub struct Counted<D> {
    /// The disk.
    pub disk: D,
    /// Where to count.
    pub metrics: Rc<crate::metrics::Metrics>,
}

impl<D: BlockDevice> BlockDevice for Counted<D> {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    async fn read(&self, sector: u64, to: &mut [u8]) -> Result<(), BlockError> {
        self.metrics.block_reads.add(1);
        self.metrics.block_bytes.add(to.len() as u64);
        self.disk.read(sector, to).await.inspect_err(|_| self.metrics.block_errors.add(1))
    }
    async fn write(&self, _: u64, _: &[u8]) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }
    async fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
    async fn discard(&self, _: u64, _: u64) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }
}
