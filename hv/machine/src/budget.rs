//! A heap that runs out, for tests on the host: an allocator with a budget for each thread that asked for one.
//!
//! It is here because an allocator is `unsafe` to write, and tests of other crates forbid that.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

std::thread_local! {
    /// Bytes that this thread may still allocate.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The system's allocator within the budget: a test names it as its `#[global_allocator]`.
pub struct Budgeted;

// SAFETY: the system's allocator, or nothing.
unsafe impl GlobalAlloc for Budgeted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match LEFT.get() {
            Some(left) if left < layout.size() => return core::ptr::null_mut(),
            Some(left) => LEFT.set(Some(left - layout.size())),
            None => {}
        }
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(left) = LEFT.get() {
            LEFT.set(Some(left + layout.size()));
        }
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Runs `f` with a heap of `budget` bytes.
pub fn within<R>(budget: usize, f: impl FnOnce() -> R) -> R {
    LEFT.set(Some(budget));
    let result = f();
    LEFT.set(None);
    result
}
