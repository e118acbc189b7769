//! Physical interrupts bound to ports: at most one port a pirq in a domain. What the interrupt
//! controller must do stays with the caller; this file keeps the pirq → port map, read without a
//! lock by the interrupt path.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use shared_abi::Port;
use shared_abi::errno::Errno;

use super::channel::{Ports, try_vec};
use super::two_level::{Delivery, SharedBits};

pub(super) struct PirqMap {
    ports: Vec<AtomicU32>,
}

impl PirqMap {
    pub(super) fn new(pirqs: u32) -> Result<PirqMap, Errno> {
        Ok(PirqMap { ports: try_vec(pirqs as usize, || AtomicU32::new(0))? })
    }

    pub(super) fn len(&self) -> u32 {
        self.ports.len() as u32
    }

    pub(super) fn get(&self, pirq: u32) -> Option<Port> {
        match self.ports.get(pirq as usize)?.load(Ordering::Acquire) {
            0 => None,
            port => Some(Port(port)),
        }
    }

    pub(super) fn set(&self, pirq: u32, port: Port) {
        if let Some(slot) = self.ports.get(pirq as usize) {
            slot.store(port.0, Ordering::Release);
        }
    }
}

impl Ports {
    /// How many pirq numbers the domain may name.
    pub fn pirqs(&self) -> u32 {
        self.pirqs.len()
    }

    /// The port a pirq is bound to.
    pub fn pirq_port(&self, pirq: u32) -> Option<Port> {
        self.pirqs.get(pirq)
    }

    /// Delivers a physical interrupt; `None` when no port is bound to it. Returns the port with
    /// the delivery, for [`super::poll::Pollers::take`].
    pub fn raise_pirq<B: SharedBits + ?Sized>(&self, bits: &B, pirq: u32) -> Option<(Port, Delivery)> {
        let port = self.pirqs.get(pirq)?;
        let vcpu = self.channel(port).ok()?.vcpu;
        Some((port, self.set_pending(bits, port, vcpu)))
    }
}
