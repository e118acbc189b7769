//! One CPU's run queue: what it runs, who waits, who is parked.
//!
//! Waiting vcpus are sorted by virtual time, the next one last, in a vector whose room is
//! reserved when a vcpu is inserted, so that nothing here allocates.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_machine::lock::{Mutex, rank};
use shared_abi::errno::Errno;

use super::Handle;

/// A CPU's queue and what other CPUs read of it without its lock.
#[repr(align(64))]
pub struct Cpu {
    pub queue: Mutex<RunQueue>,
    /// Virtual time of the first in the queue; `u64::MAX` when nobody waits.
    pub first: AtomicU64,
    /// Virtual time of what runs, as of its last charge; 0 when idle.
    pub running: AtomicU64,
}

pub struct RunQueue {
    /// What the CPU runs, and since when it has not been charged.
    pub current: Option<Handle>,
    pub since: u64,
    /// When it began to, and since when it is let go on although another is to run.
    pub started: u64,
    pub pressed: Option<u64>,
    /// Virtual time this queue has reached: that of the latest vcpu it chose.
    pub floor: u64,
    waiting: Vec<(u64, Handle)>,
    /// When each may run again.
    parked: Vec<(u64, Handle)>,
}

impl Cpu {
    pub const fn new() -> Cpu {
        Cpu {
            queue: Mutex::new(
                rank::SCHED,
                RunQueue {
                    current: None,
                    since: 0,
                    started: 0,
                    pressed: None,
                    floor: 0,
                    waiting: Vec::new(),
                    parked: Vec::new(),
                },
            ),
            first: AtomicU64::new(u64::MAX),
            running: AtomicU64::new(0),
        }
    }

    /// Shows the others what the queue has come to. Call it before the lock is dropped.
    pub fn publish(&self, queue: &RunQueue) {
        self.first.store(queue.waiting.last().map_or(u64::MAX, |w| w.0), Ordering::SeqCst);
    }
}

impl RunQueue {
    /// Makes room for `vcpus` in each list.
    pub fn reserve(&mut self, vcpus: usize) -> Result<(), Errno> {
        let RunQueue { waiting, parked, .. } = self;
        waiting.try_reserve(vcpus.saturating_sub(waiting.len())).map_err(|_| Errno::ENOMEM)?;
        parked.try_reserve(vcpus.saturating_sub(parked.len())).map_err(|_| Errno::ENOMEM)
    }

    /// Adds a vcpu behind those with the same virtual time.
    pub fn wait(&mut self, vtime: u64, vcpu: Handle) {
        let at = self.waiting.partition_point(|w| w.0 > vtime);
        self.waiting.insert(at, (vtime, vcpu));
    }

    /// Who waits, the next one first.
    pub fn waiting(&self) -> impl Iterator<Item = (u64, Handle)> + '_ {
        self.waiting.iter().rev().copied()
    }

    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    pub fn unwait(&mut self, vcpu: Handle) {
        self.waiting.retain(|w| w.1 != vcpu);
    }

    pub fn park(&mut self, until: u64, vcpu: Handle) {
        self.parked.push((until, vcpu));
    }

    pub fn unpark(&mut self, vcpu: Handle) {
        self.parked.retain(|p| p.1 != vcpu);
    }

    /// One vcpu whose time to run again has come.
    pub fn take_due(&mut self, now: u64) -> Option<Handle> {
        let at = self.parked.iter().position(|p| p.0 <= now)?;
        Some(self.parked.swap_remove(at).1)
    }

    /// When the first parked vcpu may run again; `u64::MAX` when none is parked.
    pub fn next_due(&self) -> u64 {
        self.parked.iter().map(|p| p.0).min().unwrap_or(u64::MAX)
    }
}
