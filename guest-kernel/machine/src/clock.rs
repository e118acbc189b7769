//! Time as Xen gives it: a record per vcpu that scales the TSC, and the wall clock's start.
//!
//! Both records change under the reader; a version that is odd during a change and different
//! after it tells. A hypervisor that never ends a change would hang the guest, which it can do in
//! simpler ways, so the loops have no bound.

use crate::shared_info::shared_info;
use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};
use shared_abi::xen::{SharedInfo, VcpuTimeInfo};

#[cfg(target_arch = "x86_64")]
fn tsc() -> u64 {
    // SAFETY: reads a counter; Xen lets guests do it or emulates it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads `T` at `offset` consistently, by the version word at `version`.
fn stable<T>(version: usize, read: impl Fn() -> T) -> T {
    loop {
        let before = shared_info().load_u32(version);
        let value = read();
        fence(Ordering::Acquire);
        if before.is_multiple_of(2) && shared_info().load_u32(version) == before {
            return value;
        }
        core::hint::spin_loop();
    }
}

/// Nanoseconds since the hypervisor booted.
#[cfg(target_os = "none")]
pub fn now() -> u64 {
    // vcpu_info[0] is at the start of the page.
    let time = offset_of!(shared_abi::xen::VcpuInfo, time);
    stable(time, || shared_info().read_value::<VcpuTimeInfo>(time).system_time_at(tsc()))
}

/// Wall-clock time, in nanoseconds since 1970, at system time 0.
pub fn wallclock_base() -> u64 {
    let version = offset_of!(SharedInfo, wc_version);
    let words = stable(version, || shared_info().read_value::<[u32; 4]>(version));
    let seconds = (u64::from(words[3]) << 32) | u64::from(words[1]);
    seconds.wrapping_mul(1_000_000_000).wrapping_add(u64::from(words[2]))
}

/// Waits for an event, or until `deadline` (system time in ns).
#[cfg(target_os = "none")]
pub fn wait(deadline: Option<u64>) {
    use crate::{hypercall, local::Local, shared_info};
    /// What the vcpu's timer is set to.
    static TIMER: Local<u64> = Local::new(|| u64::MAX);
    if let Some(deadline) = deadline {
        if deadline <= now() {
            return;
        }
        // A timer that is set earlier only wakes us once in vain.
        let reset = TIMER.with(|set| {
            let reset = deadline < *set || *set <= now();
            if reset {
                *set = deadline;
            }
            reset
        });
        if reset && hypercall::set_timer(deadline).is_err() {
            return;
        }
    }
    shared_info::wait();
}

#[cfg(not(target_os = "none"))]
std::thread_local! {
    static VIRTUAL: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// On the host time is virtual: it stands still while code runs.
#[cfg(not(target_os = "none"))]
pub fn now() -> u64 {
    VIRTUAL.get()
}

/// On the host waiting moves virtual time to the deadline. With no deadline nothing could ever
/// end the wait, which is a test's bug, unless an event is pending.
#[cfg(not(target_os = "none"))]
pub fn wait(deadline: Option<u64>) {
    if crate::shared_info::any_pending() {
        return;
    }
    let deadline = deadline.expect("every task waits and nothing will ever wake one");
    VIRTUAL.set(deadline.max(now()));
}
