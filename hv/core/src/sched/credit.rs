//! Proportional share: CPU time in the ratio of weights among those that want to run, within
//! caps, with a head start for whoever slept.
//!
//! Each vcpu has a virtual time, the CPU time it received divided by its weight, and the lowest
//! goes first. The hardest decision is fairness over many CPUs without one queue: virtual times
//! are comparable on all CPUs, each CPU shows that of its first waiting vcpu in one atomic, and a
//! CPU that picks takes a vcpu from another queue when that is behind its own best by more than
//! [`STEAL_MARGIN`]. So queues are fair in themselves and drift apart by at most a margin.
//!
//! A vcpu's virtual time is brought near its queue's when it wakes or moves: not further behind
//! than [`HEAD_START`] (sleep earns no more than that) and not further ahead than [`DEBT`] (an
//! hour alone on a CPU is not paid back by an hour of starving). One that has a CPU to itself
//! gets all it can use, so what it seems to be owed beyond [`DEBT`] is forgotten; and a CPU that
//! was idle takes up the virtual time the machine has `reached`.
//!
//! # When a waking vcpu interrupts
//!
//! A guest's request wakes its backend, which has used little CPU time and goes first. That is right for a guest that
//! now waits for the answer: it finds it when it goes on, and need not sleep. One that makes request after request had
//! better go on, and have several served at once. Which it is, is learnt ([`Patience`]): each vcpu is let go on now and
//! then, for the rate limit at most. One that has then more to do than it takes to go to sleep (`SOON`), and goes to sleep
//! when it has done it, is let go on each time. One that is still not at its end computes, and others wait for a fifth
//! of that.
//!
//! # Why no CPU idles while a vcpu waits
//!
//! A CPU that finds nothing sets its bit in `idle` and looks at all queues once more. Whoever
//! leaves a vcpu waiting publishes its queue first and looks at `idle` after. One of the two sees
//! the other. A set bit is claimed by clearing it, so two wakers never wake the same CPU.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_machine::lock::MutexGuard;
use shared_abi::errno::Errno;
use shared_abi::sysctl::{XEN_SYSCTL_SCHED_RATELIMIT_MAX, XEN_SYSCTL_SCHED_RATELIMIT_MIN};

use super::entity::{Entities, Entity, Patience, State};
use super::queue::{Cpu, RunQueue};
use super::{CpuSet, Handle, Params, Pick, Policy, budget};

/// `XEN_SCHEDULER_CREDIT2` (domctl.h), whose parameters these are.
const CREDIT2: u32 = 6;

const US: u64 = 1000;
const MS: u64 = 1_000_000;
/// A slice when nobody else waits on this CPU, and the bounds when somebody does, ns.
pub const SLICE_ALONE: u64 = 10 * MS;
const SLICE_MAX: u64 = 5 * MS;
const SLICE_MIN: u64 = MS;
/// How far a waking vcpu may be behind its queue, in ns of CPU time at its weight.
pub const HEAD_START: u64 = 5 * MS;
/// How far a waking or moving vcpu may be ahead, likewise.
pub const DEBT: u64 = 50 * MS;
/// How far behind a vcpu of another queue must be to be taken, ns at weight 256.
pub const STEAL_MARGIN: u64 = MS / 2;
/// How far ahead the running vcpu must be for a waking one to interrupt it, ns at weight 256.
pub const PREEMPT_MARGIN: u64 = MS / 4;
/// The rate limit by default, ns: Xen's.
const RATELIMIT: u64 = MS;
/// A vcpu that sleeps within this time after another was to take its CPU had no more to do, ns.
const SOON: u64 = 20 * US;
/// So often is a vcpu interrupted before it is let go on to see what it does.
const PROBE: u8 = 16;
/// An idle CPU that met a locked queue looks again after this, ns.
const RETRY: u64 = MS / 20;

type Queue<'a> = MutexGuard<'a, RunQueue>;

