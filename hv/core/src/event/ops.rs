//! The `EVTCHNOP_*` operations that change ports, over one domain's table or two.
//!
//! Who may ask is the caller's to check (access.rs); what is asked is checked here, all of it
//! before the first store, so an error leaves every table as it was. The errnos are those of
//! Xen 4.17.

use alloc::vec::Vec;

use shared_abi::errno::Errno;
use shared_abi::event_channel::EVTCHN_FIFO_PRIORITY_MIN;
use shared_abi::xen::NR_VIRQS;
use shared_abi::{DomId, Port};

use super::channel::{Channel, Ports, State};
use super::fifo::{self, Fifo};
use super::two_level::{Delivery, SharedBits};
use super::virq::is_global;

/// What a domain's event lock guards beside its [`Ports`]: which ports are in use.
pub struct Control {
    /// A bit for each; those beyond it are free.
    used: Vec<u64>,
    /// Those that are free but that the guest has in a queue still (FIFO ABI), as far as is known. As long.
    linked: Vec<u64>,
    /// How many those are, and which word of them is looked at next.
    linked_ports: u32,
    next_linked: usize,
    in_use: u32,
    dying: bool,
    reset_from: u32,
}

/// How many ports an operation asks the guest's words about, at most (and as many as share a word): how long it takes
/// is not the guest's to say.
const LOOKS: u32 = 64;

/// One domain's side of an operation, with its event lock held.
pub struct Side<'a, B: SharedBits + ?Sized> {
    /// The domain.
    pub dom: DomId,
    /// Its ports.
    pub ports: &'a Ports,
    /// What its event lock guards.
    pub ctl: &'a mut Control,
    /// Its shared event bits.
    pub bits: &'a B,
}

/// What the caller of a close has left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Closed {
    /// Nothing.
    Done,
    /// Take this pirq from the domain in the interrupt controller.
    Pirq(u32),
}

/// What the caller of `bind_vcpu` has left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Rebound {
    /// Nothing.
    Done,
    /// Steer this pirq to the CPU of the vcpu.
    Pirq(u32),
}

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

impl Control {
    /// All ports free but port 0.
    pub const fn new() -> Control {
        Control {
            used: Vec::new(),
            linked: Vec::new(),
            linked_ports: 0,
            next_linked: 0,
            in_use: 0,
            dying: false,
            reset_from: 0,
        }
    }

    /// From now on the domain gets no new port. The first step of its destruction, taken before
    /// the ports are closed.
    pub fn set_dying(&mut self) {
        self.dying = true;
    }

    /// How many ports are in use.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// The lowest port in use from `from` on.
    pub fn next_used(&self, from: u32) -> Option<Port> {
        let from = from.max(1);
        let (word, bit) = (from as usize / 64, from % 64);
        let rest = *self.used.get(word)? & (u64::MAX << bit);
        let mut words = self.used.iter().enumerate().skip(word + 1);
        let (word, bits) =
            if rest != 0 { (word, rest) } else { words.find(|(_, w)| **w != 0).map(|(i, w)| (i, *w))? };
        Some(Port(word as u32 * 64 + bits.trailing_zeros()))
    }

    /// The lowest port from `from` on that is free and not known to be linked; which is not 0.
    fn next_free(&self, from: u32) -> u32 {
        let first = from as usize / 64;
        let mut below = (1 << (from % 64)) - 1;
        for (i, (used, linked)) in self.used.iter().zip(&self.linked).enumerate().skip(first) {
            let taken = used | linked | below;
            if taken != u64::MAX {
                return i as u32 * 64 + taken.trailing_ones();
            }
            below = 0;
        }
        from.max(self.used.len() as u32 * 64)
    }

    /// A free port is linked still. There is room to mark it.
    fn set_linked(&mut self, port: Port) {
        if let Some(word) = self.linked.get_mut(port.0 as usize / 64) {
            *word |= 1 << (port.0 % 64);
            self.linked_ports += 1;
        }
    }

