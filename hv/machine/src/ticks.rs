//! From nanoseconds to the ticks of a clock.

/// How many ticks of a clock of `hz` a second `ns` nanoseconds are: `u64::MAX` where they are more.
#[inline]
pub fn of_ns(ns: u64, hz: u64) -> u64 {
    u64::try_from(u128::from(ns) * u128::from(hz) / 1_000_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest may set its timer for the end of all time. Where that came round in ticks it had passed: an idle CPU was
    /// interrupted again and again, each time to look when it wanted to be interrupted next.
    #[test]
    fn the_end_of_time_is_not_its_beginning() {
        for hz in [1, 999_999_999, 1_000_000_000, 1_000_000_001, 2_400_000_000, u64::MAX] {
            let mut before = 0;
            for ns in [0, 1, 1_000_000_000, 1 << 50, 1 << 62, 1 << 63, u64::MAX - 1, u64::MAX] {
                let ticks = of_ns(ns, hz);
                assert!(ticks >= before, "{ns} ns at {hz} Hz");
                before = ticks;
            }
        }
        assert_eq!(of_ns(1_500_000_000, 2_000_000_000), 3_000_000_000);
    }
}
