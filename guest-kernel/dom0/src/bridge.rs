//! The learning bridge between the physical interface, the guests' interfaces and dom0's own.
//!
//! Guests choose the addresses in their frames, so the table of who is where is the thing to
//! defend: it has a bound for each port, so that one guest's inventions never displace another's
//! entries; an address that a port owns is never learned elsewhere; and what goes to everybody is
//! limited for each port. The hardest decision was to keep no frames here at all. A frame is
//! handed on during the call that brought it and each port copies what it wants, so the bridge
//! costs no memory, adds no delay, and cannot pass a frame on twice.

mod table;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use guest_kernel::net::{Checksum, Frame, FrameSink, Limit, MIN_FRAME};
use table::Table;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Which port, for as long as it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortId {
    index: u16,
    /// Tells a port from an earlier one with the same index.
    generation: u32,
}

/// Which source addresses a port may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacPolicy {
    /// Any that no port owns: the way to the world, or a guest that is a bridge itself.
    Any,
    /// This one, which the port owns.
    Only(Mac),
}

/// An IPv4 address.
pub type Ip = [u8; 4];

/// What happened at one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames from the port that were passed on.
    pub forwarded: u64,
    /// Frames refused for their source address.
    pub spoofed: u64,
    /// Frames to everybody, beyond the limit.
    pub storm: u64,
    /// Frames with nowhere to go, or no frames at all.
    pub dropped: u64,
}

/// Frames to everybody that a port may send per second, and at once.
const STORM: (u64, u64) = (2000, 500);

struct Port {
    generation: u32,
    policy: MacPolicy,
    /// Whose ARP requests are for this port alone.
    ip: Option<Ip>,
    sink: Rc<dyn FrameSink>,
    storm: Option<Limit>,
    /// Has been given frames since its last flush.
    touched: Cell<bool>,
    counters: Counters,
}

/// Ports and what is known about who is behind them.
pub struct Bridge {
    inner: RefCell<Inner>,
    /// The ports that have been given frames since their last flush.
    touched: RefCell<Vec<u16>>,
    clock: fn() -> u64,
}

struct Inner {
    ports: Vec<Option<Port>>,
    /// The addresses that ports own, each with its port.
    owned: BTreeSet<(Mac, u16)>,
    table: Table,
    generation: u32,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Nowhere,
    To(u16),
    Everywhere,
}

impl Bridge {
    /// A bridge without ports. `clock` gives nanoseconds since some start.
    pub fn new(clock: fn() -> u64) -> Rc<Self> {
        let inner = Inner { ports: Vec::new(), owned: BTreeSet::new(), table: Table::new(), generation: 0 };
        Rc::new(Bridge { inner: RefCell::new(inner), touched: RefCell::default(), clock })
    }

    /// Adds a port. Frames for it go to `sink`; frames from it come through a [`Plug`]. A port to
    /// the outside (`trusted`) has no limit on frames to everybody. Whoever asks for `ip` asks this
    /// port and no other: it is for a configuration to say, never for a guest.
    pub fn attach(
        &self,
        policy: MacPolicy,
        ip: Option<Ip>,
        trusted: bool,
        sink: Rc<dyn FrameSink>,
    ) -> PortId {
        let mut inner = self.inner.borrow_mut();
        inner.generation += 1;
        let generation = inner.generation;
        let storm = (!trusted).then(|| Limit::new(STORM.0, STORM.1));
        let counters = Counters::default();
        let port = Port { generation, policy, ip, sink, storm, touched: Cell::new(false), counters };
        let index = match inner.ports.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                inner.ports.push(None);
                inner.ports.len() - 1
            }
        };
        inner.ports[index] = Some(port);
        if let MacPolicy::Only(mac) = policy {
            inner.table.forget_address(mac);
            inner.owned.insert((mac, index as u16));
        }
        PortId { index: index as u16, generation }
    }

    /// Removes a port and what was learned behind it. Nothing happens if it is gone already.
    pub fn detach(&self, id: PortId) {
        let mut inner = self.inner.borrow_mut();
        if let Some(port) = inner.port(id) {
            if let MacPolicy::Only(mac) = port.policy {
                inner.owned.remove(&(mac, id.index));
            }
            inner.table.forget_port(id.index);
            // The sink may hold the last reference to a backend, whose end needs the bridge.
            let port = inner.ports[usize::from(id.index)].take();
            drop(inner);
            drop(port);
        }
    }

    /// What happened at a port, if it is attached.
    pub fn counters(&self, id: PortId) -> Option<Counters> {
        self.inner.borrow_mut().port(id).map(|port| port.counters)
    }

    /// Passes on a frame that came from `from`.
    pub fn forward(&self, from: PortId, frame: Frame<'_>) {
        let now = (self.clock)();
        let way = self.inner.borrow_mut().decide(from, frame, now);
        // Sinks are called without the bridge being borrowed: one may answer at once.
        match way {
            Way::Nowhere => {}
            Way::To(index) => self.give(index, frame),
            Way::Everywhere => {
                let count = self.inner.borrow().ports.len() as u16;
                for index in (0..count).filter(|&index| index != from.index) {
                    self.give(index, frame);
                }
            }
        }
    }

    fn give(&self, index: u16, frame: Frame<'_>) {
        let sink = match self.inner.borrow().ports.get(usize::from(index)) {
            Some(Some(port)) => {
                if !port.touched.replace(true) {
                    self.touched.borrow_mut().push(index);
                }
                port.sink.clone()
            }
            _ => return,
        };
        sink.frame(frame);
    }

    /// The end of a batch: every port that was given frames sends them on.
    pub fn flush(&self) {
        let touched = self.touched.take();
        for index in touched {
            let sink = match self.inner.borrow().ports.get(usize::from(index)) {
                // Another port may have the index by now.
                Some(Some(port)) if port.touched.take() => port.sink.clone(),
                _ => continue,
            };
            sink.flush();
        }
    }
}

