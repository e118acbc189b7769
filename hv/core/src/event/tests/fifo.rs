//! The FIFO ABI: a guest that keeps to it finds each event once and in order, against a model with plain queues; and
//! one that writes what it likes, while others send, stops nobody.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::thread;
use std::vec;
use std::vec::Vec;

use super::super::fifo::check_offset;
use super::*;
use shared_abi::event_channel::*;

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;
const LINK: u32 = EVTCHN_FIFO_LINK_MASK;

/// The guest's side: its frames, and where it is in each queue.
struct Guest {
    array: Vec<FakePage>,
    controls: Vec<FakePage>,
    heads: Vec<[u32; 16]>,
}

impl Guest {
    /// Two vcpus' control blocks at different offsets of a frame each, and `pages` of words.
    fn new(dom: &mut Dom, pages: usize) -> Guest {
        let controls: Vec<FakePage> = (0..2).map(|_| FakePage::new()).collect();
        for (vcpu, page) in controls.iter().enumerate() {
            let offset = 8 * vcpu as u32;
            dom.side().init_control(vcpu as u32, page.clone(), offset, || {}, |_, _| {}).unwrap();
        }
        let mut guest = Guest { array: Vec::new(), controls, heads: vec![[0; 16]; 2] };
        for _ in 0..pages {
            guest.expand(dom);
        }
        guest
    }

    fn expand(&mut self, dom: &mut Dom) -> Vec<u32> {
        let page = FakePage::new();
        self.array.push(page.clone());
        let mut early = Vec::new();
        dom.side().expand_array(page, |port, _| early.push(port.0)).unwrap();
        early
    }

    fn word(&self, port: u32) -> &AtomicU32 {
        &self.array[port as usize / 1024].0[port as usize % 1024]
    }

    fn control(&self, vcpu: usize, word: usize) -> &AtomicU32 {
        &self.controls[vcpu].0[vcpu * 2 + word]
    }

    /// The upcall handler, as event_channel.h wants it: the most urgent queue first, one event at a time.
    fn take_events(&mut self, bits: &FakeBits, vcpu: usize) -> Vec<u32> {
        bits.upcall[vcpu].store(false, SeqCst);
        let mut found = Vec::new();
        let mut ready = self.control(vcpu, 0).swap(0, SeqCst);
        while ready != 0 {
            let queue = ready.trailing_zeros() as usize;
            let port = match self.heads[vcpu][queue] {
                0 => self.control(vcpu, 2 + queue).load(SeqCst),
                port => port,
            };
            let word = &self.array[port as usize / 1024].0[port as usize % 1024];
            let link = word.fetch_and(!(LINKED | LINK), SeqCst) & LINK;
            self.heads[vcpu][queue] = link;
            if link == 0 {
                ready &= !(1 << queue);
            }
            if word.load(SeqCst) & (PENDING | MASKED) == PENDING {
                word.fetch_and(!PENDING, SeqCst);
                found.push(port);
            }
            ready |= self.control(vcpu, 0).swap(0, SeqCst);
        }
        found
    }
}

fn ipi(dom: &mut Dom, vcpu: u32) -> Port {
    dom.side().bind_ipi(vcpu).unwrap()
}

/// Raises an IPI; the vcpu that is to be told.
fn raise(dom: &Dom, port: Port) -> Option<u32> {
    match dom.ports.route(port).unwrap() {
        Route::Own { vcpu } => dom.ports.receive_own(&dom.bits, port, vcpu).kick,
        route => panic!("{route:?}"),
    }
}

#[test]
fn a_guest_that_asks_has_queues() {
    let mut dom = Dom::new(1, u32::MAX);
    assert_eq!(dom.ports.limit(), 4096);
    assert_eq!(dom.side().may_expand(), Err(Errno::EOPNOTSUPP));
    assert_eq!(dom.side().set_priority(Port(1), 3), Err(Errno::ENOSYS));
    assert_eq!(dom.side().init_control(2, FakePage::new(), 0, || {}, |_, _| {}), Err(Errno::ENOENT));
    assert!(!dom.ports.is_fifo());
    let guest = Guest::new(&mut dom, 0);
    assert_eq!(dom.ports.limit(), 1 << 17);
    assert_eq!(dom.side().init_control(1, FakePage::new(), 0, || {}, |_, _| {}), Err(Errno::EINVAL));
    assert_eq!(guest.control(0, 0).load(SeqCst), 0);
    for _ in 0..128 {
        dom.side().expand_array(FakePage::new(), |_, _| ()).unwrap();
    }
    assert_eq!(dom.side().expand_array(FakePage::new(), |_, _| ()), Err(Errno::ENOSPC));
    for (offset, fits) in
        [(0, true), (8, true), (4, false), (4096 - 72, true), (4096 - 64, false), (u32::MAX - 7, false)]
    {
        assert_eq!(check_offset(offset).is_ok(), fits, "{offset}");
    }
}

