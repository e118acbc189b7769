//! A PV kernel's ELF file: what to load where, and what its Xen notes ask for (elfnote.h).

use elf::ElfBytes;
use elf::abi::{EM_X86_64, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use shared_abi::elfnote::*;

/// A kernel, ready to be loaded.
pub struct Kernel<'a> {
    file: ElfBytes<'a, LittleEndian>,
    bytes: &'a [u8],
    /// Virtual address of pseudo-physical address 0.
    pub base: u64,
    /// What is taken off a segment's physical address.
    pub paddr_offset: u64,
    /// Where it is entered.
    pub entry: u64,
    /// Where it wants the hypercall page.
    pub hypercall_page: Option<u64>,
    /// Lowest and highest virtual address that it takes.
    pub start: u64,
    /// As above.
    pub end: u64,
}

impl<'a> Kernel<'a> {
    /// Reads headers and notes.
    pub fn parse(bytes: &'a [u8]) -> Result<Kernel<'a>, &'static str> {
        let file =
            ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(|_| "dom0's kernel is not an ELF file")?;
        if file.ehdr.e_machine != EM_X86_64 {
            return Err("dom0's kernel is not for x86-64");
        }
        let mut k = Kernel {
            bytes,
            base: 0,
            paddr_offset: 0,
            entry: file.ehdr.e_entry,
            hypercall_page: None,
            start: u64::MAX,
            end: 0,
            file,
        };
        let mut xen = false;
        let mut guest_is_xen = false;
        let mut note = |n: Note<'_>| {
            if let Note::Unknown(n) = n {
                if n.name != b"Xen" && n.name != b"Xen\0" {
                    return;
                }
                xen = true;
                let mut word = [0; 8];
                let len = n.desc.len().min(8);
                word[..len].copy_from_slice(&n.desc[..len]);
                let word = u64::from_le_bytes(word);
                match n.n_type as u32 {
                    XEN_ELFNOTE_VIRT_BASE => k.base = word,
                    XEN_ELFNOTE_PADDR_OFFSET => k.paddr_offset = word,
                    XEN_ELFNOTE_ENTRY => k.entry = word,
                    XEN_ELFNOTE_HYPERCALL_PAGE => k.hypercall_page = Some(word),
                    XEN_ELFNOTE_XEN_VERSION => guest_is_xen = n.desc.starts_with(b"xen-3.0"),
                    _ => {}
                }
            }
        };
        let damaged = "dom0's kernel has damaged ELF headers";
        for s in k.file.segments().ok_or(damaged)?.iter().filter(|s| s.p_type == PT_NOTE) {
            for n in k.file.segment_data_as_notes(&s).map_err(|_| damaged)? {
                note(n);
            }
        }
        if !xen || !guest_is_xen {
            return Err("dom0's kernel has no Xen notes: it can't run paravirtualised");
        }
        for s in k.segments() {
            let (va, _, memory) = s?;
            k.start = k.start.min(va);
            k.end = k.end.max(va.checked_add(memory).ok_or(damaged)?);
        }
        if k.start < k.base || k.start >= k.end || k.end - k.base > 1 << 30 {
            return Err("dom0's kernel is linked outside its address space");
        }
        Ok(k)
    }

    /// The segments to load: virtual address, bytes, size in memory.
    pub fn segments(&self) -> impl Iterator<Item = Result<(u64, &'a [u8], u64), &'static str>> + 'a {
        let damaged = "dom0's kernel is truncated";
        let (bytes, base, offset) = (self.bytes, self.base, self.paddr_offset);
        self.file.segments().into_iter().flat_map(|t| t.iter()).filter(|s| s.p_type == PT_LOAD).map(
            move |s| {
                let from = usize::try_from(s.p_offset).map_err(|_| damaged)?;
                let len = usize::try_from(s.p_filesz).map_err(|_| damaged)?;
                let data = from.checked_add(len).and_then(|end| bytes.get(from..end)).ok_or(damaged)?;
                if s.p_memsz < s.p_filesz {
                    return Err(damaged);
                }
                let va = s.p_paddr.wrapping_sub(offset).wrapping_add(base);
                Ok((va, data, s.p_memsz))
            },
        )
    }
}
