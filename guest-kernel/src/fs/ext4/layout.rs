//! What ext4 looks like on the disk, as far as a reader needs it.
//!
//! Every number comes from the disk and is checked before it is used as an offset or a count: a
//! damaged filesystem gives [`FsError::Corrupt`], and no loop longer than the disk is large.

use crate::fs::{FsError, Kind};

/// Where the superblock is, in bytes, and how long the part of it is that is read.
pub(super) const SUPERBLOCK: (u64, usize) = (1024, 1024);

// `incompat` bits that change what a reader must do and that this one does, or that don't matter
// to a reader: FILETYPE, EXTENTS, 64BIT, MMP, FLEX_BG, EA_INODE, CSUM_SEED, LARGEDIR.
const UNDERSTOOD: u32 = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000;
const INCOMPAT_64BIT: u32 = 0x80;

pub(super) fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The filesystem's shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superblock {
    pub(super) block_size: usize,
    pub(super) blocks: u64,
    inodes: u32,
    inodes_per_group: u32,
    inode_size: usize,
    first_data_block: u64,
    descriptor_size: usize,
}

impl Superblock {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, FsError> {
        Self::fields(bytes).ok_or(FsError::Corrupt)?
    }

    fn fields(bytes: &[u8]) -> Option<Result<Self, FsError>> {
        if le16(bytes, 0x38)? != 0xef53 {
            return None;
        }
        let incompat = le32(bytes, 0x60)?;
        if incompat & !UNDERSTOOD != 0 {
            return Some(Err(FsError::Feature(incompat & !UNDERSTOOD)));
        }
        let log = le32(bytes, 0x18)?;
        let wide = incompat & INCOMPAT_64BIT != 0;
        let high = if wide { u64::from(le32(bytes, 0x150)?) } else { 0 };
        let old = le32(bytes, 0x4c)? == 0;
        let superblock = Superblock {
            // 1 KiB to 64 KiB.
            block_size: if log <= 6 { 1024 << log } else { return None },
            blocks: u64::from(le32(bytes, 4)?) | high << 32,
            inodes: le32(bytes, 0)?,
            inodes_per_group: le32(bytes, 0x28)?,
            inode_size: if old { 128 } else { usize::from(le16(bytes, 0x58)?) },
            first_data_block: u64::from(le32(bytes, 0x14)?),
            descriptor_size: if wide { usize::from(le16(bytes, 0xfe)?) } else { 32 },
        };
        let fits = superblock.inode_size.is_power_of_two()
            && (128..=superblock.block_size).contains(&superblock.inode_size)
            && superblock.descriptor_size.is_power_of_two()
            && (32..=superblock.block_size).contains(&superblock.descriptor_size)
            && (!wide || superblock.descriptor_size >= 64)
            && superblock.inodes_per_group > 0;
        fits.then_some(Ok(superblock))
    }

    /// Block and offset of the descriptor of an inode's group.
    pub(super) fn descriptor(&self, inode: u32) -> Result<(u64, usize), FsError> {
        if inode == 0 || inode > self.inodes {
            return Err(FsError::Corrupt);
        }
        let group = u64::from((inode - 1) / self.inodes_per_group);
        let at = group * self.descriptor_size as u64;
        let block = self.first_data_block + 1 + at / self.block_size as u64;
        Ok((block, (at % self.block_size as u64) as usize))
    }

    /// Block and offset of an inode, given its group's descriptor.
    pub(super) fn inode(&self, inode: u32, descriptor: &[u8]) -> Result<(u64, usize), FsError> {
        let low = le32(descriptor, 8).ok_or(FsError::Corrupt)?;
        let high = if self.descriptor_size >= 64 { le32(descriptor, 0x28) } else { Some(0) };
        let table = u64::from(low) | u64::from(high.ok_or(FsError::Corrupt)?) << 32;
        let index = u64::from((inode - 1) % self.inodes_per_group);
        let at = index * self.inode_size as u64;
        let block = table.checked_add(at / self.block_size as u64).ok_or(FsError::Corrupt)?;
        Ok((block, (at % self.block_size as u64) as usize))
    }
}

const EXTENTS_FLAG: u32 = 0x8_0000;

/// An inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) modified: u32,
    /// The root of the extent tree, or a short symbolic link's target.
    pub(super) root: [u8; 60],
    pub(super) extents: bool,
}

impl Inode {
    pub(super) fn parse(number: u32, bytes: &[u8]) -> Result<Self, FsError> {
        Self::fields(number, bytes).ok_or(FsError::Corrupt)
    }

