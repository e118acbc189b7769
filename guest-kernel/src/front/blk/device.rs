//! The virtual disk as its users and its connection see it.

use super::{Engine, Kind, OPERATION_SIZE, Offer, State, pages_needed};
use crate::block::protocol::{Blkif, MAX_SEGMENTS};
use crate::block::{BlockDevice, BlockError, Geometry, SECTOR_SIZE};
use crate::ring::FrontRing;
use crate::share::{Doorbell, GrantedPage, PAGE_SIZE, PageRun, RingCorrupt, raised};
use alloc::rc::Rc;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::Poll;

/// A virtual disk. Operations started while no backend is connected wait for one.
pub struct Disk<P, N> {
    engine: RefCell<Engine<P>>,
    bell: RefCell<Option<Rc<N>>>,
    /// Bytes per operation: less than [`OPERATION_SIZE`] only with a small pool.
    step: usize,
}

impl<P: GrantedPage, N: Doorbell> Disk<P, N> {
    /// A disk that moves data through `pages`, which are granted to the backend's domain. Their
    /// number bounds what is in flight; with fewer than 33, transfers go in smaller steps.
    ///
    /// # Panics
    /// If there are no pages.
    pub fn new(pages: Vec<P>) -> Self {
        assert!(!pages.is_empty() && pages.len() < usize::from(u16::MAX), "pages for a pool");
        let mut step = OPERATION_SIZE;
        while pages_needed(step) > pages.len() {
            step -= PAGE_SIZE;
        }
        Disk { engine: RefCell::new(Engine::new(pages)), bell: RefCell::new(None), step }
    }

    /// Starts to use a backend: `ring` is fresh and known to it, `bell` is bound to it. What is
    /// not finished is sent to it in the order it was started.
    pub fn connect(&self, ring: FrontRing<Blkif, PageRun<P>>, bell: Rc<N>, offer: Offer) {
        let notify = self.engine.borrow_mut().connect(ring, offer);
        if notify {
            bell.notify();
        }
        *self.bell.borrow_mut() = Some(bell);
    }

    /// Takes the backend's answers until it breaks the ring. Run it from
    /// [`connect`](Self::connect) until [`disconnect`](Self::disconnect).
    pub async fn run(&self) -> RingCorrupt {
        loop {
            let Some(bell) = self.bell.borrow().clone() else {
                return core::future::pending().await;
            };
            let received = self.engine.borrow_mut().receive();
            match received {
                Ok(true) => bell.notify(),
                Ok(false) => {}
                Err(corrupt) => return corrupt,
            }
            raised(&*bell).await;
        }
    }

    /// Stops using the backend; operations wait for the next one. The ring's pages come back: the
    /// old backend may have them mapped until it has closed.
    pub fn disconnect(&self) -> Option<PageRun<P>> {
        *self.bell.borrow_mut() = None;
        self.engine.borrow_mut().disconnect()
    }

    /// Fails everything that is not finished, and all that comes: there will be no other backend.
    pub fn give_up(&self) -> Option<PageRun<P>> {
        *self.bell.borrow_mut() = None;
        self.engine.borrow_mut().give_up()
    }

    #[cfg(test)]
    pub(super) fn idle_pages(&self) -> (usize, usize) {
        let engine = self.engine.borrow();
        (engine.pool.available(), engine.pool.size())
    }

    fn notify(&self) {
        if let Some(bell) = &*self.bell.borrow() {
            bell.notify();
        }
    }

    /// Sends one operation and waits for its end; `data` is copied in before or out after it.
    async fn operate(&self, kind: Kind, sector: u64, data: Data<'_>) -> Result<(), BlockError> {
        let bytes = match &data {
            Data::None => 0,
            Data::In(to) => to.len(),
            Data::Out(from) => from.len(),
        };
        let pages = Line::wait(&self.engine, pages_needed(bytes)).await?;
        let operation = {
            let mut engine = self.engine.borrow_mut();
            if let Data::Out(from) = &data {
                engine.pool.fill(&pages, from);
            }
            let (index, notify) = engine.submit(kind, sector, pages);
            drop(engine);
            if notify {
                self.notify();
            }
            Operation { engine: &self.engine, index }
        };
        let outcome = operation.outcome().await;
        if let (Ok(()), Data::In(to)) = (outcome, data) {
            let engine = self.engine.borrow();
            if let Some(shadow) = &engine.shadows[operation.index] {
                engine.pool.empty(&shadow.pages, to);
            }
        }
        outcome
    }
}