impl Inner {
    fn port(&mut self, id: PortId) -> Option<&mut Port> {
        let port = self.ports.get_mut(usize::from(id.index))?.as_mut()?;
        (port.generation == id.generation).then_some(port)
    }

    /// The port that owns an address.
    fn owner(&self, mac: Mac) -> Option<u16> {
        self.owned.range((mac, 0)..=(mac, u16::MAX)).next().map(|(_, index)| *index)
    }

    /// The port whose address an ARP request asks for, if there is just one. To ask everybody would
    /// wake every guest for an answer that only one can give.
    fn asked(&self, frame: &[u8], from: u16) -> Option<u16> {
        let ip = arp_target(frame)?;
        let mut having = self
            .ports
            .iter()
            .enumerate()
            .filter(|(_, port)| port.as_ref().is_some_and(|port| port.ip == Some(ip)));
        let (at, _) = having.next()?;
        // Who asks for its own address tells everybody of it.
        (having.next().is_none() && at != usize::from(from)).then_some(at as u16)
    }

    fn decide(&mut self, from: PortId, frame: Frame<'_>, now: u64) -> Way {
        let bytes = frame.bytes;
        let Some(port) = self.port(from) else { return Way::Nowhere };
        let (Some(&to), Some(&source)) =
            (bytes.first_chunk::<6>(), bytes[6.min(bytes.len())..].first_chunk::<6>())
        else {
            port.counters.dropped += 1;
            return Way::Nowhere;
        };
        // A group address is nobody's; 01-80-c2-00-00-0x is for the two ends of a cable only.
        if bytes.len() < MIN_FRAME || source[0] & 1 == 1 || to[..5] == [1, 0x80, 0xc2, 0, 0] && to[5] < 0x10 {
            port.counters.dropped += 1;
            return Way::Nowhere;
        }
        let policy = port.policy;
        let allowed = match policy {
            MacPolicy::Only(own) => source == own,
            MacPolicy::Any => self.owner(source).is_none(),
        };
        if !allowed {
            self.port(from).expect("looked up above").counters.spoofed += 1;
            return Way::Nowhere;
        }
        if policy == MacPolicy::Any {
            self.table.learn(source, from.index, now);
        }
        let way = match self.owner(to).or_else(|| self.table.find(to, now)) {
            _ if to[0] & 1 == 1 => self.asked(bytes, from.index).map_or(Way::Everywhere, Way::To),
            Some(index) if index == from.index => Way::Nowhere,
            Some(index) => Way::To(index),
            None => Way::Everywhere,
        };
        let port = self.port(from).expect("looked up above");
        if way == Way::Everywhere
            && let Some(storm) = &mut port.storm
            && storm.spend(frames(frame), now).is_err()
        {
            port.counters.storm += 1;
            return Way::Nowhere;
        }
        match way {
            Way::Nowhere => port.counters.dropped += 1,
            _ => port.counters.forwarded += 1,
        }
        way
    }
}

/// The address that a broadcast ARP request asks for (RFC 826, for IPv4 over Ethernet).
fn arp_target(frame: &[u8]) -> Option<Ip> {
    const REQUEST: [u8; 10] = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    let broadcast = frame.starts_with(&[0xff; 6]) && frame.get(12..22)? == REQUEST;
    frame.get(38..42).filter(|_| broadcast)?.try_into().ok()
}

/// How many frames on a wire a frame stands for, as the storm limit counts them.
fn frames(frame: Frame<'_>) -> u64 {
    match frame.checksum {
        Checksum::PerSegment(size) => frame.bytes.len().div_ceil(size.get().into()) as u64,
        _ => 1,
    }
}

/// A port's way into the bridge, as the sink of whatever is behind it. The port is set after the
/// thing behind it exists, for each needs the other.
pub struct Plug {
    bridge: Rc<Bridge>,
    port: Cell<Option<PortId>>,
}

impl Plug {
    /// Not attached: frames are dropped.
    pub fn new(bridge: Rc<Bridge>) -> Rc<Self> {
        Rc::new(Plug { bridge, port: Cell::new(None) })
    }

    /// Attaches `sink` to the bridge and lets frames through.
    pub fn attach(
        &self,
        policy: MacPolicy,
        ip: Option<Ip>,
        trusted: bool,
        sink: Rc<dyn FrameSink>,
    ) -> PortId {
        let port = self.bridge.attach(policy, ip, trusted, sink);
        self.detach();
        self.port.set(Some(port));
        port
    }

    /// Removes the port from the bridge.
    pub fn detach(&self) {
        if let Some(port) = self.port.take() {
            self.bridge.detach(port);
        }
    }

    /// What happened at the port.
    pub fn counters(&self) -> Counters {
        self.port.get().and_then(|port| self.bridge.counters(port)).unwrap_or_default()
    }
}

impl FrameSink for Plug {
    fn frame(&self, frame: Frame<'_>) {
        if let Some(port) = self.port.get() {
            self.bridge.forward(port, frame);
        }
    }

    fn flush(&self) {
        self.bridge.flush();
    }
}
