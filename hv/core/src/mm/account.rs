//! How many frames a domain has, and how many it may have.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use shared_abi::errno::Errno;

/// Frames promised to all domains together, which are still free.
static CLAIMED: AtomicU64 = AtomicU64::new(0);

/// Frames that are promised and still free (`XENMEM_claim_pages`).
pub fn claimed() -> u64 {
    CLAIMED.load(SeqCst)
}

/// A domain's account. The count is exact: it is charged before frames are given and credited when they
/// are taken.
#[derive(Default)]
pub struct Account {
    total: AtomicU64,
    max: AtomicU64,
    /// Its part of what is promised.
    claimed: AtomicU64,
}

impl Account {
    /// An empty account with a limit.
    pub fn new(max: u64) -> Account {
        Account { max: AtomicU64::new(max), ..Account::default() }
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
    /// Frames that are promised to it and that it has not yet.
    pub fn claimed(&self) -> u64 {
        self.claimed.load(SeqCst)
    }
    /// Promises it that it gets up to `n` frames in all, of the `free` ones that no domain was promised.
    ///
    /// # Errors
    /// `EINVAL` if it was promised some already, has as many or may not have so many; `ENOMEM` if they are not there.
    pub fn claim(&self, n: u64, free: u64) -> Result<(), Errno> {
        let more =
            n.checked_sub(self.total()).filter(|more| *more > 0 && n <= self.max()).ok_or(Errno::EINVAL)?;
        let room = |c: u64| c.checked_add(more).filter(|all| *all <= free);
        if self.claimed() != 0 {
            return Err(Errno::EINVAL);
        }
        CLAIMED.fetch_update(SeqCst, SeqCst, room).map_err(|_| Errno::ENOMEM)?;
        self.claimed.compare_exchange(0, more, SeqCst, SeqCst).map_err(|_| {
            CLAIMED.fetch_sub(more, SeqCst);
            Errno::EINVAL
        })?;
        Ok(())
    }
    /// Takes back what is promised still.
    pub fn release_claim(&self) {
        self.use_claim(u64::MAX);
    }
    /// `n` frames were given: they are no longer promised.
    pub fn use_claim(&self, n: u64) {
        if self.claimed() != 0 {
            let used =
                self.claimed.fetch_update(SeqCst, SeqCst, |c| Some(c - c.min(n))).map_or(0, |c| c.min(n));
            CLAIMED.fetch_sub(used, SeqCst);
        }
    }
    /// Whether it may have `n` of the `free` frames, without taking what others were promised.
    pub fn leaves_claims(&self, n: u64, free: u64) -> bool {
        n <= free.saturating_sub(claimed()) || n <= self.claimed()
    }
    /// Takes back a charge.
    pub fn credit(&self, n: u64) {
        self.total.fetch_sub(n, SeqCst);
    }
}
