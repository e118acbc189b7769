//! What the boot loader said, in one form for Multiboot 1, Multiboot 2 and PVH.
//!
//! The three differ only in how they encode the same five things. Parsing copies everything out of
//! the loader's memory at once: later that memory is ordinary RAM. Multiboot 2 is a list of tagged
//! records, read here directly: a library for it would need its records mapped as Rust objects.

use arrayvec::{ArrayString, ArrayVec};

/// A range of physical addresses, `start..end`.
pub type Range = core::ops::Range<u64>;

/// What a range of physical memory is (the numbers of the E820 interface).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RAM free to use.
    Ram,
    /// Neither RAM nor to be touched.
    Reserved,
    /// ACPI tables.
    Acpi,
    /// ACPI non-volatile storage.
    Nvs,
    /// Anything else; the loader's number.
    Other(u32),
}

impl Kind {
    fn from_e820(n: u32) -> Kind {
        match n {
            1 => Kind::Ram,
            2 => Kind::Reserved,
            3 => Kind::Acpi,
            4 => Kind::Nvs,
            n => Kind::Other(n),
        }
    }
    /// The E820 number.
    pub fn e820(self) -> u32 {
        match self {
            Kind::Ram => 1,
            Kind::Reserved => 2,
            Kind::Acpi => 3,
            Kind::Nvs => 4,
            Kind::Other(n) => n,
        }
    }
}

/// A file that the loader put into memory.
#[derive(Clone, Debug)]
pub struct Module {
    /// Where it lies.
    pub range: Range,
    /// Its words on the loader's line, the file's name taken off.
    pub cmdline: ArrayString<1024>,
}

/// A screen that the loader left on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Physical address of its memory.
    pub address: u64,
    /// Bytes from a line to the next.
    pub pitch: u32,
    /// Pixels of a line, or characters.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bits of a pixel.
    pub depth: u8,
    /// Position and size of red, green and blue in a pixel; `None`: it shows text.
    pub colours: Option<[u8; 6]>,
}

/// The loader's account of the machine.
pub struct BootInfo {
    /// Which protocol it was.
    pub protocol: &'static str,
    /// The hypervisor's command line, its own name taken off.
    pub cmdline: ArrayString<1024>,
    /// Physical memory.
    pub memory: ArrayVec<(Range, Kind), 128>,
    /// Files: dom0's kernel, then its ramdisk.
    pub modules: ArrayVec<Module, 8>,
    /// ACPI's root pointer, where the loader gave it (its address or a copy's).
    pub rsdp: Option<u64>,
    /// EFI's system table, on firmware of that kind.
    pub efi: Option<u64>,
    /// The screen.
    pub screen: Option<Screen>,
    /// Physical range of the hypervisor's image.
    pub image: Range,
}

/// Physical memory as the parser reads it. Reads outside memory give zeros.
pub trait Physical {
    /// Fills `out` from `at`.
    fn read(&self, at: u64, out: &mut [u8]);
    /// A little-endian word.
    fn u32(&self, at: u64) -> u32 {
        let mut b = [0; 4];
        self.read(at, &mut b);
        u32::from_le_bytes(b)
    }
    /// A little-endian double word.
    fn u64(&self, at: u64) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }
    /// A string up to its zero byte, at most 1023 bytes; what isn't ASCII becomes '?'.
    fn string(&self, at: u64) -> ArrayString<1024> {
        let mut s = ArrayString::new();
        for i in 0..1023 {
            let mut b = [0];
            self.read(at + i, &mut b);
            if b[0] == 0 {
                break;
            }
            s.push(if b[0].is_ascii() { b[0] as char } else { '?' });
        }
        s
    }
}

/// Takes the first word (the file's name) off a loader's line.
fn without_name(s: &str) -> ArrayString<1024> {
    let rest = s.trim_start().split_once(' ').map_or("", |(_, r)| r.trim());
    ArrayString::from(rest).unwrap_or_default()
}

/// The screen that Multiboot 2's record tells of. One with a palette is none that anybody could use.
fn screen(tag: u64, size: u64, mem: &impl Physical) -> Option<Screen> {
    const RGB: u8 = 1;
    const TEXT: u8 = 2;
    let (mut kind, mut colours) = ([0; 2], [0; 6]);
    mem.read(tag + 28, &mut kind);
    mem.read(tag + 32, &mut colours);
    let [depth, kind] = kind;
    let colours = match kind {
        RGB if size >= 38 => Some(colours),
        TEXT if size >= 32 => None,
        _ => return None,
    };
    let [pitch, width, height] = [16, 20, 24].map(|at| mem.u32(tag + at));
    Some(Screen { address: mem.u64(tag + 8), pitch, width, height, depth, colours })
}

