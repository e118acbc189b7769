//! Virtual interrupts: which port of which vcpu a `VIRQ_*` is bound to.
//!
//! The map is read without a lock, by timers and by whatever raises a global VIRQ; port 0 is
//! never handed out, so 0 means "not bound".

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use shared_abi::errno::Errno;
use shared_abi::xen::{NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};
use shared_abi::{DomId, Port};

use super::channel::{Ports, try_vec};
use super::two_level::{Delivery, SharedBits};

/// Whether a VIRQ is one per domain (true) or one per vcpu, as xen.h classifies them ("G." and
/// "V."). The architecture's own (`VIRQ_ARCH_0` is x86's MCA) are global.
pub const fn is_global(virq: u32) -> bool {
    !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}

/// The ports of each vcpu's VIRQs. A global VIRQ stands in vcpu 0's.
pub(super) struct VirqMap {
    vcpus: Vec<[AtomicU32; NR_VIRQS as usize]>,
}

impl VirqMap {
    pub(super) fn new(vcpus: u32) -> Result<VirqMap, Errno> {
        Ok(VirqMap { vcpus: try_vec(vcpus as usize, || [const { AtomicU32::new(0) }; NR_VIRQS as usize])? })
    }

    pub(super) fn vcpus(&self) -> u32 {
        self.vcpus.len() as u32
    }

    pub(super) fn get(&self, vcpu: u32, virq: u32) -> Option<Port> {
        match self.vcpus.get(vcpu as usize)?.get(virq as usize)?.load(Ordering::Acquire) {
            0 => None,
            port => Some(Port(port)),
        }
    }

    pub(super) fn set(&self, vcpu: u32, virq: u32, port: Port) {
        if let Some(slot) = self.vcpus.get(vcpu as usize).and_then(|v| v.get(virq as usize)) {
            slot.store(port.0, Ordering::Release);
        }
    }
}

impl Ports {
    /// Whether the guest has bound `virq` of `vcpu` (for a global VIRQ: `vcpu` 0).
    pub fn virq_bound(&self, vcpu: u32, virq: u32) -> bool {
        self.virqs.get(vcpu, virq).is_some()
    }

    /// Raises a VIRQ. A per-vcpu one goes to `vcpu`; a global one (pass any `vcpu`) goes to the
    /// vcpu its port notifies. Nothing happens when the guest has not bound it. Returns the port
    /// with the delivery, for [`super::poll::Pollers::take`].
    pub fn raise_virq<B: SharedBits + ?Sized>(
        &self,
        bits: &B,
        vcpu: u32,
        virq: u32,
    ) -> Option<(Port, Delivery)> {
        let global = is_global(virq);
        let port = self.virqs.get(if global { 0 } else { vcpu }, virq)?;
        let vcpu = if global { self.channel(port).ok()?.vcpu } else { vcpu };
        Some((port, self.set_pending(bits, port, vcpu)))
    }
}

/// Which domain gets each global VIRQ (`XEN_DOMCTL_set_virq_handler`); by default the hardware
/// domain.
pub struct GlobalHandlers {
    owner: [AtomicU16; NR_VIRQS as usize],
    hardware: DomId,
}

impl GlobalHandlers {
    /// All global VIRQs to `hardware`.
    pub const fn new(hardware: DomId) -> GlobalHandlers {
        GlobalHandlers { owner: [const { AtomicU16::new(u16::MAX) }; NR_VIRQS as usize], hardware }
    }

    /// The domain that gets `virq`.
    pub fn owner(&self, virq: u32) -> DomId {
        match self.owner.get(virq as usize).map_or(u16::MAX, |o| o.load(Ordering::Acquire)) {
            u16::MAX => self.hardware,
            id => DomId(id),
        }
    }

    /// Gives `virq` to `dom`.
    ///
    /// # Errors
    /// `EINVAL` when it is no VIRQ or not a global one.
    pub fn set(&self, virq: u32, dom: DomId) -> Result<(), Errno> {
        match self.owner.get(virq as usize) {
            Some(owner) if is_global(virq) => {
                owner.store(dom.0, Ordering::Release);
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Gives everything a dying domain had back to the hardware domain.
    pub fn forget(&self, dom: DomId) {
        for owner in &self.owner {
            let _ = owner.compare_exchange(dom.0, u16::MAX, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}
