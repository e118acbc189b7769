//! The hypervisor's heap: small objects (domains, vcpus, tables of ports and grants). It starts with what
//! boot gives it, grows by runs of frames when it is full, and gives them back when domains have gone. What is
//! large (an unpacked kernel, a list of all frames) is a run of frames by itself, and goes back when it is dropped.
//!
//! # The rule
//!
//! After boot an allocation must be able to fail: whoever makes one in a hypercall or a trap gets `ENOMEM` out of
//! it and leaves everything as it was. A vector reserves (`try_reserve`) before it grows, an `Arc` is made by
//! [`try_arc`], a box by zerocopy's `new_box_zeroed`. hv-core's test `allocations` reads the source for anything else.
//!
//! The hardest decision is how an `Arc` can fail, for stable Rust has none that does: the block that it will ask
//! for is allocated first and put where this CPU's next allocation finds it. Nothing comes in between, since the
//! hypervisor runs with interrupts off.

use crate::lock::{Mutex, rank};
use alloc::sync::Arc;
use buddy_system_allocator::Heap;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use shared_abi::Errno;

struct Locked(Mutex<Heap<27>>);

static GROW: AtomicUsize = AtomicUsize::new(0);
static GIVE: AtomicUsize = AtomicUsize::new(0);
/// Bytes that went back; the allocator counts them as allocated.
static RETURNED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the buddy allocator's contract, under a lock.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(p) = promise::take(layout) {
            return p.as_ptr();
        }
        if is_large(layout) {
            return large(layout.size()).map_or(core::ptr::null_mut(), |at| at as *mut u8);
        }
        if let Ok(p) = self.0.lock().alloc(layout) {
            return p.as_ptr();
        }
        // Grow outside the heap's lock: the frame allocator's ranks below it.
        if let Some((grow, _)) = growth() {
            let want = layout.size().max(layout.align()).next_power_of_two();
            // A run of the usual length, or where memory is in pieces just what is asked for.
            if let Some((start, len)) = grow(want.max(MIN_GROWTH)).or_else(|| grow(want)) {
                // SAFETY: `Growth` gives memory of its own, mapped for ever.
                unsafe { self.0.lock().add_to_heap(start, start + len) };
                if let Ok(p) = self.0.lock().alloc(layout) {
                    return p.as_ptr();
                }
            }
        }
        core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        if is_large(layout) {
            if let Some((_, give)) = growth() {
                give(p as usize, layout.size().next_multiple_of(PAGE));
            }
        } else if let Some(p) = core::ptr::NonNull::new(p) {
            // SAFETY: the caller's: `p` came from `alloc` with this layout.
            unsafe { self.0.lock().dealloc(p, layout) }
        }
    }
}

/// What has so many bytes or more is a run of frames. More than the first heap: there is growth when one is asked for.
const LARGE: usize = 1 << 20;
const PAGE: usize = 4096;

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= PAGE
}

/// A run of frames for so many bytes: the smallest block that holds them, without the pages behind them.
fn large(bytes: usize) -> Option<usize> {
    let (grow, give) = growth()?;
    let (start, len) = grow(bytes)?;
    let used = bytes.next_multiple_of(PAGE);
    if used < len {
        give(start + used, len - used);
    }
    Some(start)
}

/// Bytes that the heap grows by at least, where memory is not in pieces, and shrinks by.
const MIN_GROWTH: usize = 256 << 10;
/// Free bytes that the heap doesn't give back.
const SPARE: usize = 2 * MIN_GROWTH;

/// Where more memory comes from: at least so many bytes → (address, bytes), the hypervisor's until it is returned.
pub type Growth = fn(usize) -> Option<(usize, usize)>;
/// Where memory goes: address and bytes, whole pages that nothing refers to any more.
pub type Return = fn(usize, usize);

#[cfg_attr(target_os = "none", global_allocator)]
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
static HEAP: Locked = Locked(Mutex::new(rank::HEAP, Heap::empty()));

/// Gives the heap its first memory.
/// # Safety
/// The range is mapped, unused and the hypervisor's for ever.
pub unsafe fn init(start: usize, len: usize) {
    // SAFETY: the caller's.
    unsafe { HEAP.0.lock().init(start, len) };
}

/// Says how the heap may grow and shrink from now on.
pub fn set_growth(grow: Growth, give: Return) {
    GROW.store(grow as usize, Relaxed);
    GIVE.store(give as usize, Relaxed);
}

