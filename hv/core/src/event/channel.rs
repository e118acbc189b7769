//! A port's states and the table of a domain's ports.
//!
//! The hardest decision: the table only grows, in buckets that double (64 ports in the first,
//! then 64, 128, … 65536), and a bucket is never freed before the domain. So a reader needs no
//! lock to follow an index into it, an idle domain pays for 64 ports, and a port number finds
//! its bucket by its highest set bit.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use shared_abi::errno::Errno;
use shared_abi::event_channel::{EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_NR_CHANNELS};
use shared_abi::{DomId, Port};
use spin::Once;

use super::{pirq::PirqMap, poll::Pollers, virq::VirqMap};

const FIRST: u32 = 64;
const GROWN: usize = 11; // 64 + 64 + 128 + … + 65536 = 2^17

/// In a port's word: its domain uses the FIFO ABI. So that is not asked for each event of the 2-level ABI.
const FIFO: u64 = 1 << 15;
/// Vcpus of a domain, at most.
const VCPUS: u32 = 1 << 12;

/// What a port is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Not in use.
    Free,
    /// Port 0: never handed out.
    Reserved,
    /// Waits for `remote` to bind to it.
    Unbound {
        /// The only domain that may bind.
        remote: DomId,
    },
    /// Connected to a port of another (or the same) domain.
    Interdomain {
        /// The peer.
        remote: DomId,
        /// The peer's port.
        port: Port,
    },
    /// Bound to a physical interrupt.
    Pirq(u32),
    /// Bound to a virtual interrupt (`VIRQ_*`, xen.h).
    Virq(u32),
    /// A vcpu's inter-processor interrupt.
    Ipi,
}

/// A port as seen at one instant: its state and the vcpu it notifies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Channel {
    /// What the port is for.
    pub state: State,
    /// The vcpu that gets the upcall.
    pub vcpu: u32,
}

/// Where a send on a port goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// The port is unbound: the event is dropped and the call succeeds.
    Nowhere,
    /// To the sender's own port (an IPI): deliver it to `vcpu`.
    Own {
        /// The vcpu to notify.
        vcpu: u32,
    },
    /// To a port of `remote`: give it to that domain's [`Ports::receive`].
    Peer {
        /// The receiving domain, which may be the sender.
        remote: DomId,
        /// The receiving port.
        port: Port,
    },
}

impl Channel {
    pub(super) const FREE: Channel = Channel { state: State::Free, vcpu: 0 };

    // bits 0..3 state, 3..15 vcpu, 15 FIFO, 16..32 domain, 32..64 port, pirq or virq
    #[inline]
    fn pack(self) -> u64 {
        let (tag, dom, arg) = match self.state {
            State::Free => (0, 0, 0),
            State::Reserved => (1, 0, 0),
            State::Unbound { remote } => (2, remote.0, 0),
            State::Interdomain { remote, port } => (3, remote.0, port.0),
            State::Pirq(pirq) => (4, 0, pirq),
            State::Virq(virq) => (5, 0, virq),
            State::Ipi => (6, 0, 0),
        };
        tag | u64::from(self.vcpu % VCPUS) << 3 | u64::from(dom) << 16 | u64::from(arg) << 32
    }

    /// Whether a packed word is that of a port connected to `port` of `remote`: cheaper than
    /// unpacking it, for the path of each event.
    #[inline]
    fn is_connected(word: u64, remote: DomId, port: Port) -> bool {
        let wanted = Channel { state: State::Interdomain { remote, port }, vcpu: 0 };
        word & !(u64::from(VCPUS - 1) << 3) == wanted.pack()
    }

    #[inline]
    fn unpack(word: u64) -> Channel {
        let remote = DomId((word >> 16) as u16);
        let arg = (word >> 32) as u32;
        let state = match word & 7 {
            1 => State::Reserved,
            2 => State::Unbound { remote },
            3 => State::Interdomain { remote, port: Port(arg) },
            4 => State::Pirq(arg),
            5 => State::Virq(arg),
            6 => State::Ipi,
            _ => State::Free,
        };
        Channel { state, vcpu: (word >> 3) as u32 % VCPUS }
    }
}

/// Sizes fixed when the domain is created.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Highest port the domain may use (`max_evtchn_port` of domctl's createdomain); larger
    /// values mean all of the ABI's.
    pub max_port: u32,
    /// Vcpus of the domain, at most 4096.
    pub vcpus: u32,
    /// Physical interrupts the domain may name: pirq < `pirqs`.
    pub pirqs: u32,
}

/// A domain's ports: read by anyone without a lock, changed through [`super::Side`].
pub struct Ports {
    first: [AtomicU64; FIRST as usize],
    grown: [Once<Vec<AtomicU64>>; GROWN],
    max_port: u32,
    fifo: AtomicBool,
    pub(super) virqs: VirqMap,
    pub(super) pirqs: PirqMap,
    /// Vcpus asleep in `SCHEDOP_poll`.
    pub pollers: Pollers,
}

pub(super) fn try_vec<T>(len: usize, make: impl FnMut() -> T) -> Result<Vec<T>, Errno> {
    let mut v = Vec::new();
    v.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    v.resize_with(len, make);
    Ok(v)
}

