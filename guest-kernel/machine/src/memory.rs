//! Frames of our own that others may see: rings, packet buffers, DMA memory.
//!
//! They are reached by copying only (see [`crate::shared`]); memory that stays private is the
//! heap's. Frames for devices must be consecutive in the machine, which a PV guest's frames are
//! only by luck: luck is tried first, then Xen is asked to exchange them.

use crate::hypercall::Result;
use crate::paging;
use crate::shared::Shared;
use core::ops::Deref;
use core::ptr::NonNull;
use shared_abi::{Errno, Mfn};

/// A run of zeroed frames of ours, virtually consecutive, freed on drop.
#[derive(Debug)]
pub struct Pages {
    memory: Shared,
}

impl Deref for Pages {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.memory
    }
}

impl Pages {
    /// `count` frames, zeroed. `ENOMEM` when there are not as many in a row.
    pub fn new(count: usize) -> Result<Pages> {
        let base = take(count, 1).ok_or(Errno::ENOMEM)?;
        // SAFETY: the frames are ours alone until drop, mapped for good.
        let memory = unsafe { Shared::new(base, count * 4096) };
        memory.clear(0, count * 4096);
        Ok(Pages { memory })
    }

    /// How many frames.
    pub fn count(&self) -> usize {
        self.memory.len() / 4096
    }

    /// The machine frame of page `index`.
    pub fn mfn(&self, index: usize) -> Mfn {
        assert!(index < self.count());
        mfn_of(self.memory.base().as_ptr().wrapping_add(index * 4096))
    }

    /// The machine address of the first byte, for a device. All of the memory is consecutive
    /// there only if [`Pages::contiguous`] made it.
    pub fn machine_address(&self) -> u64 {
        self.mfn(0).0 << 12
    }

    /// `count` frames that are consecutive in the machine and below `2^address_bits`.
    pub fn contiguous(count: usize, address_bits: u32) -> Result<Pages> {
        let pages = Pages::new(count)?;
        if pages.suits_device(address_bits) {
            return Ok(pages);
        }
        drop(pages);
        // Xen exchanges powers of two; the linear map needs only the run itself.
        let order = count.next_power_of_two().trailing_zeros();
        let whole = Pages::new(1 << order)?;
        crate::exchange::make_contiguous(&whole, order, address_bits)?;
        let pages = whole.split_off_tail(count);
        if pages.suits_device(address_bits) { Ok(pages) } else { Err(Errno::EFAULT) }
    }

    fn suits_device(&self, address_bits: u32) -> bool {
        let first = self.mfn(0).0;
        (0..self.count()).all(|i| self.mfn(i).0 == first + i as u64)
            && (address_bits >= 64 || (first + self.count() as u64) << 12 <= 1 << address_bits)
    }

    /// Keeps the first `count` frames and frees the rest.
    fn split_off_tail(self, count: usize) -> Pages {
        let whole = core::mem::ManuallyDrop::new(self);
        let base = whole.memory.base();
        if count < whole.count() {
            // SAFETY: inside the run, by the comparison.
            release(unsafe { base.add(count * 4096) }, whole.count() - count);
        }
        // SAFETY: the part that was not released is still ours alone.
        Pages { memory: unsafe { Shared::new(base, count * 4096) } }
    }

    pub(crate) fn address(&self) -> usize {
        self.memory.base().as_ptr().addr()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        release(self.memory.base(), self.count());
    }
}

/// The machine frame behind an address of the linear map.
pub(crate) fn mfn_of(address: *const u8) -> Mfn {
    if cfg!(target_os = "none") {
        paging::p2m(crate::start::pfn_of_linear(address))
    } else {
        Mfn(u64::from((address.addr() >> 12) as u32))
    }
}

#[cfg(target_os = "none")]
fn take(count: usize, align: usize) -> Option<NonNull<u8>> {
    let pfn = crate::frames::take(count, align)?;
    NonNull::new(crate::start::linear(pfn))
}

#[cfg(target_os = "none")]
fn release(base: NonNull<u8>, count: usize) {
    crate::frames::FRAMES.with(|f| f.release(crate::start::pfn_of_linear(base.as_ptr()), count));
}

/// On the host single pages come from the system, so that they can be freed in parts.
#[cfg(not(target_os = "none"))]
fn take(count: usize, _align: usize) -> Option<NonNull<u8>> {
    let layout = core::alloc::Layout::from_size_align(count * 4096, 4096).ok().filter(|l| l.size() > 0)?;
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { std::alloc::alloc(layout) })
}

#[cfg(not(target_os = "none"))]
fn release(base: NonNull<u8>, count: usize) {
    let layout =
        core::alloc::Layout::from_size_align(count * 4096, 4096).expect("a layout that was allocated");
    // SAFETY: `take` allocated it; only a whole run is freed on the host, where an exchange
    // always fails before a run could be split.
    unsafe { std::alloc::dealloc(base.as_ptr(), layout) }
}