    /// Looks whether ports are linked still: at [`LOOKS`] or a few more, the next ones each time.
    fn look_at_linked(&mut self, is_linked: impl Fn(Port) -> bool) {
        let mut looks = 0;
        for _ in 0..self.linked.len() {
            if looks >= LOOKS || self.linked_ports == 0 {
                return;
            }
            let at = self.next_linked % self.linked.len();
            self.next_linked = at + 1;
            let mut left = self.linked[at];
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                looks += 1;
                if !is_linked(Port(at as u32 * 64 + bit)) {
                    self.linked[at] &= !(1 << bit);
                    self.linked_ports -= 1;
                }
            }
        }
    }

    /// Makes room to mark `port`.
    fn grow(&mut self, port: Port) -> Result<(), Errno> {
        let words = port.0 as usize / 64 + 1;
        if words > self.used.len() {
            let words = words.next_power_of_two();
            for bits in [&mut self.used, &mut self.linked] {
                bits.try_reserve_exact(words - bits.len()).map_err(|_| Errno::ENOMEM)?;
            }
            self.used.resize(words, 0);
            self.linked.resize(words, 0);
        }
        Ok(())
    }

    fn mark(&mut self, port: Port, used: bool) {
        if let Some(word) = self.used.get_mut(port.0 as usize / 64) {
            let bit = 1 << (port.0 % 64);
            if used {
                *word |= bit;
                self.in_use += 1;
            } else {
                *word &= !bit;
                self.in_use -= 1;
            }
        }
    }
}

