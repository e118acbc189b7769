//! Takes the kernel out of a Linux bzImage: dom0's toolstack and the hypervisor's builder load the ELF
//! file that is packed in there.
//!
//! The file is hostile input. Its own word for the unpacked size (the last four bytes of the payload, by
//! Linux's build, whatever the format) says how much memory is taken, after a bound; all memory that a file
//! can make large is asked for in a way that may fail; and what comes out must have that size exactly. The
//! offsets are those of Linux's Documentation/x86/boot.rst, "The Real-Mode Kernel Header".
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod formats;

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

use formats::Decoder;
pub use formats::Format;

/// The largest kernel that is unpacked, in bytes.
pub const UNPACKED_MAX: usize = 128 << 20;

/// Why a file gives no kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// It is neither an ELF file nor a bzImage.
    NotAKernel,
    /// Its payload lies outside the file.
    Truncated,
    /// Its payload has a format that is not unpacked here.
    Unsupported(&'static str),
    /// Its payload is to become larger than [`UNPACKED_MAX`], or nothing.
    Size(usize),
    /// Its payload is damaged, or has not the size that it says.
    Broken(Format),
    /// So many bytes are needed to unpack it, and are not there.
    Memory(usize),
}

impl core::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotAKernel => write!(f, "not a kernel: neither ELF nor bzImage"),
            Error::Truncated => write!(f, "truncated bzImage: its payload lies outside the file"),
            Error::Unsupported(name) => {
                write!(f, "bzImage with {name} payload: gzip, xz, zstd and lz4 are unpacked")
            }
            Error::Size(size) => write!(
                f,
                "bzImage of {size} bytes unpacked: at least 1 and at most {} MiB are",
                UNPACKED_MAX >> 20
            ),
            Error::Broken(format) => write!(f, "broken {} payload", format.name()),
            Error::Memory(bytes) => {
                write!(f, "not enough memory to unpack the bzImage: it takes {} MiB", bytes.div_ceil(1 << 20))
            }
        }
    }
}

/// A kernel as it lies in its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel<'a> {
    /// An ELF file, by itself or in a bzImage.
    Elf(&'a [u8]),
    /// Something to be unpacked.
    Packed(Packed<'a>),
}

/// The packed kernel of a bzImage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packed<'a> {
    format: Format,
    data: &'a [u8],
    size: usize,
}

/// Finds the kernel in `file`.
pub fn open(file: &[u8]) -> Result<Kernel<'_>, Error> {
    const ELF: &[u8] = b"\x7fELF";
    const SECTOR: usize = 512;
    if file.starts_with(ELF) {
        return Ok(Kernel::Elf(file));
    }
    let bytes = |at: usize, len: usize| file.get(at..at.checked_add(len)?);
    let word = |at| bytes(at, 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes) as usize;
    if bytes(0x1fe, 2) != Some(b"\x55\xaa") || bytes(0x202, 4) != Some(b"HdrS") {
        return Err(Error::NotAKernel);
    }
    let setup_sectors = match file[0x1f1] {
        0 => 4,
        count => usize::from(count),
    };
    let start = ((setup_sectors + 1) * SECTOR).checked_add(word(0x248));
    let payload = start.and_then(|start| bytes(start, word(0x24c))).ok_or(Error::Truncated)?;
    if payload.starts_with(ELF) {
        return Ok(Kernel::Elf(payload));
    }
    let format = Format::of(payload)?;
    let (_, size) = payload.split_last_chunk::<4>().ok_or(Error::Truncated)?;
    let size = u32::from_le_bytes(*size) as usize;
    if size == 0 || size > UNPACKED_MAX {
        return Err(Error::Size(size));
    }
    Ok(Kernel::Packed(Packed { format, data: payload, size }))
}

/// The ELF file in `file`, unpacked if it has to be.
pub fn unpack(file: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    match open(file)? {
        Kernel::Elf(elf) => Ok(Cow::Borrowed(elf)),
        Kernel::Packed(packed) => {
            let mut unpacking = packed.begin()?;
            loop {
                if let Some(elf) = unpacking.step()? {
                    return Ok(Cow::Owned(elf));
                }
            }
        }
    }
}

impl<'a> Packed<'a> {
    /// The unpacked size in bytes, as the file says; from 1 to [`UNPACKED_MAX`].
    pub fn size(&self) -> usize {
        self.size
    }

    /// Takes the memory that unpacking needs.
    pub fn begin(self) -> Result<Unpacking<'a>, Error> {
        let decoder = Decoder::new(self.format, self.data)?;
        Ok(Unpacking { format: self.format, decoder, elf: zeroed(self.size)?, written: 0 })
    }
}

/// A kernel that is being unpacked, a piece at a time: whoever has others to serve does so in between.
pub struct Unpacking<'a> {
    format: Format,
    decoder: Decoder<'a>,
    elf: Vec<u8>,
    written: usize,
}

impl Unpacking<'_> {
    /// Unpacks another piece: 64 KiB at most, but 8 MiB of LZ4, whose blocks have that size. After the last one
    /// here is the ELF file. Neither that nor an error is to be followed by another step.
    pub fn step(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let broken = Error::Broken(self.format);
        let piece = self.decoder.step(&mut self.elf, self.written).ok_or(broken)?;
        self.written += piece.written;
        match piece.last {
            false => Ok(None),
            true if self.written == self.elf.len() => Ok(Some(core::mem::take(&mut self.elf))),
            true => Err(broken),
        }
    }
}

/// Zeroed memory, or an error.
fn zeroed(len: usize) -> Result<Vec<u8>, Error> {
    let mut memory = available(len)?;
    memory.resize(len, 0);
    Ok(memory)
}

/// Memory for `len` bytes, or an error.
fn available(len: usize) -> Result<Vec<u8>, Error> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(len).map_err(|_| Error::Memory(len))?;
    Ok(memory)
}

#[cfg(test)]
mod tests;
