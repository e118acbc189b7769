use super::*;
use guest_kernel::net::Checksum;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::thread_local;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

fn now() -> u64 {
    NOW.get()
}

#[derive(Default)]
struct Sink {
    got: RefCell<Vec<Vec<u8>>>,
    flushes: Cell<u32>,
}

impl FrameSink for Sink {
    fn frame(&self, frame: Frame<'_>) {
        self.got.borrow_mut().push(frame.bytes.to_vec());
    }
    fn flush(&self) {
        self.flushes.set(self.flushes.get() + 1);
    }
}

fn mac(number: u8) -> Mac {
    [2, 0, 0, 0, 0, number]
}

fn frame(to: Mac, from: Mac) -> Vec<u8> {
    [&to[..], &from[..], &[8, 0, 1, 2]].concat()
}

const EVERYBODY: Mac = [0xff; 6];

struct Network {
    bridge: Rc<Bridge>,
    ports: Vec<(PortId, Rc<Sink>)>,
}

impl Network {
    fn new(policies: &[MacPolicy]) -> Self {
        NOW.set(0);
        let bridge = Bridge::new(now);
        let ports = policies.iter().map(|&policy| {
            let sink = Rc::new(Sink::default());
            (bridge.attach(policy, None, false, sink.clone()), sink)
        });
        let ports = ports.collect();
        Network { bridge, ports }
    }

    /// Which ports got a frame.
    fn send(&self, from: usize, to: Mac, source: Mac) -> Vec<usize> {
        let bytes = frame(to, source);
        self.bridge.forward(self.ports[from].0, Frame { bytes: &bytes, checksum: Checksum::Unknown });
        self.bridge.flush();
        let got = |at: &usize| self.ports[*at].1.got.borrow_mut().drain(..).count() > 0;
        (0..self.ports.len()).filter(got).collect()
    }
}

#[test]
fn learns_forgets_and_owns() {
    use MacPolicy::*;
    let net = Network::new(&[Any, Only(mac(1)), Only(mac(2)), Any]);
    assert_eq!(net.send(0, mac(9), mac(8)), [1, 2, 3], "unknown: to everybody");
    assert_eq!(net.send(1, mac(8), mac(1)), [0], "learned");
    assert_eq!(net.send(0, mac(2), mac(8)), [2], "owned: no need to learn");
    assert_eq!(net.send(2, EVERYBODY, mac(2)), [0, 1, 3]);
    assert_eq!(net.send(1, mac(2), mac(7)), [0usize; 0], "not its address");
    assert_eq!(net.send(3, mac(1), mac(2)), [0usize; 0], "somebody else's address");
    assert_eq!(net.send(3, mac(3), [3, 0, 0, 0, 0, 1]), [0usize; 0], "a group as source");
    assert_eq!(net.send(3, [1, 0x80, 0xc2, 0, 0, 0], mac(5)), [0usize; 0], "spanning tree stays out");
    assert_eq!(net.send(0, mac(8), mac(7)), [0usize; 0], "to the port it came from");
    NOW.set(table::AGE + 1);
    assert_eq!(net.send(1, mac(8), mac(1)), [0, 2, 3], "forgotten");
    net.bridge.detach(net.ports[2].0);
    assert_eq!(net.send(1, EVERYBODY, mac(1)), [0, 3]);
    assert_eq!(net.send(2, EVERYBODY, mac(2)), [0usize; 0], "a port that is gone");
    let sink = Rc::new(Sink::default());
    net.bridge.attach(Any, None, false, sink.clone());
    assert_eq!(net.send(2, EVERYBODY, mac(2)), [0usize; 0], "its id does not name the new one");
    assert_eq!(net.bridge.counters(net.ports[1].0).map(|c| c.spoofed), Some(1));
}

/// A guest that sends from ever new addresses makes the table large, or makes it forget others.
#[test]
fn an_inventive_guest_displaces_only_itself() {
    let net = Network::new(&[MacPolicy::Any, MacPolicy::Any, MacPolicy::Any]);
    net.send(0, mac(9), mac(8));
    for number in 0..10_000u16 {
        let [high, low] = number.to_be_bytes();
        net.send(1, mac(8), [2, 1, 0, 0, high, low]);
    }
    assert_eq!(net.bridge.inner.borrow().table.len(), table::PER_PORT + 1);
    assert_eq!(net.send(2, mac(8), mac(3)), [0]);
    // Nor can it take over an address that is in use.
    net.send(1, mac(9), mac(8));
    assert_eq!(net.send(2, mac(8), mac(3)), [0]);
}

#[test]
fn a_storm_is_limited_and_passes() {
    let net = Network::new(&[MacPolicy::Only(mac(1)), MacPolicy::Any]);
    let passed = (0..5000).filter(|_| !net.send(0, EVERYBODY, mac(1)).is_empty()).count();
    assert_eq!(passed as u64, STORM.1);
    assert_eq!(net.bridge.counters(net.ports[0].0).map(|c| c.storm), Some(5000 - STORM.1));
    NOW.set(1_000_000_000);
    assert_eq!(net.send(0, EVERYBODY, mac(1)), [1]);
}

