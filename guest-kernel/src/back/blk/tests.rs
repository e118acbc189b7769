use super::*;
use crate::block::protocol::{Segment, encode};
use crate::block::{Geometry, MemoryDisk};
use crate::fake::{Bell, Granted, Grants, Page, Peer, Rng, Tasks, pause};
use crate::ring::FrontRing;
use crate::share::{GrantedPage, PAGE_SIZE, PageRun};
use alloc::rc::Rc;
use proptest::prelude::*;
use shared_abi::io::blkif::{BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE};
use shared_abi::{DomId, GrantRef};
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;
use zerocopy::IntoBytes;

type TestBackend<D> = Backend<D, Peer, Page, Rc<Bell>>;

/// A frontend that puts whatever it likes on the ring.
struct Rogue<D: BlockDevice + 'static> {
    grants: Rc<Grants>,
    ring: FrontRing<Blkif, PageRun<Granted>>,
    page: Page,
    bell: Rc<Bell>,
    backend: Rc<TestBackend<D>>,
    tasks: Tasks<'static>,
}

impl<D: BlockDevice + 'static> Rogue<D> {
    fn new(disk: D, persistent: usize, workers: usize, seed: u64) -> Self {
        let grants = Grants::new();
        let ring = FrontRing::new(PageRun(grants.pages(1)));
        let page = ring.memory().0[0].share();
        let (bell, back_bell) = Bell::pair();
        let peer = Peer(grants.clone());
        let backend =
            Backend::new(disk, peer, page.clone(), back_bell, Buffers::new(4).of(DomId(1)), persistent);
        let backend = Rc::new(backend.expect("a fresh ring"));
        let mut tasks = Tasks::new(seed);
        for _ in 0..workers {
            let backend = backend.clone();
            tasks.spawn(1, async move { backend.worker().await });
        }
        let running = backend.clone();
        tasks.spawn(2, async move {
            running.run().await;
        });
        Rogue { grants, ring, page, bell, backend, tasks }
    }

    fn send(&mut self, requests: &[RawRequest]) -> Vec<BlkifResponse> {
        for raw in requests {
            self.ring.push(raw).expect("room");
        }
        if self.ring.publish() {
            self.bell.notify();
        }
        self.tasks.run(1_000_000);
        let mut responses = vec![];
        while let Ok(Some((_, response))) = self.ring.pop() {
            responses.push(response);
        }
        let _ = self.ring.arm();
        responses
    }

    fn status(&mut self, request: &Request) -> i16 {
        let responses = self.send(&[encode(5, request)]);
        assert_eq!(responses.len(), 1);
        assert_eq!(responses[0].id, 5);
        responses[0].status
    }
}

fn direct(direction: Direction, sector: u64, segments: &[Segment]) -> Request {
    Request::Direct { direction, sector, segments: segments.iter().copied().collect() }
}

/// Linux's blkfront waits for good for requests that were on the ring when its backend left: a process that wrote
/// to a disk that was detached never came back, nor did what the kernel did to detach it.
#[test]
fn a_ring_that_is_closed_has_an_answer_for_each_request() {
    for begun in [0, 1, 50, 5000] {
        for barrier in [false, true] {
            let mut rogue = Rogue::new(Rc::new(MemoryDisk::new(64)), 0, 2, begun);
            let gref = rogue.grants.grant().gref();
            let segment = Segment { gref, first: 0, last: 7 };
            for id in 0..20 {
                let direction = if barrier && id == 3 { Direction::Barrier } else { Direction::Write };
                rogue.ring.push(&encode(id, &direct(direction, 0, &[segment]))).expect("room");
            }
            assert!(rogue.ring.publish());
            rogue.bell.notify();
            rogue.tasks.run(begun as usize);
            rogue.backend.close();
            rogue.tasks.run(1_000_000);
            let mut ids: Vec<u64> = vec![];
            while let Ok(Some((_, response))) = rogue.ring.pop() {
                assert!([BLKIF_RSP_OKAY, BLKIF_RSP_ERROR].contains(&response.status));
                ids.push(response.id);
            }
            ids.sort_unstable();
            assert_eq!(ids, (0..20).collect::<Vec<u64>>(), "{begun} steps, barrier {barrier}");
        }
    }
}

