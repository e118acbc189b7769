//! A vcpu's scheduling record, and the table of all of them.
//!
//! Records are atomics so that safe code can share them, but each is changed only under the lock
//! of its home CPU's run queue ([`super::queue`]); the loads and stores are relaxed because that
//! lock orders them. `home` and `on_cpu` are also read without the lock, and then checked again
//! under it.
//!
//! The table grows in chunks that are never freed, so a number finds its record without a lock.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};

use hv_machine::lock::{Mutex, rank};
use shared_abi::errno::Errno;
use spin::Once;

use super::{CpuSet, Handle, Params};

const CHUNK: usize = 64;
const CHUNKS: usize = 128;
const NO_CPU: u32 = u32::MAX;

/// Where a vcpu stands. Its home queue holds it in the matching list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// No such vcpu.
    Free,
    /// Cannot run.
    Asleep,
    /// Wants to run; in its home's waiting list.
    Waiting,
    /// Its home's current.
    Running,
    /// Wants to run but used up its cap; in its home's parked list.
    Parked,
}

/// How long others wait for a vcpu that has begun to run, by what it did with the time before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Patience {
    /// Not at all: it went to sleep soon.
    None,
    /// A while: it never went to sleep.
    Short,
    /// The whole rate limit: it had work to do, came to its end and went to sleep.
    Whole,
}

pub struct Entity {
    state: AtomicU8,
    home: AtomicU32,
    on_cpu: AtomicU32,
    weight: AtomicU32,
    cap: AtomicU32,
    affinity: AtomicU64,
    vtime: AtomicU64,
    remainder: AtomicU32,
    /// Shall leave its CPU at the next pick.
    pub leaving: AtomicBool,
    /// Lets another go first at the next pick.
    pub yielding: AtomicBool,
    /// A [`Patience`].
    patience: AtomicU8,
    /// How often another took its CPU since it was last let go on for the whole rate limit.
    pub interrupted: AtomicU8,
    /// What is left of the cap's budget, ns; and when it is filled again.
    pub budget: AtomicI64,
    pub refill_at: AtomicU64,
}

impl Entity {
    const fn new() -> Entity {
        Entity {
            state: AtomicU8::new(State::Free as u8),
            home: AtomicU32::new(0),
            on_cpu: AtomicU32::new(NO_CPU),
            weight: AtomicU32::new(256),
            cap: AtomicU32::new(0),
            affinity: AtomicU64::new(u64::MAX),
            vtime: AtomicU64::new(0),
            remainder: AtomicU32::new(0),
            leaving: AtomicBool::new(false),
            yielding: AtomicBool::new(false),
            patience: AtomicU8::new(Patience::None as u8),
            interrupted: AtomicU8::new(0),
            budget: AtomicI64::new(0),
            refill_at: AtomicU64::new(0),
        }
    }

    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            1 => State::Asleep,
            2 => State::Waiting,
            3 => State::Running,
            4 => State::Parked,
            _ => State::Free,
        }
    }

    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub fn patience(&self) -> Patience {
        match self.patience.load(Ordering::Relaxed) {
            1 => Patience::Short,
            2 => Patience::Whole,
            _ => Patience::None,
        }
    }

    pub fn set_patience(&self, patience: Patience) {
        self.patience.store(patience as u8, Ordering::Relaxed);
    }

    pub fn home(&self) -> u32 {
        self.home.load(Ordering::Acquire)
    }

    pub fn set_home(&self, cpu: u32) {
        self.home.store(cpu, Ordering::Release);
    }

    /// The CPU that holds the vcpu's registers.
    pub fn on_cpu(&self) -> Option<u32> {
        Some(self.on_cpu.load(Ordering::Acquire)).filter(|cpu| *cpu != NO_CPU)
    }

    pub fn set_on_cpu(&self, cpu: Option<u32>) {
        self.on_cpu.store(cpu.unwrap_or(NO_CPU), Ordering::Release);
    }

    pub fn params(&self) -> Params {
        Params {
            weight: self.weight.load(Ordering::Relaxed) as u16,
            cap: self.cap.load(Ordering::Relaxed) as u16,
        }
    }

    pub fn set_params(&self, params: Params) {
        self.weight.store(u32::from(params.weight), Ordering::Relaxed);
        self.cap.store(u32::from(params.cap), Ordering::Relaxed);
    }

    pub fn cap(&self) -> u32 {
        self.cap.load(Ordering::Relaxed)
    }

    pub fn affinity(&self) -> CpuSet {
        CpuSet(self.affinity.load(Ordering::Relaxed))
    }

    pub fn set_affinity(&self, cpus: CpuSet) {
        self.affinity.store(cpus.0, Ordering::Relaxed);
    }

    pub fn may_run_on(&self, cpu: u32) -> bool {
        self.affinity().has(cpu)
    }

    /// Virtual time: CPU time received, scaled by 256/weight.
    pub fn vtime(&self) -> u64 {
        self.vtime.load(Ordering::Relaxed)
    }

    pub fn set_vtime(&self, vtime: u64) {
        self.vtime.store(vtime, Ordering::Relaxed);
    }

    /// `ns` of CPU time in this vcpu's virtual time.
    pub fn scaled(&self, ns: u64) -> u64 {
        ns.saturating_mul(256) / u64::from(self.weight.load(Ordering::Relaxed).max(1))
    }

    /// Adds `ns` of CPU time, keeping what the division leaves.
    pub fn charge(&self, ns: u64) {
        let weight = u64::from(self.weight.load(Ordering::Relaxed).max(1));
        let total = ns.saturating_mul(256).saturating_add(u64::from(self.remainder.load(Ordering::Relaxed)));
        self.set_vtime(self.vtime().saturating_add(total / weight));
        self.remainder.store((total % weight) as u32, Ordering::Relaxed);
    }
}

