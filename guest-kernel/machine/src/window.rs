//! Memory of others in our address space: foreign frames, device memory, grants' places.
//!
//! The window is address space only; its page tables are made on first use and stay. A
//! [`Mapping`] owns its range and clears its entries on drop, before the range can be reused.

use crate::frames::FrameSet;
use crate::hypercall::Result;
use crate::local::Local;
use crate::paging::{self, Batch, PAGE_RO, PAGE_RW, WINDOW};
use crate::shared::Shared;
use alloc::vec;
use core::ops::Deref;
use core::ptr::NonNull;
use shared_abi::{DomId, Errno, Gfn, Mfn, pte};

/// Pages of the window: 1 GiB for the initial domain, which maps for all others, else 64 MiB.
fn pages() -> usize {
    if crate::start::boot().initial { 1 << 18 } else { 1 << 14 }
}

static PLACES: Local<FrameSet> = Local::new(|| {
    let mut places = FrameSet::new(vec![0; pages() / 64].leak());
    // The first page is shared_info's.
    places.release(1, pages() - 1);
    places
});

/// A range of the window with page tables and nothing mapped. Freed on drop.
#[derive(Debug)]
pub(crate) struct Range {
    first: usize,
    count: usize,
}

impl Range {
    /// `count` pages of address space.
    pub fn new(count: usize) -> Result<Range> {
        let first = PLACES.with(|p| p.take(count, 1)).ok_or(Errno::ENOMEM)?;
        let range = Range { first, count };
        paging::ensure_tables(range.address(), count)?;
        Ok(range)
    }

    /// The first address.
    pub fn address(&self) -> usize {
        WINDOW + self.first * 4096
    }

    /// Pages.
    pub fn count(&self) -> usize {
        self.count
    }

    /// # Safety
    /// The range is mapped, and stays so while the result lives.
    pub unsafe fn shared(&self) -> Shared {
        let base = NonNull::new(core::ptr::without_provenance_mut(self.address())).expect("not at zero");
        // SAFETY: the caller's promise; no Rust object lives in the window.
        unsafe { Shared::new(base, self.count * 4096) }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        PLACES.with(|p| p.release(self.first, self.count));
    }
}

/// Frames of somebody else, mapped until drop.
#[derive(Debug)]
pub struct Mapping {
    memory: Shared,
    range: Range,
}

impl Deref for Mapping {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.memory
    }
}

impl Mapping {
    /// How a mapping's pages are cached and protected.
    fn new(domid: DomId, count: usize, entry: impl Fn(usize) -> u64) -> Result<Mapping> {
        let range = Range::new(count)?;
        let mut batch = Batch::new(domid);
        let mapped = paging::for_each_l1(range.address(), count, |index, place| {
            // SAFETY: entries of a range that is ours and maps nothing; the frames are another
            // domain's or a device's, where no Rust object lives.
            unsafe { batch.push(place, entry(index)) }
        });
        // SAFETY: as above.
        let mapped = mapped.and_then(|()| unsafe { batch.flush() });
        // SAFETY: mapped, or dropped before anybody sees it.
        let mapping = Mapping { memory: unsafe { range.shared() }, range };
        mapped.map(|()| mapping)
    }

    /// Maps frames of another domain, which must permit it (a privileged domain's right).
    pub fn foreign(domid: DomId, frames: &[Gfn]) -> Result<Mapping> {
        if !domid.is_ordinary() {
            return Err(Errno::EINVAL);
        }
        Mapping::new(domid, frames.len(), |i| pte::entry(Mfn(frames[i].0), PAGE_RW | pte::NX))
    }

    /// As [`Mapping::foreign`], to read only.
    pub fn foreign_read_only(domid: DomId, frames: &[Gfn]) -> Result<Mapping> {
        if !domid.is_ordinary() {
            return Err(Errno::EINVAL);
        }
        Mapping::new(domid, frames.len(), |i| pte::entry(Mfn(frames[i].0), PAGE_RO | pte::NX))
    }

    /// Maps device memory (a BAR, a firmware table), uncached. Xen refuses frames of RAM.
    pub fn device(first: Mfn, count: usize) -> Result<Mapping> {
        let flags = PAGE_RW | pte::NX | pte::PCD | pte::PWT;
        Mapping::new(DomId::IO, count, |i| pte::entry(Mfn(first.0 + i as u64), flags))
    }

    /// As [`Mapping::device`], cached and to read only: ACPI tables and the like.
    pub fn firmware(first: Mfn, count: usize) -> Result<Mapping> {
        Mapping::new(DomId::IO, count, |i| pte::entry(Mfn(first.0 + i as u64), PAGE_RO | pte::NX))
    }

    /// Maps a frame of our own grant table.
    #[cfg(target_os = "none")]
    pub(crate) fn own_grant_frame(frame: Mfn) -> Result<Mapping> {
        Mapping::new(DomId::SELF, 1, |_| pte::entry(frame, PAGE_RW | pte::NX))
    }

    /// The address, for a driver that does its own volatile accesses.
    pub fn address(&self) -> usize {
        self.range.address()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut batch = Batch::new(DomId::SELF);
        let cleared = paging::for_each_l1(self.range.address(), self.range.count(), |_, place| {
            // SAFETY: `self` was the only way to reach these pages.
            unsafe { batch.push(place, 0) }
        });
        // SAFETY: as above.
        cleared.and_then(|()| unsafe { batch.flush() }).expect("entries of ours can be cleared");
        paging::flush_tlb();
    }
}
