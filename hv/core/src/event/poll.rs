//! Vcpus asleep in `SCHEDOP_poll`, which an event on a port they named wakes even when the port
//! is masked.
//!
//! The order that loses no wake-up: the poller announces itself, then looks at the pending bits,
//! then sleeps; the sender sets the pending bit, then looks for pollers. Whoever is second sees
//! the other. A vcpu that polls several ports is woken by any event of its domain, and looks for
//! itself whether it was one of its own, as Xen does.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use shared_abi::Port;
use shared_abi::errno::Errno;

use super::channel::{Ports, State, try_vec};
use super::two_level::SharedBits;

/// `SCHEDOP_poll` takes at most this many ports (Xen: `sched_poll`).
pub const MAX_PORTS: usize = 128;

const AWAKE: u32 = u32::MAX;
const ANY: u32 = u32::MAX - 1;

/// What each vcpu of a domain polls.
pub struct Pollers {
    count: AtomicU32,
    vcpus: Vec<AtomicU32>,
}

impl Pollers {
    pub(super) fn new(vcpus: u32) -> Result<Pollers, Errno> {
        Ok(Pollers { count: AtomicU32::new(0), vcpus: try_vec(vcpus as usize, || AtomicU32::new(AWAKE))? })
    }

    /// Whether any vcpu of the domain polls.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) != 0
    }

    /// Takes one vcpu that an event on `port` wakes. Call it until it returns `None`, and
    /// unblock each.
    pub fn take(&self, port: Port) -> Option<u32> {
        for (id, polls) in self.vcpus.iter().enumerate() {
            let seen = polls.load(Ordering::SeqCst);
            if (seen == ANY || seen == port.0) && self.leave(polls, seen) {
                return Some(id as u32);
            }
        }
        None
    }

    /// The vcpu no longer polls: it was woken by something else, or its time ran out. Does
    /// nothing when it was taken already.
    pub fn done(&self, vcpu: u32) {
        if let Some(polls) = self.vcpus.get(vcpu as usize) {
            let seen = polls.load(Ordering::SeqCst);
            if seen != AWAKE {
                self.leave(polls, seen);
            }
        }
    }

    fn leave(&self, polls: &AtomicU32, seen: u32) -> bool {
        let left = polls.compare_exchange(seen, AWAKE, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if left {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
        left
    }
}

impl Ports {
    /// `SCHEDOP_poll`: the running `vcpu` wants to sleep until one of `ports` is pending.
    /// Returns true when it shall sleep, false when there is an event already (or an upcall it
    /// does not mask). With no ports it sleeps until its timeout or any event of the domain.
    ///
    /// A sender on another CPU may [`Pollers::take`] the vcpu before this returns: mark it
    /// blocked before the call, or latch a wake-up that comes before the block. When the vcpu
    /// runs again for whatever reason, call [`Pollers::done`].
    ///
    /// # Errors
    /// `EINVAL` for more than [`MAX_PORTS`] ports or a port that is not open; the vcpu does not poll
    /// then.
    pub fn poll<B: SharedBits + ?Sized>(&self, bits: &B, vcpu: u32, ports: &[Port]) -> Result<bool, Errno> {
        let polls = self.pollers.vcpus.get(vcpu as usize).ok_or(Errno::EINVAL)?;
        if ports.len() > MAX_PORTS {
            return Err(Errno::EINVAL);
        }
        for port in ports {
            if matches!(self.channel(*port)?.state, State::Free | State::Reserved) {
                return Err(Errno::EINVAL);
            }
        }
        self.pollers.done(vcpu);
        let wants = if let [port] = ports { port.0 } else { ANY };
        self.pollers.count.fetch_add(1, Ordering::SeqCst);
        polls.store(wants, Ordering::SeqCst);
        if bits.upcall_deliverable(vcpu) || ports.iter().any(|p| self.is_pending(bits, *p)) {
            self.pollers.done(vcpu);
            return Ok(false);
        }
        Ok(true)
    }
}
