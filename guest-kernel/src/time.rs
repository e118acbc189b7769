//! Clocks: monotonic time since the hypervisor booted, and the wall clock.

use core::ops::{Add, Sub};
use core::time::Duration;
use guest_machine::clock;

/// A moment of monotonic time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Instant(u64);

impl Instant {
    /// Now.
    pub fn now() -> Instant {
        Instant(clock::now())
    }

    /// Nanoseconds since the hypervisor booted.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment that many nanoseconds after the hypervisor's boot.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// Time since then; zero if it is still to come.
    pub fn elapsed(self) -> Duration {
        Instant::now() - self
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    /// Saturates at the end of time, 584 years after boot.
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// Zero if `earlier` is the later one.
    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The wall clock: time since 1970 (UTC).
pub fn wallclock() -> Duration {
    Duration::from_nanos(clock::wallclock_base().saturating_add(clock::now()))
}