/// The credit scheduler.
pub struct Credit {
    cpus: Vec<Cpu>,
    vcpus: Entities,
    /// CPUs that found nothing to run and that nobody has claimed yet.
    idle: AtomicU64,
    /// The highest virtual time any queue has come to.
    reached: AtomicU64,
    /// How long a vcpu that has begun to run is left alone, ns.
    ratelimit: AtomicU64,
}

/// Whether the search of other queues met one that was locked.
struct Stolen {
    vcpu: Option<Handle>,
    unsure: bool,
}

impl Credit {
    /// A scheduler for CPUs 0..`cpus`.
    ///
    /// # Errors
    /// `EINVAL` unless `cpus` is in 1..=64; `ENOMEM`.
    pub fn new(cpus: u32) -> Result<Credit, Errno> {
        if !(1..=CpuSet::MAX).contains(&cpus) {
            return Err(Errno::EINVAL);
        }
        let mut v = Vec::new();
        v.try_reserve_exact(cpus as usize).map_err(|_| Errno::ENOMEM)?;
        v.resize_with(cpus as usize, Cpu::new);
        Ok(Credit {
            cpus: v,
            vcpus: Entities::new(),
            idle: AtomicU64::new(0),
            reached: AtomicU64::new(0),
            ratelimit: AtomicU64::new(RATELIMIT),
        })
    }

    /// How long a vcpu that has begun to run is left alone, in µs.
    pub fn ratelimit_us(&self) -> u32 {
        (self.ratelimit.load(Ordering::Relaxed) / US) as u32
    }

    /// Sets it; 0: one that waits less far ahead interrupts it at once.
    ///
    /// # Errors
    /// `EINVAL` outside what sysctl.h says.
    pub fn set_ratelimit_us(&self, us: u32) -> Result<(), Errno> {
        if us != 0 && !(XEN_SYSCTL_SCHED_RATELIMIT_MIN..=XEN_SYSCTL_SCHED_RATELIMIT_MAX).contains(&us) {
            return Err(Errno::EINVAL);
        }
        self.ratelimit.store(u64::from(us) * US, Ordering::Relaxed);
        Ok(())
    }

    fn online(&self) -> CpuSet {
        CpuSet(u64::MAX >> (64 - self.cpus.len()))
    }

    /// The vcpu's record, its home and its home's queue, locked.
    fn locked(&self, vcpu: Handle) -> Option<(&Entity, u32, Queue<'_>)> {
        loop {
            let entity = self.vcpus.get(vcpu)?;
            let home = entity.home();
            let queue = self.cpus.get(home as usize)?.queue.lock();
            if entity.home() == home {
                return (entity.state() != State::Free).then_some((entity, home, queue));
            }
        }
    }

    fn publish(&self, cpu: u32, queue: &RunQueue) {
        if let Some(cpu) = self.cpus.get(cpu as usize) {
            cpu.publish(queue);
        }
    }

    /// Claims one idle CPU of `cpus`, `prefer` first.
    fn claim_idle(&self, cpus: CpuSet, prefer: u32) -> Option<u32> {
        loop {
            let idle = CpuSet(self.idle.load(Ordering::SeqCst) & cpus.0);
            let cpu = if idle.has(prefer) { prefer } else { idle.first()? };
            let bit = CpuSet::one(cpu).0;
            if self.idle.fetch_and(!bit, Ordering::SeqCst) & bit != 0 {
                return Some(cpu);
            }
        }
    }

    /// Charges the running vcpu up to `now`.
    fn charge(&self, queue: &mut RunQueue, now: u64) {
        let ran = now.saturating_sub(queue.since);
        queue.since = now;
        if let Some(entity) = queue.current.and_then(|v| self.vcpus.get(v)) {
            entity.charge(ran);
            budget::spend(entity, ran);
        }
    }

    /// Puts a vcpu that wants to run where it belongs: waiting, or parked when it is over its cap.
    fn enqueue(&self, queue: &mut RunQueue, vcpu: Handle, entity: &Entity, now: u64) {
        budget::refill(entity, now);
        if budget::left(entity) == Some(0) {
            entity.set_state(State::Parked);
            queue.park(budget::resumes_at(entity).max(now + 1), vcpu);
        } else {
            entity.set_state(State::Waiting);
            queue.wait(entity.vtime(), vcpu);
        }
    }

