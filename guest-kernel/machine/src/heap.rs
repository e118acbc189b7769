//! The kernel heap: size classes carved from single pages, everything larger straight from pages.
//!
//! A buddy heap would round each allocation up to a power of two and never give a page back; in
//! an 8 MiB guest both hurt. Here a slab page carries its own header and free list, and returns
//! to the frame allocator as soon as its last object is freed, so memory flows between the heap,
//! page tables, rings and the balloon.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

const PAGE: usize = 4096;
/// Bytes at the start of a slab page that hold its [`Slab`] header.
const HEADER: usize = 64;
/// Every object size is a multiple of this.
const STEP: usize = 16;
/// Object sizes, chosen so that a page wastes little.
const CLASSES: [usize; 13] = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 800, 1344, 2016];

/// The first class whose objects have so many steps.
const CLASS_OF: [u8; CLASSES[CLASSES.len() - 1] / STEP + 1] = {
    let mut classes = [0; _];
    let (mut steps, mut class) = (0, 0);
    while steps < classes.len() {
        if steps * STEP > CLASSES[class] {
            class += 1;
        }
        classes[steps] = class as u8;
        steps += 1;
    }
    classes
};

/// Where pages come from.
///
/// # Safety
/// `take` returns memory of `count` pages, page aligned (times `align` pages), readable and
/// writable, that nobody else uses until it is given to `release` with the same count.
pub unsafe trait PageSource {
    /// Takes consecutive pages, aligned to `align` pages.
    fn take(&mut self, count: usize, align: usize) -> Option<NonNull<u8>>;
    /// Gives pages back.
    fn release(&mut self, first: NonNull<u8>, count: usize);
}

/// The header of a slab page.
struct Slab {
    /// First free object; each free object's first word points to the next.
    free: *mut u8,
    used: usize,
    /// Neighbours in the list of slabs of this class that have a free object.
    prev: *mut Slab,
    next: *mut Slab,
}

/// A heap over a page source.
pub struct Heap<P> {
    pages: P,
    /// For each class the slabs that have a free object.
    partial: [*mut Slab; CLASSES.len()],
}

fn class_of(layout: Layout) -> Option<usize> {
    if layout.align() > HEADER {
        return None;
    }
    let large_enough = usize::from(*CLASS_OF.get(layout.size().div_ceil(STEP))?);
    (large_enough..CLASSES.len())
        .find(|&class| layout.align() <= STEP || CLASSES[class].is_multiple_of(layout.align()))
}

fn page_counts(layout: Layout) -> (usize, usize) {
    (layout.size().div_ceil(PAGE).max(1), layout.align().div_ceil(PAGE))
}

impl<P: PageSource> Heap<P> {
    /// An empty heap.
    pub const fn new(pages: P) -> Self {
        Heap { pages, partial: [ptr::null_mut(); CLASSES.len()] }
    }

    /// Memory for `layout`, or null.
    pub fn alloc(&mut self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else {
            let (count, align) = page_counts(layout);
            return self.pages.take(count, align).map_or(ptr::null_mut(), NonNull::as_ptr);
        };
        if self.partial[class].is_null() && !self.grow(class) {
            return ptr::null_mut();
        }
        let slab = self.partial[class];
        // SAFETY: `partial[class]` is a slab page of this heap with at least one free object (its
        // invariant); nobody else holds a reference to the header or to a free object.
        unsafe {
            let object = (*slab).free;
            (*slab).free = object.cast::<*mut u8>().read();
            (*slab).used += 1;
            if (*slab).free.is_null() {
                self.unlink(class, slab);
            }
            object
        }
    }

    /// Gives memory back.
    ///
    /// # Safety
    /// `object` came from [`Heap::alloc`] of this heap with this `layout` and is not used again.
    pub unsafe fn free(&mut self, object: *mut u8, layout: Layout) {
        let Some(class) = class_of(layout) else {
            // SAFETY: `alloc` never returned null for an object that its caller may free.
            let first = unsafe { NonNull::new_unchecked(object) };
            return self.pages.release(first, page_counts(layout).0);
        };
        let slab = object.map_addr(|a| a & !(PAGE - 1)).cast::<Slab>();
        // SAFETY: objects of a class lie in a slab page whose header is at the page's start; the
        // caller gives the object up, so its first word may become the free list's link.
        unsafe {
            let was_full = (*slab).free.is_null();
            object.cast::<*mut u8>().write((*slab).free);
            (*slab).free = object;
            (*slab).used -= 1;
            if was_full {
                self.link(class, slab);
            }
            if (*slab).used == 0 {
                self.unlink(class, slab);
                self.pages.release(NonNull::new_unchecked(slab.cast()), 1);
            }
        }
    }