/// Multiboot 1's value in eax.
pub const MAGIC_MB1: u32 = 0x2bad_b002;
/// Multiboot 2's value in eax.
pub const MAGIC_MB2: u32 = 0x36d7_6289;
/// Set by our own PVH entry.
pub const MAGIC_PVH: u32 = 0x5056_4830;

impl BootInfo {
    /// Reads the loader's structures. `image`: where the hypervisor lies.
    pub fn parse(magic: u32, at: u64, mem: &impl Physical, image: Range) -> Result<BootInfo, &'static str> {
        let mut info = BootInfo {
            protocol: "",
            cmdline: ArrayString::new(),
            memory: ArrayVec::new(),
            modules: ArrayVec::new(),
            rsdp: None,
            efi: None,
            screen: None,
            image,
        };
        match magic {
            MAGIC_MB1 => info.multiboot1(at, mem),
            MAGIC_MB2 => info.multiboot2(at, mem),
            MAGIC_PVH => info.pvh(at, mem),
            _ => return Err("not started by Multiboot or PVH"),
        }
        if info.memory.is_empty() {
            return Err("the loader gave no memory map");
        }
        Ok(info)
    }

    fn add_memory(&mut self, start: u64, len: u64, kind: u32) {
        if let Some(end) = start.checked_add(len).filter(|_| len > 0) {
            // A map of more than 128 entries loses the rest: that RAM stays unused.
            let _ = self.memory.try_push((start..end, Kind::from_e820(kind)));
        }
    }

    fn add_module(&mut self, start: u64, end: u64, cmdline: ArrayString<1024>) {
        if end > start {
            let _ = self.modules.try_push(Module { range: start..end, cmdline });
        }
    }

    fn multiboot1(&mut self, at: u64, mem: &impl Physical) {
        self.protocol = "Multiboot 1";
        let flags = mem.u32(at);
        if flags & 1 << 2 != 0 {
            self.cmdline = without_name(&mem.string(mem.u32(at + 16).into()));
        }
        if flags & 1 << 3 != 0 {
            let (n, list) = (mem.u32(at + 20).min(8), u64::from(mem.u32(at + 24)));
            for m in (0..u64::from(n)).map(|i| list + 16 * i) {
                let line = mem.string(mem.u32(m + 8).into());
                self.add_module(mem.u32(m).into(), mem.u32(m + 4).into(), without_name(&line));
            }
        }
        if flags & 1 << 6 != 0 {
            let (len, mut e) = (u64::from(mem.u32(at + 44)), u64::from(mem.u32(at + 48)));
            let end = e + len;
            while e < end {
                self.add_memory(mem.u64(e + 4), mem.u64(e + 12), mem.u32(e + 20));
                e += u64::from(mem.u32(e)) + 4;
            }
        }
    }

    fn multiboot2(&mut self, at: u64, mem: &impl Physical) {
        self.protocol = "Multiboot 2";
        let end = at + u64::from(mem.u32(at));
        let mut tag = at + 8;
        while tag + 8 <= end {
            let (kind, size) = (mem.u32(tag), u64::from(mem.u32(tag + 4)));
            if kind == 0 || size < 8 {
                break;
            }
            match kind {
                // GRUB passes only the arguments here, without the file's name.
                1 => self.cmdline = ArrayString::from(mem.string(tag + 8).trim()).unwrap_or_default(),
                3 => {
                    let line = ArrayString::from(mem.string(tag + 16).trim()).unwrap_or_default();
                    self.add_module(mem.u32(tag + 8).into(), mem.u32(tag + 12).into(), line);
                }
                6 => {
                    let step = u64::from(mem.u32(tag + 8)).max(24);
                    let mut e = tag + 16;
                    while e + 24 <= tag + size {
                        self.add_memory(mem.u64(e), mem.u64(e + 8), mem.u32(e + 16));
                        e += step;
                    }
                }
                8 => self.screen = screen(tag, size, mem),
                12 => self.efi = Some(mem.u64(tag + 8)),
                // A copy of ACPI's root pointer; the newer form wins.
                14 => self.rsdp = self.rsdp.or(Some(tag + 8)),
                15 => self.rsdp = Some(tag + 8),
                _ => {}
            }
            tag += size.next_multiple_of(8);
        }
    }

    fn pvh(&mut self, at: u64, mem: &impl Physical) {
        self.protocol = "PVH";
        let version = mem.u32(at + 4);
        let n = u64::from(mem.u32(at + 12).min(8));
        let list = mem.u64(at + 16);
        if mem.u64(at + 24) != 0 {
            self.cmdline = ArrayString::from(mem.string(mem.u64(at + 24)).trim()).unwrap_or_default();
        }
        if mem.u64(at + 32) != 0 {
            self.rsdp = Some(mem.u64(at + 32));
        }
        for m in (0..n).map(|i| list + 32 * i) {
            let start = mem.u64(m);
            let line = if mem.u64(m + 16) != 0 { mem.string(mem.u64(m + 16)) } else { ArrayString::new() };
            self.add_module(start, start.saturating_add(mem.u64(m + 8)), line);
        }
        if version >= 1 {
            let (map, entries) = (mem.u64(at + 40), u64::from(mem.u32(at + 48).min(128)));
            for e in (0..entries).map(|i| map + 24 * i) {
                self.add_memory(mem.u64(e), mem.u64(e + 8), mem.u32(e + 16));
            }
        }
    }

    /// The value of `name=` on the hypervisor's line, or the empty string for the bare word.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.cmdline.split_ascii_whitespace().rev().find_map(|w| match w.split_once('=') {
            Some((k, v)) if k == name => Some(v),
            None if w == name => Some(""),
            _ => None,
        })
    }

    /// End of the highest RAM.
    pub fn ram_top(&self) -> u64 {
        self.ram().map(|r| r.end).max().unwrap_or(0)
    }

    /// RAM, in whole pages.
    pub fn ram(&self) -> impl Iterator<Item = Range> + '_ {
        self.memory
            .iter()
            .filter(|(_, k)| *k == Kind::Ram)
            .map(|(r, _)| r.start.next_multiple_of(4096)..r.end & !4095)
            .filter(|r| r.start < r.end)
    }

    /// RAM without `holes` (given in any order).
    pub fn ram_without(&self, holes: &[Range]) -> ArrayVec<Range, 192> {
        let mut out: ArrayVec<Range, 192> = self.ram().collect();
        for h in holes {
            let h = h.start & !4095..h.end.next_multiple_of(4096);
            let mut next = ArrayVec::new();
            for r in out {
                for piece in [r.start..r.end.min(h.start), r.start.max(h.end)..r.end] {
                    if piece.start < piece.end {
                        let _ = next.try_push(piece);
                    }
                }
            }
            out = next;
        }
        out
    }

    /// Everything in RAM that is in use at boot: low memory, the image, the modules.
    pub fn in_use(&self) -> ArrayVec<Range, 16> {
        let mut v: ArrayVec<Range, 16> = ArrayVec::new();
        v.push(0..1 << 20);
        v.push(self.image.clone());
        v.extend(self.modules.iter().map(|m| m.range.clone()));
        v
    }
}