impl Ports {
    /// An empty table: port 0 reserved, all others free.
    ///
    /// # Errors
    /// `ENOMEM` when the heap is exhausted, `EINVAL` when `limits.vcpus` is not in 1..=4096.
    pub fn new(limits: Limits) -> Result<Ports, Errno> {
        if !(1..=VCPUS).contains(&limits.vcpus) {
            return Err(Errno::EINVAL);
        }
        let ports = Ports {
            first: [const { AtomicU64::new(0) }; FIRST as usize],
            grown: [const { Once::new() }; GROWN],
            max_port: limits.max_port,
            fifo: AtomicBool::new(false),
            virqs: VirqMap::new(limits.vcpus)?,
            pirqs: PirqMap::new(limits.pirqs)?,
            pollers: Pollers::new(limits.vcpus)?,
        };
        ports.first[0].store(Channel { state: State::Reserved, vcpu: 0 }.pack(), Ordering::Relaxed);
        Ok(ports)
    }

    /// How many port numbers the domain may use, port 0 included.
    pub fn limit(&self) -> u32 {
        if self.is_fifo() { self.fifo_limit() } else { self.max_port.min(EVTCHN_2L_NR_CHANNELS - 1) + 1 }
    }

    /// The same, once it uses the FIFO ABI.
    pub(super) fn fifo_limit(&self) -> u32 {
        self.max_port.min(EVTCHN_FIFO_NR_CHANNELS - 1) + 1
    }

    /// Whether the domain uses the FIFO ABI.
    #[inline]
    pub fn is_fifo(&self) -> bool {
        self.fifo.load(Ordering::Acquire)
    }

    /// From now on the domain uses the FIFO ABI. `used`: the ports in use, which are few by then; the others learn of it
    /// when they are opened. The caller holds the event lock.
    pub(super) fn begin_fifo(&self, used: impl Iterator<Item = Port>) {
        self.fifo.store(true, Ordering::Release);
        for word in used.filter_map(|port| self.word(port)) {
            word.fetch_or(FIFO, Ordering::AcqRel);
        }
    }

    /// The domain, which has no port in use, uses the 2-level ABI again. The caller holds the event lock.
    pub(super) fn end_fifo(&self) {
        self.fifo.store(false, Ordering::Release);
    }

    /// How many vcpus the domain has.
    pub fn vcpus(&self) -> u32 {
        self.virqs.vcpus()
    }

    #[inline]
    fn word(&self, port: Port) -> Option<&AtomicU64> {
        if port.0 < FIRST {
            return self.first.get(port.0 as usize);
        }
        // The highest set bit names the bucket: 6 → 0, 7 → 1, … and what is below it the place.
        let high = 31 - port.0.leading_zeros();
        self.grown.get(high as usize - 6)?.get()?.get((port.0 ^ 1 << high) as usize)
    }

    /// Makes the bucket of `port` exist. The caller holds the event lock.
    pub(super) fn grow(&self, port: Port) -> Result<(), Errno> {
        if port.0 < FIRST {
            return Ok(());
        }
        let high = 31 - port.0.leading_zeros();
        let bucket = self.grown.get(high as usize - 6).ok_or(Errno::ENOSPC)?;
        bucket.try_call_once(|| try_vec(1 << high, || AtomicU64::new(0)))?;
        Ok(())
    }

    /// The port at this instant.
    ///
    /// # Errors
    /// `EINVAL` when the table has never grown to `port`.
    #[inline]
    pub fn channel(&self, port: Port) -> Result<Channel, Errno> {
        match self.word(port) {
            Some(word) => Ok(Channel::unpack(word.load(Ordering::Acquire))),
            None => Err(Errno::EINVAL),
        }
    }

    /// The vcpu that `port` notifies in the 2-level ABI, if it is connected to `remote_port` of `remote`.
    #[inline]
    pub(super) fn notifies_from(&self, port: Port, remote: DomId, remote_port: Port) -> Option<u32> {
        let word = self.word(port)?.load(Ordering::Acquire);
        Channel::is_connected(word, remote, remote_port).then_some((word >> 3) as u32 % VCPUS)
    }

    /// The same in the FIFO ABI.
    pub(super) fn notifies_from_in_fifo(&self, port: Port, remote: DomId, remote_port: Port) -> Option<u32> {
        let word = self.word(port)?.load(Ordering::Acquire);
        let connected = word & FIFO != 0 && Channel::is_connected(word & !FIFO, remote, remote_port);
        connected.then_some((word >> 3) as u32 % VCPUS)
    }

    /// Stores a port's new state. The caller holds the event lock and has grown the table.
    pub(super) fn store(&self, port: Port, channel: Channel) {
        if let Some(word) = self.word(port) {
            let fifo = if self.is_fifo() { FIFO } else { 0 };
            word.store(channel.pack() | fifo, Ordering::Release);
        }
    }

    /// Where an event sent on the local `port` goes (`EVTCHNOP_send`).
    ///
    /// # Errors
    /// `EINVAL` when the port is free, reserved, or bound to a virtual or physical interrupt.
    #[inline]
    pub fn route(&self, port: Port) -> Result<Route, Errno> {
        let channel = self.channel(port)?;
        match channel.state {
            State::Interdomain { remote, port } => Ok(Route::Peer { remote, port }),
            State::Ipi => Ok(Route::Own { vcpu: channel.vcpu }),
            State::Unbound { .. } => Ok(Route::Nowhere),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The peer of an interdomain port, so that a caller knows whose event lock a
    /// [`super::Side::close`] needs. Read without a lock: it may be stale by the time it is used.
    pub fn peer_of(&self, port: Port) -> Option<DomId> {
        match self.channel(port).ok()?.state {
            State::Interdomain { remote, .. } => Some(remote),
            _ => None,
        }
    }
}
