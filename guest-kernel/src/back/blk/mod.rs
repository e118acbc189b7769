//! The backend half of the split block driver (`io/blkif.h`), over any [`BlockDevice`].
//!
//! The frontend is hostile. A request is copied out of the ring once and checked before anything
//! is done with it; a bad one is answered with an error, a ring whose indices cannot be stops this
//! device. The hardest decision was how to have many requests in flight without allocating for
//! each: a fixed number of workers, tasks that take a request, serve it and answer. Their number
//! is the bound on what one guest can have in flight.

mod buffers;
mod serve;
#[cfg(test)]
mod tests;
mod transfer;

pub use buffers::{BUFFER_SIZE, Buffer, Buffers, Share};
pub use serve::serve;

use crate::back::Stop;
use crate::block::protocol::{Blkif, Direction, MAX_SEGMENTS, RawRequest, Request, decode};
use crate::block::{BlockDevice, BlockError, SECTOR_SIZE};
use crate::executor::yield_now;
use crate::ring::BackRing;
use crate::share::{Doorbell, PeerMemory, RingCorrupt, SharedMem};
use crate::wait::WaitList;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Context, Poll};
use shared_abi::io::blkif::{BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, BlkifResponse};
use transfer::{Segments, Transfer};
use zerocopy::FromZeros;

/// What a backend has done, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sectors read.
    pub read: u64,
    /// Sectors written.
    pub written: u64,
    /// Requests answered, with whatever status.
    pub requests: u64,
    /// Requests answered with an error.
    pub errors: u64,
}

/// One virtual block device, connected to its frontend.
pub struct Backend<D, G: PeerMemory, M, N> {
    disk: D,
    bell: N,
    buffers: Share,
    transfer: RefCell<Transfer<G>>,
    queue: RefCell<Queue<M>>,
    counters: Cell<Counters>,
}

struct Queue<M> {
    ring: BackRing<Blkif, M>,
    in_flight: u32,
    barrier: Barrier,
    stop: Option<Stop>,
    /// Workers without a request.
    idle: WaitList,
    /// The task in [`Backend::run`].
    runner: WaitList,
}

enum Barrier {
    None,
    /// Taken from the ring; waits for what came before it.
    Waiting(Job),
    /// Being served; what comes after it waits.
    Active,
}

/// A request taken from the ring.
struct Job {
    id: u64,
    operation: u8,
    request: Request,
}

impl<D: BlockDevice, G: PeerMemory, M: SharedMem, N: Doorbell> Backend<D, G, M, N> {
    /// Serves `disk` over a ring in `ring`, with a guest's share of the buffers. `persistent` is the most pages to keep mapped, 0
    /// unless the frontend has `feature-persistent`.
    pub fn new(
        disk: D,
        memory: G,
        ring: M,
        bell: N,
        buffers: Share,
        persistent: usize,
    ) -> Result<Self, RingCorrupt> {
        Ok(Backend {
            disk,
            bell,
            buffers,
            transfer: RefCell::new(Transfer::new(memory, persistent)),
            queue: RefCell::new(Queue {
                ring: BackRing::attach(ring)?,
                in_flight: 0,
                barrier: Barrier::None,
                stop: None,
                idle: WaitList::new(),
                runner: WaitList::new(),
            }),
            counters: Cell::new(Counters::default()),
        })
    }

    /// What has been done so far.
    pub fn counters(&self) -> Counters {
        self.counters.get()
    }

    /// Number of the guest's pages kept mapped.
    pub fn mapped(&self) -> usize {
        self.transfer.borrow().mapped()
    }

    /// Takes no more requests: those in flight are finished, the rest of the ring is answered with an error. A
    /// frontend that takes its device down waits for each of its requests; Linux's for good. True if there was
    /// something to answer.
    pub fn close(&self) -> bool {
        let (answered, notify) = self.queue.borrow_mut().close();
        if notify {
            self.bell.notify();
        }
        answered
    }

    /// Whether requests are being served.
    pub fn in_flight(&self) -> bool {
        self.queue.borrow().in_flight > 0
    }