/// Memory for what the hypervisor needs before its page allocator stands, from the top of the largest
/// free range below 4 GiB down. What it took is one range, and stays the hypervisor's.
pub struct EarlyAlloc {
    bottom: u64,
    next: u64,
    top: u64,
}

impl EarlyAlloc {
    /// Picks the range.
    pub fn new(info: &BootInfo) -> Result<EarlyAlloc, &'static str> {
        let r = info
            .ram_without(&info.in_use())
            .into_iter()
            .map(|r| r.start..r.end.min(4 << 30))
            .filter(|r| r.start < r.end)
            .max_by_key(|r| r.end - r.start)
            .ok_or("no free RAM below 4 GiB")?;
        Ok(EarlyAlloc { bottom: r.start, next: r.end, top: r.end })
    }

    /// Takes `n` pages, aligned to `align` pages. Panics when there are none: the machine can't run.
    pub fn pages(&mut self, n: u64, align: u64) -> u64 {
        let at = (self.next - n * 4096) / (align * 4096) * (align * 4096);
        assert!(at >= self.bottom, "not enough memory below 4 GiB");
        self.next = at;
        at
    }

    /// What was taken so far.
    pub fn taken(&self) -> Range {
        self.next..self.top
    }
}

#[cfg(target_os = "none")]
mod target {
    use super::*;
    use crate::x86_64::layout;

    /// Physical memory through the early direct map: the first 4 GiB.
    pub struct Early;
    impl Physical for Early {
        fn read(&self, at: u64, out: &mut [u8]) {
            for (i, b) in out.iter_mut().enumerate() {
                let a = at.wrapping_add(i as u64);
                // SAFETY: mapped by the early tables; the loader's memory is written by nobody meanwhile.
                *b = if a < 4 << 30 {
                    unsafe { ((layout::DIRECT + a) as *const u8).read_volatile() }
                } else {
                    0
                };
            }
        }
    }

