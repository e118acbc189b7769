//! The hypervisor's own mappings: L4 slots 256 to 271, the same in every address space.
//!
//! Built once at boot: the machine-to-physical table (readable by guests), a window for devices, one
//! window per CPU, the image with its sections' protections, and all RAM linearly. The L3 tables
//! under the slots never change afterwards, so a guest's L4 gets sixteen constant entries.

use super::{cpu, layout, percpu};
use crate::boot::{BootInfo, EarlyAlloc};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const PCD_PWT: u64 = 0x18;
const AD: u64 = 0x60;
const PSE: u64 = 0x80;
/// Of a 2 MiB entry: a type from the upper half of the PAT, the first of which is write-combining (`cpu::init`).
const PAT_LARGE: u64 = 0x1000;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;
/// Bytes that an entry of level 2 maps.
pub const LARGE: u64 = 2 << 20;
const ADDR: u64 = 0x000f_ffff_ffff_f000;

static ROOT: AtomicU64 = AtomicU64::new(0);
static TEMPLATE: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];
static MMIO_NEXT: AtomicU64 = AtomicU64::new(0);
/// Pages of the device window: four L1 tables.
const MMIO_PAGES: u64 = 4 * 512;

unsafe extern "C" {
    static text_start: u8;
    static text_end: u8;
    static rodata_end: u8;
    static image_end: u8;
}

/// A table as a pointer through the direct map.
fn table(phys: u64) -> *mut u64 {
    (layout::DIRECT + (phys & ADDR)) as *mut u64
}

/// The entry of `phys`-rooted tables that maps `va` at `level` (1: L1), making tables on the way.
fn entry(root: u64, va: u64, level: u32, user: u64, alloc: &mut dyn FnMut() -> u64) -> *mut u64 {
    let mut t = table(root);
    for l in (level + 1..=4).rev() {
        // SAFETY: `t` is one of the hypervisor's tables, in the direct map; the index is below 512.
        unsafe {
            let e = t.add((va >> (12 + 9 * (l - 1))) as usize & 511);
            if *e & P == 0 {
                *e = alloc() | P | RW | AD | user;
            }
            t = table(*e);
        }
    }
    // SAFETY: as above.
    unsafe { t.add((va >> (12 + 9 * (level - 1))) as usize & 511) }
}

/// Builds the hypervisor's tables and switches to them. `m2p` is the physical range of the
/// machine-to-physical table, 2 MiB aligned.
/// # Safety
/// Once, at boot, on the early tables, which map `alloc`'s memory in the direct map.
pub unsafe fn init(info: &BootInfo, alloc: &mut EarlyAlloc, m2p: core::ops::Range<u64>) {
    let mut page = || alloc.zeroed_pages(1, 1);
    let root = page();
    let mut set = |va: u64, level: u32, user: u64, value: u64| {
        let e = entry(root, va, level, user, &mut page);
        // SAFETY: an entry of a table not yet in use.
        unsafe { *e = value };
    };
    let gib_pages = cpu::cpuid(0x8000_0001, 0).edx & (1 << 26) != 0;
    let top = info.ram_top().next_multiple_of(1 << 30).max(4 << 30);
    super::firmware::set_mapped(top);
    let mut at = 0;
    while at < top {
        if gib_pages {
            set(layout::DIRECT + at, 3, 0, at | P | RW | AD | PSE | G | NX);
            at += 1 << 30;
        } else {
            set(layout::DIRECT + at, 2, 0, at | P | RW | AD | PSE | G | NX);
            at += 2 << 20;
        }
    }
    for (i, at) in m2p.step_by(2 << 20).enumerate() {
        // Not global: a guest's users don't see it.
        set(layout::M2P + ((i as u64) << 21), 2, US, at | P | US | AD | PSE | NX);
    }
    let addr = |s: &u8| s as *const u8 as u64;
    // SAFETY: the linker's symbols; only their addresses are used.
    let (start, text, rodata, end) =
        unsafe { (addr(&text_start), addr(&text_end), addr(&rodata_end), addr(&image_end)) };
    for va in (start..end).step_by(4096) {
        let prot = if va < text {
            0
        } else if va < rodata {
            NX
        } else {
            NX | RW
        };
        set(va, 1, 0, (va - layout::IMAGE) | P | AD | G | prot);
    }
    for i in 0..MMIO_PAGES / 512 {
        set(layout::MMIO + (i << 21), 1, 0, 0);
    }
    set(layout::PERCPU, 1, 0, 0);
    for (i, kept) in TEMPLATE.iter().enumerate() {
        // SAFETY: the root table, index below 512: the template has 16 entries.
        kept.store(unsafe { *table(root).add(256 + i) }, Relaxed);
    }
    ROOT.store(root, Relaxed);
    // SAFETY: the new tables map the image where it runs, its stack and the direct map.
    unsafe { cpu::write_cr3(root) };
}

