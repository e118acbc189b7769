//! The hypervisor's locks.
//!
//! Fair spin locks. Two things set them apart from a library's: while it waits, a CPU answers TLB-flush
//! requests (the holder may be waiting for just that), and every lock has a rank: in debug builds
//! taking a lock of lower rank than one already held panics, so a possible deadlock is found by the
//! first run that comes near it. Two locks of one rank are taken in the order of their owners' ids.

use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering::*};

/// Ranks, outermost first.
#[allow(missing_docs)]
pub mod rank {
    /// `domctl`'s, which is only tried for.
    pub const DOMCTL: u8 = 4;
    /// A vcpu's context: held by the CPU that runs it for as long as it does, so under everything else.
    pub const VCPU: u8 = 5;
    pub const DOMAIN_LIST: u8 = 10;
    pub const DOMAIN: u8 = 20;
    pub const GRANT: u8 = 30;
    pub const MAPTRACK: u8 = 35;
    pub const EVENT: u8 = 40;
    pub const IRQ: u8 = 50;
    pub const MEMORY: u8 = 60;
    pub const SCHED: u8 = 70;
    pub const TIMER: u8 = 75;
    pub const TIMER_QUEUE: u8 = 76;
    pub const IOAPIC: u8 = 80;
    pub const PORT: u8 = 82;
    pub const FRAME_ALLOC: u8 = 85;
    pub const HEAP: u8 = 90;
    /// A domain's event queues: an event may come from anywhere.
    pub const EVENT_QUEUE: u8 = 92;
    pub const LOG: u8 = 95;
}

/// A value behind a ranked, fair spin lock.
pub struct Mutex<T: ?Sized> {
    next: AtomicU32,
    serving: AtomicU32,
    rank: u8,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives one thread at a time access to the value.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

/// Access to a locked value; unlocks when dropped.
#[must_use]
pub struct MutexGuard<'a, T: ?Sized> {
    lock: &'a Mutex<T>,
}

/// Access to a locked value that keeps the lock alive itself; unlocks when dropped.
#[must_use]
pub struct ArcGuard<T> {
    lock: Arc<Mutex<T>>,
}

impl<T> Mutex<T> {
    /// A lock of a rank (see [`rank`]).
    pub const fn new(rank: u8, value: T) -> Self {
        Mutex { next: AtomicU32::new(0), serving: AtomicU32::new(0), rank, value: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        ranks::check(self.rank);
        let ticket = self.next.fetch_add(1, Relaxed);
        while self.serving.load(Acquire) != ticket {
            relax();
        }
        ranks::push(self.rank);
        MutexGuard { lock: self }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let now = self.serving.load(Relaxed);
        self.next.compare_exchange(now, now.wrapping_add(1), Acquire, Relaxed).ok()?;
        ranks::push(self.rank);
        Some(MutexGuard { lock: self })
    }

    /// Unlocks. Only a guard's end may.
    #[inline]
    fn unlock(&self) {
        ranks::pop(self.rank);
        let now = self.serving.load(Relaxed);
        self.serving.store(now.wrapping_add(1), Release);
    }

    /// The value, where the lock itself is owned.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T> Mutex<T> {
    /// Waits for the lock, for longer than a borrow of it lasts.
    pub fn lock_arc(self: &Arc<Self>) -> ArcGuard<T> {
        core::mem::forget(self.lock());
        ArcGuard { lock: self.clone() }
    }

    /// As [`Mutex::lock_arc`], if it is free.
    pub fn try_lock_arc(self: &Arc<Self>) -> Option<ArcGuard<T>> {
        core::mem::forget(self.try_lock()?);
        Some(ArcGuard { lock: self.clone() })
    }
}

impl<T> Deref for ArcGuard<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}
impl<T> DerefMut for ArcGuard<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}
impl<T> Drop for ArcGuard<T> {
    fn drop(&mut self) {
        self.lock.unlock();
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}
impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}
impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.unlock();
    }
}

#[inline]
fn relax() {
    #[cfg(target_os = "none")]
    crate::x86_64::tlb::poll();
    core::hint::spin_loop();
}

#[cfg(all(debug_assertions, target_os = "none"))]
mod ranks {
    use crate::x86_64::percpu;
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
    static HELD: [[AtomicU8; 128]; percpu::MAX_CPUS] =
        [const { [const { AtomicU8::new(0) }; 128] }; percpu::MAX_CPUS];

    fn highest() -> u8 {
        let held = &HELD[percpu::cpu_id()];
        (0..128).rev().find(|r| held[*r as usize].load(Relaxed) != 0).unwrap_or(0)
    }
    pub fn check(rank: u8) {
        let h = highest();
        assert!(rank >= h, "lock of rank {rank} taken while one of rank {h} is held");
    }
    pub fn push(rank: u8) {
        HELD[percpu::cpu_id()][usize::from(rank)].fetch_add(1, Relaxed);
    }
    pub fn pop(rank: u8) {
        HELD[percpu::cpu_id()][usize::from(rank)].fetch_sub(1, Relaxed);
    }
}
#[cfg(not(all(debug_assertions, target_os = "none")))]
mod ranks {
    #[inline(always)]
    pub fn check(_: u8) {}
    #[inline(always)]
    pub fn push(_: u8) {}
    #[inline(always)]
    pub fn pop(_: u8) {}
}