impl<B: SharedBits + ?Sized> Side<'_, B> {
    /// The lowest free port, its bucket made. Nothing is taken yet: [`Side::open`] does that.
    fn free_port(&mut self) -> Result<Port, Errno> {
        if self.ctl.dying {
            return Err(Errno::EINVAL);
        }
        let mut port = Port(self.ctl.next_free(1));
        if self.ports.is_fifo() {
            // One that the guest has not taken out of its queue since it was closed has to wait.
            let fifo = self.bits.fifo().lock();
            let is_linked = |port| fifo.as_ref().is_some_and(|fifo| fifo.is_linked(port));
            self.ctl.look_at_linked(is_linked);
            port = Port(self.ctl.next_free(1));
            let mut forged = 0;
            while port.0 < self.ports.limit() && is_linked(port) {
                // It never was in a queue: the guest just says so, and gets no port for a while if it says it of many.
                if forged == LOOKS {
                    return Err(Errno::ENOSPC);
                }
                forged += 1;
                self.ctl.grow(port)?;
                self.ctl.set_linked(port);
                port = Port(self.ctl.next_free(port.0 + 1));
            }
        }
        if port.0 >= self.ports.limit() {
            return Err(Errno::ENOSPC);
        }
        self.ports.grow(port)?;
        self.ctl.grow(port)?;
        Ok(port)
    }

    fn open(&mut self, port: Port, state: State, vcpu: u32) -> Port {
        self.ctl.mark(port, true);
        self.ports.store(port, Channel { state, vcpu });
        port
    }

    /// `EVTCHNOP_alloc_unbound` in this domain, for `remote` (with `DOMID_SELF` resolved to the
    /// *caller*) to bind to. Whether `remote` exists is not asked.
    ///
    /// # Errors
    /// `ENOSPC` when all ports are in use, `ENOMEM`, `EINVAL` when the domain is dying.
    pub fn alloc_unbound(&mut self, remote: DomId) -> Result<Port, Errno> {
        let port = self.free_port()?;
        Ok(self.open(port, State::Unbound { remote }, 0))
    }

    /// `EVTCHNOP_bind_interdomain` from this domain to `peer`'s port; `None` means this domain
    /// itself. The new port is pending at once: what the peer sent before was dropped.
    ///
    /// # Errors
    /// As [`Side::alloc_unbound`]; `EINVAL` when the peer's port does not wait for this domain.
    pub fn bind_interdomain(
        &mut self,
        peer: Option<&mut Side<'_, B>>,
        remote_port: Port,
    ) -> Result<(Port, Delivery), Errno> {
        let port = self.free_port()?;
        let (remote, remote_ports) = match &peer {
            Some(peer) => (peer.dom, peer.ports),
            None => (self.dom, self.ports),
        };
        let theirs = remote_ports.channel(remote_port)?;
        if theirs.state != (State::Unbound { remote: self.dom }) {
            return Err(Errno::EINVAL);
        }
        self.open(port, State::Interdomain { remote, port: remote_port }, 0);
        let back = State::Interdomain { remote: self.dom, port };
        remote_ports.store(remote_port, Channel { state: back, ..theirs });
        Ok((port, self.ports.set_pending(self.bits, port, 0)))
    }

    /// `EVTCHNOP_bind_virq`.
    ///
    /// # Errors
    /// `EINVAL` for an unknown VIRQ or a global one on a vcpu other than 0, `ENOENT` when there
    /// is no such vcpu, `EEXIST` when it is bound already; as [`Side::alloc_unbound`].
    pub fn bind_virq(&mut self, virq: u32, vcpu: u32) -> Result<Port, Errno> {
        if virq >= NR_VIRQS || is_global(virq) && vcpu != 0 {
            return Err(Errno::EINVAL);
        }
        if vcpu >= self.ports.vcpus() {
            return Err(Errno::ENOENT);
        }
        if self.ports.virqs.get(vcpu, virq).is_some() {
            return Err(Errno::EEXIST);
        }
        let port = self.free_port()?;
        self.open(port, State::Virq(virq), vcpu);
        self.ports.virqs.set(vcpu, virq, port);
        Ok(port)
    }

    /// `EVTCHNOP_bind_ipi`.
    ///
    /// # Errors
    /// `ENOENT` when there is no such vcpu; as [`Side::alloc_unbound`].
    pub fn bind_ipi(&mut self, vcpu: u32) -> Result<Port, Errno> {
        if vcpu >= self.ports.vcpus() {
            return Err(Errno::ENOENT);
        }
        let port = self.free_port()?;
        Ok(self.open(port, State::Ipi, vcpu))
    }

    /// `EVTCHNOP_bind_pirq`. `permitted`: the domain may use this pirq. `attach` makes the
    /// interrupt controller deliver it to the domain; it runs last, with the port in place
    /// already (an interrupt may come at once), and its error undoes the binding.
    ///
    /// # Errors
    /// `EINVAL` for a pirq past the domain's limit, `EPERM`, `EEXIST` when it is bound already;
    /// as [`Side::alloc_unbound`]; whatever `attach` returns.
    pub fn bind_pirq(
        &mut self,
        pirq: u32,
        permitted: bool,
        attach: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<Port, Errno> {
        if pirq >= self.ports.pirqs() {
            return Err(Errno::EINVAL);
        }
        if !permitted {
            return Err(Errno::EPERM);
        }
        if self.ports.pirqs.get(pirq).is_some() {
            return Err(Errno::EEXIST);
        }
        let port = self.free_port()?;
        self.open(port, State::Pirq(pirq), 0);
        self.ports.pirqs.set(pirq, port);
        if let Err(error) = attach() {
            self.ports.pirqs.set(pirq, Port(0));
            self.free(port);
            return Err(error);
        }
        Ok(port)
    }

    /// Frees a port: closed, notifying vcpu 0, not pending.
    fn free(&mut self, port: Port) {
        self.ports.store(port, Channel::FREE);
        self.ports.forget(self.bits, port);
        self.ctl.mark(port, false);
        if self.ports.is_fifo() && self.bits.fifo().lock().as_ref().is_some_and(|fifo| fifo.is_linked(port)) {
            self.ctl.set_linked(port);
        }
        // A walk that closes everything does not come back to a port that is opened again.
        if port.0 == self.ctl.reset_from {
            self.ctl.reset_from += 1;
        }
    }

    /// `EVTCHNOP_close`. For an interdomain port `peer` is the other domain's side, locked
    /// ([`Ports::peer_of`] tells which; `None` when it is this domain itself); the peer's port
    /// becomes unbound again, waiting for this domain.
    ///
    /// # Errors
    /// `EINVAL` when the port is free or reserved, or its peer is not the one given: the port
    /// was closed and bound anew since the caller looked.
    pub fn close(&mut self, port: Port, peer: Option<&mut Side<'_, B>>) -> Result<Closed, Errno> {
        let channel = self.ports.channel(port)?;
        let mut left = Closed::Done;
        match channel.state {
            State::Free | State::Reserved => return Err(Errno::EINVAL),
            State::Unbound { .. } | State::Ipi => {}
            State::Virq(virq) => {
                // A global VIRQ stands in vcpu 0's map wherever its port was re-bound to.
                let vcpu = if is_global(virq) { 0 } else { channel.vcpu };
                self.ports.virqs.set(vcpu, virq, Port(0));
            }
            State::Pirq(pirq) => {
                self.ports.pirqs.set(pirq, Port(0));
                left = Closed::Pirq(pirq);
            }
            State::Interdomain { remote, port: remote_port } => {
                let ports = match &peer {
                    Some(peer) if peer.dom == remote => peer.ports,
                    None if remote == self.dom => self.ports,
                    _ => return Err(Errno::EINVAL),
                };
                let theirs = ports.channel(remote_port)?;
                let unbound = State::Unbound { remote: self.dom };
                ports.store(remote_port, Channel { state: unbound, ..theirs });
            }
        }
        self.free(port);
        Ok(left)
    }

    /// `EVTCHNOP_bind_vcpu`: which vcpu a port notifies.
    ///
    /// # Errors
    /// `ENOENT` when there is no such vcpu; `EINVAL` for a free or reserved port and for IPIs
    /// and per-vcpu VIRQs, whose vcpu is fixed.
    pub fn bind_vcpu(&mut self, port: Port, vcpu: u32) -> Result<Rebound, Errno> {
        if vcpu >= self.ports.vcpus() {
            return Err(Errno::ENOENT);
        }
        let channel = self.ports.channel(port)?;
        let left = match channel.state {
            State::Unbound { .. } | State::Interdomain { .. } => Rebound::Done,
            State::Virq(virq) if is_global(virq) => Rebound::Done,
            State::Pirq(pirq) if channel.vcpu != vcpu => Rebound::Pirq(pirq),
            State::Pirq(_) => Rebound::Done,
            State::Free | State::Reserved | State::Virq(_) | State::Ipi => return Err(Errno::EINVAL),
        };
        self.ports.store(port, Channel { vcpu, ..channel });
        Ok(left)
    }

    /// `EVTCHNOP_init_control`, with a control block of `vcpu` at an offset of a frame that was checked
    /// ([`fifo::check_offset`]). The first one has the domain use the FIFO ABI; `settle` then waits until no event is on
    /// its way by the 2-level ABI any more. What was pending there is handed to `raised`.
    ///
    /// # Errors
    /// `ENOENT` when there is no such vcpu, `EINVAL` when it has a control block, `ENOMEM`.
    pub fn init_control(
        &mut self,
        vcpu: u32,
        page: B::Page,
        offset: u32,
        settle: impl FnOnce(),
        mut raised: impl FnMut(Port, Delivery),
    ) -> Result<(), Errno> {
        if vcpu >= self.ports.vcpus() {
            return Err(Errno::ENOENT);
        }
        if let Some(fifo) = &mut *self.bits.fifo().lock() {
            if fifo.has_control(vcpu) {
                return Err(Errno::EINVAL);
            }
            fifo.set_control(vcpu, page, offset);
            return Ok(());
        }
        let before = self.ports.limit();
        let mut fifo = Fifo::new(self.ports.vcpus(), self.ports.fifo_limit())?;
        fifo.set_control(vcpu, page, offset);
        *self.bits.fifo().lock() = Some(fifo);
        self.ports.begin_fifo(core::iter::successors(self.ctl.next_used(1), |p| self.ctl.next_used(p.0 + 1)));
        settle();
        let mut next = self.ctl.next_used(1);
        while let Some(port) = next.filter(|port| port.0 < before) {
            if self.bits.is_pending(port.0) {
                let vcpu = self.ports.channel(port)?.vcpu;
                raised(port, self.ports.set_pending(self.bits, port, vcpu));
            }
            next = self.ctl.next_used(port.0 + 1);
        }
        Ok(())
    }

    /// Whether `EVTCHNOP_expand_array` may be.
    ///
    /// # Errors
    /// `EOPNOTSUPP` when the domain does not use the FIFO ABI, `ENOSPC` when there are words for all ports.
    pub fn may_expand(&self) -> Result<(), Errno> {
        match &*self.bits.fifo().lock() {
            None => Err(Errno::EOPNOTSUPP),
            Some(fifo) if fifo.is_full() => Err(Errno::ENOSPC),
            Some(_) => Ok(()),
        }
    }

    /// `EVTCHNOP_expand_array` by a frame. What waited for its word is handed to `raised`.
    ///
    /// # Errors
    /// As [`Side::may_expand`]; `ENOMEM`.
    pub fn expand_array(
        &mut self,
        page: B::Page,
        mut raised: impl FnMut(Port, Delivery),
    ) -> Result<(), Errno> {
        self.may_expand()?;
        let last = fifo::last_queues()?;
        let ports = self.bits.fifo().lock().as_mut().map_or(0..0, |fifo| fifo.expand(page, last));
        for port in ports.map(Port) {
            if self.bits.fifo().lock().as_mut().is_some_and(|fifo| fifo.take_early(port)) {
                let vcpu = self.ports.channel(port)?.vcpu;
                raised(port, self.ports.set_pending(self.bits, port, vcpu));
            }
        }
        Ok(())
    }

    /// `EVTCHNOP_set_priority`: the queue that a port's next event goes to.
    ///
    /// # Errors
    /// `EINVAL` when the table has never grown to `port` or there is no such priority; `ENOSYS` when the domain does
    /// not use the FIFO ABI; `EACCES` of a port that is not open.
    pub fn set_priority(&mut self, port: Port, priority: u32) -> Result<(), Errno> {
        let state = self.ports.channel(port)?.state;
        if !self.ports.is_fifo() {
            return Err(Errno::ENOSYS);
        }
        if matches!(state, State::Free | State::Reserved) {
            return Err(Errno::EACCES);
        }
        if priority > EVTCHN_FIFO_PRIORITY_MIN {
            return Err(Errno::EINVAL);
        }
        if let Some(fifo) = &mut *self.bits.fifo().lock() {
            fifo.set_priority(port, priority);
        }
        Ok(())
    }

    /// The end of `EVTCHNOP_reset`: back to the 2-level ABI. What is returned gives the guest's frames back when it is
    /// dropped, which needs no lock.
    ///
    /// # Errors
    /// `EAGAIN` when a port was opened meanwhile.
    pub fn end_fifo(&mut self) -> Result<Option<Fifo<B::Page>>, Errno> {
        if self.ctl.in_use != 0 {
            return Err(Errno::EAGAIN);
        }
        self.ports.end_fifo();
        self.ctl.linked.fill(0);
        self.ctl.linked_ports = 0;
        Ok(self.bits.fifo().lock().take())
    }

    /// The next port to close in `EVTCHNOP_reset` or the domain's destruction, with the domain
    /// whose event lock its close needs as well (`None` when no second one). `None` when all
    /// are closed. A port that is opened behind the walk survives it, so the walk ends.
    ///
    /// The caller closes it (dropping and taking locks in order as needed) and asks again, any
    /// number of times with a continuation in between.
    pub fn next_to_close(&mut self) -> Option<(Port, Option<DomId>)> {
        match self.ctl.next_used(self.ctl.reset_from) {
            Some(port) => {
                self.ctl.reset_from = port.0;
                Some((port, self.ports.peer_of(port).filter(|peer| *peer != self.dom)))
            }
            None => {
                self.ctl.reset_from = 0;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    /// Each allocation looked at each port that waited for the guest to unlink it: 130,000 of them, with interrupts
    /// off, as often as a guest liked.
    #[test]
    fn many_linked_ports_are_looked_at_a_few_at_a_time() {
        let mut ctl = Control::new();
        for port in 1..100_000 {
            ctl.grow(Port(port)).unwrap();
            ctl.set_linked(Port(port));
        }
        let (looks, kept) = (Cell::new(0), 70_000);
        let mut rounds = 0;
        while ctl.next_free(1) == 100_000 {
            looks.set(0);
            ctl.look_at_linked(|port| {
                looks.set(looks.get() + 1);
                port.0 < kept
            });
            assert!((1..LOOKS + 64).contains(&looks.get()), "{}", looks.get());
            rounds += 1;
            assert!(rounds < 2000);
        }
        assert_eq!(ctl.next_free(1), kept, "the first that is not linked any more");
        ctl.look_at_linked(|_| true);
        for _ in 0..100_000 / LOOKS {
            ctl.look_at_linked(|_| false);
        }
        assert_eq!((ctl.linked_ports, ctl.next_free(1)), (0, 1));
    }
}
