use super::*;
use crate::fake::{Bell, Granted, Grants, Page, Peer, Rng, Tasks};
use crate::net::protocol::{Receive, Transmit};
use crate::net::segment::tests::tcp_frame;
use crate::net::{Checksum, MAX_FRAME};
use crate::ring::FrontRing;
use crate::share::{GrantedPage, PAGE_SIZE};
use core::num::NonZeroU16;
use proptest::prelude::*;
use shared_abi::GrantRef;
use shared_abi::io::netif::*;
use std::future::pending;
use std::vec;
use std::vec::Vec;
use zerocopy::{FromBytes, IntoBytes};

/// Time that stands still unless told.
#[derive(Clone, Default)]
pub struct TestClock(pub Rc<Cell<u64>>);

impl Clock for TestClock {
    fn now(&self) -> u64 {
        self.0.get()
    }
    async fn sleep_until(&self, when: u64) {
        if self.0.get() < when {
            pending::<()>().await;
        }
    }
}

#[derive(Default)]
struct Seen {
    frames: RefCell<Vec<(Vec<u8>, Checksum)>>,
    flushes: Cell<u32>,
}

impl FrameSink for Seen {
    fn frame(&self, frame: Frame<'_>) {
        self.frames.borrow_mut().push((frame.bytes.to_vec(), frame.checksum));
    }
    fn flush(&self) {
        self.flushes.set(self.flushes.get() + 1);
    }
}

/// A frontend that puts whatever it likes on the rings.
struct Rogue {
    grants: Rc<Grants>,
    tx: FrontRing<Transmit, Granted>,
    rx: FrontRing<Receive, Granted>,
    tx_page: Page,
    bell: Rc<Bell>,
    seen: Rc<Seen>,
    backend: Rc<Backend<Peer, Page, Rc<Bell>, Rc<Seen>>>,
    tasks: Tasks<'static>,
    stopped: Rc<Cell<Option<Stop>>>,
}

impl Rogue {
    fn new(accepts: Accepts) -> Self {
        let grants = Grants::new();
        let tx = FrontRing::new(grants.grant());
        let rx = FrontRing::new(grants.grant());
        let (tx_page, rx_page) = (tx.memory().share(), rx.memory().share());
        let (bell, back_bell) = Bell::pair();
        let seen = Rc::new(Seen::default());
        let scratch = Rc::new(RefCell::new(Scratch::new()));
        let backend = Backend::new(
            Peer(grants.clone()),
            tx_page.clone(),
            rx_page,
            back_bell,
            seen.clone(),
            accepts,
            None,
            scratch,
        );
        let backend = Rc::new(backend.expect("fresh rings"));
        let stopped = Rc::new(Cell::new(None));
        let mut tasks = Tasks::new(1);
        let (running, stop) = (backend.clone(), stopped.clone());
        tasks.spawn(0, async move { stop.set(Some(running.run(&TestClock::default()).await)) });
        Rogue { grants, tx, rx, tx_page, bell, seen, backend, tasks, stopped }
    }

    fn send(&mut self, slots: &[NetifTxRequest]) -> Vec<(u16, i16)> {
        for slot in slots {
            self.tx.push(slot).expect("room");
        }
        if self.tx.publish() {
            self.bell.notify();
        }
        self.tasks.run(10_000);
        let mut responses = vec![];
        while let Ok(Some((_, response))) = self.tx.pop() {
            responses.push((response.id, response.status));
        }
        let _ = self.tx.arm();
        responses
    }
}

const BOTH: Accepts = Accepts { blank_ipv4: true, blank_ipv6: true, large_ipv4: false, large_ipv6: false };

fn slot(page: &Granted, offset: u16, size: u16, flags: u16, id: u16) -> NetifTxRequest {
    NetifTxRequest { gref: page.gref(), offset, flags, id, size }
}

#[test]
fn a_packet_in_pieces_is_put_together() {
    let mut rogue = Rogue::new(BOTH);
    let (one, two) = (rogue.grants.grant(), rogue.grants.grant());
    let bytes: Vec<u8> = (0..300u32).map(|i| i as u8).collect();
    one.write(4000, &bytes[..96]);
    two.write(0, &bytes[96..200]);
    two.write(1000, &bytes[200..]);
    let flags = NETTXF_MORE_DATA | NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED;
    let slots = [
        slot(&one, 4000, 300, flags, 1),
        slot(&two, 0, 104, NETTXF_MORE_DATA, 2),
        slot(&two, 1000, 100, 0, 3),
    ];
    assert_eq!(rogue.send(&slots), [(1, 0), (2, 0), (3, 0)]);
    assert_eq!(*rogue.seen.frames.borrow(), [(bytes, Checksum::Blank)]);
    assert_eq!(rogue.seen.flushes.get(), 1);
}