    /// Brings a vcpu's virtual time near that of the queue it comes to.
    fn settle(entity: &Entity, floor: u64) {
        let least = floor.saturating_sub(entity.scaled(HEAD_START));
        let most = floor.saturating_add(entity.scaled(DEBT));
        entity.set_vtime(entity.vtime().clamp(least, most));
    }

    /// Takes a vcpu from another queue that may run on `cpu` and is behind `limit`.
    fn steal(&self, cpu: u32, queue: &RunQueue, limit: u64) -> Stolen {
        let mut stolen = Stolen { vcpu: None, unsure: false };
        let others = || (0..self.cpus.len() as u32).filter(|other| *other != cpu);
        let first =
            |other: u32| self.cpus.get(other as usize).map_or(u64::MAX, |c| c.first.load(Ordering::SeqCst));
        let Some(best) = others().min_by_key(|other| first(*other)) else { return stolen };
        if first(best) >= limit {
            return stolen;
        }
        // The best queue first; another only when the best one's are not for us.
        for other in core::iter::once(best).chain(others().filter(|o| *o != best)) {
            if first(other) >= limit {
                continue;
            }
            let Some(from) = self.cpus.get(other as usize) else { continue };
            let Some(mut theirs) = from.queue.try_lock() else {
                stolen.unsure = true;
                continue;
            };
            let fit = theirs.waiting().take_while(|(vtime, _)| *vtime < limit).find_map(|(_, vcpu)| {
                let entity = self.vcpus.get(vcpu)?;
                (entity.may_run_on(cpu) && entity.on_cpu().is_none()).then_some((vcpu, entity))
            });
            if let Some((vcpu, entity)) = fit {
                theirs.unwait(vcpu);
                from.publish(&theirs);
                entity.set_home(cpu);
                Self::settle(entity, queue.floor);
                stolen.vcpu = Some(vcpu);
                return stolen;
            }
        }
        stolen
    }

    /// The queue's first vcpu that may run here, other than `not`.
    fn best_local(&self, cpu: u32, queue: &RunQueue, not: Option<Handle>) -> Option<(u64, Handle)> {
        queue
            .waiting()
            .find(|(_, vcpu)| Some(*vcpu) != not && self.vcpus.get(*vcpu).is_some_and(|e| e.may_run_on(cpu)))
    }

    /// Claims an idle CPU for each vcpu that is left waiting in a published queue.
    fn offer(&self, cpu: u32, queue: &RunQueue) -> CpuSet {
        let mut kick = CpuSet::NONE;
        if self.idle.load(Ordering::SeqCst) == 0 {
            return kick;
        }
        for (_, vcpu) in queue.waiting() {
            let Some(entity) = self.vcpus.get(vcpu) else { continue };
            if entity.on_cpu().is_none()
                && let Some(idle) = self.claim_idle(entity.affinity(), cpu)
            {
                kick = kick.with(CpuSet::one(idle));
            }
        }
        kick
    }

    /// A CPU of `cpus` whose running vcpu is furthest ahead, if a vcpu at `vtime` may interrupt it.
    fn preemptible(&self, cpus: CpuSet, vtime: u64) -> Option<u32> {
        let running = |cpu: u32| self.cpus.get(cpu as usize).map_or(0, |c| c.running.load(Ordering::Relaxed));
        let all = 0..self.cpus.len() as u32;
        let ahead = all.filter(|cpu| cpus.has(*cpu)).max_by_key(|cpu| running(*cpu))?;
        (running(ahead) > vtime.saturating_add(STEAL_MARGIN)).then_some(ahead)
    }

