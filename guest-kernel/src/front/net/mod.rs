//! The frontend half of the split network driver (`io/netif.h`), a [`Nic`].
//!
//! The backend is not trusted. The hardest decision was to copy every frame, in and out, through
//! pages that are granted once: no hypercall per frame, no grant to revoke while somebody might
//! still use it, and nothing the backend can change after it has been looked at.

mod attach;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use attach::{Options, VirtualInterface, attach};

use crate::net::protocol::{Receive, Transmit};
use crate::net::{Checksum, Nic};
use crate::ring::FrontRing;
use crate::share::{Doorbell, GrantedPage, RingCorrupt};
use crate::wait::WaitList;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Context, Poll};
use receive::ReceiveSide;
use transmit::TransmitSide;

/// What a backend has said about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// No `feature-no-csum-offload`: it takes blank checksums of IPv4.
    pub blank_ipv4: bool,
    /// `feature-ipv6-csum-offload`.
    pub blank_ipv6: bool,
}

/// What an interface has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames dropped because there was no room or no backend.
    pub dropped: u64,
}

/// A virtual network interface.
pub struct Interface<P, N> {
    mac: [u8; 6],
    receive_pages: Vec<P>,
    transmit_pages: Vec<P>,
    link: RefCell<Option<Link<P, N>>>,
    counters: Cell<Counters>,
    /// Whoever waits in [`Nic::poll_event`] or [`Interface::broken`].
    waiting: RefCell<WaitList>,
    broken: Cell<bool>,
    /// There is another connection than before.
    changed: Cell<bool>,
}

struct Link<P, N> {
    transmit: TransmitSide<P>,
    receive: ReceiveSide<P>,
    bell: Rc<N>,
    offer: Offer,
}

impl<P: GrantedPage, N: Doorbell> Interface<P, N> {
    /// An interface that receives into `receive_pages`, one frame each, and sends from
    /// `transmit_pages`, two frames each. All are granted to the backend's domain.
    pub fn new(mac: [u8; 6], receive_pages: Vec<P>, transmit_pages: Vec<P>) -> Self {
        Interface {
            mac,
            receive_pages,
            transmit_pages,
            link: RefCell::new(None),
            counters: Cell::new(Counters::default()),
            waiting: RefCell::new(WaitList::new()),
            broken: Cell::new(false),
            changed: Cell::new(false),
        }
    }

    /// Starts to use a backend: fills the receive ring of the fresh rings and shows the backend
    /// what is there. What was under way on an earlier connection is lost, as on a cable.
    pub fn connect(
        &self,
        transmit: FrontRing<Transmit, P>,
        receive: FrontRing<Receive, P>,
        bell: Rc<N>,
        offer: Offer,
    ) {
        let link = Link {
            transmit: TransmitSide::new(transmit, self.transmit_pages.len()),
            receive: ReceiveSide::new(receive, &self.receive_pages),
            bell,
            offer,
        };
        *self.link.borrow_mut() = Some(link);
        self.broken.set(false);
        self.changed.set(true);
        self.flush();
        self.waiting.borrow_mut().wake_all();
    }

    /// Stops using the backend, and gives the ring pages back: transmit and receive.
    pub fn disconnect(&self) -> Option<(P, P)> {
        let link = self.link.borrow_mut().take()?;
        Some((link.transmit.ring.into_memory(), link.receive.ring.into_memory()))
    }

    /// Waits until the backend breaks a ring.
    pub async fn broken(&self) -> RingCorrupt {
        poll_fn(|cx| {
            if self.broken.get() {
                return Poll::Ready(RingCorrupt);
            }
            self.waiting.borrow_mut().park(cx);
            Poll::Pending
        })
        .await
    }

    /// What has been done so far.
    pub fn counters(&self) -> Counters {
        self.counters.get()
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Does something with the link unless it is away or broken.
    fn with<R>(&self, act: impl FnOnce(&mut Link<P, N>) -> Result<R, RingCorrupt>) -> Option<R> {
        if self.broken.get() {
            return None;
        }
        match act(self.link.borrow_mut().as_mut()?) {
            Ok(result) => Some(result),
            Err(RingCorrupt) => {
                self.broken.set(true);
                self.waiting.borrow_mut().wake_all();
                None
            }
        }
    }
}

impl<P: GrantedPage, N: Doorbell> Nic for Interface<P, N> {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn receive(&self, to: &mut [u8]) -> Option<(usize, Checksum)> {
        let taken = self.with(|link| link.receive.receive(&self.receive_pages, to)).flatten();
        self.count(|counters| counters.received += u64::from(taken.is_some()));
        taken
    }

    fn can_send(&self) -> bool {
        // Without a backend frames are dropped, which needs no room.
        self.link.borrow().is_none() || self.with(|link| link.transmit.ready()).unwrap_or(true)
    }

    fn send(&self, frame: &mut [u8], checksum: Checksum) {
        let pages = &self.transmit_pages;
        let sent = self.with(|link| link.transmit.send(pages, frame, checksum, &link.offer));
        self.count(|counters| match sent {
            Some(true) => counters.sent += 1,
            _ => counters.dropped += 1,
        });
    }

    fn flush(&self) {
        self.with(|link| {
            let (sent, given) = (link.transmit.ring.publish(), link.receive.ring.publish());
            if sent || given {
                link.bell.notify();
            }
            Ok(())
        });
    }

    fn poll_event(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waiting.borrow_mut().park(cx);
        if self.changed.take() {
            return Poll::Ready(());
        }
        match &*self.link.borrow() {
            Some(link) if !self.broken.get() => link.bell.poll_raised(cx),
            _ => Poll::Pending,
        }
    }
}