#[test]
fn bad_requests_are_answered_with_an_error_and_change_nothing() {
    for persistent in [0, 16] {
        let disk = Rc::new(MemoryDisk::new(16));
        let mut rogue = Rogue::new(disk.clone(), persistent, 2, 1);
        let page = rogue.grants.grant();
        page.write(0, &[9; PAGE_SIZE]);
        let gref = page.gref();
        let good = Segment { gref, first: 0, last: 7 };
        let write = |sector, segments: &[Segment]| direct(Direction::Write, sector, segments);
        let bad = [
            write(9, &[good]),
            write(16, &[Segment { last: 0, ..good }]),
            write(u64::MAX, &[good]),
            write(u64::MAX - 6, &[good]),
            write(0, &[]),
            write(0, &[Segment { first: 3, last: 2, ..good }]),
            write(0, &[Segment { last: 8, ..good }]),
            write(0, &[Segment { last: 255, ..good }]),
            write(0, &[Segment { gref: GrantRef(99), ..good }]),
            write(0, &[Segment { gref: GrantRef(u32::MAX), ..good }]),
            Request::Indirect { direction: Direction::Write, sector: 0, count: 0, list: gref },
            Request::Indirect { direction: Direction::Write, sector: 0, count: 33, list: gref },
            Request::Indirect { direction: Direction::Write, sector: 0, count: u16::MAX, list: gref },
            Request::Indirect { direction: Direction::Write, sector: 0, count: 3, list: GrantRef(99) },
            Request::Indirect { direction: Direction::Write, sector: 0, count: 3, list: gref },
            Request::Discard { sector: 16, count: 1 },
            Request::Discard { sector: 1, count: u64::MAX },
        ];
        for request in &bad {
            assert_eq!(rogue.status(request), BLKIF_RSP_ERROR, "{request:?}");
        }
        let mut odd = encode(5, &write(0, &[good]));
        for (op, segments) in [(4, 1), (7, 1), (255, 1), (1, 12), (1, 255), (3, 1)] {
            (odd[0], odd[1]) = (op, segments);
            assert_eq!(rogue.send(&[odd])[0].status, BLKIF_RSP_EOPNOTSUPP, "{op} {segments}");
        }
        assert_eq!(disk.contents(), vec![0; 16 * 512]);
        assert_eq!(rogue.status(&write(8, &[good])), BLKIF_RSP_OKAY);
        assert_eq!(disk.contents()[8 * 512..], [9; 4096]);
    }
}

/// Linux 6.1 as a guest disabled its disk: "response has wrong operation (6 instead of 0)". The
/// operation in a response to an indirect request is the one inside it.
#[test]
fn a_response_names_what_was_done() {
    let mut rogue = Rogue::new(MemoryDisk::new(64), 0, 1, 1);
    let (page, list) = (rogue.grants.grant(), rogue.grants.grant());
    let segment = Segment { gref: page.gref(), first: 0, last: 7 };
    list.write(0, segment.to_wire().as_bytes());
    for (direction, op) in [(Direction::Read, BLKIF_OP_READ), (Direction::Write, BLKIF_OP_WRITE)] {
        for request in [
            direct(direction, 0, &[segment]),
            Request::Indirect { direction, sector: 0, count: 1, list: list.gref() },
        ] {
            let response = rogue.send(&[encode(1, &request)])[0];
            assert_eq!((response.operation, response.status), (op, BLKIF_RSP_OKAY));
        }
    }
    assert_eq!(rogue.send(&[encode(1, &Request::Flush)])[0].operation, BLKIF_OP_FLUSH_DISKCACHE);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let disk = Rc::new(MemoryDisk::from_bytes(vec![3; 8192]).read_only());
    let mut rogue = Rogue::new(disk.clone(), 0, 1, 1);
    let page = rogue.grants.grant();
    let segment = [Segment { gref: page.gref(), first: 0, last: 7 }];
    for direction in [Direction::Write, Direction::Barrier] {
        assert_eq!(rogue.status(&direct(direction, 0, &segment)), BLKIF_RSP_ERROR);
    }
    assert_eq!(rogue.status(&Request::Discard { sector: 0, count: 8 }), BLKIF_RSP_ERROR);
    assert_eq!(rogue.status(&direct(Direction::Read, 8, &segment)), BLKIF_RSP_OKAY);
    let mut got = [0; PAGE_SIZE];
    page.read(0, &mut got);
    assert_eq!(got, [3; PAGE_SIZE]);
}