/// All records, by number.
pub struct Entities {
    chunks: [Once<Vec<Entity>>; CHUNKS],
    /// Guards giving numbers out and taking them back; the count of those given out.
    given: Mutex<usize>,
}

impl Entities {
    pub const fn new() -> Entities {
        Entities { chunks: [const { Once::new() }; CHUNKS], given: Mutex::new(rank::SCHED, 0) }
    }

    /// The record of a number that was given out.
    pub fn get(&self, vcpu: Handle) -> Option<&Entity> {
        let entity = self.chunks.get(vcpu as usize / CHUNK)?.get()?.get(vcpu as usize % CHUNK)?;
        (entity.state() != State::Free).then_some(entity)
    }

    /// Gives out a free number. `prepare` is told how many are then in use, and may refuse.
    pub fn give(
        &self,
        params: Params,
        home: u32,
        prepare: impl FnOnce(usize) -> Result<(), Errno>,
    ) -> Result<Handle, Errno> {
        let mut given = self.given.lock();
        for (n, chunk) in self.chunks.iter().enumerate() {
            let chunk = chunk.try_call_once(|| {
                let mut v = Vec::new();
                v.try_reserve_exact(CHUNK).map_err(|_| Errno::ENOMEM)?;
                v.resize_with(CHUNK, Entity::new);
                Ok(v)
            })?;
            let Some((m, entity)) = chunk.iter().enumerate().find(|(_, e)| e.state() == State::Free) else {
                continue;
            };
            prepare(*given + 1)?;
            *given += 1;
            entity.set_params(params);
            entity.set_home(home);
            entity.set_affinity(CpuSet::ALL);
            entity.set_vtime(0);
            entity.budget.store(0, Ordering::Relaxed);
            entity.refill_at.store(0, Ordering::Relaxed);
            entity.leaving.store(false, Ordering::Relaxed);
            entity.yielding.store(false, Ordering::Relaxed);
            entity.set_patience(Patience::None);
            entity.interrupted.store(0, Ordering::Relaxed);
            entity.set_state(State::Asleep);
            return Ok((n * CHUNK + m) as Handle);
        }
        Err(Errno::ENOSPC)
    }

    /// Takes a number back. The caller holds its home's lock.
    pub fn take_back(&self, entity: &Entity) {
        entity.set_state(State::Free);
    }

    /// After [`Entities::take_back`], without the home's lock.
    pub fn count_back(&self) {
        *self.given.lock() -= 1;
    }
}