#[test]
fn events_come_by_priority_and_then_in_order() {
    let mut dom = Dom::new(1, 1023);
    let mut guest = Guest::new(&mut dom, 1);
    let ports: Vec<Port> = (0..4).map(|_| ipi(&mut dom, 0)).collect();
    dom.side().set_priority(ports[3], 0).unwrap();
    assert_eq!(dom.side().set_priority(ports[3], 16), Err(Errno::EINVAL));
    let told: Vec<_> = ports.iter().map(|p| raise(&dom, *p)).collect();
    assert_eq!(told, [Some(0), None, None, None], "one upcall is pending already");
    assert_eq!(guest.take_events(&dom.bits, 0), [4, 1, 2, 3]);
    assert_eq!(guest.take_events(&dom.bits, 0), []);
}

/// Xen's XSA-107 was of a link to an event that was no longer the last of the queue.
#[test]
fn an_event_that_moved_takes_no_others_with_it() {
    let mut dom = Dom::new(1, 1023);
    let mut guest = Guest::new(&mut dom, 1);
    let (moved, other) = (ipi(&mut dom, 0), ipi(&mut dom, 0));
    raise(&dom, moved);
    assert_eq!(guest.take_events(&dom.bits, 0), [moved.0]);
    // It was the last of its queue; now it is the first of another.
    dom.side().set_priority(moved, 3).unwrap();
    raise(&dom, moved);
    raise(&dom, other);
    assert_eq!(guest.word(moved.0).load(SeqCst) & LINK, 0, "the next of its old queue follows it");
    assert_eq!(guest.take_events(&dom.bits, 0), [moved.0, other.0]);
}

#[test]
fn what_was_pending_before_stays_so() {
    let mut dom = Dom::new(1, 5000);
    let port = ipi(&mut dom, 1);
    let quiet = ipi(&mut dom, 0);
    raise(&dom, port);
    let mut guest = Guest { array: Vec::new(), controls: vec![], heads: vec![[0; 16]; 2] };
    let mut carried = Vec::new();
    for vcpu in 0..2 {
        let page = FakePage::new();
        guest.controls.push(page.clone());
        let offset = 8 * vcpu;
        dom.side().init_control(vcpu, page, offset, || {}, |port, _| carried.push(port.0)).unwrap();
    }
    assert_eq!(carried, [port.0]);
    raise(&dom, quiet);
    assert_eq!(guest.expand(&mut dom), [port.0, quiet.0], "they waited for their words");
    assert_eq!(guest.take_events(&dom.bits, 0), [quiet.0]);
    assert_eq!(guest.take_events(&dom.bits, 1), [port.0]);
}

#[test]
fn a_port_in_a_queue_is_not_opened_anew() {
    let mut dom = Dom::new(1, 3);
    let mut guest = Guest::new(&mut dom, 1);
    let port = ipi(&mut dom, 0);
    raise(&dom, port);
    let _ = dom.side().close(port, None).unwrap();
    assert_ne!(ipi(&mut dom, 0), port);
    ipi(&mut dom, 0);
    assert_eq!(dom.side().bind_ipi(0), Err(Errno::ENOSPC));
    assert_eq!(guest.take_events(&dom.bits, 0), [], "what was closed is no event any more");
    assert_eq!(dom.side().bind_ipi(0), Ok(port));
}

#[test]
fn after_a_reset_the_bits_are_back() {
    let mut dom = Dom::new(1, 5000);
    let _guest = Guest::new(&mut dom, 5);
    for _ in 0..5000 {
        ipi(&mut dom, 0);
    }
    assert!(dom.side().end_fifo().is_err(), "ports are open");
    while let Some((port, _)) = dom.side().next_to_close() {
        let _ = dom.side().close(port, None).unwrap();
    }
    assert!(dom.side().end_fifo().unwrap().is_some());
    assert_eq!(dom.ports.limit(), 4096);
    let port = ipi(&mut dom, 0);
    assert_eq!(raise(&dom, port), Some(0));
    assert_eq!(dom.bits.take_events(0), [port.0]);
    // And once more.
    let mut guest = Guest::new(&mut dom, 1);
    raise(&dom, port);
    assert_eq!(guest.take_events(&dom.bits, 0), [port.0]);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Raise { port: u32 },
    Mask { port: u32 },
    Unmask { port: u32 },
    Priority { port: u32, priority: u32 },
    Vcpu { port: u32, vcpu: u32 },
    Handle { vcpu: usize },
    Reopen { port: u32 },
}

