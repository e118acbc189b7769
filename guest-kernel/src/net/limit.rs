//! A rate limit: so many units per second, with a burst.

/// A token bucket. Time is nanoseconds from any start; it is passed in, so this is plain arithmetic.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Units per second.
    rate: u64,
    /// Most units that can be saved up.
    burst: u64,
    /// Units saved up, times 10⁹.
    saved: u128,
    last: u64,
}

const SECOND: u128 = 1_000_000_000;

impl Limit {
    /// `rate` units per second, `burst` of them at once; both at least 1.
    pub fn new(rate: u64, burst: u64) -> Self {
        let burst = burst.max(1);
        Limit { rate: rate.max(1), burst, saved: u128::from(burst) * SECOND, last: 0 }
    }

    fn save(&mut self, now: u64) {
        let passed = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        let full = u128::from(self.burst) * SECOND;
        self.saved = full.min(self.saved + u128::from(passed) * u128::from(self.rate));
    }

    /// Spends `units` if anything is saved up, going into debt for a unit too large; else says
    /// when something will be, as a time.
    pub fn spend(&mut self, units: u64, now: u64) -> Result<(), u64> {
        self.save(now);
        let price = u128::from(units.min(self.burst)) * SECOND;
        if self.saved >= price {
            self.saved -= price;
            return Ok(());
        }
        let wait = (price - self.saved).div_ceil(u128::from(self.rate));
        Err(self.last.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Never more than the burst and the rate allow, and a refused unit is accepted when told.
        #[test]
        fn keeps_to_its_rate(
            rate in 1u64..1_000_000,
            burst in 1u64..10_000,
            steps in prop::collection::vec((0u64..2_000_000, 1u64..2000), 1..200),
        ) {
            let mut limit = Limit::new(rate, burst);
            let (mut now, mut spent) = (0u64, 0u128);
            for (pass, units) in steps {
                now += pass;
                let units = units.min(burst);
                if let Err(when) = limit.spend(units, now) {
                    prop_assert!(when > now);
                    now = when;
                    prop_assert!(limit.spend(units, now).is_ok());
                }
                spent += u128::from(units);
                let allowed = u128::from(burst) * SECOND + u128::from(now) * u128::from(rate);
                prop_assert!(spent * SECOND <= allowed);
            }
        }
    }
}
