//! Records a guest reads while the hypervisor may be changing them: vcpu_time_info and the wall
//! clock carry a version that is odd during an update, and a reader starts over when it saw an
//! odd one or two different ones.
//!
//! The hypervisor keeps the version itself: the guest can write the memory, so what stands there
//! is worth nothing.

use core::sync::atomic::{Ordering, fence};

use shared_abi::xen::VcpuTimeInfo;

use super::scale::Clock;

/// A record in memory the guest sees.
pub trait Versioned {
    /// What is between the version's changes.
    type Body;
    /// Why a write may fail (the guest unmapped the memory it registered).
    type Error;
    /// Writes the version field, in one store.
    fn set_version(&self, version: u32) -> Result<(), Self::Error>;
    /// Writes all other fields.
    fn set_body(&self, body: &Self::Body) -> Result<(), Self::Error>;
}

/// A record's version, as the hypervisor last wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Version(u32);

impl Version {
    /// Updates a record: version odd, body, version even.
    ///
    /// # Errors
    /// The first write that fails ends it. The version counts on all the same, so a later
    /// update of the record is seen as one.
    pub fn update<R: Versioned + ?Sized>(&mut self, record: &R, body: &R::Body) -> Result<(), R::Error> {
        let odd = self.0 | 1;
        self.0 = odd.wrapping_add(1);
        record.set_version(odd)?;
        fence(Ordering::SeqCst);
        record.set_body(body)?;
        fence(Ordering::SeqCst);
        record.set_version(self.0)
    }
}

/// What a vcpu on a CPU with this clock is given, with `XEN_PVCLOCK_*` flags. Its `version` is [`Version::update`]'s.
pub fn time_info(clock: &Clock, flags: u8) -> VcpuTimeInfo {
    VcpuTimeInfo {
        tsc_timestamp: clock.tsc,
        system_time: clock.ns,
        tsc_to_system_mul: clock.scale.mul,
        tsc_shift: clock.scale.shift,
        flags,
        ..VcpuTimeInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::TscScale;
    use core::cell::RefCell;
    use std::vec::Vec;

    struct Log {
        seen: RefCell<Vec<u32>>,
        fails_at: usize,
    }

    const BODY: u32 = u32::MAX;

    impl Versioned for Log {
        type Body = ();
        type Error = usize;
        fn set_version(&self, version: u32) -> Result<(), usize> {
            let n = self.seen.borrow().len();
            if n == self.fails_at {
                return Err(n);
            }
            self.seen.borrow_mut().push(version);
            Ok(())
        }
        fn set_body(&self, (): &()) -> Result<(), usize> {
            self.set_version(BODY)
        }
    }

    #[test]
    fn the_version_is_odd_while_the_body_changes() {
        let (mut version, log) = (Version::default(), Log { seen: Default::default(), fails_at: 99 });
        version.update(&log, &()).unwrap();
        version.update(&log, &()).unwrap();
        assert_eq!(log.seen.take(), [1, BODY, 2, 3, BODY, 4]);
    }

    #[test]
    fn a_failed_update_is_not_mistaken_for_the_next() {
        for fails_at in 0..3 {
            let (mut version, log) = (Version(6), Log { seen: Default::default(), fails_at });
            assert_eq!(version.update(&log, &()), Err(fails_at));
            let log = Log { seen: Default::default(), fails_at: 99 };
            version.update(&log, &()).unwrap();
            assert_eq!(log.seen.take(), [9, BODY, 10]);
        }
    }

    #[test]
    fn the_version_wraps() {
        let (mut version, log) = (Version(u32::MAX - 1), Log { seen: Default::default(), fails_at: 99 });
        version.update(&log, &()).unwrap();
        assert_eq!(log.seen.take(), [u32::MAX, BODY, 0]);
    }

    /// The guest's computation (shared_abi's) and the hypervisor's clock agree to the nanosecond.
    #[test]
    fn the_guest_computes_the_hypervisors_time() {
        let clock = Clock { tsc: 5_000, ns: 1_234, scale: TscScale::from_hz(2_893_321_000).unwrap() };
        let info = time_info(&clock, shared_abi::xen::XEN_PVCLOCK_TSC_STABLE_BIT);
        for tsc in [0, 5_000, 5_001, 1 << 40, 1 << 61] {
            assert_eq!(info.system_time_at(tsc), clock.at(tsc));
        }
    }
}