#[test]
fn a_corrupt_ring_stops_this_device_and_gives_everything_back() {
    let mut rogue = Rogue::new(MemoryDisk::new(64), 16, 3, 1);
    let page = rogue.grants.grant();
    let segment = [Segment { gref: page.gref(), first: 0, last: 7 }];
    assert_eq!(rogue.status(&direct(Direction::Read, 0, &segment)), BLKIF_RSP_OKAY);
    assert_eq!(rogue.grants.mapped(), 1);
    rogue.page.store(0, 1000);
    rogue.bell.notify();
    rogue.tasks.run(1000);
    assert_eq!((rogue.tasks.alive(1), rogue.tasks.alive(2)), (0, 0));
    let Rogue { backend, tasks, grants, .. } = rogue;
    drop((backend, tasks));
    assert_eq!(grants.mapped(), 0);
}

/// A disk that notes in which order writes begin and end.
struct Noting {
    disk: MemoryDisk,
    rng: RefCell<Rng>,
    log: Rc<RefCell<Vec<(u64, bool)>>>,
}

impl BlockDevice for Noting {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    async fn read(&self, sector: u64, to: &mut [u8]) -> Result<(), BlockError> {
        self.disk.read(sector, to).await
    }
    async fn write(&self, sector: u64, from: &[u8]) -> Result<(), BlockError> {
        self.log.borrow_mut().push((sector, true));
        let delay = self.rng.borrow_mut().below(20);
        pause(delay).await;
        self.disk.write(sector, from).await?;
        self.log.borrow_mut().push((sector, false));
        Ok(())
    }
    async fn flush(&self) -> Result<(), BlockError> {
        self.disk.flush().await
    }
    async fn discard(&self, sector: u64, count: u64) -> Result<(), BlockError> {
        self.disk.discard(sector, count).await
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// `BLKIF_OP_WRITE_BARRIER`: everything before it has ended when it begins, and nothing after
    /// it begins before it has ended.
    #[test]
    fn a_barrier_keeps_its_place(seed: u64, barriers: u32, workers in 1usize..6) {
        let log = Rc::new(RefCell::new(vec![]));
        let noting = Noting { disk: MemoryDisk::new(64), rng: RefCell::new(Rng(seed)), log: log.clone() };
        let mut rogue = Rogue::new(noting, 0, workers, seed);
        let page = rogue.grants.grant();
        let segment = [Segment { gref: page.gref(), first: 0, last: 0 }];
        let barrier = |number: u64| barriers >> number & 1 == 1;
        let requests: Vec<RawRequest> = (0..32).map(|number| {
            let direction = if barrier(number) { Direction::Barrier } else { Direction::Write };
            encode(number, &direct(direction, number, &segment))
        }).collect();
        let responses = rogue.send(&requests);
        prop_assert_eq!(responses.len(), 32);
        prop_assert!(responses.iter().all(|response| response.status == BLKIF_RSP_OKAY));
        let log = log.borrow();
        let at: BTreeMap<_, _> = log.iter().enumerate().map(|(at, event)| (*event, at)).collect();
        for number in (0..32).filter(|&number| barrier(number)) {
            for other in 0..32 {
                if other < number { prop_assert!(at[&(other, false)] < at[&(number, true)]); }
                if other > number { prop_assert!(at[&(other, true)] > at[&(number, false)]); }
            }
        }
    }

    /// Any bytes as requests: each is answered once, under its own id, and the backend goes on.
    #[test]
    fn random_requests_are_each_answered(
        seed: u64,
        slots in prop::collection::vec((0u8..9, 0u8..14, prop::array::uniform32(any::<u8>())), 1..32),
    ) {
        let mut rogue = Rogue::new(MemoryDisk::new(64), 4, 3, seed);
        let _pages = rogue.grants.pages(4);
        let requests: Vec<RawRequest> = slots.iter().enumerate().map(|(number, (op, segments, noise))| {
            let mut raw = [0u8; 112];
            for (to, from) in raw.iter_mut().zip(noise.iter().cycle()) { *to = *from; }
            (raw[0], raw[1]) = (*op, *segments);
            raw[8..16].copy_from_slice(&(number as u64).to_le_bytes());
            raw
        }).collect();
        let mut ids: Vec<u64> = rogue.send(&requests).iter().map(|response| response.id).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..requests.len() as u64).collect::<Vec<_>>());
        prop_assert_eq!(rogue.status(&Request::Flush), BLKIF_RSP_OKAY);
    }

    /// What one half encodes the other decodes.
    #[test]
    fn requests_survive_the_wire(id: u64, sector: u64, count: u16, big: u64, gref: u32, n in 0usize..12) {
        let segments = (0..n).map(|i| Segment { gref: GrantRef(gref ^ i as u32), first: i as u8, last: 200 }).collect();
        for request in [
            Request::Direct { direction: Direction::Read, sector, segments },
            Request::Indirect { direction: Direction::Write, sector, count, list: GrantRef(gref) },
            Request::Discard { sector, count: big },
            Request::Flush,
        ] {
            let (got, _, decoded) = decode(&encode(id, &request));
            prop_assert_eq!((got, decoded), (id, request));
        }
    }
}

