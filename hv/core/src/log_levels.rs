//! What of the log is wanted (`loglvl=`, `guest_loglvl=`), and how often a guest may have something logged.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use log::LevelFilter;

/// What is logged always, and what is too as long as it is not too much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Levels {
    /// Always.
    pub always: LevelFilter,
    /// Within a [`Limit`]; not below `always`.
    pub limited: LevelFilter,
}

impl Levels {
    /// As an option says, `ALWAYS` or `ALWAYS/LIMITED`; what it does not say, or by no known word, is as `default` has
    /// it.
    pub fn parse(option: Option<&str>, default: Levels) -> Levels {
        let level = |word| match word {
            "none" => Some(LevelFilter::Off),
            "error" => Some(LevelFilter::Error),
            "warning" => Some(LevelFilter::Warn),
            "info" => Some(LevelFilter::Info),
            "debug" | "all" => Some(LevelFilter::Debug),
            _ => None,
        };
        let Some(option) = option else { return default };
        let (always, limited) = option.split_once('/').unwrap_or((option, option));
        let always = level(always).unwrap_or(default.always);
        Levels { always, limited: level(limited).unwrap_or(default.limited).max(always) }
    }
}

/// A limit on how often something may be logged: 10 lines at once, then two a second.
pub struct Limit {
    /// System time in ns up to which the allowance is used.
    used_until: AtomicU64,
}

impl Limit {
    const COST: u64 = 500_000_000;
    const BURST: u64 = 10 * Self::COST;

    /// A fresh limit.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Limit {
        Limit { used_until: AtomicU64::new(0) }
    }

    /// Whether one more line may be printed at `now`.
    pub fn allow(&self, now: u64) -> bool {
        self.used_until
            .fetch_update(Relaxed, Relaxed, |u| {
                let u = u.max(now.saturating_sub(Self::BURST)) + Self::COST;
                (u <= now).then_some(u)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_what_the_option_says() {
        let default = Levels { always: LevelFilter::Off, limited: LevelFilter::Warn };
        let of = |option| {
            let levels = Levels::parse(Some(option), default);
            (levels.always, levels.limited)
        };
        assert_eq!(Levels::parse(None, default), default);
        assert_eq!(of("all"), (LevelFilter::Debug, LevelFilter::Debug));
        assert_eq!(of("none"), (LevelFilter::Off, LevelFilter::Off));
        assert_eq!(of("error/info"), (LevelFilter::Error, LevelFilter::Info));
        assert_eq!(of("info/error"), (LevelFilter::Info, LevelFilter::Info), "not less than always");
        assert_eq!(of("loud"), (LevelFilter::Off, LevelFilter::Warn));
        assert_eq!(of("error/"), (LevelFilter::Error, LevelFilter::Warn));
    }

    #[test]
    fn ten_lines_at_once_then_two_a_second() {
        let limit = Limit::new();
        let now = 100 * Limit::COST;
        assert_eq!((0..50).filter(|_| limit.allow(now)).count(), 10);
        assert_eq!((0..50).filter(|_| limit.allow(now + Limit::COST)).count(), 1);
        assert_eq!((0..50).filter(|_| limit.allow(now + 5 * Limit::COST)).count(), 4);
    }
}