    /// Who is to be told of a vcpu that came to wait in `queue`, published already.
    fn tell(&self, cpu: u32, queue: &RunQueue, entity: &Entity, now: u64) -> CpuSet {
        if entity.state() == State::Parked || entity.on_cpu().is_some() && queue.current.is_none() {
            return CpuSet::one(cpu); // it has a timer to set; it may take the vcpu itself
        }
        if entity.may_run_on(cpu) {
            let ahead = match queue.current.and_then(|v| self.vcpus.get(v)) {
                None => true,
                Some(runs) => {
                    let ran = runs.scaled(now.saturating_sub(queue.since));
                    runs.vtime().saturating_add(ran) > entity.vtime().saturating_add(PREEMPT_MARGIN)
                }
            };
            if ahead {
                return CpuSet::one(cpu);
            }
        }
        if entity.on_cpu().is_some() {
            return CpuSet::NONE;
        }
        let other = self.claim_idle(entity.affinity(), cpu);
        other
            .or_else(|| self.preemptible(entity.affinity(), entity.vtime()))
            .map_or(CpuSet::NONE, CpuSet::one)
    }

    /// Until when the former vcpu of `cpu`, which is back in the queue and began to run at `started`, goes on whoever
    /// waits.
    fn goes_on_until(&self, cpu: u32, vcpu: Handle, started: u64) -> u64 {
        let Some(entity) = self.vcpus.get(vcpu) else { return 0 };
        if entity.state() != State::Waiting || !entity.may_run_on(cpu) {
            return 0;
        }
        let whole = self.ratelimit.load(Ordering::Relaxed);
        let probed = entity.interrupted.load(Ordering::Relaxed) >= PROBE;
        started.saturating_add(match entity.patience() {
            _ if probed => whole,
            Patience::Whole => whole,
            Patience::Short => whole / 5,
            Patience::None => 0,
        })
    }

    /// Learns from `prev`, which has left its CPU: `pressed` says since when it was let go on although another was to run.
    fn displaced(&self, prev: Option<Handle>, pressed: Option<u64>, now: u64) {
        let Some(entity) = prev.and_then(|v| self.vcpus.get(v)) else { return };
        let wants_more = entity.state() == State::Waiting;
        let interrupted = entity.interrupted.load(Ordering::Relaxed);
        let whole = interrupted >= PROBE || entity.patience() == Patience::Whole;
        let interrupted = match pressed {
            Some(since) if !wants_more => {
                let soon = now.saturating_sub(since) <= SOON;
                entity.set_patience(if soon { Patience::None } else { Patience::Whole });
                0
            }
            Some(_) if whole => {
                entity.set_patience(Patience::Short);
                0
            }
            _ if wants_more => interrupted.saturating_add(1),
            _ => return,
        };
        entity.interrupted.store(interrupted, Ordering::Relaxed);
    }

    /// Chooses for `cpu`, whose former vcpu is back in the queue: `None` is idle, and the flag
    /// says that a locked queue hid whether there was something.
    fn choose(&self, cpu: u32, queue: &mut RunQueue, yielding: Option<Handle>) -> (Option<Handle>, bool) {
        let other = yielding.and_then(|v| self.best_local(cpu, queue, Some(v)));
        let local = other.or_else(|| self.best_local(cpu, queue, None));
        let limit = local.map_or(u64::MAX, |(vtime, _)| vtime.saturating_sub(STEAL_MARGIN));
        let stolen = if other.is_some() {
            Stolen { vcpu: None, unsure: false }
        } else {
            self.steal(cpu, queue, limit)
        };
        match (stolen.vcpu, local) {
            (Some(vcpu), _) => (Some(vcpu), false),
            (None, Some((_, vcpu))) => {
                queue.unwait(vcpu);
                (Some(vcpu), false)
            }
            (None, None) => (None, stolen.unsure),
        }
    }
}

impl Policy for Credit {
    fn id(&self) -> u32 {
        CREDIT2
    }

    fn insert(&self, params: Params) -> Result<Handle, Errno> {
        if params.weight == 0 {
            return Err(Errno::EINVAL);
        }
        self.vcpus
            .give(params, 0, |count| self.cpus.iter().try_for_each(|cpu| cpu.queue.lock().reserve(count)))
    }

