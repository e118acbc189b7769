//! A CPU's pending timers, by deadline.
//!
//! A sorted vector, the next one last: a CPU has one timer for each vcpu that set one and a few
//! of its own, most of them far off, so what counts is that looking at the next is free. Room is
//! reserved when a vcpu is made; arming a timer never allocates.

use alloc::vec::Vec;

use shared_abi::errno::Errno;

/// Timers named by `Id`, each at most once.
pub struct TimerQueue<Id> {
    timers: Vec<(u64, Id)>,
}

impl<Id: Copy + Ord> Default for TimerQueue<Id> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Id: Copy + Ord> TimerQueue<Id> {
    /// No timers, and room for none.
    pub const fn new() -> Self {
        TimerQueue { timers: Vec::new() }
    }

    /// Makes room for `timers` in all.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn reserve(&mut self, timers: usize) -> Result<(), Errno> {
        self.timers.try_reserve(timers.saturating_sub(self.timers.len())).map_err(|_| Errno::ENOMEM)
    }

    /// Arms a timer that is not armed, for a system time in nanoseconds. False when there is no
    /// room: more timers than were reserved for.
    #[must_use]
    pub fn arm(&mut self, deadline: u64, id: Id) -> bool {
        if self.timers.len() == self.timers.capacity() {
            return false;
        }
        let at = self.timers.partition_point(|t| *t > (deadline, id));
        self.timers.insert(at, (deadline, id));
        true
    }

    /// Disarms a timer that was armed for `deadline`; false when it is not (it fired).
    pub fn disarm(&mut self, deadline: u64, id: Id) -> bool {
        let at = self.timers.partition_point(|t| *t > (deadline, id));
        let found = self.timers.get(at) == Some(&(deadline, id));
        if found {
            self.timers.remove(at);
        }
        found
    }

    /// The next deadline; `u64::MAX` when there is none.
    #[inline]
    pub fn next(&self) -> u64 {
        self.timers.last().map_or(u64::MAX, |t| t.0)
    }

    /// Takes a timer whose deadline has come, the earliest first.
    pub fn take_due(&mut self, now: u64) -> Option<Id> {
        self.timers.pop_if(|t| t.0 <= now).map(|t| t.1)
    }

    /// How many are armed.
    pub fn len(&self) -> usize {
        self.timers.len()
    }

    /// Whether none is armed.
    pub fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Arm(u64, u32),
        Disarm(u32),
        DisarmWrong(u64, u32),
        Run(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let (time, id) = (0..200u64, 0..20u32);
        prop_oneof![
            4 => (time.clone(), id.clone()).prop_map(|(t, i)| Op::Arm(t, i)),
            1 => id.clone().prop_map(Op::Disarm),
            1 => (time.clone(), id).prop_map(|(t, i)| Op::DisarmWrong(t, i)),
            2 => time.prop_map(Op::Run),
        ]
    }

    proptest! {
        #[test]
        fn it_fires_what_a_map_would(ops in prop::collection::vec(op(), 0..200)) {
            let mut queue = TimerQueue::new();
            queue.reserve(10).unwrap();
            let room = queue.timers.capacity();
            let mut armed: BTreeMap<u32, u64> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Arm(time, id) => {
                        if armed.contains_key(&id) { continue }
                        let fits = armed.len() < room;
                        prop_assert_eq!(queue.arm(time, id), fits);
                        if fits { armed.insert(id, time); }
                    }
                    Op::Disarm(id) => if let Some(time) = armed.remove(&id) {
                        prop_assert!(queue.disarm(time, id));
                    },
                    Op::DisarmWrong(time, id) => if armed.get(&id) != Some(&time) {
                        prop_assert!(!queue.disarm(time, id));
                    },
                    Op::Run(now) => {
                        let mut last = 0;
                        while let Some(id) = queue.take_due(now) {
                            let time = armed.remove(&id).unwrap();
                            prop_assert!(last <= time && time <= now);
                            last = time;
                        }
                        prop_assert!(armed.values().all(|t| *t > now));
                    }
                }
                prop_assert_eq!(queue.len(), armed.len());
                prop_assert_eq!(queue.next(), armed.values().min().copied().unwrap_or(u64::MAX));
            }
        }
    }
}