/// The root table without a guest: what idle CPUs run on.
pub fn idle_root() -> u64 {
    ROOT.load(Relaxed)
}

/// Entries 256 to 271 of every L4.
pub fn root_template() -> [u64; 16] {
    core::array::from_fn(|i| TEMPLATE[i].load(Relaxed))
}

/// Maps `pages` pages of a device, uncached, and returns their address; `None` when the window is full.
pub fn map_mmio(phys: u64, pages: u64) -> Option<u64> {
    let first = MMIO_NEXT.fetch_add(pages, Relaxed);
    if first + pages > MMIO_PAGES {
        return None;
    }
    for i in 0..pages {
        let va = layout::MMIO + ((first + i) << 12);
        let e = entry(idle_root(), va, 1, 0, &mut || 0);
        // SAFETY: the window's L1 tables were made at boot; this entry is ours since the fetch_add.
        unsafe { e.write_volatile(((phys & ADDR) + (i << 12)) | P | RW | AD | PCD_PWT | G | NX) };
    }
    Some(layout::MMIO + (first << 12) + (phys & 0xfff))
}

/// Maps the screen's memory, whole pages of [`LARGE`] bytes, so that writes are gathered; returns its address. At boot
/// alone: there is one window for it (`None`: it is in use), and no other CPU or guest has looked there yet.
pub fn map_screen(phys: core::ops::Range<u64>, alloc: &mut dyn FnMut() -> u64) -> Option<u64> {
    let first = entry(idle_root(), layout::SCREEN, 2, 0, alloc);
    // SAFETY: `first` is an entry of one of the hypervisor's tables.
    if unsafe { first.read_volatile() } & P != 0
        || phys.end - phys.start > layout::SCREEN_END - layout::SCREEN
    {
        return None;
    }
    for (va, at) in (layout::SCREEN..).step_by(LARGE as usize).zip(phys.step_by(LARGE as usize)) {
        let e = entry(idle_root(), va, 2, 0, alloc);
        // SAFETY: an entry of the window, which nobody uses before this function has returned.
        unsafe { e.write_volatile(at | P | RW | AD | PSE | PAT_LARGE | G | NX) };
    }
    Some(layout::SCREEN)
}

/// Maps the per-CPU window's own pages for `cpu`: stacks, block, its page of the GDT. Returns the
/// window's L1 table.
pub fn make_window(cpu: usize, alloc: &mut dyn FnMut() -> u64) -> u64 {
    use percpu::window::*;
    let base = percpu::window_addr(cpu, 0);
    for page in (STACK..STACK + STACK_PAGES).chain(IST).chain([GDT_OWN, BLOCK]) {
        let frame = alloc();
        let e = entry(idle_root(), base + ((page as u64) << 12), 1, 0, alloc);
        // SAFETY: the window is not in use yet; the frame is fresh.
        unsafe { e.write_volatile(frame | P | RW | AD | G | NX) };
    }
    let e = entry(idle_root(), base, 1, 0, alloc);
    e as u64 - layout::DIRECT
}

/// Which part of the window [`map_window`] fills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// The running guest's GDT, up to 14 frames.
    Gdt,
    /// The running guest's LDT, up to 16 frames.
    Ldt,
}

/// Maps the running guest's descriptor frames in this CPU's window (`None`: nothing there).
/// The frames must be validated as descriptor frames and held by the vcpu that runs.
pub fn map_window(which: Window, frames: impl Iterator<Item = Option<u64>>) {
    let (first, n) = match which {
        Window::Gdt => (percpu::window::GDT, 14),
        Window::Ldt => (percpu::window::LDT, 16),
    };
    let this = percpu::this();
    let l1 = table(this.window_l1);
    for (i, mfn) in frames.take(n).enumerate() {
        let new = mfn.map_or(0, |m| m << 12 | P | RW | AD | NX);
        // SAFETY: entries of this CPU's own window, for ring 0 alone; writable, for the CPU sets the accessed
        // bit of a descriptor that it loads.
        unsafe {
            let e = l1.add(first + i);
            if e.read_volatile() != new {
                e.write_volatile(new);
                cpu::invlpg(percpu::window_addr(this.cpu as usize, first + i));
            }
        }
    }
}
