//! Event channels against fake shared memory: single operations here, random sequences over
//! three domains against a naive model in `model`.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use std::vec::Vec;

use hv_machine::lock::{Mutex, rank};

use shared_abi::errno::Errno;
use shared_abi::{DomId, Port};

use super::*;

mod fifo;
mod model;

/// A domain's shared_info and vcpu_infos.
pub(super) struct FakeBits {
    pub pending: [AtomicU64; 64],
    pub mask: [AtomicU64; 64],
    pub selector: Vec<AtomicU64>,
    pub upcall: Vec<AtomicBool>,
    pub upcall_masked: Vec<AtomicBool>,
    pub fifo: Mutex<Option<Fifo<FakePage>>>,
}

/// A frame of the guest's, which it writes as well.
#[derive(Clone)]
pub(super) struct FakePage(pub Arc<[AtomicU32; 1024]>);

impl FakePage {
    pub fn new() -> FakePage {
        FakePage(Arc::new([const { AtomicU32::new(0) }; 1024]))
    }
}

impl EventPage for FakePage {
    fn words(&self) -> &[AtomicU32; 1024] {
        &self.0
    }
}

impl FakeBits {
    pub fn new(vcpus: u32) -> FakeBits {
        FakeBits {
            pending: [const { AtomicU64::new(0) }; 64],
            mask: [const { AtomicU64::new(0) }; 64],
            selector: (0..vcpus).map(|_| AtomicU64::new(0)).collect(),
            upcall: (0..vcpus).map(|_| AtomicBool::new(false)).collect(),
            upcall_masked: (0..vcpus).map(|_| AtomicBool::new(false)).collect(),
            fifo: Mutex::new(rank::EVENT_QUEUE, None),
        }
    }

    pub fn mask(&self, port: Port) {
        self.mask[port.0 as usize / 64].fetch_or(1 << (port.0 % 64), SeqCst);
    }

    /// The guest's upcall handler: returns the ports it finds, clearing their pending bits.
    pub fn take_events(&self, vcpu: u32) -> Vec<u32> {
        let mut found = Vec::new();
        self.upcall[vcpu as usize].store(false, SeqCst);
        let selector = self.selector[vcpu as usize].swap(0, SeqCst);
        for word in (0..64u32).filter(|w| selector >> w & 1 == 1) {
            let ready = self.pending[word as usize].load(SeqCst) & !self.mask[word as usize].load(SeqCst);
            self.pending[word as usize].fetch_and(!ready, SeqCst);
            found.extend((0..64).filter(|b| ready >> b & 1 == 1).map(|b| word * 64 + b));
        }
        found
    }
}

impl SharedBits for FakeBits {
    type Page = FakePage;
    fn fifo(&self) -> &Mutex<Option<Fifo<FakePage>>> {
        &self.fifo
    }
    fn test_and_set_pending(&self, port: u32) -> bool {
        self.pending[port as usize / 64].fetch_or(1 << (port % 64), SeqCst) >> (port % 64) & 1 == 1
    }
    fn clear_pending(&self, port: u32) {
        self.pending[port as usize / 64].fetch_and(!(1 << (port % 64)), SeqCst);
    }
    fn is_pending(&self, port: u32) -> bool {
        self.pending[port as usize / 64].load(SeqCst) >> (port % 64) & 1 == 1
    }
    fn is_masked(&self, port: u32) -> bool {
        self.mask[port as usize / 64].load(SeqCst) >> (port % 64) & 1 == 1
    }
    fn test_and_clear_mask(&self, port: u32) -> bool {
        self.mask[port as usize / 64].fetch_and(!(1 << (port % 64)), SeqCst) >> (port % 64) & 1 == 1
    }
    fn test_and_set_selector(&self, vcpu: u32, word: u32) -> bool {
        self.selector[vcpu as usize].fetch_or(1 << word, SeqCst) >> word & 1 == 1
    }
    fn test_and_set_upcall_pending(&self, vcpu: u32) -> bool {
        self.upcall[vcpu as usize].swap(true, SeqCst)
    }
    fn upcall_deliverable(&self, vcpu: u32) -> bool {
        self.upcall[vcpu as usize].load(SeqCst) && !self.upcall_masked[vcpu as usize].load(SeqCst)
    }
}

