//! From the first instruction to the guest's main: what Xen handed over, and the memory map.
//!
//! Xen builds a contiguous region from VIRT_BASE on: kernel, ramdisk, p2m list, start_info, (for
//! a domU) the xenstore and console pages, page tables, a stack page, and at least 512 KiB of
//! padding to a 4 MiB boundary. The decision: keep Xen's linear map and extend it. Virtual
//! address = VIRT_BASE + pfn * 4096 for every frame of the domain, so a frame needs no other
//! bookkeeping than its pfn, at the price of 2 GiB as the largest guest.

use crate::local::Local;
use crate::shared::Shared;
use shared_abi::Port;

/// Where pfn 0 is mapped.
pub const VIRT_BASE: usize = 0xffff_ffff_8000_0000;

/// A page shared with a service outside, and the event channel to it.
#[derive(Clone, Copy)]
pub struct Ring {
    /// The page.
    pub page: &'static Shared,
    /// The port that tells the other side, and us, of changes.
    pub port: Port,
}

/// What the domain was started with.
#[derive(Clone)]
pub struct Boot {
    /// Xen's magic, for example `xen-3.0-x86_64`.
    pub magic: [u8; 32],
    /// Frames the domain started with.
    pub pages: usize,
    /// The initial domain: it has the hardware, and neither ring below.
    pub initial: bool,
    /// The kernel's command line, zero-terminated.
    pub cmdline: [u8; 1024],
    /// The module given along with the kernel.
    pub ramdisk: &'static [u8],
    /// The ring to xenstored.
    pub store: Option<Ring>,
    /// The ring to xenconsoled.
    pub console: Option<Ring>,
}

impl Boot {
    const NONE: Boot = Boot {
        magic: [0; 32],
        pages: 0,
        initial: false,
        cmdline: [0; 1024],
        ramdisk: &[],
        store: None,
        console: None,
    };

    /// The command line up to its end, or as much of it as is UTF-8.
    pub fn cmdline(&self) -> &str {
        let end = self.cmdline.iter().position(|b| *b == 0).unwrap_or(self.cmdline.len());
        self.cmdline[..end].utf8_chunks().next().map_or("", |c| c.valid())
    }

    /// The value of `name=value` on the command line.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.cmdline().split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

pub(crate) static BOOT: Local<Boot> = Local::new(|| Boot::NONE);

/// What the domain was started with (on the host: nothing).
pub fn boot() -> Boot {
    BOOT.with(|b| b.clone())
}

/// The address of a frame in the linear map.
pub(crate) fn linear(pfn: usize) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(VIRT_BASE + pfn * 4096)
}

/// The frame behind an address of the linear map.
pub(crate) fn pfn_of_linear(address: *const u8) -> usize {
    address.addr().wrapping_sub(VIRT_BASE) / 4096
}

#[cfg(target_os = "none")]
pub(crate) use target::entry;

#[cfg(target_os = "none")]
mod target {
    use super::*;
    use crate::frames::{FRAMES, FrameSet};
    use crate::paging::{self, Batch, INVALID, PAGE_RO, PAGE_RW, p2m};
    use crate::{crash, emergency, exchange, hypercall, reserve};
    use alloc::boxed::Box;
    use core::ptr::NonNull;
    use shared_abi::xen::{SIF_INITDOMAIN, StartInfo};
    use shared_abi::{DomId, Mfn, pte};

    unsafe extern "C" {
        static __text_start: u8;
        static __rodata_end: u8;
        static __rodata_start: u8;
        static __image_end: u8;
        static __stack_guard: u8;
    }

    unsafe extern "Rust" {
        safe fn __oxen_main();
    }

    /// Rust's first function: `info` is Xen's start_info, `stack` the top of Xen's boot stack.
    pub(crate) extern "C" fn entry(info: *const StartInfo, stack: usize) -> ! {
        // SAFETY: Xen passes the address of a start_info page that it mapped for us and does not
        // write to while we run.
        let info = unsafe { &*info };
        BOOT.with(|b| {
            b.magic = info.magic;
            b.pages = info.nr_pages as usize;
            b.initial = info.flags & SIF_INITDOMAIN != 0;
            b.cmdline = info.cmd_line;
            b.ramdisk = ramdisk(info);
        });
        crash::init();
        memory(info, stack);
        // SAFETY: the tables exist; the address is not used for anything else.
        let mapped = paging::ensure_tables(paging::SHARED_INFO, 1).and_then(|()| unsafe {
            paging::set_page(paging::SHARED_INFO, pte::entry(Mfn(info.shared_info >> 12), PAGE_RW | pte::NX))
        });
        mapped.expect("shared_info can be mapped");
        protect_image();
        if info.flags & SIF_INITDOMAIN == 0 {
            let console = info.console_domu();
            let console = ring(console.mfn, console.evtchn);
            if let Some(ring) = console {
                emergency::use_ring(ring);
            }
            let store = ring(info.store_mfn, info.store_evtchn);
            BOOT.with(|b| (b.store, b.console) = (store, console));
        }
        __oxen_main();
        hypercall::shutdown(hypercall::Shutdown::Poweroff)
    }

