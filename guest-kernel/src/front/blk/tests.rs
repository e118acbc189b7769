use super::*;
use crate::back::Stop;
use crate::back::blk::{Backend, Buffers};
use crate::block::{BlockDevice, Geometry, MemoryDisk};
use crate::fake::{Bell, Granted, Grants, Mapping, Page, Peer, Rng, Tasks, pause};
use crate::share::PeerMemory;
use proptest::prelude::*;
use shared_abi::DomId;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::vec;

const SECTORS: u64 = 512;

/// A disk that takes its time, and fails or stops when told to.
struct SlowDisk {
    disk: MemoryDisk,
    rng: RefCell<Rng>,
    flush: bool,
}

impl SlowDisk {
    fn new(seed: u64) -> Rc<Self> {
        let rng = RefCell::new(Rng(seed));
        Rc::new(SlowDisk { disk: MemoryDisk::new(SECTORS), rng, flush: true })
    }

    async fn delay(&self) {
        let times = self.rng.borrow_mut().below(6);
        pause(times).await;
    }
}

impl BlockDevice for SlowDisk {
    fn geometry(&self) -> Geometry {
        Geometry { flush: self.flush, ..self.disk.geometry() }
    }
    async fn read(&self, sector: u64, to: &mut [u8]) -> Result<(), BlockError> {
        self.delay().await;
        self.disk.read(sector, to).await
    }
    async fn write(&self, sector: u64, from: &[u8]) -> Result<(), BlockError> {
        self.delay().await;
        self.disk.write(sector, from).await?;
        self.delay().await;
        Ok(())
    }
    async fn flush(&self) -> Result<(), BlockError> {
        self.delay().await;
        self.disk.flush().await
    }
    async fn discard(&self, sector: u64, count: u64) -> Result<(), BlockError> {
        self.delay().await;
        self.disk.discard(sector, count).await
    }
}

type TestDisk = Disk<Granted, Bell>;
type TestBackend = Backend<Rc<SlowDisk>, Peer, PageRun<Mapping>, Rc<Bell>>;

/// How a backend differs from another.
#[derive(Clone, Copy, Debug)]
struct Setup {
    ring_order: u32,
    indirect_segments: usize,
    persistent: usize,
    workers: usize,
}

fn setups() -> impl Strategy<Value = Setup> {
    (0u32..4, prop::sample::select(vec![0, 11, 12, 20, 32, 256]), 0usize..80, 1usize..9).prop_map(
        |(ring_order, indirect_segments, persistent, workers)| Setup {
            ring_order,
            indirect_segments,
            persistent,
            workers,
        },
    )
}

/// Starts a backend and connects `disk` to it; its tasks are `group`.
fn attach(
    disk: &Rc<TestDisk>,
    medium: &Rc<SlowDisk>,
    grants: &Rc<Grants>,
    buffers: &Rc<Buffers>,
    setup: Setup,
    tasks: &mut Tasks<'_>,
    group: u32,
) -> Rc<TestBackend> {
    let ring = FrontRing::new(PageRun(grants.pages(1 << setup.ring_order)));
    let peer = Peer(grants.clone());
    let mapped = ring.memory().0.iter().map(|page| peer.map(page.gref()).expect("granted"));
    let mapped = PageRun(mapped.collect());
    let (front_bell, back_bell) = Bell::pair();
    let offer = Offer {
        sectors: SECTORS,
        read_only: false,
        flush: medium.flush,
        discard: true,
        indirect_segments: setup.indirect_segments,
    };
    let backend =
        Backend::new(medium.clone(), peer, mapped, back_bell, buffers.of(DomId(1)), setup.persistent);
    let backend = Rc::new(backend.expect("a fresh ring"));
    for _ in 0..setup.workers {
        let backend = backend.clone();
        tasks.spawn(group, async move { backend.worker().await });
    }
    let running = backend.clone();
    tasks.spawn(group, async move {
        running.run().await;
    });
    disk.connect(ring, front_bell, offer);
    let running = disk.clone();
    tasks.spawn(group, async move {
        running.run().await;
    });
    backend
}

