//! The disk against a device in the same process, which finishes requests in any order.

use super::*;
use crate::virtio::queue::tests::Device;
use alloc::rc::Rc;
use guest_kernel::executor::{block_on, spawn, yield_now};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::vec;

const SECTORS: usize = 24 * 600;

#[derive(Default)]
struct FakeBell {
    raised: Cell<bool>,
    waker: RefCell<Option<core::task::Waker>>,
}

impl Doorbell for FakeBell {
    fn notify(&self) {}
    fn poll_raised(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.raised.take() {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The other side: a medium, and the requests it has been given and not finished.
struct Machine {
    disk: Rc<Disk<Rc<FakeBell>>>,
    bell: Rc<FakeBell>,
    device: Device,
    medium: Vec<u8>,
    held: Vec<(u16, Vec<Piece>)>,
    /// The status of requests of each type, if not success.
    status: BTreeMap<u32, u8>,
}

impl Machine {
    fn new(pieces: u32, queue: u16, piece: u32) -> Machine {
        let bell = Rc::new(FakeBell::default());
        let geometry = Geometry { sectors: SECTORS as u64, read_only: false, flush: true, discard: true };
        let limits = Limits { piece, pieces, discard: 100 };
        let queue = Queue::new(queue).unwrap();
        let disk = Rc::new(Disk::new(geometry, limits, queue, bell.clone()).unwrap());
        let medium = vec![0; SECTORS * SECTOR_SIZE];
        let (held, status) = (Vec::new(), BTreeMap::new());
        let server = disk.clone();
        spawn(async move { server.serve().await });
        Machine { disk, bell, device: Device::default(), medium, held, status }
    }

    fn interrupt(&self) {
        self.bell.raised.set(true);
        if let Some(waker) = self.bell.waker.take() {
            waker.wake();
        }
    }

    /// Does something with the page of ours at a machine address.
    fn page<T>(&self, address: u64, act: impl FnOnce(&Pages, usize) -> T) -> T {
        let inner = self.disk.inner.borrow();
        let mut all = vec![&self.disk.control];
        all.extend((0..inner.slots.len()).map(|slot| inner.slots.data(slot)));
        let (mfn, offset) = (address / PAGE_SIZE as u64, (address % PAGE_SIZE as u64) as usize);
        for pages in all {
            if let Some(index) = (0..pages.count()).find(|page| pages.mfn(*page).0 == mfn) {
                return act(pages, index * PAGE_SIZE + offset);
            }
        }
        panic!("the device is told of memory that is not the driver's");
    }

    fn read(&self, piece: &Piece) -> Vec<u8> {
        assert!(!piece.write);
        let mut bytes = vec![0; piece.len as usize];
        self.page(piece.address, |pages, at| pages.read_bytes(at, &mut bytes));
        bytes
    }

    fn write(&self, piece: &Piece, bytes: &[u8]) {
        assert!(piece.write && bytes.len() == piece.len as usize);
        self.page(piece.address, |pages, at| pages.write_bytes(at, bytes));
    }

    fn take(&mut self) {
        while let Some(request) = self.device.take(&self.disk.inner.borrow().queue) {
            self.held.push(request);
        }
    }

    /// Serves and finishes one of the requests held.
    fn finish(&mut self, index: usize) {
        let (number, pieces) = self.held.swap_remove(index);
        let (header, rest) = pieces.split_first().unwrap();
        let (status, data) = rest.split_last().unwrap();
        let header = self.read(header);
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        let sector = u64::from_le_bytes(header[8..16].try_into().unwrap()) as usize;
        let mut at = sector * SECTOR_SIZE;
        for piece in data {
            let range = at..at + piece.len as usize;
            match kind {
                IN => self.write(piece, &self.medium[range.clone()]),
                OUT => {
                    let bytes = self.read(piece);
                    self.medium[range.clone()].copy_from_slice(&bytes);
                }
                OP_DISCARD => {
                    let bytes = self.read(piece);
                    let first = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
                    let count = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
                    assert!(count <= 100);
                    self.medium[first * SECTOR_SIZE..][..count * SECTOR_SIZE].fill(0xdd);
                }
                other => panic!("data for type {other}"),
            }
            at = range.end;
        }
        self.write(status, &[self.status.get(&kind).copied().unwrap_or(STATUS_OK)]);
        self.device.finish(&self.disk.inner.borrow().queue, number.into(), 0);
        self.interrupt();
    }

    /// Serves everything until `done`; `pick` chooses what is finished next.
    async fn serve(&mut self, mut pick: impl FnMut(usize) -> usize, done: impl Fn() -> bool) {
        while !done() {
            self.take();
            if !self.held.is_empty() {
                let index = pick(self.held.len());
                self.finish(index);
            }
            yield_now().await;
        }
    }

    /// Serves everything until `future` ends.
    async fn during<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let task = spawn(future);
        self.serve(|_| 0, || task.is_finished()).await;
        task.await.unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// More tasks than slots, each with a part of the disk to itself: what a task reads is what it
    /// wrote last, whatever the others do and in whatever order requests are finished.
    #[test]
    fn tasks_in_parallel_do_not_disturb_each_other(
        ops in prop::collection::vec((0usize..24, 0usize..600, 1usize..600, any::<bool>(), any::<u8>()), 1..120),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..50),
        limits in prop::sample::select(vec![
            (254u32, 256u16, u32::MAX), (254, 64, 8192), (1, 256, 4096), (3, 8, 12288),
        ]),
    ) {
        block_on(async move {
            let mut machine = Machine::new(limits.0, limits.1, limits.2);
            let left = Rc::new(Cell::new(24));
            for own in 0..24 {
                let (disk, left) = (machine.disk.clone(), left.clone());
                let ops: Vec<_> = ops.iter().filter(|op| op.0 == own).copied().collect();
                spawn(async move {
                    let mut oracle = vec![0; 600 * SECTOR_SIZE];
                    for (_, first, count, write, fill) in ops {
                        let count = count.min(600 - first);
                        let part = &mut oracle[first * SECTOR_SIZE..][..count * SECTOR_SIZE];
                        let sector = (own * 600 + first) as u64;
                        if write {
                            part.iter_mut().enumerate().for_each(|(n, b)| *b = fill.wrapping_add((n / 100) as u8));
                            disk.write(sector, part).await.unwrap();
                        } else {
                            let mut got = vec![0xff; part.len()];
                            disk.read(sector, &mut got).await.unwrap();
                            assert!(got == part);
                        }
                    }
                    left.set(left.get() - 1);
                });
            }
            let mut order = order.iter().cycle();
            let counted = left.clone();
            machine.serve(|held| order.next().unwrap().index(held), || counted.get() == 0).await;
            let inner = machine.disk.inner.borrow();
            assert_eq!(inner.queue.room(), usize::from(inner.queue.size()));
        });
    }
}

/// A dropped future's request is still the device's: its slot must not be lent to another, whose
/// data the device would overwrite, before the device has finished.
#[test]
fn a_slot_is_not_lent_while_the_device_has_it() {
    block_on(async {
        let mut machine = Machine::new(254, 256, u32::MAX);
        let slots = machine.disk.inner.borrow().slots.len();
        let start = |machine: &Machine| {
            let disk = machine.disk.clone();
            spawn(async move { disk.read(0, &mut [0; 512]).await })
        };
        let tasks: Vec<_> = (0..slots).map(|_| start(&machine)).collect();
        yield_now().await;
        machine.take();
        assert_eq!(machine.held.len(), slots);
        tasks.iter().for_each(|task| task.abort());
        let next = start(&machine);
        yield_now().await;
        machine.take();
        assert_eq!(machine.held.len(), slots);
        machine.finish(0);
        yield_now().await;
        yield_now().await;
        machine.take();
        assert_eq!(machine.held.len(), slots);
        machine.serve(|held| held - 1, || next.is_finished()).await;
        assert_eq!(next.await, Some(Ok(())));
        let addresses: BTreeSet<_> = machine.held.iter().map(|(_, pieces)| pieces[0].address).collect();
        assert_eq!(addresses.len(), machine.held.len());
    });
}

#[test]
fn statuses_become_errors_and_limits_are_kept() {
    block_on(async {
        let mut machine = Machine::new(254, 256, u32::MAX);
        machine.status = BTreeMap::from([(OUT, 1), (OP_FLUSH, STATUS_UNSUPPORTED)]);
        let disk = machine.disk.clone();
        let write = async move { (disk.write(0, &[1; 512]).await, disk.flush().await) };
        assert_eq!(machine.during(write).await, (Err(BlockError::Io), Err(BlockError::Unsupported)));
        machine.status.clear();
        let disk = machine.disk.clone();
        let calls = async move {
            disk.discard(50, 250).await.unwrap();
            let end = SECTORS as u64;
            [
                disk.discard(end - 1, 2).await,
                disk.write(end, &[0; 512]).await,
                disk.read(0, &mut [0; 100]).await,
            ]
        };
        assert_eq!(machine.during(calls).await, [Err(BlockError::OutOfRange); 3]);
        let discarded = machine
            .medium
            .chunks(512)
            .position(|s| s[0] == 0xdd)
            .zip(machine.medium.chunks(512).rposition(|s| s[0] == 0xdd));
        assert_eq!(discarded, Some((50, 299)));
    });
}

#[test]
fn a_device_that_breaks_its_queue_fails_what_waits_and_what_comes() {
    block_on(async {
        let mut machine = Machine::new(254, 256, u32::MAX);
        let disk = machine.disk.clone();
        let waiting = spawn(async move { disk.write(0, &[0; 512]).await });
        yield_now().await;
        machine.take();
        machine.device.finish(&machine.disk.inner.borrow().queue, 0xffff, 0);
        machine.interrupt();
        assert_eq!(waiting.await, Some(Err(BlockError::Gone)));
        assert_eq!(machine.disk.flush().await, Err(BlockError::Gone));
    });
}
