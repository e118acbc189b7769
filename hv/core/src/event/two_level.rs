//! The 2-level ABI: 64 words of 64 pending bits and as many mask bits in the domain's
//! shared_info, and in each vcpu_info a selector with one bit per word.
//!
//! All of it is memory the guest writes at any time. The order of the steps is the ABI: pending
//! first, then the mask is looked at, then the selector, then the upcall flag; the guest walks
//! the other way, so an event is never lost between the two.

use shared_abi::errno::Errno;
use shared_abi::{DomId, Port};

use super::channel::Ports;
use super::fifo::{EventPage, Fifo};
use hv_machine::lock::Mutex;

/// Atomic access to the event bits a domain shares with the hypervisor. An implementation must
/// bound its arguments itself only in so far as these hold: `port` < 4096, `vcpu` < the domain's
/// vcpus, `word` < 64. Each operation is one atomic read-modify-write or one load, sequentially
/// consistent with the others.
pub trait SharedBits {
    /// A frame of the FIFO ABI.
    type Page: EventPage;
    /// The domain's queues of the FIFO ABI, while it uses that. Nothing else is locked under it.
    fn fifo(&self) -> &Mutex<Option<Fifo<Self::Page>>>;
    /// Sets the pending bit of `port`; returns its former value.
    fn test_and_set_pending(&self, port: u32) -> bool;
    /// Clears the pending bit of `port`.
    fn clear_pending(&self, port: u32);
    /// The pending bit of `port`.
    fn is_pending(&self, port: u32) -> bool;
    /// The mask bit of `port`.
    fn is_masked(&self, port: u32) -> bool;
    /// Clears the mask bit of `port`; returns its former value.
    fn test_and_clear_mask(&self, port: u32) -> bool;
    /// Sets bit `word` of the vcpu's `evtchn_pending_sel`; returns its former value.
    fn test_and_set_selector(&self, vcpu: u32, word: u32) -> bool;
    /// Sets the vcpu's `evtchn_upcall_pending`; returns its former value.
    fn test_and_set_upcall_pending(&self, vcpu: u32) -> bool;
    /// Sets bit `word` of the vcpu's selector, then its `evtchn_upcall_pending`; true when both were clear.
    #[inline]
    fn tell(&self, vcpu: u32, word: u32) -> bool {
        !self.test_and_set_selector(vcpu, word) && !self.test_and_set_upcall_pending(vcpu)
    }
    /// Whether the vcpu has an upcall pending that it does not mask
    /// (`evtchn_upcall_pending` and not `evtchn_upcall_mask`).
    fn upcall_deliverable(&self, vcpu: u32) -> bool;
}

/// What a delivered event asks of the scheduler.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Delivery {
    /// This vcpu has a new upcall pending: unblock it when it is blocked, interrupt its CPU when
    /// it runs on another one.
    pub kick: Option<u32>,
    /// Some vcpu of the domain is in `SCHEDOP_poll`: wake what
    /// [`super::poll::Pollers::take`] returns for this port.
    pub polled: bool,
}

impl Ports {
    /// Marks `port` pending and finds out whom to tell.
    #[inline(always)]
    pub(super) fn set_pending<B: SharedBits + ?Sized>(&self, bits: &B, port: Port, vcpu: u32) -> Delivery {
        if self.is_fifo() { self.queue_event(bits, port, vcpu) } else { self.set_bits(bits, port, vcpu) }
    }

    /// The same in the 2-level ABI.
    #[inline(always)]
    fn set_bits<B: SharedBits + ?Sized>(&self, bits: &B, port: Port, vcpu: u32) -> Delivery {
        if bits.test_and_set_pending(port.0) {
            return Delivery::default();
        }
        let told = !bits.is_masked(port.0) && bits.tell(vcpu, port.0 / 64);
        Delivery { kick: told.then_some(vcpu), polled: self.pollers.any() }
    }

    /// Receives, at this domain's `port`, what `from` sent on its port `from_port`. `None`: ask
    /// [`Ports::receive_in_fifo`].
    #[inline(always)]
    pub fn receive<B: SharedBits + ?Sized>(
        &self,
        bits: &B,
        port: Port,
        from: DomId,
        from_port: Port,
    ) -> Option<Delivery> {
        self.notifies_from(port, from, from_port).map(|vcpu| self.set_bits(bits, port, vcpu))
    }

    /// The same for a domain that uses the FIFO ABI. When the two ports are no longer a pair (a close raced), the
    /// event is dropped.
    pub fn receive_in_fifo<B: SharedBits + ?Sized>(
        &self,
        bits: &B,
        port: Port,
        from: DomId,
        from_port: Port,
    ) -> Delivery {
        match self.notifies_from_in_fifo(port, from, from_port) {
            Some(vcpu) => self.queue_event(bits, port, vcpu),
            None => Delivery::default(),
        }
    }

    /// Marks `port` pending in the FIFO ABI.
    #[inline(never)]
    fn queue_event<B: SharedBits + ?Sized>(&self, bits: &B, port: Port, vcpu: u32) -> Delivery {
        let raised = bits.fifo().lock().as_mut().map(|fifo| fifo.raise(port, vcpu)).unwrap_or_default();
        let told = raised.tell && !bits.test_and_set_upcall_pending(vcpu);
        Delivery { kick: told.then_some(vcpu), polled: raised.new && self.pollers.any() }
    }

    /// Whether `port` is pending.
    pub(super) fn is_pending<B: SharedBits + ?Sized>(&self, bits: &B, port: Port) -> bool {
        self.marks(bits, port).0
    }

    /// Whether `port` is pending, and whether it is masked.
    pub fn marks<B: SharedBits + ?Sized>(&self, bits: &B, port: Port) -> (bool, bool) {
        match self.is_fifo() {
            true => bits.fifo().lock().as_ref().map_or((false, false), |fifo| fifo.marks(port)),
            false => (bits.is_pending(port.0), bits.is_masked(port.0)),
        }
    }

    /// Forgets what is known of `port`, which was closed.
    pub(super) fn forget<B: SharedBits + ?Sized>(&self, bits: &B, port: Port) {
        match self.is_fifo() {
            true => drop(bits.fifo().lock().as_mut().map(|fifo| fifo.forget(port))),
            false => bits.clear_pending(port.0),
        }
    }

    /// Delivers an event to the domain's own `port`: an IPI ([`super::Route::Own`]).
    #[inline]
    pub fn receive_own<B: SharedBits + ?Sized>(&self, bits: &B, port: Port, vcpu: u32) -> Delivery {
        self.set_pending(bits, port, vcpu)
    }

    /// `EVTCHNOP_unmask`: clears the mask bit, and delivers what was pending behind it.
    ///
    /// # Errors
    /// `EINVAL` when the table has never grown to `port`.
    pub fn unmask<B: SharedBits + ?Sized>(&self, bits: &B, port: Port) -> Result<Delivery, Errno> {
        let vcpu = self.channel(port)?.vcpu;
        if self.is_fifo() {
            let tell = bits.fifo().lock().as_mut().is_some_and(|fifo| fifo.unmask(port, vcpu));
            let told = tell && !bits.test_and_set_upcall_pending(vcpu);
            return Ok(Delivery { kick: told.then_some(vcpu), polled: false });
        }
        let told =
            bits.test_and_clear_mask(port.0) && bits.is_pending(port.0) && bits.tell(vcpu, port.0 / 64);
        Ok(Delivery { kick: told.then_some(vcpu), polled: false })
    }
}
