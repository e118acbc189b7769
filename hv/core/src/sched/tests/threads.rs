//! The scheduler's locks under real threads: three CPUs, and a thread that wakes, pauses and
//! moves vcpus. A vcpu is never on two CPUs, and none is lost between two queues.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::vec::Vec;

use super::*;

const CPUS: u32 = 3;
const VCPUS: u32 = 12;
const STEP: u64 = 10_000;

struct Machine {
    sched: Credit,
    on: Vec<AtomicBool>,
    clock: AtomicU64,
}

impl Machine {
    /// One turn of a CPU's loop.
    fn turn(&self, cpu: u32, prev: &mut Option<Handle>) {
        let pick = self.sched.pick(cpu, self.clock.fetch_add(STEP, SeqCst));
        if pick.run == *prev {
            return;
        }
        if let Some(v) = *prev {
            assert!(self.on[v as usize].swap(false, SeqCst));
            let _ = self.sched.descheduled(v);
        }
        if let Some(v) = pick.run {
            assert!(!self.on[v as usize].swap(true, SeqCst), "vcpu {v} is on two CPUs");
        }
        *prev = pick.run;
    }

    fn run_cpu(&self, cpu: u32) {
        let mut prev = None;
        for round in 0..1_500 {
            self.turn(cpu, &mut prev);
            if let Some(v) = prev.filter(|v| (round + v) % 7 == 0) {
                let _ = self.sched.sleep(v);
            }
        }
        while let Some(v) = prev {
            let _ = self.sched.sleep(v);
            self.turn(cpu, &mut prev);
        }
    }

    fn disturb(&self) {
        for n in 0..4_000u32 {
            let v = (n.wrapping_mul(2_654_435_761) >> 8) % VCPUS;
            if n % 5 == 0 {
                let _ = self.sched.sleep(v);
            } else if n % 31 == 1 {
                let _ = self.sched.set_affinity(v, CpuSet(1 + u64::from(n % 15)));
            } else {
                let _ = self.sched.wake(v, self.clock.load(SeqCst));
            }
        }
    }
}

#[test]
fn no_vcpu_is_on_two_cpus_or_lost_between_queues() {
    let machine = Machine {
        sched: Credit::new(CPUS).unwrap(),
        on: (0..VCPUS).map(|_| AtomicBool::new(false)).collect(),
        clock: AtomicU64::new(1),
    };
    for v in 0..VCPUS {
        assert_eq!(machine.sched.insert(Params::default()), Ok(v));
    }
    std::thread::scope(|s| {
        for cpu in 0..CPUS {
            let machine = &machine;
            s.spawn(move || machine.run_cpu(cpu));
        }
        s.spawn(|| machine.disturb());
    });
    let Machine { sched, clock, .. } = &machine;
    for v in 0..VCPUS {
        assert_eq!(sched.running_on(v), None);
        let _ = sched.sleep(v);
        let _ = sched.set_affinity(v, CpuSet::ALL).unwrap();
        let _ = sched.wake(v, clock.load(SeqCst));
    }
    // One CPU finds each of them, once.
    let mut seen = Vec::new();
    while let Some(v) = sched.pick(0, clock.load(SeqCst)).run {
        seen.push(v);
        assert!(seen.len() <= VCPUS as usize);
        let _ = sched.sleep(v);
    }
    seen.sort();
    assert_eq!(seen, (0..VCPUS).collect::<Vec<_>>());
}