    fn remove(&self, vcpu: Handle) -> Result<(), Errno> {
        let (entity, home, mut queue) = self.locked(vcpu).ok_or(Errno::ESRCH)?;
        if entity.state() == State::Running || entity.on_cpu().is_some() {
            return Err(Errno::EBUSY);
        }
        queue.unwait(vcpu);
        queue.unpark(vcpu);
        self.publish(home, &queue);
        self.vcpus.take_back(entity);
        drop(queue);
        self.vcpus.count_back();
        Ok(())
    }

    fn wake(&self, vcpu: Handle, now: u64) -> CpuSet {
        let mut claimed = None;
        loop {
            let Some((entity, home, mut queue)) = self.locked(vcpu) else { return CpuSet::NONE };
            if entity.state() != State::Asleep {
                entity.leaving.store(false, Ordering::Relaxed);
                return claimed.map_or(CpuSet::NONE, CpuSet::one);
            }
            // Where its registers are; else an idle CPU; else where it was.
            if entity.on_cpu().is_none() && claimed.is_none() {
                claimed = self.claim_idle(entity.affinity(), home);
                let fits = if entity.may_run_on(home) { Some(home) } else { None };
                let allowed = CpuSet(entity.affinity().0 & self.online().0);
                let target = claimed.or(fits).or(allowed.first()).unwrap_or(home);
                if target != home {
                    entity.set_home(target);
                    continue;
                }
            }
            if queue.current.is_none() && queue.waiting_count() == 0 {
                queue.floor = queue.floor.max(self.reached.load(Ordering::Relaxed));
            }
            Self::settle(entity, queue.floor);
            self.enqueue(&mut queue, vcpu, entity, now);
            self.publish(home, &queue);
            return match claimed {
                Some(cpu) => CpuSet::one(cpu),
                None => self.tell(home, &queue, entity, now),
            };
        }
    }

    fn sleep(&self, vcpu: Handle) -> CpuSet {
        let Some((entity, home, mut queue)) = self.locked(vcpu) else { return CpuSet::NONE };
        match entity.state() {
            State::Running => {
                entity.leaving.store(true, Ordering::Relaxed);
                return CpuSet::one(home);
            }
            State::Waiting => queue.unwait(vcpu),
            State::Parked => queue.unpark(vcpu),
            State::Asleep | State::Free => return CpuSet::NONE,
        }
        entity.set_state(State::Asleep);
        self.publish(home, &queue);
        CpuSet::NONE
    }

    fn yield_now(&self, vcpu: Handle) {
        if let Some(entity) = self.vcpus.get(vcpu) {
            entity.yielding.store(true, Ordering::Relaxed);
        }
    }

    fn pick(&self, cpu: u32, now: u64) -> Pick {
        let Some(own) = self.cpus.get(cpu as usize) else {
            return Pick { run: None, until: u64::MAX, kick: CpuSet::NONE };
        };
        let bit = CpuSet::one(cpu).0;
        self.idle.fetch_and(!bit, Ordering::SeqCst);
        let mut queue = own.queue.lock();
        self.charge(&mut queue, now);

        while let Some(vcpu) = queue.take_due(now) {
            if let Some(entity) = self.vcpus.get(vcpu) {
                self.enqueue(&mut queue, vcpu, entity, now);
            }
        }
        let prev = queue.current;
        let mut yielding = None;
        if let Some(vcpu) = queue.current.take()
            && let Some(entity) = self.vcpus.get(vcpu)
        {
            if entity.yielding.swap(false, Ordering::Relaxed) {
                yielding = Some(vcpu);
            }
            if entity.leaving.swap(false, Ordering::Relaxed) {
                entity.set_state(State::Asleep);
            } else {
                self.enqueue(&mut queue, vcpu, entity, now);
            }
        }

        let limit = prev.map_or(0, |vcpu| self.goes_on_until(cpu, vcpu, queue.started));
        let kept = prev.filter(|_| now < limit && yielding.is_none());
        let (mut run, mut unsure) = match kept {
            Some(vcpu) => {
                queue.unwait(vcpu);
                (kept, false)
            }
            None => self.choose(cpu, &mut queue, yielding),
        };
        if run.is_none() {
            own.publish(&queue);
            self.idle.fetch_or(bit, Ordering::SeqCst);
            (run, unsure) = self.choose(cpu, &mut queue, None);
            if run.is_some() {
                self.idle.fetch_and(!bit, Ordering::SeqCst);
            }
        }
        let mut until = queue.next_due();
        let mut vtime = 0;
        if let Some(entity) = run.and_then(|v| self.vcpus.get(v)) {
            entity.set_state(State::Running);
            entity.set_on_cpu(Some(cpu));
            if run == prev && queue.waiting_count() == 0 {
                let reached = self.reached.load(Ordering::Relaxed);
                entity.set_vtime(entity.vtime().max(reached.saturating_sub(entity.scaled(DEBT))));
            }
            vtime = entity.vtime();
            queue.floor = queue.floor.max(vtime);
            self.reached.fetch_max(queue.floor, Ordering::Relaxed);
            let slice = match queue.waiting_count() as u64 {
                0 => SLICE_ALONE,
                others => (SLICE_ALONE / others).clamp(SLICE_MIN, SLICE_MAX),
            };
            let slice = budget::left(entity).map_or(slice, |left| slice.min(left));
            until = until.min(now.saturating_add(slice));
            if kept.is_some() && queue.waiting_count() > 0 {
                until = until.min(limit);
                queue.pressed.get_or_insert(now);
            }
        } else if unsure {
            until = until.min(now.saturating_add(RETRY));
        }
        if run != prev {
            self.displaced(prev, queue.pressed.take(), now);
            queue.started = now;
        }
        queue.current = run;
        own.running.store(vtime, Ordering::Relaxed);
        own.publish(&queue);
        Pick { run, until, kick: self.offer(cpu, &queue) }
    }

