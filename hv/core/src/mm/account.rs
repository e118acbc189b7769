//! How many frames a domain has, and how many it may have.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// A domain's account. The count is exact: it is charged before frames are given and credited when they
/// are taken.
#[derive(Default)]
pub struct Account {
    total: AtomicU64,
    max: AtomicU64,
}

impl Account {
    /// An empty account with a limit.
    pub fn new(max: u64) -> Account {
        Account { total: AtomicU64::new(0), max: AtomicU64::new(max) }
    }
    /// Frames it has.
    pub fn total(&self) -> u64 {
        self.total.load(SeqCst)
    }
    /// Frames it may have.
    pub fn max(&self) -> u64 {
        self.max.load(SeqCst)
    }
    /// Changes the limit. Frames above it stay, but no more come.
    pub fn set_max(&self, frames: u64) {
        self.max.store(frames, SeqCst);
    }
    /// Charges `n` frames; false when that would pass the limit.
    #[must_use]
    pub fn charge(&self, n: u64) -> bool {
        self.total.fetch_update(SeqCst, SeqCst, |t| t.checked_add(n).filter(|t| *t <= self.max())).is_ok()
    }
    /// Takes back a charge.
    pub fn credit(&self, n: u64) {
        self.total.fetch_sub(n, SeqCst);
    }
}