pub(super) struct Dom {
    pub id: DomId,
    pub ports: Ports,
    pub ctl: Control,
    pub bits: FakeBits,
}

impl Dom {
    pub fn new(id: u16, max_port: u32) -> Dom {
        let limits = Limits { max_port, vcpus: 2, pirqs: 4 };
        Dom { id: DomId(id), ports: Ports::new(limits).unwrap(), ctl: Control::new(), bits: FakeBits::new(2) }
    }

    pub fn side(&mut self) -> Side<'_, FakeBits> {
        Side { dom: self.id, ports: &self.ports, ctl: &mut self.ctl, bits: &self.bits }
    }
}

/// Two connected domains: (a, its port, b, its port). The events of binding are handled.
fn pair() -> (Dom, Port, Dom, Port) {
    let (mut a, mut b) = (Dom::new(1, 1023), Dom::new(2, 1023));
    let offered = a.side().alloc_unbound(DomId(2)).unwrap();
    let (bound, delivery) = b.side().bind_interdomain(Some(&mut a.side()), offered).unwrap();
    assert_eq!(delivery.kick, Some(0), "a bound port is pending at once");
    assert_eq!(b.bits.take_events(0), [bound.0]);
    (a, offered, b, bound)
}

fn send(from: &Dom, port: Port, to: &Dom) -> Result<Delivery, Errno> {
    match from.ports.route(port)? {
        Route::Nowhere => Ok(Delivery::default()),
        Route::Own { vcpu } => Ok(from.ports.receive_own(&from.bits, port, vcpu)),
        Route::Peer { remote, port: at } => {
            assert_eq!(remote, to.id);
            let in_fifo = || to.ports.receive_in_fifo(&to.bits, at, from.id, port);
            Ok(to.ports.receive(&to.bits, at, from.id, port).unwrap_or_else(in_fifo))
        }
    }
}

#[test]
fn an_event_reaches_the_peer_once_until_it_looks() {
    let (a, pa, b, pb) = pair();
    assert_eq!(send(&a, pa, &b).unwrap().kick, Some(0));
    assert_eq!(send(&a, pa, &b).unwrap().kick, None, "pending already");
    assert_eq!(b.bits.take_events(0), [pb.0]);
    assert_eq!(send(&a, pa, &b).unwrap().kick, Some(0));
    assert_eq!(send(&b, pb, &a).unwrap().kick, Some(0));
}

#[test]
fn a_masked_event_comes_with_the_unmask() {
    let (a, pa, b, pb) = pair();
    b.bits.mask(pb);
    assert_eq!(send(&a, pa, &b).unwrap().kick, None);
    assert_eq!(b.bits.take_events(0), []);
    assert_eq!(b.ports.unmask(&b.bits, pb).unwrap().kick, Some(0));
    assert_eq!(b.bits.take_events(0), [pb.0]);
    assert_eq!(b.ports.unmask(&b.bits, pb).unwrap().kick, None);
    assert_eq!(b.ports.unmask(&b.bits, Port(4000)), Err(Errno::EINVAL));
}

#[test]
fn a_second_event_in_an_unhandled_upcall_kicks_nobody() {
    let (mut a, pa, b, _) = pair();
    let mut b = b;
    let offered = a.side().alloc_unbound(DomId(2)).unwrap();
    let (second, _) = b.side().bind_interdomain(Some(&mut a.side()), offered).unwrap();
    // The upcall of the binding is still unhandled.
    assert_eq!(send(&a, pa, &b).unwrap().kick, None);
    assert_eq!(b.bits.take_events(0).len(), 2);
    let _ = second;
}