const PORTS: u32 = 10;

/// Of each thread. The locks spin, so a test that runs beside others gains nothing by many.
const ROUNDS: u32 = 2_000;

fn op() -> impl Strategy<Value = Op> {
    (1..=PORTS, 0..2u32, prop_oneof![Just(7u32), 0..16u32], 0..20u32).prop_map(
        |(port, vcpu, priority, kind)| match kind {
            0..8 => Op::Raise { port },
            8..10 => Op::Mask { port },
            10..13 => Op::Unmask { port },
            13..15 => Op::Priority { port, priority },
            15..17 => Op::Vcpu { port, vcpu },
            17..19 => Op::Handle { vcpu: vcpu as usize },
            _ => Op::Reopen { port },
        },
    )
}

/// The naive oracle: queues that are queues.
#[derive(Default)]
struct Model {
    pending: BTreeSet<u32>,
    masked: BTreeSet<u32>,
    place: BTreeMap<u32, (u32, u32)>, // vcpu, priority
    queues: [[VecDeque<u32>; 16]; 2],
}

impl Model {
    fn put(&mut self, port: u32) {
        let queued = self.queues.iter().flatten().any(|q| q.contains(&port));
        if self.pending.contains(&port) && !self.masked.contains(&port) && !queued {
            let (vcpu, priority) = self.place[&port];
            self.queues[vcpu as usize][priority as usize].push_back(port);
        }
    }

    fn take(&mut self, vcpu: usize) -> Vec<u32> {
        let mut found = Vec::new();
        while let Some(port) = self.queues[vcpu].iter_mut().find_map(VecDeque::pop_front) {
            if !self.masked.contains(&port) && self.pending.remove(&port) {
                found.push(port);
            }
        }
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn queues_agree_with_the_model(ops in prop::collection::vec(op(), 1..300)) {
        let mut dom = Dom::new(1, 1023);
        let mut guest = Guest::new(&mut dom, 1);
        let mut model = Model::default();
        for port in 1..=PORTS {
            assert_eq!(dom.side().alloc_unbound(DomId(1)).unwrap().0, port);
            model.place.insert(port, (0, 7));
        }
        for op in ops {
            match op {
                Op::Raise { port } => {
                    let vcpu = dom.ports.channel(Port(port)).unwrap().vcpu;
                    let delivery = dom.ports.receive_own(&dom.bits, Port(port), vcpu);
                    assert!(delivery.kick.is_none_or(|v| v == vcpu));
                    model.pending.insert(port);
                    model.put(port);
                }
                Op::Mask { port } => {
                    guest.word(port).fetch_or(MASKED, SeqCst);
                    model.masked.insert(port);
                }
                Op::Unmask { port } => {
                    let _ = dom.ports.unmask(&dom.bits, Port(port)).unwrap();
                    model.masked.remove(&port);
                    model.put(port);
                }
                Op::Priority { port, priority } => {
                    dom.side().set_priority(Port(port), priority).unwrap();
                    model.place.get_mut(&port).unwrap().1 = priority;
                }
                Op::Vcpu { port, vcpu } => {
                    let _ = dom.side().bind_vcpu(Port(port), vcpu).unwrap();
                    model.place.get_mut(&port).unwrap().0 = vcpu;
                }
                Op::Handle { vcpu } => {
                    assert_eq!(guest.take_events(&dom.bits, vcpu), model.take(vcpu));
                }
                Op::Reopen { port } => {
                    let _ = dom.side().close(Port(port), None).unwrap();
                    model.pending.remove(&port);
                    if guest.word(port).load(SeqCst) & LINKED != 0 {
                        assert_ne!(dom.side().alloc_unbound(DomId(1)).unwrap().0, port);
                        let other = dom.ctl.next_used(PORTS + 1).unwrap();
                        let vcpu = model.queues.iter().position(|q| q.iter().any(|q| q.contains(&port))).unwrap();
                        assert_eq!(guest.take_events(&dom.bits, vcpu), model.take(vcpu));
                        let _ = dom.side().close(other, None).unwrap();
                    }
                    assert_eq!(dom.side().alloc_unbound(DomId(1)).unwrap().0, port);
                    model.place.insert(port, (0, 7));
                }
            }
            for vcpu in 0..2 {
                let waits = model.queues[vcpu].iter().any(|q| !q.is_empty());
                assert!(!waits || dom.bits.upcall[vcpu].load(SeqCst), "events wait, and vcpu {vcpu} is not told");
            }
            for port in 1..=PORTS {
                assert_eq!(dom.ports.is_pending(&dom.bits, Port(port)), model.pending.contains(&port));
                assert_eq!(guest.word(port).load(SeqCst) & BUSY, 0);
            }
        }
    }
}

/// Two threads send, a third moves the ports about; the guest masks, unmasks and handles. Each port's last event is
/// found in the end.
#[test]
fn no_event_is_lost_between_threads() {
    let mut dom = Dom::new(1, 1023);
    let mut guest = Guest::new(&mut dom, 1);
    let ports: Vec<Port> = (0..8).map(|_| dom.side().alloc_unbound(DomId(1)).unwrap()).collect();
    let sent: Vec<AtomicU32> = ports.iter().map(|_| AtomicU32::new(0)).collect();
    let mut seen = [0; 8];
    let (table, bits, mut ctl) = (&dom.ports, &dom.bits, Control::new());
    thread::scope(|scope| {
        for thread in 0..2 {
            let (ports, sent) = (&ports, &sent);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let n = (round.wrapping_mul(2_654_435_761) >> 20) as usize % 4 + thread * 4;
                    sent[n].store(round + 1, SeqCst);
                    let vcpu = table.channel(ports[n]).unwrap().vcpu;
                    let _ = table.receive_own(bits, ports[n], vcpu);
                }
            });
        }
        let moved = ports.clone();
        scope.spawn(move || {
            let mut side = Side { dom: DomId(1), ports: table, ctl: &mut ctl, bits };
            for round in 0..ROUNDS / 4 {
                let port = moved[round as usize % 8];
                side.set_priority(port, round / 3 % 16).unwrap();
                let _ = side.bind_vcpu(port, round / 7 % 2).unwrap();
            }
        });
        let mut look = |seen: &mut [u32; 8]| {
            for vcpu in 0..2 {
                for port in guest.take_events(bits, vcpu) {
                    seen[port as usize - 1] = sent[port as usize - 1].load(SeqCst);
                }
            }
        };
        for round in 0..ROUNDS {
            let port = ports[round as usize % 8];
            look(&mut seen);
            if round % 5 == 0 {
                let _ = table.unmask(bits, port).unwrap();
            }
        }
        // Until the others are done: their last events come after this loop.
        while sent.iter().map(|s| s.load(SeqCst)).max() < Some(ROUNDS) {
            look(&mut seen);
        }
    });
    for vcpu in [0, 1] {
        for port in guest.take_events(&dom.bits, vcpu) {
            seen[port as usize - 1] = sent[port as usize - 1].load(SeqCst);
        }
    }
    assert_eq!(seen.to_vec(), sent.iter().map(|s| s.load(SeqCst)).collect::<Vec<_>>());
}