    fn fields(number: u32, bytes: &[u8]) -> Option<Self> {
        let kind = match le16(bytes, 0)? & 0xf000 {
            0x8000 => Kind::File,
            0x4000 => Kind::Directory,
            0xa000 => Kind::Link,
            0 => return None,
            _ => Kind::Other,
        };
        Some(Inode {
            number,
            kind,
            size: u64::from(le32(bytes, 4)?) | u64::from(le32(bytes, 0x6c)?) << 32,
            modified: le32(bytes, 0x10)?,
            root: *bytes.get(0x28..)?.first_chunk()?,
            extents: le32(bytes, 0x20)? & EXTENTS_FLAG != 0,
        })
    }
}

/// Blocks of a file that lie one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where they lie; `None` reads as zeroes.
    pub(super) disk: Option<u64>,
    /// How many, from the block asked for on; at least one.
    pub(super) count: u64,
}

/// What a node of the extent tree says about a block of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Run(Run),
    /// Look in this block, which must be at this depth.
    Below {
        block: u64,
        depth: u16,
    },
}

/// Looks for `block` of the file in one node. `depth` is what the node above said, if any.
pub(super) fn search(node: &[u8], block: u32, depth: Option<u16>) -> Result<Found, FsError> {
    search_fields(node, block, depth).ok_or(FsError::Corrupt)
}

fn search_fields(node: &[u8], block: u32, expected: Option<u16>) -> Option<Found> {
    let (entries, depth) = (usize::from(le16(node, 2)?), le16(node, 6)?);
    if le16(node, 0)? != 0xf30a || depth > 5 || expected.is_some_and(|expected| expected != depth) {
        return None;
    }
    let entry = |index: usize| node.get(12 + index * 12..)?.get(..12);
    // The last entry that starts at or before the block; they are in order.
    let (mut low, mut high) = (0, entries);
    while low < high {
        let middle = low + (high - low) / 2;
        if le32(entry(middle)?, 0)? <= block { low = middle + 1 } else { high = middle }
    }
    // A hole reaches to the next entry, or to the end of what the node is about.
    let next = if low < entries { u64::from(le32(entry(low)?, 0)?) } else { 1 << 32 };
    let hole = Run { disk: None, count: next.saturating_sub(block.into()).max(1) };
    let Some(index) = low.checked_sub(1) else { return Some(Found::Run(hole)) };
    let found = entry(index)?;
    if depth > 0 {
        let target = u64::from(le32(found, 4)?) | u64::from(le16(found, 8)?) << 32;
        return Some(Found::Below { block: target, depth: depth - 1 });
    }
    let length = le16(found, 4)?;
    // Longer than this means allocated and never written.
    let (length, written) = if length <= 0x8000 { (length, true) } else { (length - 0x8000, false) };
    let skip = block - le32(found, 0)?;
    if skip >= u32::from(length) {
        return Some(Found::Run(hole));
    }
    let start = u64::from(le32(found, 8)?) | u64::from(le16(found, 6)?) << 32;
    let disk = written.then(|| start + u64::from(skip));
    Some(Found::Run(Run { disk, count: u64::from(u32::from(length) - skip) }))
}

/// One name in a directory block, and where the next one starts.
pub(super) struct Entry<'a> {
    /// 0 if the place is unused.
    pub(super) inode: u32,
    pub(super) name: &'a [u8],
    pub(super) kind: Kind,
    pub(super) next: usize,
}

/// The entry at `at`; `None` at the end of the block.
pub(super) fn entry(block: &[u8], at: usize) -> Result<Option<Entry<'_>>, FsError> {
    if at >= block.len() {
        return Ok(None);
    }
    entry_fields(block, at).ok_or(FsError::Corrupt).map(Some)
}

fn entry_fields(block: &[u8], at: usize) -> Option<Entry<'_>> {
    let length = match le16(block, at + 4)? {
        // A block of 64 KiB does not fit into 16 bits.
        0 | 0xffff if block.len() == 0x10000 => 0x10000,
        length => usize::from(length),
    };
    let record = block.get(at..at.checked_add(length)?)?;
    let name_length = usize::from(*record.get(6)?);
    let kind = match record.get(7)? {
        1 => Kind::File,
        2 => Kind::Directory,
        7 => Kind::Link,
        _ => Kind::Other,
    };
    let aligned = length >= 8 && length.is_multiple_of(4);
    let name = record.get(8..8 + name_length)?;
    aligned.then_some(Entry { inode: le32(record, 0)?, name, kind, next: at + length })
}