#[test]
fn a_close_leaves_the_peer_waiting_for_us() {
    let (mut a, pa, mut b, pb) = pair();
    b.ports.channel(pb).unwrap();
    assert_eq!(b.side().bind_vcpu(pb, 1), Ok(Rebound::Done));
    assert_eq!(a.side().close(pa, None), Err(Errno::EINVAL), "needs the peer's side");
    assert_eq!(a.side().close(pa, Some(&mut b.side())), Ok(Closed::Done));
    let left = b.ports.channel(pb).unwrap();
    assert_eq!(left, Channel { state: State::Unbound { remote: DomId(1) }, vcpu: 1 });
    assert_eq!(send(&b, pb, &a).unwrap(), Delivery::default(), "a send to nobody succeeds");
    assert_eq!(a.side().close(pa, None), Err(Errno::EINVAL));
    // The former peer may come back, nobody else.
    let mut c = Dom::new(3, 1023);
    assert_eq!(c.side().bind_interdomain(Some(&mut b.side()), pb), Err(Errno::EINVAL));
    assert!(a.side().bind_interdomain(Some(&mut b.side()), pb).is_ok());
}

#[test]
fn a_send_that_raced_a_close_sets_nothing() {
    let (mut a, pa, mut b, pb) = pair();
    let Route::Peer { port, .. } = a.ports.route(pa).unwrap() else { panic!() };
    let _ = b.side().close(pb, Some(&mut a.side())).unwrap();
    let reused = b.side().bind_virq(0, 0).unwrap();
    assert_eq!(reused, pb);
    assert_eq!(b.ports.receive(&b.bits, port, a.id, pa), None);
    assert_eq!(b.ports.receive_in_fifo(&b.bits, port, a.id, pa), Delivery::default());
    assert!(!b.bits.is_pending(pb.0));
}

#[test]
fn a_domain_connects_to_itself() {
    let mut a = Dom::new(7, 1023);
    let one = a.side().alloc_unbound(DomId(7)).unwrap();
    let (two, _) = a.side().bind_interdomain(None, one).unwrap();
    assert_eq!(a.bits.take_events(0), [two.0]);
    assert!(send(&a, two, &a).unwrap().kick.is_some());
    assert_eq!(a.bits.take_events(0), [one.0]);
    assert_eq!(a.side().close(one, None), Ok(Closed::Done));
    assert_eq!(a.ports.channel(two).unwrap().state, State::Unbound { remote: DomId(7) });
    assert_eq!(a.side().close(two, None), Ok(Closed::Done));
    assert_eq!(a.ctl.in_use(), 0);
}

#[test]
fn virqs_keep_their_rules() {
    let mut a = Dom::new(1, 1023);
    assert_eq!(a.side().bind_virq(24, 0), Err(Errno::EINVAL));
    assert_eq!(a.side().bind_virq(3, 1), Err(Errno::EINVAL), "a global VIRQ starts on vcpu 0");
    assert_eq!(a.side().bind_virq(0, 2), Err(Errno::ENOENT));
    let timer1 = a.side().bind_virq(0, 1).unwrap();
    let timer0 = a.side().bind_virq(0, 0).unwrap();
    assert_eq!(a.side().bind_virq(0, 0), Err(Errno::EEXIST));
    assert_eq!(a.side().bind_vcpu(timer0, 1), Err(Errno::EINVAL));
    let global = a.side().bind_virq(8, 0).unwrap();
    assert_eq!(a.side().bind_vcpu(global, 1), Ok(Rebound::Done));
    assert_eq!(a.ports.route(timer0), Err(Errno::EINVAL), "the guest can't send to itself by VIRQ");

    let (port, delivery) = a.ports.raise_virq(&a.bits, 1, 0).unwrap();
    assert_eq!((port, delivery.kick), (timer1, Some(1)));
    let (port, delivery) = a.ports.raise_virq(&a.bits, 0, 8).unwrap();
    assert_eq!((port, delivery.kick), (global, None), "vcpu 1 has its upcall already");
    assert_eq!(a.ports.raise_virq(&a.bits, 0, 9), None);

    assert_eq!(a.side().close(global, None), Ok(Closed::Done));
    assert_eq!(a.ports.raise_virq(&a.bits, 0, 8), None);
    assert!(a.ports.virq_bound(1, 0));
}

