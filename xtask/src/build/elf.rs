//! Stripping a kernel: what is loaded stays where it is in the file, the rest is cut off.
//!
//! Symbols and debug information follow the last loaded segment in what the linker writes. Cutting
//! there, and not moving anything, keeps a Multiboot header that counts in file offsets true. Xen's
//! notes are found through the PT_NOTE program header, never through sections.

use anyhow::{Context, Result, bail};

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// The bytes of ELF64 file `elf` up to the end of its last loaded or note segment, without section
/// headers. `name` is for errors.
pub fn strip(elf: &[u8], name: &str) -> Result<Vec<u8>> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        bail!("{name}: not a little-endian ELF64 file");
    }
    let cut = || format!("{name}: the ELF file is truncated");
    let table = u64_at(elf, 32).with_context(cut)?;
    let entry_size = u16_at(elf, 54).with_context(cut)?;
    let entries = u16_at(elf, 56).with_context(cut)?;
    let mut end = table + u64::from(entry_size) * u64::from(entries);
    for i in 0..u64::from(entries) {
        let at = usize::try_from(table + i * u64::from(entry_size))?;
        let kind = u32_at(elf, at).with_context(cut)?;
        if kind == PT_LOAD || kind == PT_NOTE {
            let offset = u64_at(elf, at + 8).with_context(cut)?;
            let file_size = u64_at(elf, at + 32).with_context(cut)?;
            end = end.max(offset.saturating_add(file_size));
        }
    }
    let mut kept = elf.get(..usize::try_from(end)?).with_context(cut)?.to_vec();
    kept[40..48].fill(0); // e_shoff
    kept[60..64].fill(0); // e_shnum, e_shstrndx
    Ok(kept)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF64 header, one PT_LOAD of `size` bytes at offset 0x100, and `tail` bytes of debug data.
    fn sample(size: u64, tail: usize) -> Vec<u8> {
        let mut elf = vec![0u8; 0x100];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32..40].copy_from_slice(&64u64.to_le_bytes());
        elf[40..48].copy_from_slice(&0x180u64.to_le_bytes());
        elf[54..56].copy_from_slice(&56u16.to_le_bytes());
        elf[56..58].copy_from_slice(&1u16.to_le_bytes());
        elf[60..62].copy_from_slice(&3u16.to_le_bytes());
        elf[64..68].copy_from_slice(&PT_LOAD.to_le_bytes());
        elf[72..80].copy_from_slice(&0x100u64.to_le_bytes());
        elf[96..104].copy_from_slice(&size.to_le_bytes());
        elf.extend(vec![0xaa; usize::try_from(size).expect("small")]);
        elf.extend(vec![0xdd; tail]);
        elf
    }

    #[test]
    fn what_is_loaded_stays_and_the_rest_goes() {
        let kept = strip(&sample(0x80, 500), "sample").expect("valid");
        assert_eq!(kept.len(), 0x180);
        assert_eq!(kept[0x100..], [0xaa; 0x80]);
        assert_eq!((u64_at(&kept, 40), u16_at(&kept, 60)), (Some(0), Some(0)), "no section headers");
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let whole = sample(0x80, 0);
        for len in 0..whole.len() {
            assert!(strip(&whole[..len], "sample").is_err(), "{len} bytes");
        }
    }
}
