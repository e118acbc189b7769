//! The formats in which Linux's build packs a kernel. Each decoder writes into memory of the size that the
//! file says, and may take a window besides: 32 MiB for xz, which is what Linux's build asks of it, and at
//! most 128 MiB for zstd.

use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use ruzstd::decoding::FrameDecoder;
use xz4rust::XzDecoder;

use crate::{Error, available, zeroed};

/// A format that is unpacked here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// gzip: a member of RFC 1952.
    Gzip,
    /// xz with LZMA2, and the filter for x86 branches.
    Xz,
    /// Zstandard, one frame (RFC 8878).
    Zstd,
    /// LZ4's legacy frame: blocks of 8 MiB, each with its packed length before it.
    Lz4,
}

const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZ4_BLOCK: usize = 8 << 20;
const XZ_WINDOW: usize = 32 << 20;
const ZSTD_WINDOW: u64 = 128 << 20;
/// Bytes of the unpacked size behind the payload of each format; gzip has them of its own.
const SIZE: usize = 4;

impl Format {
    /// The format's usual name.
    pub fn name(self) -> &'static str {
        match self {
            Format::Gzip => "gzip",
            Format::Xz => "xz",
            Format::Zstd => "zstd",
            Format::Lz4 => "lz4",
        }
    }

    /// The format of `payload`, by its first bytes.
    pub(crate) fn of(payload: &[u8]) -> Result<Self, Error> {
        match payload {
            [0x1f, 0x8b, ..] => Ok(Format::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Format::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Format::Zstd),
            _ if payload.starts_with(&LZ4_MAGIC) => Ok(Format::Lz4),
            [b'B', b'Z', ..] => Err(Error::Unsupported("bzip2")),
            [0x5d, 0, ..] => Err(Error::Unsupported("lzma")),
            [0x89, b'L', ..] => Err(Error::Unsupported("lzo")),
            _ => Err(Error::Unsupported("unknown")),
        }
    }

    /// Unpacks `data` and gives how many bytes of `out` were written.
    pub(crate) fn unpack(self, data: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let without_size = data.get(..data.len().saturating_sub(SIZE)).unwrap_or_default();
        let written = match self {
            Format::Gzip => gzip(data, out),
            Format::Xz => xz(without_size, out, &mut zeroed(XZ_WINDOW)?),
            Format::Zstd => {
                // its window is allocated by ruzstd, which cannot fail: so it is seen first that it is there
                let window = zstd_window(without_size).filter(|window| *window <= ZSTD_WINDOW);
                let window = window.ok_or(Error::Broken(self))? as usize;
                available(2 * window)?; // its ring is at most twice the window
                zstd(without_size, out)
            }
            Format::Lz4 => lz4(without_size, out),
        };
        written.ok_or(Error::Broken(self))
    }
}

/// The member's checksum is not looked at: a kernel that was damaged on its way here would be refused or
/// fail as any other bad kernel, and only its own domain would.
fn gzip(member: &[u8], out: &mut [u8]) -> Option<usize> {
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    const HEADER_CHECKSUM: u8 = 2;
    let flags = *member.get(3)?;
    let mut at = 10;
    if flags & EXTRA != 0 {
        let len = member.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)?;
        at += 2 + usize::from(len);
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            at += member.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        }
    }
    if flags & HEADER_CHECKSUM != 0 {
        at += 2;
    }
    decompress_slice_iter_to_slice(out, core::iter::once(member.get(at..)?), false, false).ok()
}

fn xz(mut stream: &[u8], out: &mut [u8], window: &mut [u8]) -> Option<usize> {
    let mut decoder = XzDecoder::with_fixed_size_dict(window);
    let mut written = 0;
    loop {
        let step = decoder.decode(stream, &mut out[written..]).ok()?;
        stream = stream.get(step.input_consumed()..)?;
        written += step.output_produced();
        if step.is_end_of_stream() {
            return Some(written);
        }
        if !step.made_progress() {
            return None; // the stream ends early, or there is more than `out` holds
        }
    }
}

/// The window that a frame asks for, in bytes (RFC 8878, 3.1.1.1.2).
fn zstd_window(frame: &[u8]) -> Option<u64> {
    let descriptor = *frame.get(4)?;
    if descriptor & 0x20 != 0 {
        // a single segment: the window is the content's size, which stands behind the dictionary's number
        let at = 5 + [0, 1, 2, 4][usize::from(descriptor & 3)];
        let size = frame.get(at..at + (1 << (descriptor >> 6)))?;
        return Some(
            size.iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte)).saturating_add(256),
        );
    }
    let window = *frame.get(5)?;
    let base = 1u64.checked_shl(10 + u32::from(window >> 3))?;
    Some(base + base / 8 * u64::from(window & 7))
}

fn zstd(frame: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(ZSTD_WINDOW);
    decoder.decode_all(frame, out).ok()
}

fn lz4(mut frame: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut written = 0;
    while let Some((word, rest)) = frame.split_first_chunk::<4>() {
        frame = rest;
        if *word == LZ4_MAGIC {
            continue;
        }
        let (block, rest) = frame.split_at_checked(u32::from_le_bytes(*word) as usize)?;
        frame = rest;
        let end = out.len().min(written + LZ4_BLOCK);
        written += lz4_flex::block::decompress_into(block, &mut out[written..end]).ok()?;
    }
    frame.is_empty().then_some(written)
}
