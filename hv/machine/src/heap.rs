//! The hypervisor's heap: small objects (domains, vcpus, tables of ports and grants). It starts with what
//! boot gives it and grows by runs of frames when it is full; it never gives them back.

use crate::lock::{Mutex, rank};
use buddy_system_allocator::Heap;
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Locked(Mutex<Heap<27>>);

static GROW: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the buddy allocator's contract, under a lock.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Ok(p) = self.0.lock().alloc(layout) {
            return p.as_ptr();
        }
        // Grow outside the heap's lock: the frame allocator's ranks below it.
        let grow = GROW.load(Relaxed);
        if grow != 0 {
            // SAFETY: `set_growth` stored this type.
            let grow = unsafe { core::mem::transmute::<usize, Growth>(grow) };
            let want = layout.size().max(layout.align()).next_power_of_two().max(MIN_GROWTH);
            if let Some((start, len)) = grow(want) {
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
        if let Some(p) = core::ptr::NonNull::new(p) {
            // SAFETY: the caller's: `p` came from `alloc` with this layout.
            unsafe { self.0.lock().dealloc(p, layout) }
        }
    }
}

/// Bytes that the heap grows by at least.
const MIN_GROWTH: usize = 256 << 10;

/// Where more memory comes from: at least so many bytes → (address, bytes), the hypervisor's for ever.
pub type Growth = fn(usize) -> Option<(usize, usize)>;

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

/// Says how the heap may grow from now on.
pub fn set_growth(f: Growth) {
    GROW.store(f as usize, Relaxed);
}

/// Bytes in use, and bytes altogether.
pub fn usage() -> (usize, usize) {
    let h = HEAP.0.lock();
    (h.stats_alloc_actual(), h.stats_total_bytes())
}
