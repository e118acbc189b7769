//! Kernel images: ELF with Xen's notes.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PT_LOAD, PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use shared_abi::elfnote;

/// A part of the kernel and where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// The guest virtual address of its first byte.
    pub address: u64,
    /// What the file has for it.
    pub data: &'a [u8],
    /// Its length in memory; zeroes follow the data.
    pub size: u64,
}

/// What the builder needs to know of a kernel. Addresses are guest virtual ones, all at or above
/// `virt_base` and checked to make sense against each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel<'a> {
    /// What to load, in the order of the file.
    pub segments: Vec<Segment<'a>>,
    /// Where pfn 0 is mapped.
    pub virt_base: u64,
    /// The first instruction.
    pub entry: u64,
    /// The page that Xen is to fill with hypercall stubs.
    pub hypercall_page: Option<u64>,
    /// Where the kernel wants its p2m; otherwise it follows the kernel.
    pub init_p2m: Option<u64>,
    /// Whether the ramdisk needs no mapping, its pfn being enough.
    pub ramdisk_by_pfn: bool,
    /// The end of the last segment.
    pub end: u64,
}

impl<'a> Kernel<'a> {
    /// Reads an ELF kernel.
    pub fn parse(file: &'a [u8]) -> Result<Kernel<'a>, String> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file)
            .map_err(|error| format!("not a usable ELF file: {error}"))?;
        let header = &elf.ehdr;
        if header.class != elf::file::Class::ELF64
            || header.e_machine != EM_X86_64
            || header.e_type != ET_EXEC
        {
            return Err("not an x86-64 kernel: a 64-bit ET_EXEC file for EM_X86_64 is needed".into());
        }
        let notes = Notes::read(&elf)?;
        if notes.virtual_base.is_none() && notes.entry.is_none() && notes.version.is_none() {
            return Err("not a Xen kernel: it has no Xen notes".into());
        }
        let virt_base = notes.virtual_base.unwrap_or(0);
        let offset = virt_base.wrapping_sub(notes.paddr_offset.unwrap_or(0));

        let mut segments = Vec::new();
        let headers = elf.segments().ok_or("truncated ELF file: no program headers")?;
        for (n, header) in headers.iter().enumerate().filter(|(_, header)| header.p_type == PT_LOAD) {
            if header.p_memsz == 0 {
                continue;
            }
            let data = usize::try_from(header.p_offset)
                .ok()
                .zip(usize::try_from(header.p_filesz).ok())
                .and_then(|(from, len)| file.get(from..from.checked_add(len)?))
                .ok_or_else(|| format!("truncated ELF file: segment {n} lies outside the file"))?;
            let address = header.p_paddr.wrapping_add(offset);
            let end = address.checked_add(header.p_memsz);
            if address < virt_base || end.is_none() || header.p_filesz > header.p_memsz {
                return Err(format!("bad ELF file: segment {n} has impossible addresses"));
            }
            segments.push(Segment { address, data, size: header.p_memsz });
        }
        let end = segments
            .iter()
            .map(|segment| segment.address + segment.size)
            .max()
            .ok_or("bad ELF file: nothing to load")?;
        let kernel = Kernel {
            segments,
            virt_base,
            entry: notes.entry.unwrap_or(header.e_entry),
            hypercall_page: notes.hypercall_page,
            init_p2m: notes.init_p2m,
            ramdisk_by_pfn: notes.ramdisk_by_pfn,
            end,
        };
        if virt_base & 0xfff != 0 || !kernel.contains(kernel.entry) {
            return Err("bad Xen notes: the entry lies outside the kernel".into());
        }
        if kernel.hypercall_page.is_some_and(|page| page & 0xfff != 0 || !kernel.contains(page)) {
            return Err("bad Xen notes: the hypercall page lies outside the kernel".into());
        }
        Ok(kernel)
    }

    fn contains(&self, address: u64) -> bool {
        self.segments
            .iter()
            .any(|segment| (segment.address..segment.address + segment.size).contains(&address))
    }
}

#[derive(Default)]
struct Notes {
    entry: Option<u64>,
    hypercall_page: Option<u64>,
    virtual_base: Option<u64>,
    paddr_offset: Option<u64>,
    init_p2m: Option<u64>,
    version: Option<()>,
    ramdisk_by_pfn: bool,
}

impl Notes {
    /// The notes of the PT_NOTE segments; of the SHT_NOTE sections if those have none of Xen's.
    fn read(elf: &ElfBytes<'_, LittleEndian>) -> Result<Notes, String> {
        let bad = |error| format!("bad ELF notes: {error}");
        let mut notes = Notes::default();
        let mut any = false;
        for header in elf.segments().into_iter().flatten().filter(|header| header.p_type == PT_NOTE) {
            for note in elf.segment_data_as_notes(&header).map_err(bad)? {
                any |= notes.take(&note)?;
            }
        }
        for header in elf.section_headers().into_iter().flatten().filter(|header| header.sh_type == SHT_NOTE)
        {
            if any {
                break;
            }
            for note in elf.section_data_as_notes(&header).map_err(bad)? {
                notes.take(&note)?;
            }
        }
        Ok(notes)
    }

