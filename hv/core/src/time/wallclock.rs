//! The CMOS real-time clock's registers as a date, and a date as seconds since 1970.
//!
//! The hardest decision is what to believe: firmware leaves the clock in BCD or binary, 12 or 24
//! hours, with or without a century register, and nonsense when the battery is empty. Every
//! field is checked; a date that is none gives `None`, and the machine starts in 1970. A reading tells
//! the time to a second. To know it better one would wait for a second to begin, half of one on average:
//! fifteen times what all the rest of the hypervisor's start takes.

/// What the RTC is read through.
pub trait Cmos {
    /// One register.
    fn register(&self, index: u8) -> u8;
    /// System time.
    fn now(&self) -> u64;
}

/// Bit 7 of register 10 (status A): the registers change, or are about to.
const UPDATING: u8 = 1 << 7;
/// So many looks at ports take longer than an update, 2.2 ms: one that is seen for so long is none. Counted, not timed:
/// a host may have something else to do between two.
const LOOKS: u32 = 50_000;

/// The RTC's registers as read outside an update.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rtc {
    /// Register 0.
    pub second: u8,
    /// Register 2.
    pub minute: u8,
    /// Register 4: with bit 7 as PM when the clock counts 12 hours.
    pub hour: u8,
    /// Register 7.
    pub day: u8,
    /// Register 8.
    pub month: u8,
    /// Register 9: the year in its century.
    pub year: u8,
    /// The register the FADT names for the century; `None` when it names none.
    pub century: Option<u8>,
    /// Register 11 (status B): bit 1 says 24 hours, bit 2 binary.
    pub status_b: u8,
}

const HOURS_24: u8 = 1 << 1;
const BINARY: u8 = 1 << 2;
const PM: u8 = 1 << 7;

fn bcd(value: u8) -> Option<u8> {
    (value & 0xf <= 9 && value >> 4 <= 9).then_some((value >> 4) * 10 + (value & 0xf))
}

impl Rtc {
    /// The registers as two readings outside an update agree on them, and when the later one began. Of a clock of which
    /// there are no such readings, what it shows.
    pub fn settled(cmos: &impl Cmos, century: u8) -> (Rtc, u64) {
        let mut last = None;
        for _ in 0..LOOKS {
            let at = cmos.now();
            match Rtc::quiet(cmos, century) {
                Some(rtc) if last == Some(rtc) => return (rtc, at),
                rtc => last = rtc.or(last),
            }
        }
        let at = cmos.now();
        (Rtc::read(cmos, century), at)
    }

    /// The registers, unless they change meanwhile.
    fn quiet(cmos: &impl Cmos, century: u8) -> Option<Rtc> {
        let quiet = || cmos.register(10) & UPDATING == 0;
        quiet().then(|| Rtc::read(cmos, century)).filter(|_| quiet())
    }

    fn read(cmos: &impl Cmos, century: u8) -> Rtc {
        Rtc {
            second: cmos.register(0),
            minute: cmos.register(2),
            hour: cmos.register(4),
            day: cmos.register(7),
            month: cmos.register(8),
            year: cmos.register(9),
            century: (century != 0).then(|| cmos.register(century)),
            status_b: cmos.register(11),
        }
    }

    /// Seconds since the start of 1970; `None` when the registers show no date.
    pub fn epoch_seconds(&self) -> Option<u64> {
        let number = |raw: u8| if self.status_b & BINARY != 0 { Some(raw) } else { bcd(raw) };
        let hour = if self.status_b & HOURS_24 != 0 {
            number(self.hour)?
        } else {
            // 12 AM is midnight, 12 PM noon.
            let hour = number(self.hour & !PM)?;
            if !(1..=12).contains(&hour) {
                return None;
            }
            hour % 12 + if self.hour & PM != 0 { 12 } else { 0 }
        };
        let (minute, second) = (number(self.minute)?, number(self.second)?);
        let in_century = u64::from(number(self.year)?);
        // Without a century, or with one that is nonsense: the years 1970 to 2069.
        let year = match self.century.and_then(number) {
            _ if in_century > 99 => return None,
            Some(century @ 19..=29) => u64::from(century) * 100 + in_century,
            _ if in_century >= 70 => 1900 + in_century,
            _ => 2000 + in_century,
        };
        let days = days_since_1970(year, number(self.month)?.into(), number(self.day)?.into())?;
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        Some(days * 86_400 + u64::from(hour) * 3600 + u64::from(minute) * 60 + u64::from(second))
    }
}

const fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Days from 1 January 1970 to a date of the Gregorian calendar; `None` when there is no such date.
pub fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    const LENGTH: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let index = (month as usize).checked_sub(1)?;
    let leap_day = u64::from(leap(year));
    let length = *LENGTH.get(index)? + if month == 2 { leap_day } else { 0 };
    if !(1970..10_000).contains(&year) || day == 0 || day > length {
        return None;
    }
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    let this_leap = if month > 2 { leap_day } else { 0 };
    Some(years + BEFORE.get(index)? + this_leap + day - 1)
}

/// The wall clock at system time 0, as shared_info carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WallClock {
    /// Nanoseconds since 1970 when system time was 0.
    base: u64,
}

impl WallClock {
    /// A wall clock that shows `epoch_seconds` and `nanoseconds` at system time `at`
    /// (`XENPF_settime`, or the RTC at boot). Before 1970 at system time 0 counts as 1970.
    pub fn new(epoch_seconds: u64, nanoseconds: u32, at: u64) -> WallClock {
        let now = epoch_seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.into());
        WallClock { base: now.saturating_sub(at) }
    }

    /// `wc_sec`, `wc_nsec` and `wc_sec_hi` for a domain whose clock is `offset` seconds from the
    /// machine's (`XEN_DOMCTL_settimeoffset`).
    pub fn fields(self, offset: i64) -> (u32, u32, u32) {
        let seconds = (self.base / 1_000_000_000).saturating_add_signed(offset);
        (seconds as u32, (self.base % 1_000_000_000) as u32, (seconds >> 32) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use proptest::prelude::*;

    const NOON: Rtc = Rtc {
        second: 0x56,
        minute: 0x34,
        hour: 0x12,
        day: 0x29,
        month: 0x02,
        year: 0x24,
        century: Some(0x20),
        status_b: HOURS_24,
    };

    #[test]
    fn dates_whose_second_is_known() {
        assert_eq!(NOON.epoch_seconds(), Some(1_709_210_096)); // date -u -d '2024-02-29 12:34:56'
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((1999, 12, 31), 10_956),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 23), 20_780),
            ((2100, 3, 1), 47_541),
        ] {
            assert_eq!(days_since_1970(date.0, date.1, date.2), Some(days), "{date:?}");
        }
        for none in [(1969, 12, 31), (2023, 2, 29), (2100, 2, 29), (2024, 0, 1), (2024, 13, 1), (2024, 4, 31)]
        {
            assert_eq!(days_since_1970(none.0, none.1, none.2), None, "{none:?}");
        }
    }

    #[test]
    fn binary_and_bcd_show_the_same() {
        let binary = Rtc {
            second: 56,
            minute: 34,
            hour: 12,
            day: 29,
            month: 2,
            year: 24,
            century: Some(20),
            status_b: HOURS_24 | BINARY,
        };
        assert_eq!(binary.epoch_seconds(), NOON.epoch_seconds());
    }

    #[test]
    fn twelve_hours() {
        let at = |hour: u8| Rtc { hour, status_b: 0, ..NOON }.epoch_seconds().map(|s| s % 86_400 / 3600);
        assert_eq!(at(0x12), Some(0), "12 AM");
        assert_eq!(at(0x92), Some(12), "12 PM");
        assert_eq!(at(0x01), Some(1));
        assert_eq!(at(0x91), Some(23), "11 PM");
        assert_eq!(at(0x00), None);
        assert_eq!(at(0x13), None);
    }

    #[test]
    fn a_missing_or_senseless_century_is_guessed() {
        let year =
            |year: u8, century| Rtc { year, century, day: 1, ..NOON }.epoch_seconds().unwrap() / 31_556_952;
        assert_eq!(year(0x26, None), 2026 - 1970);
        assert_eq!(year(0x70, None), 0);
        assert_eq!(year(0x26, Some(0)), 2026 - 1970);
        assert_eq!(year(0x26, Some(0xff)), 2026 - 1970);
        assert_eq!(year(0x26, Some(0x21)), 2126 - 1970);
    }

    /// A clock in binary that began at a date, before `phase` ns of its second were over; each access takes `access`
    /// ns, and after `stall.0` of them one takes `stall.1`. A model of the MC146818: 244 us before a second ends it
    /// says so, the registers are half changed for `update` ns from there, and nothing is true until that is over.
    struct Model {
        phase: u64,
        access: u64,
        stall: (u64, u64),
        update: u64,
        accesses: Cell<u64>,
        time: Cell<u64>,
    }

    impl Model {
        const START: u64 = 1_709_251_198; // 2024-02-29 23:59:58
        const SECOND: u64 = 1_000_000_000;

        fn shown(&self) -> u64 {
            self.time.get() + self.phase
        }
    }

    impl Cmos for Model {
        fn register(&self, index: u8) -> u8 {
            self.accesses.set(self.accesses.get() + 1);
            let stall = if self.accesses.get() == self.stall.0 { self.stall.1 } else { 0 };
            self.time.set(self.time.get() + self.access + stall);
            let into = self.shown() % Self::SECOND;
            let updating = into < self.update || into >= Self::SECOND - 244_000;
            let second = Self::START + self.shown() / Self::SECOND;
            match index {
                10 => 0x26 | if updating { UPDATING } else { 0 },
                11 => HOURS_24 | BINARY,
                // the registers change one after the other
                0 if into < self.update => 77,
                0 => (second % 60) as u8,
                2 => (second / 60 % 60) as u8,
                4 => (second / 3600 % 24) as u8,
                7 if second / 86_400 == 19_782 => 29,
                7 => 1,
                8 if second / 86_400 == 19_782 => 2,
                8 => 3,
                9 => 24,
                0x32 => 20,
                _ => unreachable!("register {index}"),
            }
        }
        fn now(&self) -> u64 {
            self.time.get()
        }
    }

    #[test]
    fn a_clock_that_stands_still_or_is_none_is_left_soon() {
        struct Still(Cell<u64>, u8);
        impl Cmos for Still {
            fn register(&self, _: u8) -> u8 {
                self.0.set(self.0.get() + 1000);
                self.1
            }
            fn now(&self) -> u64 {
                self.0.get()
            }
        }
        for value in [0, 0x12, 0xff] {
            let (rtc, at) = Rtc::settled(&Still(Cell::new(0), value), 0x32);
            assert_eq!(rtc.second, value);
            assert!(at <= 1000 * (u64::from(LOOKS) + 20));
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_is_shown(
            phase in 0..2_000_000_000u64,
            access in 100..20_000u64,
            stall in (1..60u64, 0..900_000_000u64),
            update in prop_oneof![Just(0), Just(1_984_000u64)],
        ) {
            let model =
                Model { phase, access, stall, update, accesses: Cell::new(0), time: Cell::new(0) };
            let (rtc, at) = Rtc::settled(&model, 0x32);
            let shown = rtc.epoch_seconds().unwrap();
            // it was so when the reading began or when it ended
            let [first, last] = [at, model.time.get()].map(|t| Model::START + (t + phase) / Model::SECOND);
            prop_assert!((first..=last).contains(&shown), "{shown} between {first} and {last}");
        }

        #[test]
        fn no_registers_make_it_panic(raw in any::<[u8; 8]>(), century: Option<u8>) {
            let [second, minute, hour, day, month, year, status_b, _] = raw;
            let rtc = Rtc { second, minute, hour, day, month, year, century, status_b };
            if let Some(seconds) = rtc.epoch_seconds() {
                prop_assert!(seconds < 32_503_680_000, "before the year 3000");
            }
        }

        #[test]
        fn days_follow_each_other(day in 0..300_000u64) {
            // The civil calendar walked a day at a time from a known start is the oracle.
            let (mut y, mut m, mut d) = (1970, 1, 1);
            let (years, rest) = (day / 146_097 * 400, day % 146_097);
            y += years;
            for _ in 0..rest {
                if days_since_1970(y, m, d + 1).is_some() { d += 1 }
                else if m < 12 { m += 1; d = 1 }
                else { y += 1; m = 1; d = 1 }
            }
            prop_assert_eq!(days_since_1970(y, m, d), Some(day));
        }
    }

    #[test]
    fn the_wall_clock_is_kept_at_system_time_zero() {
        let clock = WallClock::new(1_700_000_000, 5, 2_000_000_000);
        assert_eq!(clock.fields(0), (1_699_999_998, 5, 0));
        assert_eq!(clock.fields(-8), (1_699_999_990, 5, 0));
        assert_eq!(WallClock::new(1 << 33, 0, 0).fields(0), (0, 0, 2));
        assert_eq!(WallClock::new(1, 0, 5_000_000_000).fields(0), (0, 0, 0));
        assert_eq!(WallClock::new(1, 0, 0).fields(i64::MIN), (0, 0, 0));
    }
}
