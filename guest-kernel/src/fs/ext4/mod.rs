//! A reader of ext4, asynchronous from the ground up.
//!
//! Published readers are synchronous: over a split block device they would need the whole of a
//! volume in memory, or would stop every other task while one waits for its block. This one is
//! small because it only reads: files, directories and symbolic links of extent-mapped
//! filesystems that were unmounted cleanly, which is what `mkfs.ext4 -d` makes. Data goes from the
//! disk straight into the caller's buffer, as long runs as the file has; only metadata and the
//! odd ends of files pass through a small cache. Checksums of metadata are not verified: the
//! volume is the control domain's, and everything read is checked for sense.

mod layout;
#[cfg(test)]
mod tests;

use super::cache::Cache;
use super::{FsError, Kind, Metadata};
use crate::block::{BlockDevice, SECTOR_SIZE};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use layout::{Found, Inode, Run, SUPERBLOCK, Superblock, entry, search};

const ROOT: u32 = 2;
/// Symbolic links followed in one path.
const LINKS: usize = 16;
/// Longest target of a symbolic link, as Linux has it.
const PATH_MAX: u64 = 4096;
/// Bytes of blocks kept in memory.
const CACHE: usize = 128 * 1024;

/// A mounted filesystem.
pub struct Ext4<D> {
    superblock: Superblock,
    cache: Cache<D>,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name; what is not UTF-8 in it is replaced.
    pub name: String,
    /// What it stands for.
    pub kind: Kind,
}

impl<D: BlockDevice> Ext4<D> {
    /// Mounts the filesystem on `disk`.
    pub async fn mount(disk: D) -> Result<Rc<Self>, FsError> {
        let mut bytes = vec![0; SUPERBLOCK.1];
        disk.read(SUPERBLOCK.0 / SECTOR_SIZE as u64, &mut bytes).await?;
        let superblock = Superblock::parse(&bytes)?;
        let blocks = (CACHE / superblock.block_size).max(4);
        Ok(Rc::new(Ext4 { superblock, cache: Cache::new(disk, superblock.block_size, blocks) }))
    }

    /// Gives the disk back.
    pub fn unmount(self) -> D {
        self.cache.into_disk()
    }

    /// Opens a file. Paths start at the root, with or without a slash.
    pub async fn open(self: &Rc<Self>, path: &str) -> Result<File<D>, FsError> {
        let inode = self.resolve(path).await?;
        match inode.kind {
            Kind::File => Ok(File { fs: self.clone(), inode }),
            _ => Err(FsError::NotAFile),
        }
    }

    /// What stands at a path; symbolic links are followed.
    pub async fn metadata(&self, path: &str) -> Result<Metadata, FsError> {
        Ok(self.resolve(path).await?.metadata())
    }

    /// The names in a directory, without `.` and `..`, as they lie there.
    pub async fn read_dir(&self, path: &str) -> Result<Vec<DirEntry>, FsError> {
        let directory = self.resolve(path).await?;
        let mut names = Vec::new();
        self.scan(&directory, |name, _, kind| {
            if name != b"." && name != b".." {
                names.push(DirEntry { name: String::from_utf8_lossy(name).into_owned(), kind });
            }
            false
        })
        .await?;
        Ok(names)
    }

    async fn inode(&self, number: u32) -> Result<Inode, FsError> {
        let (block, at) = self.superblock.descriptor(number)?;
        let descriptors = self.cache.get(block).await?;
        let descriptor = descriptors.get(at..).ok_or(FsError::Corrupt)?;
        let (block, at) = self.superblock.inode(number, descriptor)?;
        let table = self.block(block).await?;
        Inode::parse(number, table.get(at..).ok_or(FsError::Corrupt)?)
    }

    async fn block(&self, number: u64) -> Result<Rc<[u8]>, FsError> {
        if number >= self.superblock.blocks {
            return Err(FsError::Corrupt);
        }
        self.cache.get(number).await
    }

    /// The run of blocks that starts at `block` of a file.
    async fn run(&self, inode: &Inode, block: u32) -> Result<Run, FsError> {
        if !inode.extents {
            return Err(FsError::Corrupt);
        }
        let mut found = search(&inode.root, block, None)?;
        loop {
            // The depth falls with each step, so this ends.
            match found {
                Found::Run(run) => {
                    let end = run.disk.unwrap_or(0).checked_add(run.count);
                    let inside = end.is_some_and(|end| run.disk.is_none() || end <= self.superblock.blocks);
                    return if inside { Ok(run) } else { Err(FsError::Corrupt) };
                }
                Found::Below { block: node, depth } => {
                    found = search(&self.block(node).await?, block, Some(depth))?;
                }
            }
        }
    }

