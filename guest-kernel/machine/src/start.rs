//! From the first instruction to the guest's main: what Xen handed over, and the memory map.
//!
//! Xen builds a contiguous region from VIRT_BASE on: kernel, ramdisk, p2m list, start_info, (for
//! a domU) the xenstore and console pages, page tables, a stack page, and at least 512 KiB of
//! padding to a 4 MiB boundary. The decision: keep Xen's linear map and extend it. Virtual
//! address = VIRT_BASE + pfn * 4096 for every frame of the domain, so a frame needs no other
//! bookkeeping than its pfn, at the price of 2 GiB as the largest guest.

#[cfg(target_os = "none")]
use crate::frames::{FRAMES, FrameSet};
use crate::local::Local;

/// Where pfn 0 is mapped.
pub const VIRT_BASE: usize = 0xffff_ffff_8000_0000;

/// `struct start_info` of xen.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct StartInfo {
    magic: [u8; 32],
    nr_pages: u64,
    shared_info: u64,
    flags: u32,
    _pad0: u32,
    store_mfn: u64,
    store_evtchn: u32,
    _pad1: u32,
    console_mfn: u64,
    console_evtchn: u32,
    _pad2: u32,
    pt_base: u64,
    nr_pt_frames: u64,
    mfn_list: u64,
    mod_start: u64,
    mod_len: u64,
    cmd_line: [u8; 1024],
    first_p2m_pfn: u64,
    nr_p2m_frames: u64,
}

/// What the domain was started with.
#[derive(Clone)]
pub struct Boot {
    /// Xen's magic, for example `xen-3.0-x86_64`.
    pub magic: [u8; 32],
    /// Frames the domain started with.
    pub pages: usize,
    /// The initial domain: it has the hardware and no xenstore ring.
    pub initial: bool,
    /// The kernel's command line.
    pub cmdline: [u8; 1024],
    /// The module given along with the kernel.
    pub ramdisk: &'static [u8],
}

impl Boot {
    /// The command line up to its end, or as much as is UTF-8.
    pub fn cmdline(&self) -> &str {
        let end = self.cmdline.iter().position(|b| *b == 0).unwrap_or(self.cmdline.len());
        self.cmdline[..end].utf8_chunks().next().map_or("", |c| c.valid())
    }
}

static BOOT: Local<Boot> =
    Local::new(|| Boot { magic: [0; 32], pages: 0, initial: false, cmdline: [0; 1024], ramdisk: &[] });

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
    (address.addr() - VIRT_BASE) / 4096
}

#[cfg(target_os = "none")]
unsafe extern "C" {
    static __image_end: u8;
}

#[cfg(target_os = "none")]
unsafe extern "Rust" {
    fn __oxen_main();
}

/// Rust's first function: `info` is Xen's start_info, `stack` the stack Xen started us on.
#[cfg(target_os = "none")]
pub(crate) extern "C" fn entry(info: *const StartInfo, stack: usize) -> ! {
    // SAFETY: Xen passes the address of a start_info page that it mapped for us.
    let info = unsafe { info.read() };
    let ramdisk: &'static [u8] = if info.mod_len == 0 {
        &[]
    } else {
        let start = core::ptr::with_exposed_provenance(info.mod_start as usize);
        // SAFETY: the builder placed the module there; its frames are never given to the
        // allocator, so nothing writes to them.
        unsafe { core::slice::from_raw_parts(start, info.mod_len as usize) }
    };
    init_frames(&info, stack);
    BOOT.with(|b| {
        *b = Boot {
            magic: info.magic,
            pages: info.nr_pages as usize,
            initial: info.flags & 2 != 0,
            cmdline: info.cmd_line,
            ramdisk,
        }
    });
    crate::crash::init();
    // SAFETY: `main!` defines it with this signature.
    unsafe { __oxen_main() };
    crate::hypercall::shutdown(crate::hypercall::Shutdown::Poweroff)
}

/// Fills the frame set with what the boot mapping leaves free.
#[cfg(target_os = "none")]
fn init_frames(info: &StartInfo, stack: usize) {
    let page_tables_end = info.pt_base as usize + info.nr_pt_frames as usize * 4096;
    let used_end = stack.max(page_tables_end).next_multiple_of(4096);
    // The mapping ends at the first 4 MiB boundary that leaves 512 KiB.
    let mapped_end = (used_end + (512 << 10)).next_multiple_of(4 << 20);
    let mapped = (pfn_of_linear(mapped_end as *const u8)).min(info.nr_pages as usize);
    let words = (info.nr_pages as usize).div_ceil(64);
    let bitmap_frames = (words * 8).div_ceil(4096);
    let first = pfn_of_linear(used_end as *const u8);
    // SAFETY: the frames from `used_end` to `mapped_end` are mapped, writable padding.
    let words = unsafe { core::slice::from_raw_parts_mut(linear(first).cast::<u64>(), words) };
    let mut frames = FrameSet::new(words);
    frames.release(first + bitmap_frames, mapped - first - bitmap_frames);
    FRAMES.with(|f| *f = frames);
    let _ = &raw const __image_end;
}
