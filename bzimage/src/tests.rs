//! What Linux's build packs is unpacked; what it does not pack is an error.

use super::*;
use proptest::prelude::*;
use std::format;
use std::string::ToString;
use std::vec;

/// `\x7fELF`, 200 calls at 5 bytes each, `end`: what the filter for x86 branches changes.
fn kernel() -> Vec<u8> {
    let calls = (0..200u32).flat_map(|n| [0xe8].into_iter().chain((n * 5).to_le_bytes()));
    b"\x7fELF".iter().copied().chain(calls).chain(*b"end").collect()
}

/// [`kernel`] by `xz --check=crc32 --x86 --lzma2=dict=32MiB`, as Linux's scripts/xz_wrap.sh does it.
#[rustfmt::skip]
const XZ: &[u8] = &[
    0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x01, 0x04, 0x00, 0x21, 0x01, 0x1a, 0x00,
    0x01, 0xc9, 0x80, 0xb3, 0xe0, 0x03, 0xee, 0x01, 0x1e, 0x5d, 0x00, 0x3f, 0x91, 0x45, 0x84, 0x70, 0x69, 0xcf, 0xe7, 0x78,
    0xef, 0x43, 0xab, 0x99, 0x5e, 0x24, 0x90, 0xce, 0x01, 0x44, 0xcf, 0x23, 0xfd, 0xbe, 0x91, 0x0b, 0x7f, 0xe5, 0x71, 0xd7,
    0xd0, 0x9f, 0x8b, 0x78, 0x4d, 0x8f, 0x85, 0x51, 0x1f, 0x7e, 0xaa, 0x97, 0x27, 0x4f, 0x1c, 0x05, 0x2b, 0x28, 0x03, 0x8e,
    0xe0, 0xd4, 0xc5, 0x4d, 0x50, 0xaf, 0xe4, 0x50, 0x08, 0x11, 0x67, 0xbf, 0xd5, 0x44, 0x3e, 0x1f, 0x74, 0xa2, 0x28, 0xdc,
    0x86, 0x8b, 0x2d, 0x54, 0x6c, 0x26, 0x8d, 0x9d, 0x8b, 0x5f, 0x24, 0x4e, 0x84, 0x35, 0xe6, 0xa4, 0xbf, 0x22, 0x38, 0x0b,
    0x99, 0x66, 0x25, 0x0a, 0x03, 0x41, 0x86, 0xd2, 0x57, 0x99, 0x7a, 0xc6, 0xe2, 0xe0, 0x35, 0xf3, 0x18, 0x5c, 0x97, 0xc9,
    0xfe, 0x44, 0x9d, 0xe3, 0x27, 0xd2, 0xeb, 0x71, 0x0b, 0x96, 0x4e, 0x18, 0x57, 0x62, 0x47, 0x1b, 0x27, 0xfd, 0x58, 0xef,
    0xbe, 0x0d, 0x64, 0x3e, 0x24, 0xc5, 0x0f, 0x27, 0x0e, 0x3c, 0x45, 0x31, 0x98, 0x81, 0x2b, 0x1d, 0x17, 0x85, 0xf7, 0xf2,
    0x9b, 0x21, 0xf7, 0xd3, 0x37, 0x26, 0x6c, 0x15, 0x05, 0xc2, 0x4e, 0x1f, 0xff, 0xfd, 0x19, 0x12, 0xbd, 0x63, 0xe0, 0xde,
    0xbe, 0x74, 0xc0, 0x24, 0xa9, 0x10, 0x6a, 0xc5, 0x59, 0x54, 0xee, 0x1e, 0x9f, 0x67, 0xa4, 0xfe, 0x7e, 0x8d, 0x14, 0x9a,
    0xa0, 0x60, 0x06, 0xb3, 0x79, 0x9d, 0xd8, 0x44, 0x29, 0x84, 0x45, 0x49, 0xf6, 0xf3, 0x85, 0x58, 0x49, 0xf0, 0x09, 0xb3,
    0x4f, 0x71, 0xf7, 0xf0, 0x00, 0x4b, 0x12, 0x89, 0x10, 0xd9, 0x69, 0x34, 0x4c, 0x72, 0xfd, 0x84, 0x5b, 0x63, 0x88, 0xe1,
    0x64, 0xe0, 0xa4, 0x31, 0x52, 0x76, 0xd1, 0x72, 0x69, 0x70, 0xcb, 0x40, 0x33, 0x01, 0x09, 0x47, 0x7c, 0xae, 0xeb, 0xad,
    0x04, 0x59, 0x76, 0x9f, 0x91, 0xec, 0x6d, 0x59, 0xa0, 0x4d, 0x94, 0x6b, 0x27, 0x3c, 0x6b, 0x0c, 0xaa, 0xd2, 0xfe, 0xed,
    0xda, 0xed, 0x6b, 0xe4, 0x48, 0xf0, 0xfa, 0x3e, 0x7b, 0x51, 0x25, 0x4d, 0xfc, 0xad, 0x38, 0x23, 0x00, 0x00, 0x00, 0x00,
    0x44, 0x7e, 0xa0, 0x58, 0x00, 0x01, 0xb6, 0x02, 0xef, 0x07, 0x00, 0x00, 0x3e, 0x30, 0x55, 0xfe, 0x3e, 0x30, 0x0d, 0x8b,
    0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a,
];

