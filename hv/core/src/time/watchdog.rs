//! A domain's watchdogs (`SCHEDOP_watchdog`): unless its user pokes one in time, the domain is shut down.

use shared_abi::errno::Errno;

/// Watchdogs of a domain (Xen: `NR_DOMAIN_WATCHDOG_TIMERS`).
const MOST: usize = 2;

#[derive(Clone, Copy, Default, Debug)]
enum Dog {
    #[default]
    Free,
    /// Bites at this system time.
    Set(u64),
    /// Has bitten; still its user's.
    Spent,
}

/// A domain's watchdogs, by number - 1.
#[derive(Default, Debug)]
pub struct Watchdogs([Dog; MOST]);

impl Watchdogs {
    /// `SCHEDOP_watchdog`: with `id` 0 takes a free watchdog and gives its number, else pokes watchdog `id` for another
    /// `seconds`, or lets it go with none; `now` is the system time in nanoseconds.
    ///
    /// # Errors
    /// `EINVAL`: no such watchdog, or it was not taken. `ENOSPC`: none is free.
    pub fn set(&mut self, id: u32, seconds: u32, now: u64) -> Result<u32, Errno> {
        let at = now.saturating_add(u64::from(seconds) * 1_000_000_000);
        let Some(n) = (id as usize).checked_sub(1) else {
            let free = self.0.iter_mut().zip(1..).find(|(d, _)| matches!(d, Dog::Free));
            let (dog, id) = free.ok_or(Errno::ENOSPC)?;
            *dog = Dog::Set(at);
            return Ok(id);
        };
        match self.0.get_mut(n) {
            None | Some(Dog::Free) => Err(Errno::EINVAL),
            Some(dog) => {
                *dog = if seconds == 0 { Dog::Free } else { Dog::Set(at) };
                Ok(0)
            }
        }
    }

    /// When the next one bites.
    pub fn next(&self) -> Option<u64> {
        self.0.iter().filter_map(|d| if let Dog::Set(at) = d { Some(*at) } else { None }).min()
    }

    /// Whether one bites now; each does once.
    pub fn take_due(&mut self, now: u64) -> bool {
        let mut any = false;
        for dog in &mut self.0 {
            if matches!(dog, Dog::Set(at) if *at <= now) {
                *dog = Dog::Spent;
                any = true;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn two_can_be_taken_and_are_refused_as_xen_does() {
        let mut dogs = Watchdogs::default();
        assert_eq!(dogs.set(1, 5, 0), Err(Errno::EINVAL));
        assert_eq!(dogs.set(0, 5, 0), Ok(1));
        assert_eq!(dogs.set(0, 3, 0), Ok(2));
        assert_eq!(dogs.set(0, 3, 0), Err(Errno::ENOSPC));
        assert_eq!(dogs.set(3, 3, 0), Err(Errno::EINVAL));
        assert_eq!(dogs.next(), Some(3 * SECOND));
        assert_eq!(dogs.set(2, 0, 0), Ok(0));
        assert_eq!(dogs.set(2, 4, 0), Err(Errno::EINVAL));
        assert_eq!(dogs.next(), Some(5 * SECOND));
    }

    #[test]
    fn one_that_is_poked_does_not_bite() {
        let mut dogs = Watchdogs::default();
        assert_eq!(dogs.set(0, 2, 0), Ok(1));
        for second in 1..10 {
            assert!(!dogs.take_due(second * SECOND));
            assert_eq!(dogs.set(1, 2, second * SECOND), Ok(0));
        }
        assert!(!dogs.take_due(11 * SECOND - 1));
        assert!(dogs.take_due(11 * SECOND));
        // Once; and it is its user's still, to be poked or let go.
        assert!(!dogs.take_due(12 * SECOND));
        assert_eq!(dogs.next(), None);
        assert_eq!(dogs.set(1, 1, 12 * SECOND), Ok(0));
        assert_eq!(dogs.next(), Some(13 * SECOND));
    }

    #[test]
    fn the_longest_time_does_not_overflow() {
        let mut dogs = Watchdogs::default();
        assert_eq!(dogs.set(0, u32::MAX, u64::MAX - 1), Ok(1));
        assert_eq!(dogs.next(), Some(u64::MAX));
        assert!(!dogs.take_due(u64::MAX - 1));
    }
}