#[test]
fn pirqs_keep_their_rules() {
    let mut a = Dom::new(0, u32::MAX);
    assert_eq!(a.side().bind_pirq(4, true, || Ok(())), Err(Errno::EINVAL));
    assert_eq!(a.side().bind_pirq(3, false, || Ok(())), Err(Errno::EPERM));
    assert_eq!(a.side().bind_pirq(3, true, || Err(Errno::EBUSY)), Err(Errno::EBUSY));
    assert_eq!(a.ctl.in_use(), 0);
    assert_eq!(a.ports.raise_pirq(&a.bits, 3), None);
    let port = a.side().bind_pirq(3, true, || Ok(())).unwrap();
    assert_eq!(a.side().bind_pirq(3, true, || Ok(())), Err(Errno::EEXIST));
    assert_eq!(a.side().bind_vcpu(port, 1), Ok(Rebound::Pirq(3)));
    assert_eq!(a.side().bind_vcpu(port, 1), Ok(Rebound::Done));
    assert_eq!(a.ports.raise_pirq(&a.bits, 3).map(|(p, d)| (p, d.kick)), Some((port, Some(1))));
    assert_eq!(a.side().close(port, None), Ok(Closed::Pirq(3)));
    assert_eq!(a.ports.pirq_port(3), None);
    assert_eq!(a.ports.raise_pirq(&a.bits, 200), None);
}

#[test]
fn all_ports_can_be_used_and_no_more() {
    for (max_port, usable) in [(u32::MAX, 4095), (1023, 1023), (1, 1), (0, 0)] {
        let mut a = Dom::new(1, max_port);
        for n in 1..=usable {
            assert_eq!(a.side().bind_ipi(0), Ok(Port(n)));
        }
        assert_eq!(a.side().bind_ipi(0), Err(Errno::ENOSPC));
        assert_eq!(a.side().alloc_unbound(DomId(2)), Err(Errno::ENOSPC));
        if usable > 700 {
            assert_eq!(a.side().close(Port(700), None), Ok(Closed::Done));
            assert_eq!(a.side().bind_ipi(1), Ok(Port(700)), "the lowest free port is taken");
        }
        assert_eq!(a.ctl.in_use(), usable);
    }
}

#[test]
fn a_port_past_the_table_is_an_error_everywhere() {
    let mut a = Dom::new(1, u32::MAX);
    for port in [64, 100, 4095, 4096, 8191, 1 << 17, u32::MAX].map(Port) {
        assert_eq!(a.ports.route(port), Err(Errno::EINVAL));
        assert_eq!(a.ports.channel(port), Err(Errno::EINVAL));
        assert_eq!(a.side().close(port, None), Err(Errno::EINVAL));
        assert_eq!(a.side().bind_vcpu(port, 0), Err(Errno::EINVAL));
        assert_eq!(a.side().bind_interdomain(None, port), Err(Errno::EINVAL));
        assert_eq!(a.ports.receive(&a.bits, port, DomId(1), Port(1)), None);
    }
    assert_eq!(a.side().close(Port(0), None), Err(Errno::EINVAL));
    assert_eq!(a.ports.route(Port(0)), Err(Errno::EINVAL));
}

