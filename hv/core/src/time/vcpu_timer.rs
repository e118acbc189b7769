//! A vcpu's two timers, both of which raise `VIRQ_TIMER`: one that fires once at a system time
//! (`set_timer_op`, `VCPUOP_set_singleshot_timer`) and one with a period
//! (`VCPUOP_set_periodic_timer`), which a guest that has not stopped it yet gets from its start.
//!
//! The single-shot timer wakes a blocked vcpu. The periodic one ticks only while the vcpu runs,
//! and ticks missed meanwhile become one, as on Xen.

use shared_abi::errno::Errno;

/// The shortest period, ns (Xen: one millisecond).
pub const MIN_PERIOD: u64 = 1_000_000;
/// The longest, ns (Xen: `STIME_DELTA_MAX`).
pub const MAX_PERIOD: u64 = u64::MAX >> 2;
/// `set_timer_op` takes a deadline further off than this (2^50 ns, 13 days) for a wrapped one, ns.
pub const FAR: u64 = 1 << 50;
/// When such a deadline fires instead, ns from now (Xen: 100 ms).
pub const FAR_FIRES_IN: u64 = 100_000_000;
/// The period of a vcpu's timer at its start: 10 ms, as Xen gives a PV guest.
pub const INITIAL_PERIOD: u64 = 10_000_000;

/// A vcpu's timers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VcpuTimer {
    single: Option<u64>,
    period: u64,
    last_tick: u64,
}

impl VcpuTimer {
    /// No timer.
    pub const fn new() -> VcpuTimer {
        VcpuTimer { single: None, period: 0, last_tick: 0 }
    }

    /// `HYPERVISOR_set_timer_op`: 0 stops the timer. A negative deadline, or one that is absurdly
    /// far off, is an old guest's arithmetic overflow and fires after [`FAR_FIRES_IN`].
    pub fn set_timer_op(&mut self, timeout: i64, now: u64) {
        self.single = match u64::try_from(timeout) {
            Ok(0) => None,
            Ok(at) if at.saturating_sub(now) < FAR => Some(at),
            _ => Some(now.saturating_add(FAR_FIRES_IN)),
        };
    }

    /// `VCPUOP_set_singleshot_timer`. One that has passed fires at once: as Xen 4.17, whatever
    /// `VCPU_SSHOTTMR_future` says, which the header lets a hypervisor ignore.
    pub fn set_single(&mut self, at: u64) {
        self.single = Some(at);
    }

    /// `VCPUOP_stop_singleshot_timer`.
    pub fn stop_single(&mut self) {
        self.single = None;
    }

    /// `VCPUOP_set_periodic_timer`.
    ///
    /// # Errors
    /// `EINVAL` for a period below [`MIN_PERIOD`] or above [`MAX_PERIOD`].
    pub fn set_period(&mut self, period: u64, now: u64) -> Result<(), Errno> {
        if !(MIN_PERIOD..=MAX_PERIOD).contains(&period) {
            return Err(Errno::EINVAL);
        }
        (self.period, self.last_tick) = (period, now);
        Ok(())
    }

    /// `VCPUOP_stop_periodic_timer`.
    pub fn stop_period(&mut self) {
        self.period = 0;
    }

    /// The next deadline of a vcpu that runs (`true`) or does not; `u64::MAX` when there is none.
    pub fn next(&self, running: bool) -> u64 {
        let tick = match self.period {
            0 => u64::MAX,
            period => self.last_tick.saturating_add(period),
        };
        let single = self.single.unwrap_or(u64::MAX);
        if running { single.min(tick) } else { single }
    }

    /// Takes what is due. True: raise `VIRQ_TIMER`.
    pub fn expire(&mut self, now: u64, running: bool) -> bool {
        let single = self.single.take_if(|at| *at <= now).is_some();
        let late = now.saturating_sub(self.last_tick);
        let tick = running && self.period != 0 && late >= self.period;
        if tick {
            self.last_tick += late - late % self.period;
        }
        single || tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_single_shot_fires_once() {
        let mut t = VcpuTimer::new();
        assert_eq!(t.next(true), u64::MAX);
        t.set_timer_op(50, 10);
        assert_eq!((t.next(true), t.next(false)), (50, 50));
        assert!(!t.expire(49, true));
        assert!(t.expire(50, false));
        assert!(!t.expire(60, false));
        t.set_timer_op(5, 10);
        assert!(t.expire(10, true), "a deadline in the past fires at once");
        t.set_timer_op(50, 10);
        t.set_timer_op(0, 10);
        assert_eq!(t.next(true), u64::MAX);
    }

    #[test]
    fn wrapped_deadlines_fire_soon() {
        let mut t = VcpuTimer::new();
        for wrapped in [-1, i64::MIN, i64::MAX, 1 << 60] {
            t.set_timer_op(wrapped, 1000);
            assert_eq!(t.next(true), 1000 + FAR_FIRES_IN);
        }
        t.set_timer_op(1000 + (1 << 50) - 1, 1000);
        assert_eq!(t.next(true), 1000 + (1 << 50) - 1);
    }

    #[test]
    fn a_single_shot_that_is_late_fires_at_once() {
        let mut t = VcpuTimer::new();
        t.set_single(100);
        t.set_single(9);
        assert!(t.expire(10, false));
        t.set_single(100);
        t.stop_single();
        assert_eq!(t.next(true), u64::MAX);
    }

    #[test]
    fn a_period_ticks_while_the_vcpu_runs() {
        let mut t = VcpuTimer::new();
        assert_eq!(t.set_period(MIN_PERIOD - 1, 0), Err(Errno::EINVAL));
        assert_eq!(t.set_period(u64::MAX, 0), Err(Errno::EINVAL));
        t.set_period(10 * MIN_PERIOD, 0).unwrap();
        assert_eq!((t.next(true), t.next(false)), (10 * MIN_PERIOD, u64::MAX));
        assert!(!t.expire(35 * MIN_PERIOD, false), "not while it sleeps");
        assert!(t.expire(35 * MIN_PERIOD, true), "missed ticks become one");
        assert!(!t.expire(35 * MIN_PERIOD, true));
        assert_eq!(t.next(true), 40 * MIN_PERIOD, "and the beat is kept");
        t.stop_period();
        assert_eq!(t.next(true), u64::MAX);
    }

    proptest! {
        /// Whatever the guest sets, `next` is a time at which `expire` finds something, and after
        /// that it lies ahead: the run loop can't spin on a timer.
        #[test]
        fn a_timer_that_fired_lies_ahead(
            sets in prop::collection::vec((any::<i64>(), any::<u64>(), any::<bool>(), 0..(1u64 << 40)), 1..20)
        ) {
            let (mut t, mut now) = (VcpuTimer::new(), 0);
            for (timeout, period, running, step) in sets {
                t.set_timer_op(timeout, now);
                let _ = t.set_period(period, now);
                now += step;
                let due = t.next(running) <= now;
                prop_assert_eq!(t.expire(now, running), due);
                prop_assert!(t.next(running) > now);
            }
        }
    }
}