/// A user of one part of the disk: random operations, checked against its own copy of it.
async fn user(disk: Rc<TestDisk>, first: u64, count: u64, seed: u64, ops: usize, done: Rc<Cell<u32>>) {
    let mut rng = Rng(seed);
    let mut model = vec![0u8; count as usize * SECTOR_SIZE];
    for op in 0..ops {
        let start = rng.below(count);
        let len = 1 + rng.below(count - start);
        let range = start as usize * SECTOR_SIZE..(start + len) as usize * SECTOR_SIZE;
        match rng.below(10) {
            0..5 => {
                model[range.clone()].fill_with(|| rng.next() as u8);
                disk.write(first + start, &model[range]).await.expect("write");
            }
            5..9 => {
                let mut got = vec![0; range.len()];
                disk.read(first + start, &mut got).await.expect("read");
                assert!(got == model[range], "operation {op}: other bytes than were written");
            }
            _ if op % 2 == 0 => disk.flush().await.expect("flush"),
            _ => {
                disk.discard(first + start, len).await.expect("discard");
                model[range].fill(0);
            }
        }
    }
    let mut got = vec![0; model.len()];
    disk.read(first, &mut got).await.expect("read");
    assert!(got == model, "the end state differs");
    done.set(done.get() + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Several users at random over every kind of backend: each reads what it wrote.
    #[test]
    fn data_survives_the_trip(seed: u64, setup in setups(), pool in 1usize..80, users in 1u64..5) {
        let grants = Grants::new();
        let medium = SlowDisk::new(seed);
        let buffers = Buffers::new(3);
        let mut tasks = Tasks::new(seed);
        let disk = Rc::new(TestDisk::new(grants.pages(pool)));
        let backend = attach(&disk, &medium, &grants, &buffers, setup, &mut tasks, 1);
        let done = Rc::new(Cell::new(0));
        let share = SECTORS / users;
        for user_number in 0..users {
            let seed = seed ^ user_number;
            tasks.spawn(0, user(disk.clone(), user_number * share, share, seed, 30, done.clone()));
        }
        tasks.run(10_000_000);
        prop_assert_eq!(u64::from(done.get()), users, "somebody waits for ever");
        prop_assert_eq!(disk.idle_pages(), (pool, pool));
        prop_assert_eq!(buffers.available(), 3);
        prop_assert!(backend.mapped() <= setup.persistent);
        backend.close();
        tasks.run(100_000);
        prop_assert_eq!(tasks.alive(1), 1, "only the frontend's own task is left");
        tasks.kill(1);
        drop((backend, disk));
        prop_assert_eq!((grants.granted(), grants.mapped()), (0, 0));
    }

    /// Backends that die at any moment, in the middle of whatever they do, and others that follow:
    /// no operation is lost, and none is seen to have happened twice.
    #[test]
    fn operations_outlive_their_backend(
        seed: u64,
        lives in prop::collection::vec((setups(), 1usize..400), 1..12),
        last in setups(),
    ) {
        let grants = Grants::new();
        let medium = SlowDisk::new(seed);
        let buffers = Buffers::new(4);
        let mut tasks = Tasks::new(seed);
        let disk = Rc::new(TestDisk::new(grants.pages(40)));
        let done = Rc::new(Cell::new(0));
        // The size is known from the first connection on.
        let mut group = 1;
        drop(attach(&disk, &medium, &grants, &buffers, last, &mut tasks, group));
        for user_number in 0..4 {
            let seed = seed ^ user_number;
            tasks.spawn(0, user(disk.clone(), user_number * 128, 128, seed, 40, done.clone()));
        }
        for (setup, polls) in lives {
            tasks.run(polls);
            tasks.kill(group);
            drop(disk.disconnect());
            tasks.run(20);
            group += 1;
            drop(attach(&disk, &medium, &grants, &buffers, setup, &mut tasks, group));
        }
        tasks.run(10_000_000);
        prop_assert_eq!(done.get(), 4, "an operation was lost");
        prop_assert_eq!(disk.idle_pages(), (40, 40));
        prop_assert_eq!(buffers.available(), 4);
    }

    /// Futures dropped half-way: their pages come back once the backend is done with them, and the
    /// disk goes on serving.
    #[test]
    fn dropped_operations_give_their_pages_back(seed: u64, setup in setups(), polls in 0usize..300) {
        let grants = Grants::new();
        let medium = SlowDisk::new(seed);
        let buffers = Buffers::new(2);
        let mut tasks = Tasks::new(seed);
        let disk = Rc::new(TestDisk::new(grants.pages(48)));
        let _backend = attach(&disk, &medium, &grants, &buffers, setup, &mut tasks, 1);
        let done = Rc::new(Cell::new(0));
        for user_number in 0..4 {
            tasks.spawn(2, user(disk.clone(), user_number * 128, 64, seed, 40, done.clone()));
        }
        tasks.run(polls);
        tasks.kill(2);
        tasks.spawn(0, user(disk.clone(), 64, 64, seed, 10, done.clone()));
        tasks.run(10_000_000);
        prop_assert!(done.get() >= 1);
        prop_assert_eq!(disk.idle_pages(), (48, 48));
    }

    /// A backend that answers anything at all: the frontend ends with an error or ignores it, and
    /// never believes in an operation it did not send.
    #[test]
    fn a_lying_backend_is_caught(answers in prop::collection::vec((0u64..4, any::<bool>(), any::<i16>()), 1..40)) {
        use crate::ring::BackRing;
        use shared_abi::io::blkif::BlkifResponse;
        let grants = Grants::new();
        let mut tasks = Tasks::new(1);
        let disk = Rc::new(TestDisk::new(grants.pages(4)));
        let ring = FrontRing::new(PageRun(grants.pages(1)));
        let shared: Page = ring.memory().0[0].share();
        let (front_bell, back_bell) = Bell::pair();
        let offer = Offer { sectors: 64, read_only: false, flush: true, discard: true, indirect_segments: 0 };
        disk.connect(ring, front_bell, offer);
        let failed = Rc::new(Cell::new(false));
        let (running, flag) = (disk.clone(), failed.clone());
        tasks.spawn(1, async move { running.run().await; flag.set(true); });
        let finished = Rc::new(Cell::new(0));
        for _ in 0..3 {
            let (disk, finished) = (disk.clone(), finished.clone());
            tasks.spawn(0, async move {
                let _ = disk.write(0, &[1; 512]).await;
                finished.set(finished.get() + 1);
            });
        }
        tasks.run(1000);
        let mut back = BackRing::<Blkif, _>::attach(PageRun(vec![shared])).expect("a fresh ring");
        let mut ids = vec![];
        while let Ok(Some(raw)) = back.pop() { ids.push(crate::block::protocol::decode(&raw).0); }
        prop_assert_eq!(ids.len(), 3);
        let mut truths = std::collections::BTreeSet::new();
        let mut lied = false;
        for (which, lie, status) in answers {
            let id = ids.get(which as usize).copied().unwrap_or(77 << 16);
            let id = if lie { id ^ 1 << 20 } else { id };
            let response = BlkifResponse { id, status, ..Default::default() };
            if back.push(&response).is_err() { break; }
            lied |= !ids.contains(&id) || !truths.insert(id);
            let _ = back.publish();
            crate::share::Doorbell::notify(&*back_bell);
            tasks.run(1000);
            if lied { break; }
            prop_assert_eq!(finished.get(), truths.len());
        }
        prop_assert_eq!(failed.get(), lied);
        disk.give_up();
        tasks.run(1000);
        prop_assert_eq!(finished.get(), 3, "everybody hears of the end");
        prop_assert_eq!(disk.idle_pages(), (4, 4));
    }
}

/// The smallest pool still reads: each request waits for the one page.
#[test]
fn a_pool_of_one_page_is_enough() {
    let grants = Grants::new();
    let medium = SlowDisk::new(3);
    let buffers = Buffers::new(1);
    let mut tasks = Tasks::new(3);
    let disk = Rc::new(TestDisk::new(grants.pages(1)));
    let setup = Setup { ring_order: 0, indirect_segments: 32, persistent: 0, workers: 1 };
    let backend = attach(&disk, &medium, &grants, &buffers, setup, &mut tasks, 1);
    let done = Rc::new(Cell::new(0));
    tasks.spawn(0, user(disk.clone(), 0, 100, 9, 20, done.clone()));
    tasks.run(1_000_000);
    assert_eq!(done.get(), 1);
    assert_eq!(backend.counters().errors, 0);
}

#[test]
fn a_disk_that_is_gone_says_so() {
    let mut tasks = Tasks::new(1);
    let grants = Grants::new();
    let disk = Rc::new(TestDisk::new(grants.pages(2)));
    let medium = SlowDisk::new(1);
    let setup = Setup { ring_order: 0, indirect_segments: 0, persistent: 4, workers: 2 };
    drop(attach(&disk, &medium, &grants, &Buffers::new(1), setup, &mut tasks, 1));
    let outcomes = Rc::new(RefCell::new(vec![]));
    for _ in 0..5 {
        let (disk, outcomes) = (disk.clone(), outcomes.clone());
        tasks.spawn(0, async move {
            let outcome = disk.write(0, &[7; 4096]).await;
            outcomes.borrow_mut().push(outcome);
        });
    }
    disk.give_up();
    tasks.run(1000);
    assert_eq!(*outcomes.borrow(), vec![Err(BlockError::Gone); 5]);
    assert_eq!(tasks.alive(0), 0);
}

#[test]
fn stop_is_reported() {
    let grants = Grants::new();
    let medium = SlowDisk::new(1);
    let mut tasks = Tasks::new(1);
    let disk = Rc::new(TestDisk::new(grants.pages(2)));
    let setup = Setup { ring_order: 0, indirect_segments: 0, persistent: 0, workers: 1 };
    let backend = attach(&disk, &medium, &grants, &Buffers::new(1), setup, &mut tasks, 1);
    tasks.run(100);
    backend.close();
    let seen = Rc::new(Cell::new(None));
    let (watched, result) = (backend.clone(), seen.clone());
    tasks.spawn(0, async move { result.set(Some(watched.run().await)) });
    tasks.run(100);
    assert_eq!(seen.get(), Some(Stop::Closed));
}