    fn ramdisk(info: &StartInfo) -> &'static [u8] {
        if info.mod_len == 0 {
            return &[];
        }
        let start = core::ptr::with_exposed_provenance(info.mod_start as usize);
        // SAFETY: the builder placed the module there; its frames are never given to the
        // allocator, so nothing writes to them.
        unsafe { core::slice::from_raw_parts(start, info.mod_len as usize) }
    }

    /// A slice of words in our own frames from pfn `first` on, and the pfn after it.
    fn words(first: usize, count: usize) -> (&'static mut [u64], usize) {
        // SAFETY: the callers pass frames from the padding after Xen's structures: mapped,
        // writable, and skipped when the rest is given to the allocator.
        let words = unsafe { core::slice::from_raw_parts_mut(linear(first).cast::<u64>(), count) };
        (words, first + (count * 8).div_ceil(4096))
    }

    /// Sets up the p2m, the frame allocator and the linear map of all memory.
    fn memory(info: &StartInfo, stack: usize) {
        let pages = info.nr_pages as usize;
        let tables_end = info.pt_base as usize + info.nr_pt_frames as usize * 4096;
        let free = pfn_of_linear(stack.max(tables_end).next_multiple_of(4096) as *const u8);
        let list = core::ptr::with_exposed_provenance_mut(info.mfn_list as usize);
        // SAFETY: Xen left the p2m there for us to use; nobody else refers to it.
        let list = unsafe { core::slice::from_raw_parts_mut::<u64>(list, pages) };
        let root = pfn_of_linear(info.pt_base as *const u8);
        paging::init(root, list);
        let mapped = paging::mapped_run(free, pages);
        // The balloon may grow a domU up to its maximum, so the p2m gets room for that, as far as
        // half of the mapped padding holds it. The initial domain's maximum is often "no limit":
        // it stays as it is.
        let fits = (mapped - free) * 4096 / 2 / size_of::<u64>();
        let limit = match exchange::reservation_of_self() {
            Ok((_, most)) if info.flags & SIF_INITDOMAIN == 0 => pages.max(fits.min(most as usize)),
            _ => pages,
        };
        let mut free = free;
        if limit > pages {
            let (room, after) = words(free, limit);
            paging::move_p2m(room);
            free = after;
        }
        let (bitmap, free) = words(free, limit.div_ceil(64));
        FRAMES.with(|f| *f = FrameSet::new(bitmap));
        FRAMES.with(|f| f.release(free, mapped - free));
        low_memory();
        reserve::set(mapped, pages);
    }

    /// The frames below the image: Xen maps them and puts nothing there. Pfn 0 stays out of use.
    fn low_memory() {
        let image = pfn_of_linear(&raw const __text_start);
        let run = paging::mapped_run(1, image);
        FRAMES.with(|f| {
            for pfn in 1..run {
                if p2m(pfn) != INVALID {
                    f.release(pfn, 1);
                }
            }
        });
    }

    /// Takes rights away: text is not writable, data not executable, the page below the stack
    /// gone. Xen may refuse any of it; the guest then runs with what it has.
    fn protect_image() {
        let page = |address: *const u8| pfn_of_linear(address);
        let (text, rodata) = (page(&raw const __text_start), page(&raw const __rodata_start));
        let (data, end) = (page(&raw const __rodata_end), page(&raw const __image_end));
        let guard = page(&raw const __stack_guard);
        let entry = |pfn| match pfn {
            _ if pfn == guard => 0,
            _ if pfn < rodata => pte::entry(p2m(pfn), PAGE_RO),
            _ if pfn < data => pte::entry(p2m(pfn), PAGE_RO | pte::NX),
            _ => pte::entry(p2m(pfn), PAGE_RW | pte::NX),
        };
        let mut batch = Batch::new(DomId::SELF);
        let pushed = paging::for_each_l1(linear(text).addr(), end - text, |index, place| {
            // SAFETY: no code writes to text or read-only data, none runs from data.
            unsafe { batch.push(place, entry(text + index)) }
        });
        // SAFETY: as above.
        let _ = pushed.and_then(|()| unsafe { batch.flush() });
        paging::flush_tlb();
    }

    /// The ring page `mfn` of ours with its port.
    fn ring(mfn: Mfn, port: u32) -> Option<Ring> {
        let pfn = paging::m2p(mfn)?;
        // SAFETY: Xen's builder set the frame aside; the allocator never sees it.
        let page = unsafe { Shared::new(NonNull::new(linear(pfn))?, 4096) };
        Some(Ring { page: Box::leak(Box::new(page)), port: Port(port) })
    }
}
