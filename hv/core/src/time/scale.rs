//! From TSC ticks to nanoseconds and back, as the guest's own clock computes it.
//!
//! The ABI's formula (vcpu_time_info, xen.h) is `((ticks << shift) * mul) >> 32`. The hypervisor
//! uses the very same numbers for its own clock, so a deadline a guest sets and the time at
//! which the hypervisor thinks it has come are on one scale, its rounding included.

use shared_abi::xen::scale_tsc;

/// The frequencies [`TscScale::from_hz`] takes: below, a tick is longer than this formula is
/// good for; above, no such machine is known.
pub const HZ: core::ops::RangeInclusive<u64> = 1_000_000..=100_000_000_000;

/// A TSC's rate, in the ABI's terms and inverted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscScale {
    /// `tsc_to_system_mul`: always in 2^31..2^32, for precision.
    pub mul: u32,
    /// `tsc_shift`.
    pub shift: i8,
    /// Ticks per nanosecond, times 2^40, rounded up.
    inverse: u64,
}

impl TscScale {
    /// The scale of a TSC of `hz` ticks a second; `None` outside [`HZ`].
    pub fn from_hz(hz: u64) -> Option<TscScale> {
        if !HZ.contains(&hz) {
            return None;
        }
        // ns per tick = mul / 2^32 * 2^shift, with the highest mul that fits 32 bits.
        let ratio = |shift: i32| ((1_000_000_000u128 << 64) >> (32 + shift)) / u128::from(hz);
        let shift = (-32..32).find(|shift| ratio(*shift) <= u128::from(u32::MAX))?;
        let mul = ratio(shift) as u32;
        // 2^40 * 2^32 / (mul * 2^shift), all of it shifted up by 32 while it is divided.
        let inverse = ((1u128 << 104) / u128::from(mul)) >> (32 + shift);
        Some(TscScale { mul, shift: shift as i8, inverse: inverse as u64 + 1 })
    }

    /// Nanoseconds of `ticks`.
    #[inline]
    pub fn to_ns(self, ticks: u64) -> u64 {
        scale_tsc(ticks, self.mul, self.shift)
    }

    /// Ticks after which at least `ns` have passed by [`TscScale::to_ns`]; `u64::MAX` when that
    /// does not fit. For programming a timer: never early.
    #[inline]
    pub fn to_ticks(self, ns: u64) -> u64 {
        let ticks = (u128::from(ns) + 1) * u128::from(self.inverse) >> 40;
        // A negative shift drops that many low bits of the tick count.
        let slack = 1u128 << (-i32::from(self.shift)).max(0);
        u64::try_from(ticks + slack).unwrap_or(u64::MAX)
    }

    /// The TSC's frequency in kHz, as the toolstack is told.
    pub fn khz(self) -> u64 {
        ((u128::from(self.inverse) * 1_000_000) >> 40) as u64
    }
}

/// One CPU's clock: system time at one reading of its TSC, and the scale from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// The TSC at `ns`.
    pub tsc: u64,
    /// System time at `tsc`.
    pub ns: u64,
    /// The TSC's scale.
    pub scale: TscScale,
}

impl Clock {
    /// System time at a TSC reading. One before the clock's own counts as the clock's own.
    #[inline]
    pub fn at(&self, tsc: u64) -> u64 {
        self.ns.wrapping_add(self.scale.to_ns(tsc.saturating_sub(self.tsc)))
    }

    /// The TSC value at which system time is at least `ns`; `u64::MAX` when it is out of reach.
    #[inline]
    pub fn tsc_at(&self, ns: u64) -> u64 {
        match ns.checked_sub(self.ns) {
            None | Some(0) => self.tsc,
            Some(ahead) => self.tsc.saturating_add(self.scale.to_ticks(ahead)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_frequencies() {
        let mhz = |mhz: u64| TscScale::from_hz(mhz * 1_000_000).unwrap();
        assert_eq!((mhz(1000).mul, mhz(1000).shift), (1 << 31, 1));
        assert_eq!((mhz(2000).mul, mhz(2000).shift), (1 << 31, 0));
        assert_eq!((mhz(500).mul, mhz(500).shift), (1 << 31, 2));
        // 1/3 ns a tick: 2/3 * 2^32, one bit down.
        assert_eq!((mhz(3000).mul, mhz(3000).shift), (2_863_311_530, -1));
        assert_eq!(TscScale::from_hz(0), None);
        assert_eq!(TscScale::from_hz(999_999), None);
        assert_eq!(TscScale::from_hz(u64::MAX), None);
    }

    #[test]
    fn a_clock_starts_where_it_is_told() {
        let clock = Clock { tsc: 1000, ns: 77, scale: TscScale::from_hz(2_000_000_000).unwrap() };
        assert_eq!(clock.at(1000), 77);
        assert_eq!(clock.at(0), 77, "another CPU's TSC a little behind");
        assert_eq!(clock.at(1000 + 2_000_000_000), 1_000_000_077);
        assert_eq!(clock.tsc_at(5), 1000);
        assert_eq!(clock.tsc_at(u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn a_second_of_ticks_is_a_second(hz in HZ, seconds in 0..10_000_000u64) {
            let scale = TscScale::from_hz(hz).unwrap();
            prop_assert!(scale.mul >= 1 << 31);
            let Some(ticks) = hz.checked_mul(seconds).filter(|t| *t < 1 << 60) else { return Ok(()) };
            let wanted = seconds * 1_000_000_000;
            let got = scale.to_ns(ticks);
            // mul is rounded down: at most 2^-31 of the time is lost, and a shifted tick or two.
            prop_assert!(got <= wanted && wanted - got <= (wanted >> 31) + 2000, "{got} for {wanted}");
        }

        #[test]
        fn a_timer_is_never_early_and_hardly_late(hz in HZ, ns in 0..(1u64 << 54)) {
            let scale = TscScale::from_hz(hz).unwrap();
            let ticks = scale.to_ticks(ns);
            prop_assert!(scale.to_ns(ticks) >= ns);
            let tick = 1_000_000_000 / hz + 1;
            let late = scale.to_ns(ticks) - ns;
            prop_assert!(late <= 130 * tick + (ns >> 28), "{late} ns late");
        }

        #[test]
        fn the_frequency_can_be_told_again(khz in 1000..100_000_000u64) {
            let scale = TscScale::from_hz(khz * 1000).unwrap();
            prop_assert!(scale.khz().abs_diff(khz) <= 1 + khz / 1_000_000);
        }

        #[test]
        fn time_does_not_run_backwards(hz in HZ, at in 0..(1u64 << 62), step in 0..1000u64) {
            let scale = TscScale::from_hz(hz).unwrap();
            prop_assert!(scale.to_ns(at + step) >= scale.to_ns(at));
        }
    }
}
