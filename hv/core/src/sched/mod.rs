//! Which vcpu runs on which CPU, and until when.
//!
//! A policy knows vcpus by number only: no domain, no register, no event. It never runs anything
//! itself: the per-CPU loop asks [`Policy::pick`] what to run and until when, and every call
//! that may change another CPU's choice returns the set of CPUs to interrupt. Time is
//! nanoseconds of the machine's clock, passed in, so a policy is a pure function of its calls
//! and is tested under virtual time.
//!
//! The hardest decision is who owns a vcpu between two CPUs. A vcpu's record belongs to the run
//! queue of its *home* CPU and changes under that queue's lock only. A vcpu that was running
//! stays bound to its CPU until [`Policy::descheduled`] says its registers are saved; before
//! that no other CPU takes it, however idle.
//!
//! # How the run loop uses it
//!
//! ```text
//! loop {
//!     let pick = sched.pick(cpu, now);            // charges what ran, chooses
//!     if prev != pick.run { save(prev); kick(sched.descheduled(prev)); load(pick.run) }
//!     kick(pick.kick); set_timer(pick.until);
//!     match vcpu.enter() { … SCHEDOP_block: sched.sleep(v); if event_pending { sched.wake(v, now) } … }
//! }
//! ```
//!
//! # Lock order
//!
//! One lock per run queue, a leaf: nothing else is locked inside, but a second run queue by
//! `try_lock` when a CPU steals.

mod budget;
pub mod credit;
mod entity;
mod names;
mod queue;

pub use credit::Credit;
pub use names::Names;
use shared_abi::errno::Errno;

#[cfg(test)]
mod tests;

/// A vcpu as the scheduler knows it: a small dense number, given by [`Policy::insert`].
pub type Handle = u32;

/// A set of CPUs, bit n for CPU n.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct CpuSet(pub u64);

impl CpuSet {
    /// Most CPUs a policy serves.
    pub const MAX: u32 = 64;
    /// No CPU.
    pub const NONE: CpuSet = CpuSet(0);
    /// Every CPU.
    pub const ALL: CpuSet = CpuSet(u64::MAX);

    /// Only `cpu`.
    pub const fn one(cpu: u32) -> CpuSet {
        CpuSet(if cpu < 64 { 1 << cpu } else { 0 })
    }

    /// Whether `cpu` is in the set.
    pub const fn has(self, cpu: u32) -> bool {
        cpu < 64 && self.0 >> cpu & 1 == 1
    }

    /// The CPU with the lowest number.
    pub const fn first(self) -> Option<u32> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros()) }
    }

    /// Both sets together.
    pub const fn with(self, other: CpuSet) -> CpuSet {
        CpuSet(self.0 | other.0)
    }
}

/// What a user sets (`xl sched-credit2`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Share against other vcpus that want to run: 1..=65535, 256 by default.
    pub weight: u16,
    /// Most of one CPU the vcpu gets, in percent; 0 means no cap. A domain's cap is divided by
    /// its number of vcpus before it comes here.
    pub cap: u16,
}

impl Default for Params {
    fn default() -> Self {
        Params { weight: 256, cap: 0 }
    }
}

/// What a CPU does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Pick {
    /// The vcpu to run; `None`: idle.
    pub run: Option<Handle>,
    /// Ask again at this time at the latest; `u64::MAX`: only when interrupted.
    pub until: u64,
    /// Interrupt these CPUs: there is work for them.
    pub kick: CpuSet,
}

/// A scheduling policy, shared by all CPUs. Every method may be called on any CPU; methods with
/// a `cpu` argument only on that CPU.
pub trait Policy: Sync {
    /// The `XEN_SCHEDULER_*` number shown to the toolstack.
    fn id(&self) -> u32;

    /// Adds a vcpu, asleep, allowed on all CPUs.
    ///
    /// # Errors
    /// `EINVAL` for a weight of 0; `ENOMEM`; `ENOSPC` when there are as many as the policy takes.
    fn insert(&self, params: Params) -> Result<Handle, Errno>;

    /// Takes a vcpu away for good. Its number may be given out again.
    ///
    /// # Errors
    /// `EBUSY` while it runs or its registers are on a CPU; `ESRCH` when there is none such.
    fn remove(&self, vcpu: Handle) -> Result<(), Errno>;

    /// The vcpu can run: it was woken, unpaused, or it blocked and an event came in between.
    fn wake(&self, vcpu: Handle, now: u64) -> CpuSet;

    /// The vcpu cannot run: it blocks, or was paused. When it is running it leaves its CPU at
    /// that CPU's next pick, unless it is woken before.
    fn sleep(&self, vcpu: Handle) -> CpuSet;

    /// The running vcpu lets another of this CPU's go first, once.
    fn yield_now(&self, vcpu: Handle);

    /// Charges what ran on `cpu` and chooses what runs next.
    fn pick(&self, cpu: u32, now: u64) -> Pick;

    /// The registers of a vcpu that ran are saved: it may run elsewhere from here.
    fn descheduled(&self, vcpu: Handle) -> CpuSet;

    /// The CPU the vcpu runs on or has its registers on.
    fn running_on(&self, vcpu: Handle) -> Option<u32>;

    /// What `cpu` runs, and who waits for it, the next one first: as many as there is room for.
    fn queue_of(&self, cpu: u32) -> (Option<Handle>, heapless::Vec<Handle, 16>);

    /// The CPU the vcpu ran on last or waits on.
    ///
    /// # Errors
    /// `ESRCH` when there is no such vcpu.
    fn home(&self, vcpu: Handle) -> Result<u32, Errno>;

    /// The vcpu's parameters.
    ///
    /// # Errors
    /// `ESRCH` when there is no such vcpu.
    fn params(&self, vcpu: Handle) -> Result<Params, Errno>;

    /// Sets the vcpu's parameters, from its next charge on.
    ///
    /// # Errors
    /// `ESRCH`; `EINVAL` for a weight of 0.
    fn set_params(&self, vcpu: Handle, params: Params) -> Result<(), Errno>;

    /// The CPUs the vcpu may run on.
    ///
    /// # Errors
    /// `ESRCH` when there is no such vcpu.
    fn affinity(&self, vcpu: Handle) -> Result<CpuSet, Errno>;

    /// Sets the CPUs the vcpu may run on.
    ///
    /// # Errors
    /// `ESRCH`; `EINVAL` when none of them exists.
    fn set_affinity(&self, vcpu: Handle, cpus: CpuSet) -> Result<CpuSet, Errno>;
}