enum Data<'a> {
    None,
    In(&'a mut [u8]),
    Out(&'a [u8]),
}

/// A place in the line for pages, given up when dropped.
struct Line<'a, P: GrantedPage> {
    engine: &'a RefCell<Engine<P>>,
    ticket: u64,
}

impl<P: GrantedPage> Line<'_, P> {
    async fn wait(
        engine: &RefCell<Engine<P>>,
        count: usize,
    ) -> Result<ArrayVec<u16, { MAX_SEGMENTS + 1 }>, BlockError> {
        let ticket = engine.borrow_mut().pool.enter();
        let place = Line { engine, ticket };
        poll_fn(|cx| {
            let mut engine = place.engine.borrow_mut();
            if engine.gone {
                return Poll::Ready(Err(BlockError::Gone));
            }
            match engine.pool.take(ticket, count) {
                Some(pages) => Poll::Ready(Ok(pages)),
                None => {
                    engine.pool.waiting.park(cx);
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl<P: GrantedPage> Drop for Line<'_, P> {
    fn drop(&mut self) {
        self.engine.borrow_mut().pool.leave(self.ticket);
    }
}

/// An operation somebody waits for; dropping it lets go of it, whatever its state.
struct Operation<'a, P: GrantedPage> {
    engine: &'a RefCell<Engine<P>>,
    index: usize,
}

impl<P: GrantedPage> Operation<'_, P> {
    async fn outcome(&self) -> Result<(), BlockError> {
        poll_fn(|cx| match &mut self.engine.borrow_mut().shadows[self.index] {
            Some(shadow) => match shadow.state {
                State::Finished(outcome) => Poll::Ready(outcome),
                _ => {
                    shadow.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            },
            None => Poll::Ready(Err(BlockError::Gone)),
        })
        .await
    }
}

impl<P: GrantedPage> Drop for Operation<'_, P> {
    fn drop(&mut self) {
        self.engine.borrow_mut().abandon(self.index);
    }
}

impl<P: GrantedPage, N: Doorbell> BlockDevice for Disk<P, N> {
    fn geometry(&self) -> Geometry {
        let offer = self.engine.borrow().offer;
        Geometry {
            sectors: offer.sectors,
            read_only: offer.read_only,
            flush: offer.flush,
            discard: offer.discard,
        }
    }

    async fn read(&self, mut sector: u64, to: &mut [u8]) -> Result<(), BlockError> {
        self.geometry().check(sector, to.len())?;
        for chunk in to.chunks_mut(self.step) {
            let bytes = chunk.len();
            self.operate(Kind::Read { bytes }, sector, Data::In(chunk)).await?;
            sector += (bytes / SECTOR_SIZE) as u64;
        }
        Ok(())
    }

    async fn write(&self, mut sector: u64, from: &[u8]) -> Result<(), BlockError> {
        let geometry = self.geometry();
        geometry.check(sector, from.len())?;
        if geometry.read_only {
            return Err(BlockError::ReadOnly);
        }
        for chunk in from.chunks(self.step) {
            let bytes = chunk.len();
            self.operate(Kind::Write { bytes }, sector, Data::Out(chunk)).await?;
            sector += (bytes / SECTOR_SIZE) as u64;
        }
        Ok(())
    }

    /// A backend without `feature-flush-cache` has no volatile cache: a completed write is
    /// durable, and there is nothing to do.
    async fn flush(&self) -> Result<(), BlockError> {
        if !self.geometry().flush {
            return Ok(());
        }
        self.operate(Kind::Flush, 0, Data::None).await
    }

    async fn discard(&self, sector: u64, count: u64) -> Result<(), BlockError> {
        let geometry = self.geometry();
        geometry.check_sectors(sector, count)?;
        if !geometry.discard {
            return Err(BlockError::Unsupported);
        }
        if geometry.read_only {
            return Err(BlockError::ReadOnly);
        }
        self.operate(Kind::Discard { count }, sector, Data::None).await
    }
}
