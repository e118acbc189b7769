//! A machine under virtual time: CPUs that do what the scheduler says, vcpus that spin or work
//! in bursts, interrupts that take a moment. Deterministic: the same seed gives the same run.
//!
//! After each event it checks that no CPU idles while a vcpu that may run there waits.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::*;

pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
pub const S: u64 = 1_000_000_000;
/// From a kick to the kicked CPU's pick.
const IPI: u64 = 2 * US;

/// What a vcpu does with the CPU it gets.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Never sleeps.
    Spin,
    /// Runs for about `burst`, then sleeps for about `gap`.
    Bursts { burst: u64, gap: u64 },
}

pub struct Task {
    work: Work,
    left: u64,
    wakes_at: Option<u64>,
    on: Option<u32>,
    capped: bool,
    affinity: CpuSet,
    /// CPU time received.
    pub ran: u64,
    wanted_since: Option<u64>,
    /// Longest time between wanting a CPU and getting it.
    pub worst_wait: u64,
}

struct Core {
    run: Option<Handle>,
    since: u64,
    until: u64,
    kicked: Option<u64>,
}

pub struct Sim {
    pub sched: Credit,
    pub now: u64,
    cores: Vec<Core>,
    pub tasks: BTreeMap<Handle, Task>,
    seed: u64,
}

impl Sim {
    pub fn new(cpus: u32, seed: u64) -> Sim {
        let core = || Core { run: None, since: 0, until: u64::MAX, kicked: Some(0) };
        Sim {
            sched: Credit::new(cpus).unwrap(),
            now: 0,
            cores: (0..cpus).map(|_| core()).collect(),
            tasks: BTreeMap::new(),
            seed: seed | 1,
        }
    }

    /// Between half and one and a half of `about`.
    fn around(&mut self, about: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        about / 2 + self.seed % about.max(1)
    }

    pub fn add(&mut self, work: Work, params: Params, cpus: CpuSet) -> Handle {
        let vcpu = self.sched.insert(params).unwrap();
        let _ = self.sched.set_affinity(vcpu, cpus).unwrap();
        let task = Task {
            work,
            left: 0,
            wakes_at: Some(self.now),
            on: None,
            capped: params.cap != 0,
            affinity: cpus,
            ran: 0,
            wanted_since: None,
            worst_wait: 0,
        };
        self.tasks.insert(vcpu, task);
        vcpu
    }

    pub fn set_params(&mut self, vcpu: Handle, params: Params) {
        self.sched.set_params(vcpu, params).unwrap();
        self.tasks.get_mut(&vcpu).unwrap().capped = params.cap != 0;
    }

    /// Forgets the waits of the start, when all come at once.
    pub fn forget_waits(&mut self) {
        self.tasks.values_mut().for_each(|t| t.worst_wait = 0);
    }

    pub fn spin(&mut self, weight: u16) -> Handle {
        self.add(Work::Spin, Params { weight, cap: 0 }, CpuSet::ALL)
    }

    fn kick(&mut self, cpus: CpuSet) {
        let at = self.now + IPI;
        for (n, core) in self.cores.iter_mut().enumerate() {
            if cpus.has(n as u32) {
                core.kicked = Some(core.kicked.unwrap_or(at).min(at));
            }
        }
    }

    fn settle(&mut self, cpu: usize) {
        let core = &mut self.cores[cpu];
        let ran = self.now - core.since;
        core.since = self.now;
        if let Some(task) = core.run.and_then(|v| self.tasks.get_mut(&v)) {
            task.ran += ran;
            task.left = task.left.saturating_sub(ran);
        }
    }

    fn pick(&mut self, cpu: usize) {
        self.settle(cpu);
        self.cores[cpu].kicked = None;
        let pick = self.sched.pick(cpu as u32, self.now);
        let prev = core::mem::replace(&mut self.cores[cpu].run, pick.run);
        self.cores[cpu].until = pick.until;
        self.kick(pick.kick);
        if prev != pick.run {
            if let Some(v) = prev {
                let task = self.tasks.get_mut(&v).unwrap();
                task.on = None;
                if task.wakes_at.is_none() {
                    task.wanted_since = Some(self.now);
                }
                let kick = self.sched.descheduled(v);
                self.kick(kick);
            }
            if let Some(v) = pick.run {
                let now = self.now;
                let task = self.tasks.get_mut(&v).unwrap();
                assert_eq!(task.on, None, "vcpu {v} is on two CPUs");
                assert_eq!(task.wakes_at, None, "vcpu {v} sleeps");
                assert!(task.affinity.has(cpu as u32), "vcpu {v} may not run on CPU {cpu}");
                task.on = Some(cpu as u32);
                let waited = now - task.wanted_since.take().unwrap();
                task.worst_wait = task.worst_wait.max(waited);
            }
        }
    }

