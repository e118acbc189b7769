//! Stripping a kernel: what is loaded stays where it is in the file, the rest is cut off.
//!
//! Symbols and debug information follow the last loaded segment in what the linker writes. Cutting
//! there, and not moving anything, keeps a Multiboot header that counts in file offsets true. Xen's
//! notes are found through the PT_NOTE program header, never through sections.
//!
//! One empty section header is left: GRUB 2.12 refuses a file without any ("invalid section header table
//! offset in e_shoff").

use anyhow::{Context, Result, bail};

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// The bytes of an ELF64 section header.
const SECTION_HEADER: usize = 64;

/// The bytes of ELF64 file `elf` up to the end of its last loaded or note segment, and one empty section
/// header. `name` is for errors.
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
    kept.resize(kept.len().next_multiple_of(8), 0);
    let sections = kept.len() as u64;
    kept.extend([0; SECTION_HEADER]);
    kept[40..48].copy_from_slice(&sections.to_le_bytes()); // e_shoff
    kept[58..60].copy_from_slice(&(SECTION_HEADER as u16).to_le_bytes()); // e_shentsize
    kept[60..62].copy_from_slice(&1u16.to_le_bytes()); // e_shnum
    kept[62..64].fill(0); // e_shstrndx: no names
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
        assert_eq!(kept.len(), 0x180 + SECTION_HEADER);
        assert_eq!(kept[0x100..0x180], [0xaa; 0x80]);
    }

    /// Debian 13's GRUB (2.12) did not start a hypervisor without section headers: from its
    /// `grub_elf64_get_shnum`, e_shnum 0 means that header 0 has the number.
    #[test]
    fn one_empty_section_header_is_left() {
        let kept = strip(&sample(0x83, 0), "sample").expect("valid");
        let at = u64_at(&kept, 40).expect("e_shoff") as usize;
        assert_eq!(kept[at..], [0; SECTION_HEADER], "at the end of the file");
        let sizes = [58, 60, 62].map(|at| u16_at(&kept, at));
        assert_eq!(sizes, [Some(64), Some(1), Some(0)]);
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let whole = sample(0x80, 0);
        for len in 0..whole.len() {
            assert!(strip(&whole[..len], "sample").is_err(), "{len} bytes");
        }
    }
}
