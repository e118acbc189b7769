//! Translations cached by other CPUs.
//!
//! A CPU in the hypervisor has interrupts off and may be waiting for a lock that the asking CPU holds,
//! so a request is a counter that the target also looks at while it spins (lock.rs) and before it
//! enters a guest. Whoever asks waits until every target has answered, and answers others meanwhile.

use super::percpu::{self, MAX_CPUS};
use super::{apic, cpu};
use crate::frame::{CLOCK, Cpus, TlbClock};
use core::sync::atomic::{AtomicU64, Ordering::*};

struct Flush {
    asked: AtomicU64,
    done: AtomicU64,
}

static FLUSH: [Flush; MAX_CPUS] =
    [const { Flush { asked: AtomicU64::new(0), done: AtomicU64::new(0) } }; MAX_CPUS];
static ONLINE: AtomicU64 = AtomicU64::new(0);

pub(super) fn set_online(cpu: usize) {
    CLOCK.join(cpu);
    ONLINE.fetch_or(1 << cpu, SeqCst);
}

/// Bit mask of CPUs that are up.
pub fn online() -> u64 {
    ONLINE.load(Relaxed)
}

/// Drops this CPU's translations of guest addresses.
#[inline]
pub fn flush_local() {
    let tick = CLOCK.begin();
    // SAFETY: reloading the root that is loaded.
    unsafe { cpu::write_cr3(cpu::read_cr3()) };
    CLOCK.end(percpu::cpu_id(), tick);
}

/// What the frame table asks of the CPUs.
pub struct Shootdown;

impl Cpus for Shootdown {
    fn flush(&self, clock: &TlbClock, stamp: u32) {
        flush(clock.stale_cpus(stamp).fold(0, |mask, c| mask | 1 << c));
    }
    fn relax(&self) {
        poll();
    }
}

/// Answers a flush request to this CPU, if there is one.
#[inline]
pub fn poll() {
    let f = &FLUSH[percpu::cpu_id()];
    let asked = f.asked.load(Acquire);
    if f.done.load(Relaxed) != asked {
        flush_local();
        f.done.store(asked, Release);
    }
}

/// Flushes every CPU of `mask` and returns when all have.
pub fn flush(mask: u64) {
    let me = percpu::cpu_id();
    let others = mask & online() & !(1 << me);
    if others != 0 {
        return flush_with(others, mask & 1 << me != 0);
    }
    if mask & 1 << me != 0 {
        flush_local();
    }
}

/// Flushes the CPUs `others`, and this one too if it is `mine`.
#[inline(never)]
fn flush_with(others: u64, mine: bool) {
    let mut wanted = [0u64; MAX_CPUS];
    let mut left = others;
    while left != 0 {
        let c = left.trailing_zeros() as usize;
        left &= left - 1;
        wanted[c] = FLUSH[c].asked.fetch_add(1, AcqRel) + 1;
        apic::send(c, apic::vector::FLUSH);
    }
    if mine {
        flush_local();
    }
    let mut left = others;
    while left != 0 {
        let c = left.trailing_zeros() as usize;
        if FLUSH[c].done.load(Acquire) >= wanted[c] {
            left &= left - 1;
        } else {
            poll();
            core::hint::spin_loop();
        }
    }
}