/// A hundred guests were woken for each request that one of them alone could answer.
#[test]
fn an_arp_request_goes_to_the_one_that_has_the_address() {
    let net = Network::new(&[MacPolicy::Any, MacPolicy::Only(mac(1)), MacPolicy::Any]);
    let attach = |number, ip| {
        let sink = Rc::new(Sink::default());
        let id = net.bridge.attach(MacPolicy::Only(mac(number)), Some(ip), false, sink.clone());
        (id, sink)
    };
    let own = [attach(2, [10, 0, 2, 20]), attach(3, [10, 0, 2, 21])];
    let all = || net.ports.iter().chain(&own).map(|(id, sink)| (*id, sink.clone())).collect::<Vec<_>>();
    let ask = |from: usize, source: Mac, to: Mac, kind: u8, ip: Ip| {
        let mut bytes = [&to[..], &source[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, kind]].concat();
        bytes.extend([&source[..], &[0; 4], &[0; 6], &ip[..]].concat());
        net.bridge.forward(all()[from].0, Frame { bytes: &bytes, checksum: Checksum::Unknown });
        let got = |(at, (_, sink)): (usize, (_, Rc<Sink>))| {
            (sink.got.borrow_mut().drain(..).count() > 0).then_some(at)
        };
        all().into_iter().enumerate().filter_map(got).collect::<Vec<_>>()
    };
    assert_eq!(ask(1, mac(1), EVERYBODY, 1, [10, 0, 2, 20]), [3]);
    assert_eq!(ask(0, mac(9), EVERYBODY, 1, [10, 0, 2, 21]), [4], "from outside");
    assert_eq!(ask(1, mac(1), EVERYBODY, 1, [10, 0, 2, 99]), [0, 2, 3, 4], "nobody's that is known");
    assert_eq!(ask(3, mac(2), EVERYBODY, 1, [10, 0, 2, 20]), [0, 1, 2, 4], "an announcement");
    assert_eq!(ask(1, mac(1), EVERYBODY, 2, [10, 0, 2, 20]), [0, 2, 3, 4], "an answer to everybody");
    assert_eq!(ask(1, mac(1), mac(3), 1, [10, 0, 2, 20]), [4], "a request to one");
    let twice = attach(4, [10, 0, 2, 20]);
    assert_eq!(ask(1, mac(1), EVERYBODY, 1, [10, 0, 2, 20]), [0, 2, 3, 4], "two have it");
    net.bridge.detach(twice.0);
    assert_eq!(ask(1, mac(1), EVERYBODY, 1, [10, 0, 2, 20]), [3]);
    net.bridge.detach(own[0].0);
    assert_eq!(ask(1, mac(1), EVERYBODY, 1, [10, 0, 2, 20]), [0, 2, 4], "away");
}

#[test]
fn only_ports_that_got_something_are_flushed() {
    let net = Network::new(&[MacPolicy::Only(mac(1)), MacPolicy::Only(mac(2)), MacPolicy::Only(mac(3))]);
    net.send(0, mac(2), mac(1));
    let flushes: Vec<u32> = net.ports.iter().map(|(_, sink)| sink.flushes.get()).collect();
    assert_eq!(flushes, [0, 1, 0]);
}

#[test]
fn scraps_are_dropped() {
    let net = Network::new(&[MacPolicy::Any, MacPolicy::Any]);
    for len in 0..14 {
        let bytes = [2; 14];
        net.bridge.forward(net.ports[0].0, Frame { bytes: &bytes[..len], checksum: Checksum::Unknown });
    }
    assert!(net.ports[1].1.got.borrow().is_empty());
    assert_eq!(net.bridge.counters(net.ports[0].0).map(|c| c.dropped), Some(14));
}

proptest! {
    /// Against a map of who spoke last where: a known address gets its frame at one port, an
    /// unknown one at all others, and nobody ever gets a frame twice or his own back.
    #[test]
    fn behaves_like_a_switch(steps in prop::collection::vec((0usize..4, 0u8..8, 0u8..9), 1..200)) {
        let net = Network::new(&[MacPolicy::Any; 4]);
        let mut home = BTreeMap::new();
        for (from, source, to) in steps {
            let to = if to == 8 { EVERYBODY } else { mac(to) };
            // The first to use an address keeps it until it ages.
            home.entry(mac(source)).or_insert(from);
            let got = net.send(from, to, mac(source));
            match home.get(&to) {
                Some(&at) if at == from => prop_assert!(got.is_empty()),
                Some(&at) => prop_assert_eq!(got, [at]),
                None => prop_assert_eq!(got, (0..4).filter(|&at| at != from).collect::<Vec<_>>()),
            }
        }
    }
}