/// A guest that writes whatever it likes to its words and control blocks, while others send to it.
#[test]
fn a_guest_that_scribbles_stops_nobody() {
    let mut dom = Dom::new(1, 2000);
    let guest = Guest::new(&mut dom, 1); // not even words for all its ports
    for _ in 0..2000 {
        ipi(&mut dom, 0);
    }
    let (table, bits) = (&dom.ports, &dom.bits);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (done, guest) = (&done, &guest);
        scope.spawn(move || {
            let mut random = 1u64;
            while !done.load(SeqCst) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let value = (random >> 32) as u32;
                guest.array[0].0[random as usize >> 7 & 1023].store(value, SeqCst);
                guest.controls[value as usize & 1].0[value as usize >> 1 & 31].store(value, SeqCst);
            }
        });
        let senders: Vec<_> = (0..2)
            .map(|thread| {
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let port = Port(round.wrapping_mul(2_654_435_761).wrapping_add(thread) >> 7 & 2047);
                        if table.channel(port).is_ok_and(|c| c.state == State::Ipi) {
                            let _ = table.receive_own(bits, port, round & 1);
                            let _ = table.unmask(bits, port);
                        }
                    }
                })
            })
            .collect();
        senders.into_iter().for_each(|s| s.join().unwrap());
        done.store(true, SeqCst);
    });
    // It still can close all of its ports, and begin anew.
    while let Some((port, _)) = dom.side().next_to_close() {
        let _ = dom.side().close(port, None).unwrap();
    }
    assert!(dom.side().end_fifo().unwrap().is_some());
    let port = ipi(&mut dom, 0);
    dom.bits.upcall[0].store(false, SeqCst);
    assert_eq!(raise(&dom, port), Some(0));
}
