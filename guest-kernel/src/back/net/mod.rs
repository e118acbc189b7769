//! The backend half of the split network driver (`io/netif.h`).
//!
//! Packets are moved by grant copies, a batch at a time, and nothing of the guest is mapped but
//! the two rings. The hardest decision was to do all work of a packet in one go, without a pause:
//! so one set of buffers serves every guest, and a guest that vanishes leaves nothing behind.

mod receive;
mod serve;
#[cfg(test)]
mod tests;
mod transmit;

pub use receive::Accepts;
pub use serve::{Uplink, VirtualPort, serve};
pub use transmit::Scratch;

use crate::back::Stop;
use crate::net::{Frame, FrameSink, Limit};
use crate::ring::BackRing;
use crate::share::{Doorbell, PeerMemory, RingCorrupt, SharedMem};
use crate::wait::WaitList;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::Poll;
use receive::ReceiveSide;
use transmit::{Batch, TransmitSide};

/// Batches in a row before other tasks get a turn.
const TURN: usize = 4;

/// Time for the rate limit.
#[allow(async_fn_in_trait, reason = "one executor per vcpu: futures are never sent across threads")]
pub trait Clock {
    /// Nanoseconds since some start.
    fn now(&self) -> u64;
    /// Returns at or after `when`.
    async fn sleep_until(&self, when: u64);
}

/// What a backend has done, in the words of the interface it stands for: `sent` by the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets the guest has sent.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Packets of the guest that could not be sent.
    pub errors: u64,
    /// Packets the guest has received.
    pub received: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Packets dropped because the guest gave no page, or a bad one.
    pub dropped: u64,
}

/// One virtual network interface, connected to its frontend. What the guest sends goes to `S`;
/// what it is to receive comes in as to any [`FrameSink`].
pub struct Backend<G, M, N, S> {
    memory: G,
    bell: N,
    sink: S,
    transmit: RefCell<TransmitSide<M>>,
    receive: RefCell<ReceiveSide<M>>,
    scratch: Rc<RefCell<Scratch>>,
    stop: Cell<Option<Stop>>,
    runner: RefCell<WaitList>,
}

impl<G: PeerMemory, M: SharedMem, N: Doorbell, S: FrameSink> Backend<G, M, N, S> {
    /// Serves the frontend whose rings are in `tx` and `rx`, from its point of view. `limit` is in
    /// bytes per second.
    #[allow(clippy::too_many_arguments, reason = "each is one thing the handshake has found")]
    pub fn new(
        memory: G,
        tx: M,
        rx: M,
        bell: N,
        sink: S,
        accepts: Accepts,
        limit: Option<Limit>,
        scratch: Rc<RefCell<Scratch>>,
    ) -> Result<Self, RingCorrupt> {
        Ok(Backend {
            memory,
            bell,
            sink,
            transmit: RefCell::new(TransmitSide::new(BackRing::attach(tx)?, limit)),
            receive: RefCell::new(ReceiveSide::new(BackRing::attach(rx)?, accepts)),
            scratch,
            stop: Cell::new(None),
            runner: RefCell::new(WaitList::new()),
        })
    }

    /// What has been done so far.
    pub fn counters(&self) -> Counters {
        let (tx, rx) = (self.transmit.borrow(), self.receive.borrow());
        Counters {
            sent: tx.packets,
            sent_bytes: tx.bytes,
            errors: tx.errors,
            received: rx.packets,
            received_bytes: rx.bytes,
            dropped: rx.dropped,
        }
    }

    /// Makes [`run`](Self::run) return; nothing is sent or received any more.
    pub fn close(&self) {
        self.halt(Stop::Closed);
    }

    fn halt(&self, stop: Stop) {
        if self.stop.get().is_none() {
            self.stop.set(Some(stop));
        }
        self.runner.borrow_mut().wake_all();
    }

    /// Serves the frontend until it breaks a ring or [`close`](Self::close) is called.
    pub async fn run(&self, clock: &impl Clock) -> Stop {
        loop {
            self.receive_flush();
            let mut later = None;
            for _ in 0..TURN {
                match self.transmit_batch(clock.now()) {
                    Batch::Some => {}
                    Batch::Empty => {
                        later = Some(Batch::Empty);
                        break;
                    }
                    Batch::Later(when) => {
                        later = Some(Batch::Later(when));
                        break;
                    }
                }
            }
            if let Some(stop) = self.stop.get() {
                return stop;
            }
            match later {
                None => yield_once().await,
                Some(Batch::Later(when)) => clock.sleep_until(when).await,
                Some(_) => self.event().await,
            }
        }
    }

    /// Waits for the doorbell, or the end.
    async fn event(&self) {
        poll_fn(|cx| {
            self.runner.borrow_mut().park(cx);
            if self.stop.get().is_some() { Poll::Ready(()) } else { self.bell.poll_raised(cx) }
        })
        .await
    }

    fn transmit_batch(&self, now: u64) -> Batch {
        if self.stop.get().is_some() {
            return Batch::Empty;
        }
        let mut scratch = self.scratch.borrow_mut();
        let result = self.transmit.borrow_mut().batch(&self.memory, &self.sink, &mut scratch, now);
        match result {
            Ok((batch, notify)) => {
                if notify {
                    self.bell.notify();
                }
                batch
            }
            Err(RingCorrupt) => {
                self.halt(Stop::Corrupt);
                Batch::Empty
            }
        }
    }

    fn receive_flush(&self) {
        if self.stop.get().is_some() {
            return;
        }
        let result = self.receive.borrow_mut().flush(&self.memory);
        match result {
            Ok(true) => self.bell.notify(),
            Ok(false) => {}
            Err(RingCorrupt) => self.halt(Stop::Corrupt),
        }
    }
}

/// Frames for the guest.
impl<G: PeerMemory, M: SharedMem, N: Doorbell, S: FrameSink> FrameSink for Backend<G, M, N, S> {
    fn frame(&self, frame: Frame<'_>) {
        if self.stop.get().is_none() && self.receive.borrow_mut().queue(frame) {
            self.receive_flush();
        }
    }

    fn flush(&self) {
        self.receive_flush();
    }
}

/// Lets every other ready task run once.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