    /// Shows `each` the names of a directory until it returns true; says whether it did.
    async fn scan(
        &self,
        directory: &Inode,
        mut each: impl FnMut(&[u8], u32, Kind) -> bool,
    ) -> Result<bool, FsError> {
        if directory.kind != Kind::Directory {
            return Err(FsError::NotADirectory);
        }
        let blocks = directory.size / self.superblock.block_size as u64;
        let blocks = u32::try_from(blocks.min(self.superblock.blocks)).map_err(|_| FsError::Corrupt)?;
        for number in 0..blocks {
            // A directory has no holes.
            let disk = self.run(directory, number).await?.disk.ok_or(FsError::Corrupt)?;
            let block = self.block(disk).await?;
            let mut at = 0;
            while let Some(entry) = entry(&block, at)? {
                if entry.inode != 0 && each(entry.name, entry.inode, entry.kind) {
                    return Ok(true);
                }
                at = entry.next;
            }
        }
        Ok(false)
    }

    async fn lookup(&self, directory: &Inode, name: &str) -> Result<Inode, FsError> {
        let mut number = 0;
        let wanted = |entry: &[u8], inode, _| {
            number = inode;
            entry == name.as_bytes()
        };
        if !self.scan(directory, wanted).await? {
            return Err(FsError::NotFound);
        }
        self.inode(number).await
    }

    async fn resolve(&self, path: &str) -> Result<Inode, FsError> {
        let root = self.inode(ROOT).await?;
        let mut at = root;
        // Directories passed, for `..` and for links relative to where they stand.
        let mut rest: Vec<String> = Vec::new();
        push_components(&mut rest, path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let next = self.lookup(&at, &name).await?;
            if next.kind != Kind::Link {
                at = next;
                continue;
            }
            links += 1;
            if links > LINKS {
                return Err(FsError::TooManyLinks);
            }
            let target = self.link(&next).await?;
            if target.starts_with('/') {
                at = root;
            }
            push_components(&mut rest, &target);
        }
        Ok(at)
    }

    async fn link(&self, inode: &Inode) -> Result<String, FsError> {
        if inode.size > PATH_MAX {
            return Err(FsError::Corrupt);
        }
        let mut target = vec![0; inode.size as usize];
        if inode.extents {
            self.read(inode, 0, &mut target).await?;
        } else {
            let short = inode.root.get(..target.len()).ok_or(FsError::Corrupt)?;
            target.copy_from_slice(short);
        }
        String::from_utf8(target).map_err(|_| FsError::NotFound)
    }

    /// Reads `to.len()` bytes at `offset`, which are all inside the file.
    async fn read(&self, inode: &Inode, mut offset: u64, mut to: &mut [u8]) -> Result<(), FsError> {
        let block_size = self.superblock.block_size as u64;
        while !to.is_empty() {
            let block = u32::try_from(offset / block_size).map_err(|_| FsError::Corrupt)?;
            let run = self.run(inode, block).await?;
            let within = offset % block_size;
            let length = (run.count * block_size - within).min(to.len() as u64) as usize;
            let (now, later) = to.split_at_mut(length);
            match run.disk {
                None => now.fill(0),
                Some(disk) => self.transfer(disk * block_size + within, now).await?,
            }
            to = later;
            offset += length as u64;
        }
        Ok(())
    }

    /// Reads bytes of the disk: whole sectors straight into place, the ends through the cache.
    async fn transfer(&self, mut at: u64, mut to: &mut [u8]) -> Result<(), FsError> {
        const SECTOR: u64 = SECTOR_SIZE as u64;
        let block_size = self.superblock.block_size as u64;
        while !to.is_empty() {
            let whole = to.len() / SECTOR_SIZE * SECTOR_SIZE;
            // A short read is worth a cached block: somebody will want what is beside it.
            if at.is_multiple_of(SECTOR) && whole >= self.superblock.block_size {
                let (now, later) = to.split_at_mut(whole);
                self.cache.disk.read(at / SECTOR, now).await?;
                to = later;
                at += whole as u64;
                continue;
            }
            let block = self.block(at / block_size).await?;
            let within = (at % block_size) as usize;
            let take = to.len().min(block.len() - within);
            let (now, later) = to.split_at_mut(take);
            now.copy_from_slice(&block[within..within + take]);
            to = later;
            at += take as u64;
        }
        Ok(())
    }
}

/// Puts the components of a path on the stack, the first on top.
fn push_components(stack: &mut Vec<String>, path: &str) {
    let components = path.split('/').filter(|name| !name.is_empty() && *name != ".");
    stack.extend(components.rev().map(String::from));
}

impl Inode {
    fn metadata(&self) -> Metadata {
        Metadata { kind: self.kind, size: self.size, modified: self.modified, inode: self.number }
    }
}

/// An open file.
pub struct File<D> {
    fs: Rc<Ext4<D>>,
    inode: Inode,
}

impl<D: BlockDevice> File<D> {
    /// Size, time and number.
    pub fn metadata(&self) -> Metadata {
        self.inode.metadata()
    }

    /// Reads at `offset` until `to` is full or the file ends, and returns how much that was.
    /// Quickest for offsets that are multiples of 4096 and buffers of some of them.
    pub async fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<usize, FsError> {
        let left = self.inode.size.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(to.len());
        self.fs.read(&self.inode, offset, &mut to[..length]).await?;
        Ok(length)
    }
}