    /// Stops as by a crash: requests in flight reach the disk, but get no answer. What the next
    /// backend is sent again can so not be overtaken by what this one had begun.
    pub fn die(&self) {
        self.queue.borrow_mut().halt(Stop::Died);
    }

    /// Answers the doorbell until the device stops and nothing is in flight any more. Needed once,
    /// beside some [`worker`](Self::worker)s.
    pub async fn run(&self) -> Stop {
        poll_fn(|cx| {
            let mut queue = self.queue.borrow_mut();
            queue.runner.park(cx);
            if let Some(stop) = queue.stop {
                return if queue.in_flight == 0 { Poll::Ready(stop) } else { Poll::Pending };
            }
            while self.bell.poll_raised(cx).is_ready() {
                queue.idle.wake_one();
            }
            Poll::Pending
        })
        .await
    }

    /// Serves one request after another until the device stops. As many as run are as many
    /// requests as can be in flight.
    pub async fn worker(&self) {
        while let Some(job) = poll_fn(|cx| self.queue.borrow_mut().poll_next(cx)).await {
            let status = match self.serve(&job.request).await {
                Ok(()) => BLKIF_RSP_OKAY,
                Err(BlockError::Unsupported) => BLKIF_RSP_EOPNOTSUPP,
                Err(_) => BLKIF_RSP_ERROR,
            };
            self.count(|counters| {
                counters.requests += 1;
                counters.errors += u64::from(status != BLKIF_RSP_OKAY);
            });
            if self.queue.borrow_mut().finish(&job, status) {
                self.bell.notify();
            }
            // What is answered without the disk may come without end: everybody else has a turn in between.
            yield_now().await;
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    async fn serve(&self, request: &Request) -> Result<(), BlockError> {
        match *request {
            Request::Direct { direction, sector, ref segments } => {
                let segments = segments.iter().copied().collect();
                self.transfer(direction, sector, &segments).await
            }
            Request::Indirect { direction, sector, count, list } => {
                let segments = self.transfer.borrow().read_list(list, usize::from(count));
                let segments = segments.map_err(|_| BlockError::OutOfRange)?;
                self.transfer(direction, sector, &segments).await
            }
            Request::Flush => {
                // Its place among what is in flight.
                let _buffer = self.buffers.take().await;
                self.disk.flush().await
            }
            Request::Discard { sector, count } => {
                let geometry = self.disk.geometry();
                if !geometry.discard {
                    return Err(BlockError::Unsupported);
                }
                if geometry.read_only {
                    return Err(BlockError::ReadOnly);
                }
                geometry.check_sectors(sector, count)?;
                let _buffer = self.buffers.take().await;
                self.disk.discard(sector, count).await
            }
            Request::Unknown => Err(BlockError::Unsupported),
        }
    }

    async fn transfer(
        &self,
        direction: Direction,
        sector: u64,
        segments: &Segments,
    ) -> Result<(), BlockError> {
        let geometry = self.disk.geometry();
        let mut sectors = 0;
        for segment in segments {
            sectors += segment.sectors().ok_or(BlockError::OutOfRange)?;
        }
        if sectors == 0 {
            return Err(BlockError::OutOfRange);
        }
        geometry.check_sectors(sector, sectors)?;
        if direction != Direction::Read && geometry.read_only {
            return Err(BlockError::ReadOnly);
        }
        let mut buffer = self.buffers.take().await;
        // At most MAX_SEGMENTS pages, which is the buffer's size.
        let data = &mut buffer[..sectors as usize * SECTOR_SIZE];
        if direction == Direction::Read {
            self.disk.read(sector, data).await?;
            self.transfer.borrow_mut().scatter(segments, data).map_err(|_| BlockError::Io)?;
            self.count(|counters| counters.read += sectors);
        } else {
            self.transfer.borrow_mut().gather(segments, data).map_err(|_| BlockError::Io)?;
            self.disk.write(sector, data).await?;
            if direction == Direction::Barrier {
                self.disk.flush().await?;
            }
            self.count(|counters| counters.written += sectors);
        }
        Ok(())
    }
}

impl<M: SharedMem> Queue<M> {
    fn halt(&mut self, stop: Stop) {
        self.stop.get_or_insert(stop);
        self.idle.wake_all();
        self.runner.wake_all();
    }

    /// Puts an answer on the ring, where there is room: one per request taken.
    fn push(&mut self, id: u64, operation: u8, status: i16) {
        let mut response = BlkifResponse::new_zeroed();
        (response.id, response.operation, response.status) = (id, operation, status);
        let _ = self.ring.push(&response);
    }

    /// Answers what no worker has begun with an error, a ring's worth at most, and halts; whether there was any, and
    /// whether the frontend is to be notified.
    fn close(&mut self) -> (bool, bool) {
        let mut answered = false;
        if let Barrier::Waiting(job) = &self.barrier {
            let (id, operation) = (job.id, job.operation);
            self.barrier = Barrier::None;
            self.push(id, operation, BLKIF_RSP_ERROR);
            answered = true;
        }
        let mut stop = Stop::Closed;
        for _ in 0..self.ring.size() {
            match self.ring.pop() {
                Ok(None) => break,
                Ok(Some(raw)) => {
                    let raw: RawRequest = raw;
                    let (id, operation, _) = decode(&raw);
                    self.push(id, operation, BLKIF_RSP_ERROR);
                    answered = true;
                }
                Err(RingCorrupt) => {
                    stop = Stop::Corrupt;
                    break;
                }
            }
        }
        self.halt(stop);
        (answered, self.ring.publish())
    }

    /// The next request a worker may serve; `None` once the device has stopped.
    fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Job>> {
        if self.stop.is_some() {
            return Poll::Ready(None);
        }
        match core::mem::replace(&mut self.barrier, Barrier::None) {
            Barrier::None => {}
            Barrier::Waiting(job) if self.in_flight == 0 => {
                self.barrier = Barrier::Active;
                self.in_flight = 1;
                return Poll::Ready(Some(job));
            }
            held => {
                self.barrier = held;
                self.idle.park(cx);
                return Poll::Pending;
            }
        }
        match self.take() {
            Ok(Some(job)) => {
                let barrier = matches!(job.request, Request::Direct { direction: Direction::Barrier, .. });
                if barrier && self.in_flight > 0 {
                    self.barrier = Barrier::Waiting(job);
                    self.idle.park(cx);
                    return Poll::Pending;
                }
                if barrier {
                    self.barrier = Barrier::Active;
                }
                self.in_flight += 1;
                // There may be more; the next idle worker finds out.
                self.idle.wake_one();
                Poll::Ready(Some(job))
            }
            Ok(None) => {
                self.idle.park(cx);
                Poll::Pending
            }
            Err(RingCorrupt) => {
                self.halt(Stop::Corrupt);
                Poll::Ready(None)
            }
        }
    }

    /// Takes a request from the ring, or leaves it armed.
    fn take(&mut self) -> Result<Option<Job>, RingCorrupt> {
        loop {
            if let Some(raw) = self.ring.pop()? {
                let raw: RawRequest = raw;
                let (id, operation, request) = decode(&raw);
                return Ok(Some(Job { id, operation, request }));
            }
            if !self.ring.arm()? {
                return Ok(None);
            }
        }
    }

    /// Answers a request that was served; true if the frontend is to be notified.
    fn finish(&mut self, job: &Job, status: i16) -> bool {
        if self.stop != Some(Stop::Died) {
            self.push(job.id, job.operation, status);
        }
        self.in_flight -= 1;
        if matches!(self.barrier, Barrier::Active) {
            self.barrier = Barrier::None;
            self.idle.wake_all();
        } else if self.in_flight == 0 {
            self.idle.wake_one();
        }
        if self.stop.is_some() && self.in_flight == 0 {
            self.runner.wake_all();
        }
        self.ring.publish()
    }
}

/// Most segments of an indirect request, for `feature-max-indirect-segments`.
pub const INDIRECT_SEGMENTS: usize = MAX_SEGMENTS;
