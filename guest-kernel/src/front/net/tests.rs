use super::*;
use crate::back::net::{Accepts, Backend, Clock, Scratch};
use crate::fake::{Bell, Granted, Grants, Page, Peer, Rng, Tasks};
use crate::net::{Frame, FrameSink, MAX_FRAME};
use crate::ring::BackRing;
use crate::share::raised;
use proptest::prelude::*;
use shared_abi::io::netif::{NetifRxResponse, NetifTxResponse};
use std::vec;
use std::vec::Vec;

struct NoTime;

impl Clock for NoTime {
    fn now(&self) -> u64 {
        0
    }
    async fn sleep_until(&self, _: u64) {}
}

/// Sends every frame of the guest back to it.
#[derive(Default)]
struct Echo {
    frames: RefCell<Vec<(Vec<u8>, Checksum)>>,
}

impl FrameSink for Echo {
    fn frame(&self, frame: Frame<'_>) {
        self.frames.borrow_mut().push((frame.bytes.to_vec(), frame.checksum));
    }
    fn flush(&self) {}
}

type TestInterface = Interface<Granted, Bell>;

/// A random frame that is not IP, so that nobody touches a checksum.
fn random_frame(rng: &mut Rng) -> Vec<u8> {
    let len = 14 + rng.below(MAX_FRAME as u64 - 13) as usize;
    let mut frame: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
    frame[12..14].copy_from_slice(&[0x12, 0x34]);
    frame
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Frames sent through the pair arrive whole, in order; none is lost but for want of room,
    /// through any number of connections.
    #[test]
    fn frames_make_the_round_trip(seed: u64, rx_pages in 1usize..40, tx_pages in 1usize..20, lives in 1usize..4) {
        let grants = Grants::new();
        let mut rng = Rng(seed);
        let nic = Rc::new(TestInterface::new([2; 6], grants.pages(rx_pages), grants.pages(tx_pages)));
        for life in 0..lives {
            let mut tasks = Tasks::new(seed ^ life as u64);
            let (tx, rx) = (FrontRing::new(grants.grant()), FrontRing::new(grants.grant()));
            let pages: (Page, Page) = (tx.memory().share(), rx.memory().share());
            let (front_bell, back_bell) = Bell::pair();
            let echo = Rc::new(Echo::default());
            let accepts = Accepts { blank_ipv4: true, blank_ipv6: true, ..Accepts::default() };
            let scratch = Rc::new(RefCell::new(Scratch::new()));
            let backend = Backend::new(Peer(grants.clone()), pages.0, pages.1, back_bell, echo.clone(), accepts, None, scratch);
            let backend = Rc::new(backend.expect("fresh rings"));
            let running = backend.clone();
            tasks.spawn(0, async move { running.run(&NoTime).await; });
            nic.connect(tx, rx, front_bell, Offer { blank_ipv4: true, blank_ipv6: true });
            let mut sent = vec![];
            for _ in 0..200 {
                let mut frame = random_frame(&mut rng);
                if !nic.can_send() { nic.flush(); tasks.run(1000); }
                prop_assert!(nic.can_send(), "no room although the backend has run");
                sent.push(frame.clone());
                nic.send(&mut frame, Checksum::Valid);
                if rng.below(4) == 0 { nic.flush(); tasks.run(rng.below(5) as usize); }
            }
            nic.flush();
            tasks.run(10_000);
            let seen: Vec<Vec<u8>> = echo.frames.borrow().iter().map(|(bytes, _)| bytes.clone()).collect();
            prop_assert_eq!(&seen, &sent);
            // And back again, no faster than they are taken.
            let mut got = vec![];
            let mut buffer = [0; MAX_FRAME];
            for chunk in sent.chunks(rx_pages) {
                for bytes in chunk {
                    backend.frame(Frame { bytes, checksum: Checksum::Valid });
                }
                backend.flush();
                while let Some((len, checksum)) = nic.receive(&mut buffer) {
                    prop_assert_eq!(checksum, Checksum::Valid);
                    got.push(buffer[..len].to_vec());
                }
                nic.flush();
                tasks.run(1000);
            }
            prop_assert_eq!(&got, &sent);
            drop(nic.disconnect());
            backend.close();
            tasks.run(100);
            prop_assert_eq!(tasks.alive(0), 0);
        }
    }

    /// A backend that answers with anything: no panic, no frame longer than one, and what is
    /// broken stays closed until the next connection.
    #[test]
    fn a_lying_backend_is_survived(
        answers in prop::collection::vec((any::<u16>(), 0u16..5000, 0u16..32, -3i16..5000, any::<bool>()), 1..60),
        produced in 0u32..400,
    ) {
        let grants = Grants::new();
        let nic = TestInterface::new([2; 6], grants.pages(16), grants.pages(4));
        let (tx, rx) = (FrontRing::new(grants.grant()), FrontRing::new(grants.grant()));
        let mut back_tx = BackRing::<Transmit, _>::attach(tx.memory().share()).expect("fresh");
        let mut back_rx = BackRing::<Receive, _>::attach(rx.memory().share()).expect("fresh");
        let rx_page = rx.memory().share();
        let (front_bell, _back_bell) = Bell::pair();
        nic.connect(tx, rx, front_bell, Offer { blank_ipv4: true, blank_ipv6: false });
        let mut buffer = [0; MAX_FRAME];
        for (id, offset, flags, status, whole) in answers {
            if nic.can_send() { nic.send(&mut [0; 60], Checksum::Unknown); }
            nic.flush();
            let _ = (back_tx.pop(), back_rx.pop());
            let id = if whole { id % 8 } else { id };
            let _ = back_tx.push(&NetifTxResponse { id, status });
            let _ = back_rx.push(&NetifRxResponse { id, offset, flags, status });
            let _ = (back_tx.publish(), back_rx.publish());
            while let Some((len, _)) = nic.receive(&mut buffer) { prop_assert!(len <= MAX_FRAME); }
        }
        crate::share::SharedMem::store(&rx_page, 8, produced);
        let mut taken = 0;
        while nic.receive(&mut buffer).is_some() { taken += 1; prop_assert!(taken < 300); }
    }
}

