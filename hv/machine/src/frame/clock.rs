//! A clock that ticks with TLB flushes: whether some CPU may still hold a translation to a frame.
//!
//! A frame is stamped with the clock when a use of it ends; a CPU notes the tick at which its last
//! complete flush began. A CPU whose flush began after the stamp was read has nothing stale: only the
//! others need an interrupt before the frame becomes something else. Most frames need none.
//!
//! Ticks are 32 bits, compared by wrapping distance. That is right while no CPU's last flush and no
//! compared stamp are 2^31 ticks apart in the dangerous direction, that is, while every CPU flushes at
//! least once in 2^30 ticks: the timer interrupt calls [`TlbClock::overdue`]. A frame's ancient stamp can
//! then only look newer than it is, which costs a needless flush.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// The most CPUs.
pub const MAX_CPUS: usize = 64;

/// The clock. Every CPU that ever loads a guest's page tables takes part. The first two fields are known to
/// asm/syscall.s.
#[repr(C)]
pub struct TlbClock {
    tick: AtomicU32,
    /// Per CPU: the tick at which its last flush began.
    cpus: [AtomicU32; MAX_CPUS],
    online: [core::sync::atomic::AtomicBool; MAX_CPUS],
    /// One past the highest CPU that takes part.
    limit: AtomicU32,
}

const _: () = assert!(core::mem::offset_of!(TlbClock, cpus) == 4);

/// The machine's clock.
pub static CLOCK: TlbClock = TlbClock::new();

impl Default for TlbClock {
    fn default() -> Self {
        Self::new()
    }
}

impl TlbClock {
    /// Lets `ticks` pass, as so many flushes of other CPUs would.
    #[cfg(test)]
    pub(super) fn pass(&self, ticks: u32) {
        self.tick.fetch_add(ticks, SeqCst);
    }

    /// A clock without CPUs.
    pub const fn new() -> TlbClock {
        TlbClock {
            tick: AtomicU32::new(1),
            cpus: [const { AtomicU32::new(0) }; MAX_CPUS],
            online: [const { core::sync::atomic::AtomicBool::new(false) }; MAX_CPUS],
            limit: AtomicU32::new(0),
        }
    }

    /// CPU `cpu` (below [`MAX_CPUS`]) takes part from now on; its TLB must be empty of guests'
    /// translations.
    pub fn join(&self, cpu: usize) {
        self.cpus[cpu].store(self.begin(), SeqCst);
        self.online[cpu].store(true, SeqCst);
        self.limit.fetch_max(cpu as u32 + 1, SeqCst);
    }

    /// What a frame is stamped with. Read it after the translation is gone from the page tables.
    #[inline]
    pub fn now(&self) -> u32 {
        self.tick.load(SeqCst)
    }

    /// Before a CPU flushes all of its TLB but global entries (guests have none): the tick to hand to
    /// [`TlbClock::end`] after it. Loading CR3 without PCID is such a flush.
    #[inline]
    pub fn begin(&self) -> u32 {
        self.tick.fetch_add(1, SeqCst).wrapping_add(1)
    }

    /// The flush that began at `tick` is complete on `cpu`.
    #[inline]
    pub fn end(&self, cpu: usize, tick: u32) {
        self.cpus[cpu].store(tick, SeqCst);
    }

    /// Whether `cpu` may hold a translation that was in use at `stamp`.
    #[inline]
    pub fn stale(&self, cpu: usize, stamp: u32) -> bool {
        self.online[cpu].load(SeqCst) && newer_or_same(stamp, self.cpus[cpu].load(SeqCst))
    }

    /// The CPUs that may.
    pub fn stale_cpus(&self, stamp: u32) -> impl Iterator<Item = usize> + '_ {
        (0..self.limit.load(SeqCst) as usize).filter(move |&cpu| self.stale(cpu, stamp))
    }

    /// Whether `cpu` has not flushed for so long that the clock could come round.
    pub fn overdue(&self, cpu: usize) -> bool {
        self.now().wrapping_sub(self.cpus[cpu].load(SeqCst)) > 1 << 30
    }
}

/// Whether `a` is not before `b`.
#[inline]
fn newer_or_same(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 >= 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_flush_begun_after_the_stamp_counts() {
        let clock = TlbClock::new();
        clock.join(0);
        clock.join(3);
        let early = clock.begin();
        let stamp = clock.now();
        clock.end(0, early);
        assert_eq!(clock.stale_cpus(stamp).collect::<std::vec::Vec<_>>(), [0, 3]);
        clock.end(3, clock.begin());
        assert_eq!(clock.stale_cpus(stamp).collect::<std::vec::Vec<_>>(), [0]);
        clock.end(0, clock.begin());
        assert_eq!(clock.stale_cpus(stamp).count(), 0);
    }

    #[test]
    fn the_clock_may_wrap() {
        let clock = TlbClock::new();
        clock.tick.store(u32::MAX - 1, SeqCst);
        clock.join(0);
        let stamp = clock.now();
        assert!(clock.stale(0, stamp));
        clock.end(0, clock.begin());
        assert_eq!(clock.now(), 0);
        assert!(!clock.stale(0, stamp));
        assert!(clock.stale(0, clock.now()));
        assert!(!clock.overdue(0));
        clock.tick.fetch_add((1 << 30) + 1, SeqCst);
        assert!(clock.overdue(0));
    }
}
