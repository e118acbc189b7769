//! The frontend half of the split block driver (`io/blkif.h`), a [`BlockDevice`].
//!
//! The backend is not trusted: it may answer what was not asked, twice, or never. The hardest
//! decision was to keep everything a request needs on our side of the ring, its data in pages of
//! ours that are granted once and used again and again. So a dropped future frees nothing that
//! the backend still uses, and when a backend dies the next one is simply sent the same requests
//! again, in their old order. Repeating a read, a write of the same data or a discard changes
//! nothing, so no request is lost and none has a second effect.

mod attach;
mod device;
mod pool;
#[cfg(test)]
mod tests;

pub use attach::{Options, VirtualDisk, attach, disks};
pub use device::Disk;

use crate::block::protocol::{
    Blkif, DIRECT_SEGMENTS, Direction, MAX_SEGMENTS, Request, SECTORS_PER_PAGE, SEGMENT_SIZE, Segment, encode,
};
use crate::block::{BlockError, SECTOR_SIZE};
use crate::ring::FrontRing;
use crate::share::{GrantedPage, PAGE_SIZE, PageRun, RingCorrupt};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::task::Waker;
use pool::{PageId, Pool};
use shared_abi::io::blkif::{BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_OKAY};
use zerocopy::IntoBytes;

/// The most data one operation moves: what the pool sets aside for it.
pub const OPERATION_SIZE: usize = MAX_SEGMENTS * PAGE_SIZE;

/// What a backend has said about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// `VDISK_READONLY`, or `mode` is `r`.
    pub read_only: bool,
    /// `feature-flush-cache`.
    pub flush: bool,
    /// `feature-discard`.
    pub discard: bool,
    /// `feature-max-indirect-segments`, or 0.
    pub indirect_segments: usize,
}

impl Offer {
    /// Most pages in one request to this backend.
    fn segments(&self) -> usize {
        self.indirect_segments.clamp(DIRECT_SEGMENTS, MAX_SEGMENTS)
    }
}

/// What an operation does, with its length in bytes or sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read { bytes: usize },
    Write { bytes: usize },
    Flush,
    Discard { count: u64 },
}

/// The private copy of an operation: all that is needed to send it, again if it must be.
struct Shadow {
    kind: Kind,
    sector: u64,
    /// Pages of data, then one for the segment list if there are many.
    pages: ArrayVec<PageId, { MAX_SEGMENTS + 1 }>,
    /// When it was submitted; operations are sent again in this order.
    order: u64,
    /// Data pages already transferred.
    done: usize,
    /// Data pages in the request now on the ring.
    sent: usize,
    state: State,
    waker: Option<Waker>,
    /// Nobody waits for the outcome any more.
    abandoned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be put on the ring.
    Queued,
    /// On the ring under this id.
    Sent(u64),
    Finished(Result<(), BlockError>),
}

/// A connection to one backend.
struct Link<P> {
    ring: FrontRing<Blkif, PageRun<P>>,
    offer: Offer,
}

/// Operations and the connection they go through, if there is one now.
struct Engine<P> {
    pool: Pool<P>,
    shadows: Vec<Option<Shadow>>,
    /// Indices of shadows in state [`State::Queued`], oldest first.
    queue: VecDeque<usize>,
    link: Option<Link<P>>,
    /// The size of the device never changes under its users' feet, but a new backend may differ.
    offer: Offer,
    next_order: u64,
    next_send: u64,
    gone: bool,
}

/// Low bits of a request id: the index of its shadow. The rest counts requests, so that an answer
/// to an earlier request with the same index is not mistaken for one to this.
const INDEX_BITS: u32 = 16;

impl<P: GrantedPage> Engine<P> {
    fn new(pages: Vec<P>) -> Self {
        let nothing =
            Offer { sectors: 0, read_only: true, flush: false, discard: false, indirect_segments: 0 };
        Engine {
            pool: Pool::new(pages),
            shadows: Vec::new(),
            queue: VecDeque::new(),
            link: None,
            offer: nothing,
            next_order: 0,
            next_send: 0,
            gone: false,
        }
    }