    fn take(&mut self, note: &Note<'_>) -> Result<bool, String> {
        let Note::Unknown(note) = note else { return Ok(false) };
        if !note.name.starts_with(b"Xen") {
            return Ok(false);
        }
        let number = match note.desc.len() {
            8 => note.desc.try_into().ok().map(u64::from_le_bytes),
            4 => note.desc.try_into().ok().map(|bytes| u64::from(u32::from_le_bytes(bytes))),
            _ => None,
        };
        match u32::try_from(note.n_type).unwrap_or(u32::MAX) {
            elfnote::XEN_ELFNOTE_ENTRY => self.entry = number,
            elfnote::XEN_ELFNOTE_HYPERCALL_PAGE => self.hypercall_page = number,
            elfnote::XEN_ELFNOTE_VIRT_BASE => self.virtual_base = number,
            elfnote::XEN_ELFNOTE_PADDR_OFFSET => self.paddr_offset = number,
            elfnote::XEN_ELFNOTE_INIT_P2M => self.init_p2m = number,
            elfnote::XEN_ELFNOTE_MOD_START_PFN => self.ramdisk_by_pfn = number == Some(1),
            elfnote::XEN_ELFNOTE_XEN_VERSION => self.version = Some(()),
            elfnote::XEN_ELFNOTE_LOADER if !note.desc.starts_with(b"generic") => {
                return Err("this kernel does not take the generic loader".into());
            }
            elfnote::XEN_ELFNOTE_FEATURES => {
                let names = core::str::from_utf8(note.desc).unwrap_or("");
                if names.split(['|', '\0']).any(|name| name.starts_with('!') && name.contains("pae_pgdir")) {
                    return Err("this kernel refuses PAE page tables".into());
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

#[cfg(test)]
pub(in crate::toolstack) mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    /// An ELF file with one segment at `paddr` of `size` bytes in memory and the given notes.
    pub fn elf_file(paddr: u64, size: u64, notes: &[(u32, &[u8])]) -> Vec<u8> {
        let mut note_bytes = Vec::new();
        for (kind, desc) in notes {
            for word in [4, desc.len() as u32, *kind] {
                note_bytes.extend(word.to_le_bytes());
            }
            note_bytes.extend(b"Xen\0");
            note_bytes.extend(*desc);
            note_bytes.resize(note_bytes.len().next_multiple_of(4), 0);
        }
        let code = b"kernel code";
        let (code_at, notes_at) = (64 + 2 * 56, 64 + 2 * 56 + code.len() as u64 + 1);
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend(2u16.to_le_bytes());
        file.extend(62u16.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for word in [paddr, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 2, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        for (kind, at, addr, filesz, memsz) in
            [(1u32, code_at, paddr, code.len() as u64, size), (4, notes_at, 0, note_bytes.len() as u64, 0)]
        {
            file.extend(kind.to_le_bytes());
            file.extend(5u32.to_le_bytes());
            for word in [at, addr, addr, filesz, memsz, 4] {
                file.extend(word.to_le_bytes());
            }
        }
        file.extend(code);
        file.push(0);
        file.extend(note_bytes);
        file
    }

    const BASE: u64 = 0xffff_ffff_8000_0000;

    fn ours() -> Vec<u8> {
        let entry = (BASE + 0x100000).to_le_bytes();
        elf_file(
            0x100000,
            0x5000,
            &[
                (elfnote::XEN_ELFNOTE_XEN_VERSION, b"xen-3.0\0"),
                (elfnote::XEN_ELFNOTE_VIRT_BASE, &BASE.to_le_bytes()),
                (elfnote::XEN_ELFNOTE_PADDR_OFFSET, &[0; 8]),
                (elfnote::XEN_ELFNOTE_ENTRY, &entry),
                (elfnote::XEN_ELFNOTE_HYPERCALL_PAGE, &(BASE + 0x101000).to_le_bytes()),
                (elfnote::XEN_ELFNOTE_LOADER, b"generic\0"),
            ],
        )
    }

    #[test]
    fn a_kernel_is_read() {
        let file = ours();
        let kernel = Kernel::parse(&file).unwrap();
        assert_eq!((kernel.virt_base, kernel.entry, kernel.end), (BASE, BASE + 0x100000, BASE + 0x105000));
        assert_eq!(
            kernel.segments,
            [Segment { address: BASE + 0x100000, data: b"kernel code", size: 0x5000 }]
        );
        assert_eq!(
            (kernel.hypercall_page, kernel.init_p2m, kernel.ramdisk_by_pfn),
            (Some(BASE + 0x101000), None, false)
        );
    }

    proptest! {
        /// Every truncation and every changed byte: an error or a kernel whose addresses hold, never a panic.
        #[test]
        fn no_file_panics(len in 0usize..700, changes in prop::collection::vec((0usize..700, any::<u8>()), 0..6)) {
            let mut file = ours();
            let whole = file.len();
            for (at, byte) in changes {
                if let Some(slot) = file.get_mut(at) {
                    *slot = byte;
                }
            }
            file.truncate(len.max(whole / 2));
            if let Ok(kernel) = Kernel::parse(&file).map(|k| (k.virt_base, k.end, k.entry)) {
                prop_assert!(kernel.0 <= kernel.2 && kernel.2 < kernel.1);
            }
        }

        #[test]
        fn a_truncated_kernel_is_refused(len in 0usize..180) {
            let file = ours();
            prop_assert!(Kernel::parse(&file[..len]).is_err());
        }
    }
}
