//! The formats in which Linux's build packs a kernel. Each decoder writes into memory of the size that the
//! file says, and may take a window besides: 32 MiB for xz, which is what Linux's build asks of it, and at
//! most 128 MiB for zstd.

use alloc::boxed::Box;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::io::Read;
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
/// What a step writes at most, and reads at most, where the format lets it.
const PIECE: usize = 64 << 10;
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
}

/// What one step did.
pub(crate) struct Piece {
    pub written: usize,
    pub last: bool,
}

/// A decoder, and what it has not read yet.
pub(crate) enum Decoder<'a> {
    Gzip { state: Box<DecompressorOxide>, rest: &'a [u8] },
    Xz { state: Box<XzDecoder<'static>>, rest: &'a [u8] },
    Zstd { state: Box<FrameDecoder>, rest: &'a [u8] },
    Lz4 { rest: &'a [u8] },
}

impl<'a> Decoder<'a> {
    /// A decoder for `payload`, with its window.
    pub fn new(format: Format, payload: &'a [u8]) -> Result<Self, Error> {
        let rest = payload.get(..payload.len().saturating_sub(SIZE)).unwrap_or_default();
        let broken = Error::Broken(format);
        Ok(match format {
            Format::Gzip => Decoder::Gzip { state: Box::default(), rest: deflated(payload).ok_or(broken)? },
            Format::Xz => {
                let state = Box::new(XzDecoder::with_alloc_dict(zeroed(XZ_WINDOW)?, XZ_WINDOW));
                Decoder::Xz { state, rest }
            }
            Format::Zstd => {
                // its window is allocated by ruzstd, which cannot fail: so it is seen first that it is there
                let window = zstd_window(rest).filter(|window| *window <= ZSTD_WINDOW).ok_or(broken)?;
                // its ring is at most twice the window; what is not used might not be allocated at all
                core::hint::black_box(available(2 * window as usize)?);
                let mut state = Box::new(FrameDecoder::new());
                state.set_max_window_size(ZSTD_WINDOW);
                let mut rest = rest;
                state.init(&mut rest).map_err(|_| broken)?;
                Decoder::Zstd { state, rest }
            }
            Format::Lz4 => Decoder::Lz4 { rest },
        })
    }

    /// Writes a piece to `out`, which has `written` bytes from the steps before; `None` if the payload is damaged,
    /// ends early or has more than `out` holds. Each step but the last reads or writes something.
    pub fn step(&mut self, out: &mut [u8], written: usize) -> Option<Piece> {
        match self {
            Decoder::Gzip { state, rest } => gzip(state, rest, out, written),
            Decoder::Xz { state, rest } => xz(state, rest, &mut out[written..]),
            Decoder::Zstd { state, rest } => zstd(state, rest, &mut out[written..]),
            Decoder::Lz4 { rest } => lz4(rest, &mut out[written..]),
        }
    }
}

/// What was deflated in a gzip member.
fn deflated(member: &[u8]) -> Option<&[u8]> {
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
    member.get(at..)
}

/// The member's checksum is not looked at: a kernel that was damaged on its way here would be refused or
/// fail as any other bad kernel, and only its own domain would.
fn gzip(state: &mut DecompressorOxide, rest: &mut &[u8], out: &mut [u8], written: usize) -> Option<Piece> {
    let (input, more) = rest.split_at(rest.len().min(PIECE));
    let end = out.len().min(written + PIECE);
    let more = if more.is_empty() { 0 } else { TINFL_FLAG_HAS_MORE_INPUT };
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | more;
    // what is before `written` is its window
    let (status, read, wrote) = decompress(state, input, &mut out[..end], written, flags);
    *rest = &rest[read..];
    let piece = |last| Some(Piece { written: wrote, last });
    match status {
        TINFLStatus::Done => piece(true),
        TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput if read + wrote > 0 => piece(false),
        _ => None,
    }
}

fn xz(state: &mut XzDecoder<'_>, rest: &mut &[u8], out: &mut [u8]) -> Option<Piece> {
    let (input, end) = (&rest[..rest.len().min(PIECE)], out.len().min(PIECE));
    let step = state.decode(input, &mut out[..end]).ok()?;
    *rest = &rest[step.input_consumed()..];
    let last = step.is_end_of_stream();
    (last || step.made_progress()).then_some(Piece { written: step.output_produced(), last })
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

/// One block, of 128 KiB at most; what is behind a window of it can be had.
fn zstd(state: &mut FrameDecoder, rest: &mut &[u8], out: &mut [u8]) -> Option<Piece> {
    if state.can_collect() == 0 && !state.is_finished() {
        state.decode_blocks(&mut *rest, BlockDecodingStrategy::UptoBlocks(1)).ok()?;
    }
    let end = out.len().min(PIECE);
    let written = state.read(&mut out[..end]).ok()?;
    let left = state.can_collect() > 0;
    let last = state.is_finished() && !left;
    let sound = if last { rest.is_empty() } else { written > 0 || !left };
    sound.then_some(Piece { written, last })
}

/// One block.
fn lz4(rest: &mut &[u8], out: &mut [u8]) -> Option<Piece> {
    let Some((word, after)) = rest.split_first_chunk::<4>() else {
        return rest.is_empty().then_some(Piece { written: 0, last: true });
    };
    *rest = after;
    if *word == LZ4_MAGIC {
        return Some(Piece { written: 0, last: false });
    }
    let (block, after) = after.split_at_checked(u32::from_le_bytes(*word) as usize)?;
    *rest = after;
    let end = out.len().min(LZ4_BLOCK);
    let written = lz4_flex::block::decompress_into(block, &mut out[..end]).ok()?;
    Some(Piece { written, last: false })
}