    fn descheduled(&self, vcpu: Handle) -> CpuSet {
        let Some((entity, home, queue)) = self.locked(vcpu) else { return CpuSet::NONE };
        if queue.current == Some(vcpu) {
            return CpuSet::NONE;
        }
        entity.set_on_cpu(None);
        self.offer(home, &queue)
    }

    fn running_on(&self, vcpu: Handle) -> Option<u32> {
        self.vcpus.get(vcpu)?.on_cpu()
    }

    fn queue_of(&self, cpu: u32) -> (Option<Handle>, heapless::Vec<Handle, 16>) {
        let Some(cpu) = self.cpus.get(cpu as usize) else { return (None, heapless::Vec::new()) };
        let queue = cpu.queue.lock();
        (queue.current, queue.waiting().map(|(_, vcpu)| vcpu).take(16).collect())
    }

    fn home(&self, vcpu: Handle) -> Result<u32, Errno> {
        self.vcpus.get(vcpu).map(Entity::home).ok_or(Errno::ESRCH)
    }

    fn params(&self, vcpu: Handle) -> Result<Params, Errno> {
        self.vcpus.get(vcpu).map(Entity::params).ok_or(Errno::ESRCH)
    }

    fn set_params(&self, vcpu: Handle, params: Params) -> Result<(), Errno> {
        if params.weight == 0 {
            return Err(Errno::EINVAL);
        }
        let (entity, ..) = self.locked(vcpu).ok_or(Errno::ESRCH)?;
        entity.set_params(params);
        entity.budget.store(0, Ordering::Relaxed);
        entity.refill_at.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn affinity(&self, vcpu: Handle) -> Result<CpuSet, Errno> {
        self.vcpus.get(vcpu).map(Entity::affinity).ok_or(Errno::ESRCH)
    }

    fn set_affinity(&self, vcpu: Handle, cpus: CpuSet) -> Result<CpuSet, Errno> {
        let (entity, home, _queue) = self.locked(vcpu).ok_or(Errno::ESRCH)?;
        let allowed = CpuSet(cpus.0 & self.online().0);
        let first = allowed.first().ok_or(Errno::EINVAL)?;
        entity.set_affinity(cpus);
        Ok(match entity.state() {
            State::Running if !cpus.has(home) => CpuSet::one(home),
            State::Waiting => CpuSet::one(self.claim_idle(allowed, home).unwrap_or(first)),
            _ => CpuSet::NONE,
        })
    }
}
