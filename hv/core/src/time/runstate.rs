//! How long a vcpu has been running, runnable, blocked and offline: what `VCPUOP_get_runstate_info`
//! tells, what the guest's registered area is kept at, and a guest's stolen time.
//!
//! Guests that enabled `VMASST_TYPE_runstate_update_flag` learn of a write in progress by the top
//! bit of `state_entry_time` (`XEN_RUNSTATE_UPDATE`); for the others the area is written in one go
//! while the vcpu does not run.

use core::sync::atomic::{Ordering, fence};

use shared_abi::vcpu::{
    RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING, VcpuRunstateInfo,
    XEN_RUNSTATE_UPDATE,
};

/// `RUNSTATE_*` (vcpu.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// On a CPU.
    Running,
    /// Wants a CPU.
    Runnable,
    /// Waits for an event.
    Blocked,
    /// Paused, or not up.
    Offline,
}

impl State {
    fn number(self) -> i32 {
        match self {
            State::Running => RUNSTATE_RUNNING,
            State::Runnable => RUNSTATE_RUNNABLE,
            State::Blocked => RUNSTATE_BLOCKED,
            State::Offline => RUNSTATE_OFFLINE,
        }
    }
}

/// A vcpu's state and the time in each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runstate {
    state: State,
    entered: u64,
    time: [u64; 4],
}

impl Runstate {
    /// A vcpu that is made at `now`, offline.
    pub const fn new(now: u64) -> Runstate {
        Runstate { state: State::Offline, entered: now, time: [0; 4] }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The vcpu is in `state` from `now` on. A clock that went back counts as stopped.
    pub fn change(&mut self, state: State, now: u64) {
        *self = Runstate { state, ..self.at(now) };
        self.entered = self.entered.max(now);
    }

    /// The times with the current state's counted up to `now`.
    fn at(&self, now: u64) -> Runstate {
        let mut sums = *self;
        if let Some(time) = sums.time.get_mut(self.state.number() as usize) {
            *time = time.wrapping_add(now.saturating_sub(self.entered));
        }
        sums
    }

    /// What the guest is told by `VCPUOP_get_runstate_info`, the current state's time up to `now`
    /// included.
    pub fn info(&self, now: u64) -> VcpuRunstateInfo {
        let mut info = self.area();
        info.time = self.at(now).time;
        info
    }

    /// What stands in the registered area: the times as of the entry into the state, to which the
    /// guest adds what has passed since.
    pub fn area(&self) -> VcpuRunstateInfo {
        VcpuRunstateInfo {
            state: self.state.number(),
            state_entry_time: self.entered,
            time: self.time,
            ..VcpuRunstateInfo::default()
        }
    }

    /// CPU time used up to `now`, ns.
    pub fn cpu_time(&self, now: u64) -> u64 {
        self.at(now).time[RUNSTATE_RUNNING as usize]
    }

    /// Time the vcpu wanted or was owed and did not get, ns: runnable and offline, as Linux
    /// counts stolen time.
    pub fn stolen(&self, now: u64) -> u64 {
        let time = self.at(now).time;
        time[RUNSTATE_RUNNABLE as usize].wrapping_add(time[RUNSTATE_OFFLINE as usize])
    }
}

/// The area a guest registered.
pub trait RunstateArea {
    /// Why a write may fail (the guest unmapped it).
    type Error;
    /// Writes `state_entry_time` alone, in one store.
    fn set_entry_time(&self, value: u64) -> Result<(), Self::Error>;
    /// Writes all of it.
    fn set_all(&self, info: &VcpuRunstateInfo) -> Result<(), Self::Error>;
}

/// Writes the registered area. With `flagged` the guest sees `XEN_RUNSTATE_UPDATE` set while the
/// other fields change.
///
/// # Errors
/// Those of the area; the guest then keeps what was written before.
pub fn update_area<A: RunstateArea + ?Sized>(
    area: &A,
    runstate: &Runstate,
    flagged: bool,
) -> Result<(), A::Error> {
    let mut info = runstate.area();
    if !flagged {
        return area.set_all(&info);
    }
    let entered = info.state_entry_time;
    info.state_entry_time = entered | XEN_RUNSTATE_UPDATE;
    area.set_entry_time(info.state_entry_time)?;
    fence(Ordering::SeqCst);
    area.set_all(&info)?;
    fence(Ordering::SeqCst);
    area.set_entry_time(entered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn state() -> impl Strategy<Value = State> {
        prop::sample::select(std::vec![State::Running, State::Runnable, State::Blocked, State::Offline])
    }

    proptest! {
        #[test]
        fn the_times_add_up(steps in prop::collection::vec((state(), 0..1_000_000u64), 0..100)) {
            let mut runstate = Runstate::new(5);
            let (mut now, mut sums, mut was) = (5, [0u64; 4], State::Offline);
            for (state, step) in steps {
                now += step;
                sums[was.number() as usize] += step;
                runstate.change(state, now);
                was = state;
                prop_assert_eq!(runstate.area().state_entry_time, now);
                prop_assert_eq!(runstate.area().time, sums);
            }
            let info = runstate.info(now + 100);
            prop_assert_eq!(info.time.iter().sum::<u64>(), now + 100 - 5);
            prop_assert_eq!(info.state, was.number());
            prop_assert_eq!(runstate.cpu_time(now), sums[0]);
            prop_assert_eq!(runstate.stolen(now), sums[1] + sums[3]);
        }
    }

    /// CPUs' clocks may differ by a few ticks: a vcpu that moves to a CPU a little behind must not
    /// get 2^64 ns of running time.
    #[test]
    fn a_clock_a_little_behind_counts_as_stopped() {
        let mut runstate = Runstate::new(100);
        runstate.change(State::Running, 200);
        runstate.change(State::Runnable, 199);
        runstate.change(State::Running, 300);
        assert_eq!(runstate.area().time, [0, 100, 0, 100]);
        assert_eq!(runstate.info(250).time, [0, 100, 0, 100]);
    }

    struct Writes(RefCell<Vec<(u64, Option<i32>)>>);

    impl RunstateArea for Writes {
        type Error = ();
        fn set_entry_time(&self, value: u64) -> Result<(), ()> {
            self.0.borrow_mut().push((value, None));
            Ok(())
        }
        fn set_all(&self, info: &VcpuRunstateInfo) -> Result<(), ()> {
            self.0.borrow_mut().push((info.state_entry_time, Some(info.state)));
            Ok(())
        }
    }

    #[test]
    fn the_flag_is_up_while_the_area_changes() {
        let mut runstate = Runstate::new(0);
        runstate.change(State::Blocked, 70);
        let writes = Writes(RefCell::default());
        update_area(&writes, &runstate, true).unwrap();
        let marked = 70 | 1 << 63;
        assert_eq!(writes.0.take(), [(marked, None), (marked, Some(RUNSTATE_BLOCKED)), (70, None)]);
        update_area(&writes, &runstate, false).unwrap();
        assert_eq!(writes.0.take(), [(70, Some(RUNSTATE_BLOCKED))]);
    }
}