    impl EarlyAlloc {
        /// As [`EarlyAlloc::pages`], zeroed.
        pub fn zeroed_pages(&mut self, n: u64, align: u64) -> u64 {
            let at = self.pages(n, align);
            // SAFETY: RAM below 4 GiB that nobody uses, mapped by the early tables and by the final ones.
            unsafe { core::ptr::write_bytes((layout::DIRECT + at) as *mut u8, 0, n as usize * 4096) };
            at
        }
    }

    unsafe extern "C" {
        static image_phys_start: u8;
        static image_phys_end: u8;
    }

    /// Where the hypervisor lies (the linker's symbols are its physical bounds).
    pub fn image() -> Range {
        &raw const image_phys_start as u64..&raw const image_phys_end as u64
    }
}
#[cfg(target_os = "none")]
pub use target::{Early, image};

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    struct Bytes(u64, Vec<u8>);
    impl Physical for Bytes {
        fn read(&self, at: u64, out: &mut [u8]) {
            for (i, b) in out.iter_mut().enumerate() {
                *b = at.checked_sub(self.0).and_then(|o| self.1.get(o as usize + i)).copied().unwrap_or(0);
            }
        }
    }
    fn words(w: &[u32]) -> Vec<u8> {
        w.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn multiboot1_gives_line_modules_and_memory() {
        let mut b = words(&[1 << 2 | 1 << 3 | 1 << 6, 0, 0, 0, 0x1100, 1, 0x1200, 0, 0, 0, 0, 24, 0x1300]);
        b.resize(0x400, 0);
        b[0x100..0x115].copy_from_slice(b"oxen console=com1 a=b");
        b[0x200..0x210].copy_from_slice(&words(&[0x5000, 0x6000, 0x1180, 0]));
        b[0x180..0x190].copy_from_slice(b"/boot/dom0 quiet");
        b[0x300..0x318].copy_from_slice(&words(&[20, 0x10_0000, 0, 0x70_0000, 0, 1]));
        let i = BootInfo::parse(MAGIC_MB1, 0x1000, &Bytes(0x1000, b), 0x20_0000..0x30_0000).unwrap();
        assert_eq!(&*i.cmdline, "console=com1 a=b");
        assert_eq!(i.option("a"), Some("b"));
        assert_eq!(i.option("missing"), None);
        assert_eq!(i.modules[0].range, 0x5000..0x6000);
        assert_eq!(&*i.modules[0].cmdline, "quiet");
        assert_eq!(i.ram_top(), 0x80_0000);
        let free = i.ram_without(&i.in_use());
        assert_eq!(&free[..], &[0x10_0000..0x20_0000, 0x30_0000..0x80_0000]);
    }

    #[test]
    fn multiboot2_reads_tags_and_stops_at_a_bad_one() {
        let mut b = words(&[0, 0]);
        b.extend(words(&[1, 12])); // command line
        b.extend(b"x=1\0\0\0\0\0");
        b.extend(words(&[6, 40, 24, 0, 0, 0, 0x20_0000, 0, 1, 0]));
        b.extend(words(&[15, 44, 0x2052_5344]));
        b.resize(b.len() + 36, 0);
        b.extend(words(&[12, 16, 0x7000_1000, 1])); // EFI
        b.extend(words(&[
            8,
            38,
            0x8000_0000,
            0,
            5120,
            1280,
            800,
            32 | 1 << 8,
            16 | 8 << 8 | 8 << 16 | 8 << 24,
            8 << 8,
        ]));
        b.extend(words(&[3, 4, 1, 2])); // size below a header: the list ends here
        let n = b.len() as u32;
        b[0..4].copy_from_slice(&n.to_le_bytes());
        let i = BootInfo::parse(MAGIC_MB2, 0x8000, &Bytes(0x8000, b), 0..0).unwrap();
        assert_eq!(i.option("x"), Some("1"));
        assert_eq!(i.ram_top(), 0x20_0000);
        assert!(i.rsdp.is_some());
        assert_eq!(i.efi, Some(0x1_7000_1000));
        let screen = i.screen.unwrap();
        assert_eq!(
            (screen.address, screen.pitch, screen.width, screen.height),
            (0x8000_0000, 5120, 1280, 800)
        );
        assert_eq!((screen.depth, screen.colours), (32, Some([16, 8, 8, 8, 0, 8])));
        assert!(i.modules.is_empty());
    }

    #[test]
    fn an_unknown_loader_is_refused() {
        assert!(BootInfo::parse(0, 0, &Bytes(0, Vec::new()), 0..0).is_err());
        assert!(BootInfo::parse(MAGIC_PVH, 0, &Bytes(0, Vec::new()), 0..0).is_err());
    }
}