    /// Adds an operation whose pages have been taken from the pool (and filled, for a write).
    /// True if the backend is to be notified.
    fn submit(
        &mut self,
        kind: Kind,
        sector: u64,
        pages: ArrayVec<PageId, { MAX_SEGMENTS + 1 }>,
    ) -> (usize, bool) {
        let shadow = Shadow {
            kind,
            sector,
            pages,
            order: self.next_order,
            done: 0,
            sent: 0,
            state: if self.gone { State::Finished(Err(BlockError::Gone)) } else { State::Queued },
            waker: None,
            abandoned: false,
        };
        self.next_order += 1;
        let index = match self.shadows.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.shadows.push(None);
                self.shadows.len() - 1
            }
        };
        self.shadows[index] = Some(shadow);
        if self.gone {
            return (index, false);
        }
        self.queue.push_back(index);
        (index, self.send())
    }

    /// Starts to use a backend, and sends it everything that is not finished. True if it is to be
    /// notified.
    fn connect(&mut self, ring: FrontRing<Blkif, PageRun<P>>, offer: Offer) -> bool {
        self.offer = offer;
        self.link = Some(Link { ring, offer });
        let mut pending: Vec<(u64, usize)> = Vec::new();
        for (index, slot) in self.shadows.iter_mut().enumerate() {
            if let Some(shadow) = slot
                && !matches!(shadow.state, State::Finished(_))
            {
                shadow.state = State::Queued;
                shadow.sent = 0;
                pending.push((shadow.order, index));
            }
        }
        pending.sort_unstable();
        self.queue = pending.into_iter().map(|(_, index)| index).collect();
        self.send()
    }

    /// Stops using the backend; operations wait for the next. Its ring is handed back, for it may
    /// still be mapped.
    fn disconnect(&mut self) -> Option<PageRun<P>> {
        self.link.take().map(|link| link.ring.into_memory())
    }

    /// Fails everything, now and from now on.
    fn give_up(&mut self) -> Option<PageRun<P>> {
        self.gone = true;
        self.queue.clear();
        for index in 0..self.shadows.len() {
            if self.shadows[index].as_ref().is_some_and(|s| !matches!(s.state, State::Finished(_))) {
                self.finish(index, Err(BlockError::Gone));
            }
        }
        self.pool.waiting.wake_all();
        self.disconnect()
    }

    /// Puts queued operations on the ring as long as there is room.
    fn send(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        while link.ring.free() > 0
            && let Some(index) = self.queue.pop_front()
        {
            let Some(shadow) = &mut self.shadows[index] else { continue };
            let id = self.next_send << INDEX_BITS | index as u64;
            self.next_send += 1;
            let request = shadow.request(&self.pool, &link.offer);
            link.ring.push(&encode(id, &request));
            shadow.state = State::Sent(id);
        }
        link.ring.publish()
    }

    /// Takes the backend's answers. True if it is to be notified of what there is room for now.
    fn receive(&mut self) -> Result<bool, RingCorrupt> {
        loop {
            let Some(link) = &mut self.link else { return Ok(false) };
            match link.ring.pop()? {
                Some((_, response)) => self.complete(response.id, response.status)?,
                None if link.ring.arm()? => {}
                None => return Ok(self.send()),
            }
        }
    }

    /// One answer.
    fn complete(&mut self, id: u64, status: i16) -> Result<(), RingCorrupt> {
        let index = (id & ((1 << INDEX_BITS) - 1)) as usize;
        let shadow = self.shadows.get_mut(index).and_then(Option::as_mut).ok_or(RingCorrupt)?;
        if shadow.state != State::Sent(id) {
            return Err(RingCorrupt);
        }
        match status {
            BLKIF_RSP_OKAY => {
                shadow.done += shadow.sent;
                shadow.sent = 0;
                if shadow.done < shadow.data_pages() {
                    shadow.state = State::Queued;
                    self.queue.push_back(index);
                } else {
                    self.finish(index, Ok(()));
                }
            }
            BLKIF_RSP_EOPNOTSUPP => self.finish(index, Err(BlockError::Unsupported)),
            _ => self.finish(index, Err(BlockError::Io)),
        }
        Ok(())
    }

    fn finish(&mut self, index: usize, outcome: Result<(), BlockError>) {
        let Some(shadow) = &mut self.shadows[index] else { return };
        shadow.state = State::Finished(outcome);
        if let Some(waker) = shadow.waker.take() {
            waker.wake();
        }
        if shadow.abandoned {
            self.release(index);
        }
    }

    /// Forgets an operation nobody waits for: at once if it is finished, else when it will be.
    fn abandon(&mut self, index: usize) {
        let Some(shadow) = &mut self.shadows[index] else { return };
        if matches!(shadow.state, State::Finished(_)) {
            self.release(index);
        } else {
            shadow.abandoned = true;
        }
    }

    fn release(&mut self, index: usize) {
        if let Some(shadow) = self.shadows[index].take() {
            self.pool.give_back(&shadow.pages);
        }
    }
}

impl Shadow {
    fn bytes(&self) -> usize {
        match self.kind {
            Kind::Read { bytes } | Kind::Write { bytes } => bytes,
            Kind::Flush | Kind::Discard { .. } => 0,
        }
    }

    fn data_pages(&self) -> usize {
        self.bytes().div_ceil(PAGE_SIZE)
    }

    /// The request for what is left to do, as much of it as the backend takes at once.
    fn request<P: GrantedPage>(&mut self, pool: &Pool<P>, offer: &Offer) -> Request {
        let direction = match self.kind {
            Kind::Read { .. } => Direction::Read,
            Kind::Write { .. } => Direction::Write,
            Kind::Flush => return Request::Flush,
            Kind::Discard { count } => return Request::Discard { sector: self.sector, count },
        };
        let sector = self.sector + self.done as u64 * SECTORS_PER_PAGE;
        let data = self.data_pages();
        let take = (data - self.done).min(offer.segments());
        self.sent = take;
        let end = self.bytes() / SECTOR_SIZE;
        let segment = |page: usize| {
            let sectors = (end - page * SECTORS_PER_PAGE as usize).min(SECTORS_PER_PAGE as usize);
            Segment { gref: pool.page(self.pages[page]).gref(), first: 0, last: sectors as u8 - 1 }
        };
        let pages = self.done..self.done + take;
        if take <= DIRECT_SEGMENTS {
            return Request::Direct { direction, sector, segments: pages.map(segment).collect() };
        }
        let list = pool.page(self.pages[data]);
        for (at, page) in pages.enumerate() {
            list.write(at * SEGMENT_SIZE, segment(page).to_wire().as_bytes());
        }
        Request::Indirect { direction, sector, count: take as u16, list: list.gref() }
    }
}

/// Pages an operation of `bytes` bytes needs: its data, and a segment list if they are many.
fn pages_needed(bytes: usize) -> usize {
    let data = bytes.div_ceil(PAGE_SIZE);
    data + usize::from(data > DIRECT_SEGMENTS)
}