#[test]
fn bad_packets_are_refused_and_good_ones_beside_them_pass() {
    let mut rogue = Rogue::new(BOTH);
    let page = rogue.grants.grant();
    let good = slot(&page, 0, 60, 0, 7);
    let bad = [
        slot(&page, 0, 0, 0, 1),
        slot(&page, 0, 13, 0, 1),
        slot(&page, 0, MAX_FRAME as u16 + 1, 0, 1),
        slot(&page, 0, u16::MAX, 0, 1),
        slot(&page, 4090, 60, 0, 1),
        slot(&page, u16::MAX, 60, 0, 1),
        NetifTxRequest { gref: GrantRef(99), ..slot(&page, 0, 60, 0, 1) },
    ];
    for bad in bad {
        assert_eq!(rogue.send(&[good, bad, good]), [(7, 0), (1, NETIF_RSP_ERROR), (7, 0)], "{bad:?}");
    }
    // Pieces that are more than the whole.
    let pair = [slot(&page, 0, 60, NETTXF_MORE_DATA, 1), slot(&page, 0, 60, 0, 2)];
    assert_eq!(rogue.send(&pair), [(1, NETIF_RSP_ERROR), (2, NETIF_RSP_ERROR)]);
    // An extra that was not offered.
    let extra = NetifExtraInfo { r#type: XEN_NETIF_EXTRA_TYPE_GSO, flags: 0, u: [1448, 1, 0] };
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(extra.as_bytes());
    let extra = NetifTxRequest::read_from_bytes(&bytes).expect("12 bytes");
    let responses = rogue.send(&[slot(&page, 0, 60, NETTXF_EXTRA_INFO, 1), extra, good]);
    assert_eq!((responses[0], responses[1].1, responses[2]), ((1, -1), NETIF_RSP_NULL, (7, 0)));
    assert_eq!(rogue.seen.frames.borrow().len(), bad.len() * 2 + 1);
    assert_eq!(rogue.stopped.get(), None);
}

/// The slot that says that a packet is to be cut into segments.
fn gso(kind: u8, size: u16) -> NetifTxRequest {
    let mut extra = NetifExtraInfo { r#type: XEN_NETIF_EXTRA_TYPE_GSO, flags: 0, u: [0; 3] };
    extra.set_gso(NetifExtraGso { size, r#type: kind, pad: 0, features: 0 });
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(extra.as_bytes());
    NetifTxRequest::read_from_bytes(&bytes).expect("12 bytes")
}

/// Linux sends up to 64 KiB at once as soon as `feature-gso-tcpv4` is offered: one slot with the
/// headers, one with what is said about segments, one for each page of data.
#[test]
fn a_packet_that_stands_for_many_is_taken_whole() {
    let mut rogue = Rogue::new(BOTH);
    for (v6, kind) in [(false, XEN_NETIF_GSO_TYPE_TCPV4), (true, XEN_NETIF_GSO_TYPE_TCPV6)] {
        let payload: Vec<u8> = (0..60_000u32).map(|at| (at % 251) as u8).collect();
        let frame = tcp_frame(v6, false, 0x18, 7, &payload);
        let pages = rogue.grants.pages(16);
        let (head, body) = frame.split_at(100);
        pages[0].write(50, head);
        let flags = NETTXF_MORE_DATA | NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED;
        let mut slots =
            vec![slot(&pages[0], 50, frame.len() as u16, flags | NETTXF_EXTRA_INFO, 0), gso(kind, 1400)];
        for (page, chunk) in pages[1..].iter().zip(body.chunks(PAGE_SIZE)) {
            page.write(0, chunk);
            slots.push(slot(page, 0, chunk.len() as u16, NETTXF_MORE_DATA, slots.len() as u16));
        }
        slots.last_mut().expect("some").flags = 0;
        let responses = rogue.send(&slots);
        assert_eq!(responses.len(), slots.len());
        assert!(responses.iter().enumerate().all(|(n, (_, status))| *status == i16::from(n == 1)));
        let (bytes, checksum) = rogue.seen.frames.borrow_mut().pop().expect("a frame");
        assert!(bytes == frame && checksum == Checksum::PerSegment(NonZeroU16::new(1400).expect("not 0")));
        // What is said does not fit the bytes, or would make too many frames, or some for everybody.
        let mut group = frame.clone();
        group[0] |= 1;
        for (wrong, size, first) in [
            (3 - kind, 1400, head),
            (kind, 0, head),
            (kind, 100, head),
            (9, 1400, head),
            (kind, 1400, &group[..100]),
        ] {
            pages[0].write(50, first);
            slots[1] = gso(wrong, size);
            let responses = rogue.send(&slots);
            assert!(
                responses.iter().enumerate().all(|(n, (_, status))| *status == if n == 1 { 1 } else { -1 })
            );
        }
        assert!(rogue.seen.frames.borrow().is_empty());
    }
    assert_eq!(rogue.stopped.get(), None);
}

/// To a guest that takes them whole they go whole, as soon as it has given all the pages for one; to
/// another they go in pieces.
#[test]
fn a_packet_that_stands_for_many_goes_to_the_guest_as_it_takes_it() {
    let payload: Vec<u8> = (0..20_000u32).map(|at| (at % 251) as u8).collect();
    let frame = tcp_frame(false, false, 0x18, 7, &payload);
    let size = NonZeroU16::new(1448).expect("not 0");
    let large = Frame { bytes: &frame, checksum: Checksum::PerSegment(size) };
    let small = Frame { bytes: &[9; 60], checksum: Checksum::Valid };

    let mut rogue = Rogue::new(Accepts { large_ipv4: true, ..BOTH });
    rogue.tasks.run(100);
    let pages = rogue.grants.pages(8);
    let give = |rogue: &mut Rogue, ids: std::ops::Range<usize>| {
        for id in ids {
            let request = NetifRxRequest { id: id as u16, pad: 0, gref: pages[id].gref() };
            rogue.rx.push(&request).expect("room");
        }
        if rogue.rx.publish() {
            rogue.bell.notify();
        }
        rogue.tasks.run(1000);
    };
    rogue.backend.frame(large);
    rogue.backend.frame(small);
    rogue.backend.flush();
    give(&mut rogue, 0..5);
    assert_eq!(rogue.rx.pop(), Ok(None), "five pages hold 20 KB, but the sixth slot is missing");
    give(&mut rogue, 5..8);
    let responses: Vec<NetifRxResponse> =
        std::iter::from_fn(|| rogue.rx.pop().expect("sane")).map(|(_, response)| response).collect();
    assert_eq!(responses.len(), 7);
    assert_eq!(
        responses[0].flags,
        NETRXF_EXTRA_INFO | NETRXF_MORE_DATA | NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED
    );
    let extra = NetifExtraInfo::read_from_bytes(responses[1].as_bytes()).expect("8 bytes");
    assert_eq!((extra.r#type, extra.flags), (XEN_NETIF_EXTRA_TYPE_GSO, 0));
    assert_eq!((extra.gso().size, extra.gso().r#type), (1448, XEN_NETIF_GSO_TYPE_TCPV4));
    let mut got = vec![];
    for response in [0, 2, 3, 4, 5].map(|n| responses[n]) {
        let mut bytes = vec![0; response.status as usize];
        pages[usize::from(response.id)].read(0, &mut bytes);
        got.extend_from_slice(&bytes);
    }
    assert!(got == frame);
    assert_eq!([2, 3, 4, 5].map(|n| responses[n].flags), [1 << 2, 1 << 2, 1 << 2, 0]);
    assert_eq!((responses[6].id, responses[6].status, responses[6].flags), (6, 60, NETRXF_DATA_VALIDATED));

    let mut rogue = Rogue::new(BOTH);
    rogue.tasks.run(100);
    rogue.backend.frame(large);
    let pages = rogue.grants.pages(16);
    for (id, page) in pages.iter().enumerate() {
        rogue.rx.push(&NetifRxRequest { id: id as u16, pad: 0, gref: page.gref() }).expect("room");
    }
    let _ = rogue.rx.publish();
    rogue.bell.notify();
    rogue.tasks.run(1000);
    let lengths: Vec<i16> =
        std::iter::from_fn(|| rogue.rx.pop().expect("sane")).map(|(_, response)| response.status).collect();
    assert_eq!(lengths, [vec![1514; 13], vec![66 + (20_000 - 13 * 1448) as i16]].concat());
}

/// A guest that gives no pages keeps a bounded amount of dom0's memory, however long the packets.
#[test]
fn what_waits_for_a_guest_is_bounded_in_bytes() {
    let frame = tcp_frame(false, false, 0x18, 7, &vec![7; 60_000]);
    let rogue = Rogue::new(Accepts { large_ipv4: true, ..BOTH });
    for _ in 0..100 {
        rogue.backend.frame(Frame {
            bytes: &frame,
            checksum: Checksum::PerSegment(NonZeroU16::new(1448).expect("not 0")),
        });
    }
    assert_eq!(rogue.backend.counters().dropped, 100 - (256 << 10) / frame.len() as u64);
}

/// XSA-39: a packet with more pieces than any honest one must not make the backend go on for ever
/// or run past its arrays; like Linux's, it closes this interface.
#[test]
fn endless_and_unfinished_packets_stop_the_interface() {
    for (pieces, flags) in
        [(40, NETTXF_MORE_DATA), (18, NETTXF_MORE_DATA), (1, NETTXF_EXTRA_INFO), (1, NETTXF_MORE_DATA)]
    {
        let mut rogue = Rogue::new(BOTH);
        let page = rogue.grants.grant();
        for _ in 0..3 {
            rogue.send(&[slot(&page, 0, 60, 0, 9); 50]);
        }
        rogue.send(&vec![slot(&page, 0, 60, flags, 1); pieces]);
        assert_eq!(rogue.stopped.get(), Some(Stop::Corrupt), "{pieces} {flags}");
        rogue.backend.frame(Frame { bytes: &[0; 60], checksum: Checksum::Unknown });
        rogue.backend.flush();
    }
}

#[test]
fn a_corrupt_index_stops_the_interface() {
    let mut rogue = Rogue::new(BOTH);
    rogue.tx_page.store(0, 257);
    rogue.bell.notify();
    rogue.tasks.run(100);
    assert_eq!(rogue.stopped.get(), Some(Stop::Corrupt));
}

#[test]
fn packets_wait_for_pages_but_not_for_ever() {
    let mut rogue = Rogue::new(BOTH);
    rogue.tasks.run(100);
    for number in 0..200u8 {
        let mut bytes = [number; 100];
        bytes[12] = 9;
        rogue.backend.frame(Frame { bytes: &bytes, checksum: Checksum::Valid });
    }
    rogue.backend.flush();
    assert_eq!(rogue.backend.counters().dropped, 200 - receive::QUEUE as u64);
    let pages = rogue.grants.pages(200);
    for (id, page) in pages.iter().enumerate() {
        // Every tenth reference is bad.
        let gref = if id % 10 == 9 { GrantRef(1) } else { page.gref() };
        rogue.rx.push(&NetifRxRequest { id: id as u16, pad: 0, gref }).expect("room");
    }
    assert!(rogue.rx.publish(), "the backend waits for pages");
    rogue.bell.notify();
    rogue.tasks.run(1000);
    for number in 0..receive::QUEUE {
        let (index, response) = rogue.rx.pop().expect("sane").expect("a packet");
        assert_eq!((index as usize, usize::from(response.id)), (number, number));
        if number % 10 == 9 {
            assert_eq!(response.status, NETIF_RSP_ERROR);
            continue;
        }
        assert_eq!((response.status, response.flags), (100, NETRXF_DATA_VALIDATED));
        let mut bytes = [0; 100];
        pages[number].read(0, &mut bytes);
        assert_eq!(bytes[0], number as u8);
    }
    assert_eq!(rogue.rx.pop(), Ok(None));
}

#[test]
fn the_rate_limit_holds_packets_back() {
    let grants = Grants::new();
    let mut tx = FrontRing::<Transmit, _>::new(grants.grant());
    let rx = FrontRing::<Receive, _>::new(grants.grant());
    let mut side = transmit::TransmitSide::new(
        BackRing::attach(tx.memory().share()).expect("fresh"),
        Some(Limit::new(1000, 1000)),
    );
    let page = grants.grant();
    for id in 0..100 {
        tx.push(&slot(&page, 0, 100, 0, id)).expect("room");
    }
    let _ = tx.publish();
    let (seen, mut scratch, mut now) = (Seen::default(), Scratch::new(), 0);
    loop {
        match side.batch(&Peer(grants.clone()), &seen, &mut scratch, now).expect("sane").0 {
            Batch::Later(when) => {
                assert!(when > now);
                now = when;
            }
            Batch::Some => {}
            Batch::Empty => break,
        }
    }
    assert_eq!(seen.frames.borrow().len(), 100);
    // 10 000 bytes, of which 1000 are saved up, one packet goes early: 8.9 s of rate at least.
    assert!(now >= 8_900_000_000, "{now}");
    drop(rx);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any slots in any order: every response is to a slot that was sent, there are never more,
    /// and no frame is longer than a frame.
    #[test]
    fn random_slots_are_survived(seed: u64, count in 1usize..200) {
        let mut rogue = Rogue::new(BOTH);
        let page = rogue.grants.grant();
        let mut rng = Rng(seed);
        for _ in 0..4 {
            let slots: Vec<NetifTxRequest> = (0..count).map(|_| NetifTxRequest {
                gref: if rng.below(10) == 0 { GrantRef(rng.next() as u32) } else { page.gref() },
                offset: rng.below(PAGE_SIZE as u64 + 100) as u16,
                flags: if rng.below(4) == 0 { rng.below(16) as u16 } else { 0 },
                id: rng.next() as u16,
                size: rng.below(1600) as u16,
            }).collect();
            if (rogue.tx.free() as usize) < count { break; }
            let responses = rogue.send(&slots);
            prop_assert!(responses.len() <= count);
            if rogue.stopped.get().is_none() { prop_assert_eq!(responses.len(), count); }
        }
        let frames = rogue.seen.frames.borrow();
        prop_assert!(frames.iter().all(|(bytes, _)| (14..=MAX_FRAME).contains(&bytes.len())));
    }
}