    fn next_event(&self) -> u64 {
        let cores = self.cores.iter().map(|c| {
            let burst = c.run.and_then(|v| match &self.tasks[&v] {
                Task { work: Work::Bursts { .. }, left, .. } => Some(c.since + left),
                _ => None,
            });
            c.until.min(c.kicked.unwrap_or(u64::MAX)).min(burst.unwrap_or(u64::MAX))
        });
        cores.chain(self.tasks.values().filter_map(|t| t.wakes_at)).min().unwrap_or(u64::MAX)
    }

    /// Lets the machine run for `ns`.
    pub fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        while self.next_event() <= end {
            self.now = self.now.max(self.next_event());
            let due: Vec<Handle> = self
                .tasks
                .iter()
                .filter(|(_, t)| t.wakes_at.is_some_and(|at| at <= self.now))
                .map(|(v, _)| *v)
                .collect();
            for v in due {
                let burst = match self.tasks[&v].work {
                    Work::Bursts { burst, .. } => self.around(burst),
                    Work::Spin => 0,
                };
                let task = self.tasks.get_mut(&v).unwrap();
                task.left = burst;
                task.wakes_at = None;
                task.wanted_since = task.on.is_none().then_some(self.now);
                let kick = self.sched.wake(v, self.now);
                self.kick(kick);
            }
            for cpu in 0..self.cores.len() {
                self.settle(cpu);
                if let Some(v) = self.cores[cpu].run
                    && let Work::Bursts { gap, .. } = self.tasks[&v].work
                    && self.tasks[&v].left == 0
                {
                    let at = self.now + self.around(gap).max(1);
                    self.tasks.get_mut(&v).unwrap().wakes_at = Some(at);
                    let kick = self.sched.sleep(v);
                    assert_eq!(kick, CpuSet::one(cpu as u32));
                    self.cores[cpu].kicked = Some(self.now);
                }
                let core = &self.cores[cpu];
                if core.until <= self.now || core.kicked.is_some_and(|at| at <= self.now) {
                    self.pick(cpu);
                }
            }
            self.check_no_cpu_idles_in_vain();
        }
        self.now = end;
        (0..self.cores.len()).for_each(|cpu| self.settle(cpu));
    }

    fn check_no_cpu_idles_in_vain(&self) {
        for (cpu, core) in self.cores.iter().enumerate() {
            if core.run.is_some() || core.kicked.is_some() {
                continue;
            }
            for (v, task) in &self.tasks {
                let waits = task.wakes_at.is_none() && task.on.is_none() && !task.capped;
                let told = self.cores.iter().any(|c| c.kicked.is_some());
                assert!(
                    !(waits && task.affinity.has(cpu as u32) && !told),
                    "CPU {cpu} idles at {} while vcpu {v} waits",
                    self.now
                );
            }
        }
    }

    /// CPU time received, by vcpu, from here on: call [`Sim::ran_since`] with it later.
    pub fn mark(&self) -> BTreeMap<Handle, u64> {
        self.tasks.iter().map(|(v, t)| (*v, t.ran)).collect()
    }

    /// Each of `vcpus`' part of what they together received since the mark.
    pub fn shares_since(&self, mark: &BTreeMap<Handle, u64>, vcpus: &[Handle]) -> Vec<f64> {
        let ran: Vec<u64> = vcpus.iter().map(|v| self.tasks[v].ran - mark.get(v).unwrap_or(&0)).collect();
        let all: u64 = ran.iter().sum();
        if all == 0 {
            return vec![0.0; vcpus.len()];
        }
        ran.iter().map(|r| *r as f64 / all as f64).collect()
    }
}