fn packed(format: Format, kernel: &[u8]) -> Vec<u8> {
    let mut payload = match format {
        Format::Gzip => {
            let mut member = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3, b'n', 0];
            member.extend(miniz_oxide::deflate::compress_to_vec(kernel, 6));
            member.extend([0; 4]); // the checksum
            member
        }
        Format::Xz => XZ.to_vec(),
        Format::Zstd => {
            ruzstd::encoding::compress_to_vec(kernel, ruzstd::encoding::CompressionLevel::Fastest)
        }
        Format::Lz4 => {
            let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
            for block in kernel.chunks(8 << 20) {
                let block = lz4_flex::block::compress(block);
                frame.extend((block.len() as u32).to_le_bytes());
                frame.extend(block);
            }
            frame
        }
    };
    payload.extend((kernel.len() as u32).to_le_bytes());
    payload
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0u8; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file
}

const ALL: [Format; 4] = [Format::Gzip, Format::Xz, Format::Zstd, Format::Lz4];

#[test]
fn each_format_is_unpacked() {
    for format in ALL {
        let file = bzimage(&packed(format, &kernel()));
        assert_eq!(unpack(&file).as_deref(), Ok(&kernel()[..]), "{}", format.name());
    }
    let plain = kernel();
    assert_eq!(unpack(&plain).as_deref(), Ok(&plain[..]));
    assert_eq!(unpack(&bzimage(&plain)).as_deref(), Ok(&plain[..]));
}

#[test]
fn more_than_one_block_of_lz4_is_unpacked() {
    let long: Vec<u8> = (0..(9u32 << 20)).map(|n| (n >> 9) as u8).collect();
    assert!(unpack(&bzimage(&packed(Format::Lz4, &long))).as_deref() == Ok(&long[..]));
}

/// Nobody waits long for a step, and each ends.
#[test]
fn a_step_is_a_piece() {
    let long: Vec<u8> = (0..(3u32 << 20)).map(|n| (n >> 9) as u8).collect();
    for format in [Format::Gzip, Format::Zstd] {
        let file = bzimage(&packed(format, &long));
        let Ok(Kernel::Packed(packed)) = open(&file) else { panic!("{}", format.name()) };
        assert_eq!(packed.size(), long.len());
        let mut unpacking = packed.begin().unwrap();
        let mut steps = 0;
        let elf = loop {
            let before = unpacking.written;
            steps += 1;
            match unpacking.step().unwrap() {
                None => assert!(unpacking.written - before <= 64 << 10),
                Some(elf) => break elf,
            }
        };
        assert!(elf == long && steps >= 3 << 4, "{}", format.name());
    }
}

#[test]
fn what_is_no_kernel_is_refused_by_name() {
    assert_eq!(unpack(b"#!/bin/sh"), Err(Error::NotAKernel));
    assert_eq!(unpack(&bzimage(&[])), Err(Error::Unsupported("unknown")));
    assert!(unpack(&bzimage(b"BZh9")).unwrap_err().to_string().contains("bzip2"));
    let mut cut = bzimage(&packed(Format::Gzip, &kernel()));
    cut.truncate(1030);
    assert_eq!(unpack(&cut), Err(Error::Truncated));
}

/// The size is the file's own word: too small, too large, none or beyond the bound, it is an error.
#[test]
fn a_wrong_size_is_refused() {
    for format in ALL {
        let good = packed(format, &kernel());
        let right = kernel().len() as u32;
        for wrong in [0, 1, right - 1, right + 1, 1 << 20, (128 << 20) + 1, u32::MAX] {
            let mut bad = good.clone();
            let at = bad.len() - 4;
            bad[at..].copy_from_slice(&wrong.to_le_bytes());
            let error = unpack(&bzimage(&bad)).expect_err(&format!("{} of {wrong}", format.name()));
            let bound = wrong == 0 || wrong as usize > UNPACKED_MAX;
            assert_eq!(error, if bound { Error::Size(wrong as usize) } else { Error::Broken(format) });
        }
    }
}

/// A frame that asks for a larger window than there may be takes no memory.
#[test]
fn a_large_window_is_refused() {
    for head in [[0x00, 0x98, 0, 0], [0x00, 0xff, 0, 0], [0xe0, 0xff, 0xff, 0xff]] {
        let mut payload = vec![0x28, 0xb5, 0x2f, 0xfd];
        payload.extend(head);
        payload.extend([0xff; 16]);
        payload.extend(1000u32.to_le_bytes());
        assert_eq!(unpack(&bzimage(&payload)), Err(Error::Broken(Format::Zstd)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Damage anywhere: an error or as many bytes as were said, never a panic.
    #[test]
    fn damage_never_panics(
        format in prop::sample::select(&ALL[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut payload = packed(format, &kernel());
        let sized = payload.split_off(payload.len() - 4);
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if cuts {
            payload.truncate(cut.index(payload.len()));
        }
        payload.extend(sized);
        if let Ok(unpacked) = unpack(&bzimage(&payload)) {
            prop_assert!(unpacked.starts_with(b"\x7fELF") || unpacked.len() == kernel().len());
        }
    }
}