    /// Makes a new slab for `class`; false when no page is left.
    fn grow(&mut self, class: usize) -> bool {
        let Some(page) = self.pages.take(1, 1) else { return false };
        let page = page.as_ptr();
        let size = CLASSES[class];
        let mut free = ptr::null_mut::<u8>();
        for index in (0..(PAGE - HEADER) / size).rev() {
            // SAFETY: the page is ours alone; every object ends inside it by the loop's bound.
            unsafe {
                let object = page.add(HEADER + index * size);
                object.cast::<*mut u8>().write(free);
                free = object;
            }
        }
        let slab = page.cast::<Slab>();
        // SAFETY: as above; the header is smaller than HEADER and the page is aligned.
        unsafe {
            slab.write(Slab { free, used: 0, prev: ptr::null_mut(), next: ptr::null_mut() });
            self.link(class, slab);
        }
        true
    }

    /// # Safety
    /// `slab` is a slab of `class` that is not in the list.
    unsafe fn link(&mut self, class: usize, slab: *mut Slab) {
        let head = self.partial[class];
        // SAFETY: list members are live slab headers.
        unsafe {
            (*slab).prev = ptr::null_mut();
            (*slab).next = head;
            if !head.is_null() {
                (*head).prev = slab;
            }
        }
        self.partial[class] = slab;
    }

    /// # Safety
    /// `slab` is in the list of `class`.
    unsafe fn unlink(&mut self, class: usize, slab: *mut Slab) {
        // SAFETY: list members are live slab headers.
        unsafe {
            let (prev, next) = ((*slab).prev, (*slab).next);
            if prev.is_null() {
                self.partial[class] = next;
            } else {
                (*prev).next = next;
            }
            if !next.is_null() {
                (*next).prev = prev;
            }
        }
    }
}

#[cfg(target_os = "none")]
mod global {
    use super::*;
    use crate::frames::{self, FRAMES};
    use crate::{local::Local, start};
    use core::alloc::GlobalAlloc;

    struct Frames;

    // SAFETY: the frame set holds only frames that boot found mapped, writable and unused, and
    // the linear map gives each its own page of virtual memory.
    unsafe impl PageSource for Frames {
        fn take(&mut self, count: usize, align: usize) -> Option<NonNull<u8>> {
            let pfn = frames::take(count, align)?;
            NonNull::new(start::linear(pfn))
        }

        fn release(&mut self, first: NonNull<u8>, count: usize) {
            FRAMES.with(|f| f.release(start::pfn_of_linear(first.as_ptr()), count));
        }
    }

    struct Global;

    static HEAP: Local<Heap<Frames>> = Local::new(|| Heap::new(Frames));

    // SAFETY: `Heap` returns distinct blocks that fit their layout and takes them back.
    unsafe impl GlobalAlloc for Global {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            HEAP.with(|h| h.alloc(layout))
        }

        unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
            // SAFETY: the caller's promise is the same.
            HEAP.with(|h| unsafe { h.free(object, layout) });
        }
    }

    #[global_allocator]
    static GLOBAL: Global = Global;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct HostPages {
        out: usize,
    }

    // SAFETY: the host's allocator keeps the same promises.
    unsafe impl PageSource for HostPages {
        fn take(&mut self, count: usize, align: usize) -> Option<NonNull<u8>> {
            self.out += count;
            assert_eq!(align, 1);
            let layout = Layout::from_size_align(count * PAGE, PAGE).unwrap();
            // SAFETY: the layout is not empty.
            NonNull::new(unsafe { std::alloc::alloc(layout) })
        }

        fn release(&mut self, first: NonNull<u8>, count: usize) {
            self.out -= count;
            let layout = Layout::from_size_align(count * PAGE, PAGE).unwrap();
            // SAFETY: `take` allocated it with this layout.
            unsafe { std::alloc::dealloc(first.as_ptr(), layout) }
        }
    }

    proptest! {
        /// Every block keeps the bytes written to it until it is freed, is aligned, and when all
        /// are freed no page is kept.
        #[test]
        fn blocks_are_disjoint_and_pages_return(
            ops in prop::collection::vec((1usize..6000, 0u32..7, any::<bool>(), any::<u8>()), 1..300)
        ) {
            let mut heap = Heap::new(HostPages::default());
            let mut held: Vec<(*mut u8, Layout, u8)> = Vec::new();
            let check = |(block, layout, fill): (*mut u8, Layout, u8)| {
                // SAFETY: the block was allocated with this layout and filled.
                let bytes = unsafe { core::slice::from_raw_parts(block, layout.size()) };
                bytes.iter().all(|b| *b == fill)
            };
            for (size, align, free, fill) in ops {
                if free && !held.is_empty() {
                    let block = held.swap_remove(size % held.len());
                    prop_assert!(check(block));
                    // SAFETY: allocated by this heap with this layout.
                    unsafe { heap.free(block.0, block.1) };
                } else {
                    let layout = Layout::from_size_align(size, 1 << align).unwrap();
                    let block = heap.alloc(layout);
                    prop_assert!(!block.is_null() && block.addr() % layout.align() == 0);
                    // SAFETY: fresh memory of that size.
                    unsafe { ptr::write_bytes(block, fill, size) };
                    held.push((block, layout, fill));
                }
            }
            for block in held {
                prop_assert!(check(block));
                // SAFETY: as above.
                unsafe { heap.free(block.0, block.1) };
            }
            prop_assert_eq!(heap.pages.out, 0);
        }
    }
}