#[test]
fn a_broken_ring_is_reported_and_a_new_connection_mends_it() {
    let grants = Grants::new();
    let nic = Rc::new(TestInterface::new([2; 6], grants.pages(4), grants.pages(1)));
    let mut tasks = Tasks::new(1);
    let connect = || {
        let (tx, rx) = (FrontRing::new(grants.grant()), FrontRing::new(grants.grant()));
        let page = rx.memory().share();
        let (bell, other) = Bell::pair();
        nic.connect(tx, rx, bell, Offer { blank_ipv4: true, blank_ipv6: false });
        (page, other)
    };
    let (page, _bell) = connect();
    let reported = Rc::new(Cell::new(false));
    let (watched, flag) = (nic.clone(), reported.clone());
    tasks.spawn(0, async move {
        watched.broken().await;
        flag.set(true);
    });
    tasks.run(10);
    assert!(!reported.get());
    crate::share::SharedMem::store(&page, 8, 99);
    assert_eq!(nic.receive(&mut [0; MAX_FRAME]), None);
    tasks.run(10);
    assert!(reported.get());
    let (_page, bell) = connect();
    let mut tasks = Tasks::new(1);
    let woken = Rc::new(Cell::new(false));
    let (watched, flag) = (nic.clone(), woken.clone());
    tasks.spawn(0, async move {
        core::future::poll_fn(|cx| watched.poll_event(cx)).await;
        flag.set(true);
    });
    tasks.run(10);
    assert!(woken.get(), "a new connection is an event");
    tasks.spawn(0, async move { raised(&*bell).await });
    tasks.run(10);
    assert_eq!(tasks.alive(0), 0, "the new backend is told of the pages on the ring");
}

/// A packet that stands for many arrives in several pages with a slot between that is no page's; one
/// too long for the receiver is dropped, and what follows it arrives.
#[test]
fn a_packet_that_stands_for_many_is_put_together() {
    use crate::net::segment::tests::tcp_frame;
    let grants = Grants::new();
    let nic = Rc::new(TestInterface::new([2; 6], grants.pages(20), grants.pages(2)));
    let mut tasks = Tasks::new(3);
    let (tx, rx) = (FrontRing::new(grants.grant()), FrontRing::new(grants.grant()));
    let pages: (Page, Page) = (tx.memory().share(), rx.memory().share());
    let (front_bell, back_bell) = Bell::pair();
    let accepts = Accepts { blank_ipv4: true, large_ipv4: true, ..Accepts::default() };
    let (sink, scratch) = (Rc::new(Echo::default()), Rc::new(RefCell::new(Scratch::new())));
    let backend =
        Backend::new(Peer(grants.clone()), pages.0, pages.1, back_bell, sink, accepts, None, scratch);
    let backend = Rc::new(backend.expect("fresh rings"));
    let running = backend.clone();
    tasks.spawn(0, async move {
        running.run(&NoTime).await;
    });
    nic.connect(tx, rx, front_bell, Offer { blank_ipv4: true, blank_ipv6: false });
    let payload: Vec<u8> = (0..60_000u32).map(|at| (at % 253) as u8).collect();
    let frame = tcp_frame(false, false, 0x10, 1, &payload);
    let large = Checksum::PerSegment(core::num::NonZeroU16::new(1448).expect("not 0"));
    for room in [65_535, 2048, 65_535] {
        backend.frame(Frame { bytes: &frame, checksum: large });
        backend.frame(Frame { bytes: &[5; 77], checksum: Checksum::Valid });
        backend.flush();
        let mut buffer = vec![0; room];
        if room > frame.len() {
            assert_eq!(nic.receive(&mut buffer), Some((frame.len(), Checksum::Blank)));
            assert!(buffer[..frame.len()] == frame);
        }
        assert_eq!(nic.receive(&mut buffer), Some((77, Checksum::Valid)));
        assert_eq!(nic.receive(&mut buffer), None);
        nic.flush();
        tasks.run(1000);
    }
}
