//! Filesystems of a guest.

mod cache;
pub mod ext4;

use crate::block::BlockError;
use core::fmt;

/// Why a filesystem operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsError {
    /// There is nothing of that name.
    NotFound,
    /// Something on the way is not a directory, or a directory was asked for.
    NotADirectory,
    /// It is a directory, or a device.
    NotAFile,
    /// A symbolic link leads to too many others.
    TooManyLinks,
    /// The disk holds no such filesystem, or it is damaged here.
    Corrupt,
    /// The filesystem has a feature (the bits of its `incompat` word) that is not read here.
    Feature(u32),
    /// The disk failed.
    Disk(BlockError),
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FsError::NotFound => f.write_str("not found"),
            FsError::NotADirectory => f.write_str("not a directory"),
            FsError::NotAFile => f.write_str("not a file"),
            FsError::TooManyLinks => f.write_str("too many symbolic links"),
            FsError::Corrupt => f.write_str("no such filesystem, or damaged"),
            FsError::Feature(bits) => write!(f, "filesystem features {bits:#x} are not supported"),
            FsError::Disk(error) => write!(f, "disk error: {error:?}"),
        }
    }
}

impl core::error::Error for FsError {}

impl From<BlockError> for FsError {
    fn from(error: BlockError) -> Self {
        FsError::Disk(error)
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket.
    Other,
}

/// What is known about a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Bytes in it.
    pub size: u64,
    /// When it was last written, in seconds since 1970.
    pub modified: u32,
    /// Its number, which with `modified` and `size` tells it from others and from earlier states.
    pub inode: u32,
}
