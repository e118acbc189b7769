//! The scheduler's rules one by one. `sim` is a machine under virtual time; `shares` and `work`
//! say what it must show; `threads` runs the real locks.

use std::vec::Vec;

use super::*;

mod shares;
mod sim;
mod threads;
mod work;

#[test]
fn parameters_are_checked_and_kept() {
    let sched = Credit::new(2).unwrap();
    assert_eq!(sched.id(), 6);
    assert_eq!(sched.insert(Params { weight: 0, cap: 0 }), Err(Errno::EINVAL));
    let v = sched.insert(Params::default()).unwrap();
    assert_eq!(sched.set_params(v, Params { weight: 0, cap: 1 }), Err(Errno::EINVAL));
    let wanted = Params { weight: 65535, cap: 40 };
    assert_eq!(sched.set_params(v, wanted), Ok(()));
    assert_eq!(sched.params(v), Ok(wanted));
    assert_eq!(sched.set_affinity(v, CpuSet(0b100)), Err(Errno::EINVAL), "there is no CPU 2");
    assert_eq!(sched.affinity(v), Ok(CpuSet::ALL));
    assert_eq!(sched.params(v + 1), Err(Errno::ESRCH));
    assert_eq!(sched.params(u32::MAX), Err(Errno::ESRCH));
    assert_eq!(sched.wake(u32::MAX, 0), CpuSet::NONE);
    assert!(Credit::new(0).is_err() && Credit::new(65).is_err() && Credit::new(64).is_ok());
}

#[test]
fn a_vcpu_runs_from_its_wake_to_its_sleep() {
    let sched = Credit::new(1).unwrap();
    let v = sched.insert(Params::default()).unwrap();
    assert_eq!(sched.pick(0, 0), Pick { run: None, until: u64::MAX, kick: CpuSet::NONE });
    assert_eq!(sched.wake(v, 10), CpuSet::one(0));
    assert_eq!(sched.wake(v, 10), CpuSet::NONE, "awake already");
    assert_eq!(sched.pick(0, 20).run, Some(v));
    assert_eq!(sched.running_on(v), Some(0));
    assert_eq!(sched.queue_of(0), (Some(v), heapless::Vec::new()));
    assert_eq!(sched.remove(v), Err(Errno::EBUSY));
    assert_eq!(sched.sleep(v), CpuSet::one(0));
    assert_eq!(sched.wake(v, 30), CpuSet::NONE);
    assert_eq!(sched.pick(0, 40).run, Some(v), "woken between its sleep and the pick");
    let _ = sched.sleep(v);
    assert_eq!(sched.pick(0, 50).run, None);
    assert_eq!(sched.remove(v), Err(Errno::EBUSY), "its registers are on the CPU");
    assert_eq!(sched.descheduled(v), CpuSet::NONE);
    assert_eq!(sched.running_on(v), None);
    assert_eq!(sched.remove(v), Ok(()));
    assert_eq!(sched.remove(v), Err(Errno::ESRCH));
    assert_eq!(sched.insert(Params::default()), Ok(v), "the number is given out again");
}

#[test]
fn a_queue_is_shown_in_the_order_in_which_it_runs() {
    let sched = Credit::new(1).unwrap();
    let [first, second, third] = [(); 3].map(|()| sched.insert(Params::default()).unwrap());
    let _ = sched.wake(first, 0);
    assert_eq!(sched.pick(0, 0).run, Some(first));
    for vcpu in [third, second] {
        let _ = sched.wake(vcpu, 0);
    }
    let (current, waiting) = sched.queue_of(0);
    assert_eq!((current, waiting.as_slice()), (Some(first), &[third, second][..]));
    assert_eq!(sched.queue_of(1), (None, heapless::Vec::new()), "there is no CPU 1");
}

#[test]
fn a_vcpu_whose_registers_are_on_a_cpu_is_not_taken_by_another() {
    let sched = Credit::new(2).unwrap();
    let v = sched.insert(Params::default()).unwrap();
    let cpu = sched.wake(v, 0).first().unwrap_or(0);
    assert_eq!(sched.pick(cpu, 0).run, Some(v));
    let _ = sched.sleep(v);
    assert_eq!(sched.pick(cpu, 5).run, None);
    assert_eq!(sched.pick(1 - cpu, 5).run, None);
    let _ = sched.wake(v, 6);
    assert_eq!(sched.pick(1 - cpu, 6).run, None);
    assert!(sched.descheduled(v) != CpuSet::NONE, "now somebody is told");
    assert_eq!(sched.pick(1 - cpu, 7).run, Some(v));
}

#[test]
fn a_yield_lets_the_other_go_first_once() {
    let sched = Credit::new(1).unwrap();
    let (a, b) = (sched.insert(Params::default()).unwrap(), sched.insert(Params::default()).unwrap());
    let _ = (sched.wake(a, 0), sched.wake(b, 0));
    let first = sched.pick(0, 0).run.unwrap();
    let second = if first == a { b } else { a };
    sched.yield_now(first);
    assert_eq!(sched.pick(0, 0).run, Some(second));
    let _ = sched.descheduled(first);
    // The second one is now ahead in time received; the first goes on.
    assert_eq!(sched.pick(0, 5_000_000).run, Some(first));
}

#[test]
fn many_vcpus_fit_and_the_numbers_end() {
    let sched = Credit::new(1).unwrap();
    let all: Vec<_> = (0..8192).map(|_| sched.insert(Params::default()).unwrap()).collect();
    assert_eq!(sched.insert(Params::default()), Err(Errno::ENOSPC));
    assert_eq!(sched.remove(all[5000]), Ok(()));
    assert_eq!(sched.insert(Params::default()), Ok(all[5000]));
}