/// The two, once they are set.
fn growth() -> Option<(Growth, Return)> {
    let (grow, give) = (GROW.load(Relaxed), GIVE.load(Relaxed));
    // SAFETY: `set_growth` stored these types.
    (grow != 0 && give != 0).then(|| unsafe {
        (core::mem::transmute::<usize, Growth>(grow), core::mem::transmute::<usize, Return>(give))
    })
}

/// Gives some of what is free back; asked again it goes on.
pub fn shrink() {
    let Some((_, give)) = growth() else { return };
    for _ in 0..32 {
        let (used, all) = usage();
        if all - used < SPARE + MIN_GROWTH {
            return;
        }
        // Something small that stays must not keep a whole run: then its other parts go.
        let part = [MIN_GROWTH, MIN_GROWTH / 8, MIN_GROWTH / 64].into_iter().find_map(|bytes| {
            let layout = Layout::from_size_align(bytes, bytes).ok()?;
            Some((HEAP.0.lock().alloc(layout).ok()?, bytes))
        });
        let Some((at, bytes)) = part else { return };
        RETURNED.fetch_add(bytes, Relaxed);
        give(at.as_ptr() as usize, bytes);
    }
}

/// Puts a value into an `Arc`.
///
/// # Errors
/// `ENOMEM`; the value is dropped.
pub fn try_arc<T>(value: T) -> Result<Arc<T>, Errno> {
    // What an `Arc` consists of: two counts, then the value.
    let (layout, _) = Layout::new::<[usize; 2]>().extend(Layout::new::<T>()).map_err(|_| Errno::ENOMEM)?;
    let layout = layout.pad_to_align();
    // SAFETY: the layout has a size: that of the counts at least.
    let block = NonNull::new(unsafe { alloc::alloc::alloc(layout) }).ok_or(Errno::ENOMEM)?;
    promise::make(block, layout);
    let arc = Arc::new(value);
    promise::end();
    Ok(arc)
}

/// A block set aside for the next allocation of this CPU.
#[cfg(target_os = "none")]
mod promise {
    use super::*;
    use crate::x86_64::percpu::{MAX_CPUS, cpu_id};

    struct Slot {
        block: AtomicUsize,
        size: AtomicUsize,
        align: AtomicUsize,
    }
    static SLOTS: [Slot; MAX_CPUS] = [const {
        Slot { block: AtomicUsize::new(0), size: AtomicUsize::new(0), align: AtomicUsize::new(0) }
    }; MAX_CPUS];

    pub fn make(block: NonNull<u8>, layout: Layout) {
        let slot = &SLOTS[cpu_id()];
        slot.size.store(layout.size(), Relaxed);
        slot.align.store(layout.align(), Relaxed);
        slot.block.store(block.as_ptr() as usize, Relaxed);
    }

    pub fn take(layout: Layout) -> Option<NonNull<u8>> {
        let slot = &SLOTS[cpu_id()];
        let block = NonNull::new(slot.block.load(Relaxed) as *mut u8)?;
        let fits = slot.size.load(Relaxed) == layout.size() && slot.align.load(Relaxed) == layout.align();
        if fits {
            slot.block.store(0, Relaxed);
        }
        fits.then_some(block)
    }

    pub fn end() {
        let slot = &SLOTS[cpu_id()];
        if let Some(block) = NonNull::new(slot.block.swap(0, Relaxed) as *mut u8) {
            let layout = Layout::from_size_align(slot.size.load(Relaxed), slot.align.load(Relaxed));
            // SAFETY: `make` was given this block with this layout, and nobody took it.
            unsafe { alloc::alloc::dealloc(block.as_ptr(), layout.expect("it was one before")) }
        }
    }
}

/// On a host the block goes back, for the next allocation to find.
#[cfg(not(target_os = "none"))]
mod promise {
    use super::*;
    pub fn make(block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller allocated it with this layout.
        unsafe { alloc::alloc::dealloc(block.as_ptr(), layout) }
    }
    pub fn take(_: Layout) -> Option<NonNull<u8>> {
        None
    }
    pub fn end() {}
}

/// Bytes in use, and bytes altogether.
pub fn usage() -> (usize, usize) {
    let h = HEAP.0.lock();
    let gone = RETURNED.load(Relaxed);
    (h.stats_alloc_actual().saturating_sub(gone), h.stats_total_bytes() - gone)
}
