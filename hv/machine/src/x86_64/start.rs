//! From the boot stack to a machine that safe code can use: mappings, this CPU, heap, frame table.

use super::{cpu, layout, paging, smp, tlb::Shootdown};
use crate::boot::{BootInfo, Early, EarlyAlloc, image};
use crate::frame::{self, FrameTable, Limit};
use crate::heap;
use crate::ram::{Ram, Region};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use shared_abi::Mfn;

static STARTED: AtomicBool = AtomicBool::new(false);
/// Bytes of heap to begin with.
const HEAP: u64 = 768 << 10;
/// RAM beyond this is left alone: the tables for it wouldn't fit below 4 GiB.
const MOST_RAM: u64 = 256 << 30;

/// What boot leaves behind.
pub struct Started {
    /// What the loader said.
    pub info: BootInfo,
    /// Frames of the machine-to-physical table.
    pub m2p: Range<u64>,
    /// Bytes that the hypervisor keeps for itself: image, tables, first heap.
    pub kept: u64,
    /// The TSC's value when the loader had handed over.
    pub entered: u64,
}

/// Does it all, on the BSP. `magic` and `at` are what the loader left in eax and ebx.
///
/// # Errors
/// What the machine lacks.
pub fn start(magic: u32, at: u32) -> Result<Started, &'static str> {
    let entered = cpu::rdtsc();
    if STARTED.swap(true, SeqCst) {
        return Err("started twice");
    }
    let info = BootInfo::parse(magic, at.into(), &Early, image())?;
    let mut early = EarlyAlloc::new(&info)?;
    let frames = (info.ram_top().min(MOST_RAM) >> 12) as usize;
    let m2p_bytes = (frames as u64 * 8).next_multiple_of(2 << 20);
    let m2p = early.pages(m2p_bytes >> 12, 512);
    let entries = early.pages((FrameTable::entry_bytes(frames) as u64).div_ceil(4096), 1);
    // SAFETY: the first and only time (STARTED), on the early tables.
    unsafe { paging::init(&info, &mut early, m2p..m2p + m2p_bytes) };
    // SAFETY: as above, the final tables being loaded.
    unsafe { smp::init_bsp(&mut || early.zeroed_pages(1, 1))? };
    let heap_at = early.pages(HEAP >> 12, 1);
    // SAFETY: fresh memory, mapped by the direct map for ever.
    unsafe { heap::init((layout::DIRECT + heap_at) as usize, HEAP as usize) };
    let taken = early.taken();
    frame::install(|| {
        // SAFETY: the direct map covers all RAM for ever; what lies in `taken`, the image and low memory is never told
        // to the frame table as free. `m2p` and `entries` were just set aside.
        unsafe {
            let ram = Ram::new(layout::DIRECT as *mut u8, frames as u64);
            let m2p = Region::new((layout::DIRECT + m2p) as *const AtomicU64, frames);
            FrameTable::new(ram, (layout::DIRECT + entries) as *mut u8, m2p, &Shootdown, &frame::CLOCK)
        }
    });
    let table = frame::frames();
    table.set_template(paging::root_template());
    table.show(Mfn(m2p >> 12), Mfn((m2p + m2p_bytes) >> 12));
    let mut used = info.in_use();
    used.push(taken.clone());
    for r in info.ram_without(&used) {
        table.add_free(Mfn(r.start >> 12), Mfn(r.end >> 12), false);
    }
    // Low memory that firmware uses, and every gap between RAM, are the devices'.
    table.add_io(Mfn(0), Mfn(256));
    let mut gap = 0;
    let mut ram = info.ram_without(&[]);
    ram.sort_unstable_by_key(|r| r.start);
    for r in &ram {
        table.add_io(Mfn(gap >> 12), Mfn(r.start >> 12));
        gap = r.end;
    }
    heap::set_growth(
        |bytes| {
            let block = frame::frames().alloc_uncleared(order_of(bytes), Limit::Any)?;
            let at = layout::DIRECT + block.keep().address();
            Some((at as usize, 4096 << order_of(bytes)))
        },
        |at, bytes| {
            let mfn = Mfn((at as u64 - layout::DIRECT) >> 12);
            // SAFETY: the heap's alone: frames of its first memory, which the frame table was never told of, or of
            // blocks that were kept for it.
            unsafe { frame::frames().free_kept(mfn, bytes as u64 / 4096) };
        },
    );
    let kept = taken.end - taken.start + (info.image.end - info.image.start);
    Ok(Started { info, m2p: m2p >> 12..(m2p + m2p_bytes) >> 12, kept, entered })
}

/// The order of a block that holds so many bytes.
fn order_of(bytes: usize) -> u32 {
    bytes.div_ceil(4096).next_power_of_two().trailing_zeros()
}

/// A file that the loader left in memory: bytes that nobody writes until they are freed.
pub struct ModuleBytes {
    range: Range<u64>,
}

impl ModuleBytes {
    /// The memory of module `index`. `None`: no such module, or it was taken before.
    pub fn take(info: &BootInfo, index: usize) -> Option<ModuleBytes> {
        static TAKEN: AtomicU64 = AtomicU64::new(0);
        let m = info.modules.get(index)?;
        if TAKEN.fetch_or(1 << index, SeqCst) & 1 << index != 0 {
            return None;
        }
        Some(ModuleBytes { range: m.range.clone() })
    }

    /// Its contents.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: RAM mapped by the direct map, left out of the frame table's free memory, and written by nobody
        // while this value exists.
        unsafe {
            core::slice::from_raw_parts(
                (layout::DIRECT + self.range.start) as *const u8,
                (self.range.end - self.range.start) as usize,
            )
        }
    }

    /// Gives the memory to the page allocator.
    pub fn free(self) {
        let (from, to) = (self.range.start & !4095, self.range.end.next_multiple_of(4096));
        frame::frames().add_free(Mfn(from >> 12), Mfn(to >> 12), false);
    }
}

/// Frames taken for good, zeroed, for a CPU's window. Panics when memory is out: the caller checked.
pub fn permanent_frame() -> u64 {
    frame::frames().alloc(0, Limit::Any).expect("memory for a CPU's window").keep().address()
}