/// A ring's page in which a guest on another processor has made a new request for each answer, whenever one looks.
struct Endless {
    page: Page,
    looks: Rc<Cell<u32>>,
}

impl Endless {
    /// After so many the guest is tired: a backend that stays at the ring fails the test instead of hanging it.
    const LIMIT: u32 = 10_000;
    const REQUESTS: usize = 0;
    const RESPONSES: usize = 8;
    const ENTRIES: u32 = 32;
}

impl SharedMem for Endless {
    fn len(&self) -> usize {
        self.page.len()
    }
    fn read(&self, at: usize, to: &mut [u8]) {
        self.page.read(at, to)
    }
    fn write(&self, at: usize, from: &[u8]) {
        self.page.write(at, from)
    }
    fn load(&self, at: usize) -> u32 {
        if at == Self::REQUESTS && self.looks.get() < Self::LIMIT {
            self.looks.set(self.looks.get() + 1);
            self.page.store(at, self.page.load(Self::RESPONSES).wrapping_add(Self::ENTRIES));
        }
        self.page.load(at)
    }
    fn store(&self, at: usize, value: u32) {
        self.page.store(at, value)
    }
}

/// Requests that are answered without the disk, made as fast as they are answered, used to keep their worker at the
/// ring, and everybody else's backends from running.
#[test]
fn requests_without_end_leave_a_turn_to_everybody_else() {
    let ring = FrontRing::<Blkif, _>::new(PageRun(Grants::new().pages(1)));
    let looks = Rc::new(Cell::new(0));
    let endless = Endless { page: ring.memory().0[0].share(), looks: looks.clone() };
    let (_bell, back_bell) = Bell::pair();
    let share = Buffers::new(1).of(DomId(1));
    let backend = Backend::new(MemoryDisk::new(64), Peer(Grants::new()), endless, back_bell, share, 0);
    let backend = Rc::new(backend.expect("a fresh ring"));
    let mut tasks = Tasks::new(1);
    let worker = backend.clone();
    tasks.spawn(1, async move { worker.worker().await });
    let turns = Rc::new(Cell::new(0));
    let other = turns.clone();
    tasks.spawn(2, async move {
        loop {
            other.set(other.get() + 1);
            pause(1).await;
        }
    });
    tasks.run(1000);
    assert!(
        turns.get() > 100 && looks.get() < Endless::LIMIT,
        "{} turns, {} looks",
        turns.get(),
        looks.get()
    );
    assert!(backend.counters().errors > 100, "{:?}", backend.counters());
}