#[test]
fn a_dying_domain_gets_no_port_and_closes_all() {
    let (mut a, _, mut b, pb) = pair();
    let _ = a.side().bind_virq(0, 1).unwrap();
    let _ = a.side().bind_ipi(0).unwrap();
    a.ctl.set_dying();
    assert_eq!(a.side().bind_ipi(0), Err(Errno::EINVAL));
    let mut closed = 0;
    while let Some((port, peer)) = a.side().next_to_close() {
        let mut other = peer.map(|_| b.side());
        let _ = a.side().close(port, other.as_mut()).unwrap();
        closed += 1;
    }
    assert_eq!((closed, a.ctl.in_use()), (3, 0));
    assert_eq!(b.ports.channel(pb).unwrap().state, State::Unbound { remote: DomId(1) });
}

/// A reset whose domain opens the port just closed, on another vcpu, would go on for ever if
/// the walk came back to that port.
#[test]
fn a_reset_ends_though_its_ports_are_opened_again() {
    let mut a = Dom::new(1, 1023);
    for _ in 0..5 {
        let _ = a.side().bind_ipi(0).unwrap();
    }
    let mut steps = 0;
    while let Some((port, _)) = a.side().next_to_close() {
        let _ = a.side().close(port, None).unwrap();
        assert_eq!(a.side().bind_ipi(0), Ok(port));
        steps += 1;
        assert!(steps <= 5);
    }
    assert_eq!(a.ctl.in_use(), 5);
}

#[test]
fn a_poller_is_woken_by_its_port_even_when_masked() {
    let (a, pa, b, pb) = pair();
    b.bits.mask(pb);
    for closed in [0, pb.0 + 1, 999] {
        assert_eq!(b.ports.poll(&b.bits, 0, &[pb, Port(closed)]), Err(Errno::EINVAL), "{closed}");
    }
    assert_eq!(b.ports.poll(&b.bits, 0, &[pb; 129]), Err(Errno::EINVAL));
    assert!(!send(&a, pa, &b).unwrap().polled);
    assert_eq!(b.ports.poll(&b.bits, 0, &[pb]), Ok(false), "pending before");
    b.bits.clear_pending(pb.0);

    assert_eq!(b.ports.poll(&b.bits, 0, &[pb]), Ok(true));
    assert_eq!(b.ports.poll(&b.bits, 1, &[pb, pb]), Ok(true));
    assert_eq!(b.ports.pollers.take(Port(9)), Some(1), "who polls several wakes for any");
    assert_eq!(b.ports.pollers.take(Port(9)), None);
    assert_eq!(send(&a, pa, &b).unwrap(), Delivery { kick: None, polled: true });
    assert_eq!(b.ports.pollers.take(pb), Some(0));
    assert_eq!(b.ports.pollers.take(pb), None);
    b.ports.pollers.done(0);
    assert!(!b.ports.pollers.any());
}

#[test]
fn a_poll_does_not_sleep_over_an_upcall() {
    let (a, pa, b, pb) = pair();
    let _ = send(&a, pa, &b).unwrap();
    b.bits.clear_pending(pb.0);
    assert_eq!(b.ports.poll(&b.bits, 0, &[pb]), Ok(false));
    b.bits.upcall_masked[0].store(true, SeqCst);
    assert_eq!(b.ports.poll(&b.bits, 0, &[pb]), Ok(true));
}

#[test]
fn global_virqs_go_to_whom_the_toolstack_says() {
    let handlers = virq::GlobalHandlers::new(DomId(0));
    assert_eq!(handlers.owner(3), DomId(0));
    assert_eq!(handlers.set(0, DomId(4)), Err(Errno::EINVAL));
    assert_eq!(handlers.set(24, DomId(4)), Err(Errno::EINVAL));
    assert_eq!(handlers.set(3, DomId(4)), Ok(()));
    assert_eq!(handlers.owner(3), DomId(4));
    handlers.forget(DomId(5));
    assert_eq!(handlers.owner(3), DomId(4));
    handlers.forget(DomId(4));
    assert_eq!(handlers.owner(3), DomId(0));
}
