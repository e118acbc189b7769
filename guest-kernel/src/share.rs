//! What a split driver needs of the machine, as traits: shared bytes, a doorbell, pages granted to
//! the peer, and the peer's granted pages.
//!
//! Both halves of every driver are generic over these, so a test runs a frontend against a backend
//! in one process over plain memory and puts a fault injector between them. The hardest decision
//! was what shared memory may *not* offer: there is no way to get a reference into it, only copies
//! in and out, so code that checks a value and then reads it again cannot be written.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Context, Poll};
use shared_abi::GrantRef;

/// Bytes in a page; grants are always of one page.
pub const PAGE_SIZE: usize = 4096;

/// The peer has broken the shared-ring protocol: an index that cannot be, or a response to a
/// request that was not made. Only the device it happened on is torn down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingCorrupt;

/// A grant could not be made or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareError {
    /// The hypervisor refused the reference (bad, revoked, read-only, wrong domain).
    BadGrant,
    /// No memory, grant reference or mapping slot is left on our side.
    Exhausted,
}

/// Memory that the peer may read and write at any moment.
///
/// Offsets are bytes from the start. All of them are computed from our own bounds, never taken
/// from the peer unchecked, so an offset outside is a bug of ours and an implementation may panic.
pub trait SharedMem {
    /// Size in bytes, a multiple of [`PAGE_SIZE`].
    fn len(&self) -> usize;
    /// Copies `to.len()` bytes out of the shared memory.
    fn read(&self, at: usize, to: &mut [u8]);
    /// Copies `from` into the shared memory.
    fn write(&self, at: usize, from: &[u8]);
    /// Reads one aligned 32-bit word once, with acquire ordering.
    fn load(&self, at: usize) -> u32;
    /// Writes one aligned 32-bit word, with release ordering.
    fn store(&self, at: usize, value: u32);
    /// Whether there is no memory at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<M: SharedMem + ?Sized> SharedMem for Rc<M> {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn read(&self, at: usize, to: &mut [u8]) {
        (**self).read(at, to)
    }
    fn write(&self, at: usize, from: &[u8]) {
        (**self).write(at, from)
    }
    fn load(&self, at: usize) -> u32 {
        (**self).load(at)
    }
    fn store(&self, at: usize, value: u32) {
        (**self).store(at, value)
    }
}

/// Single pages put end to end, as a multi-page ring needs; an access may straddle two of them.
pub struct PageRun<P>(pub Vec<P>);

impl<P: SharedMem> SharedMem for PageRun<P> {
    fn len(&self) -> usize {
        self.0.len() * PAGE_SIZE
    }
    fn read(&self, mut at: usize, mut to: &mut [u8]) {
        while !to.is_empty() {
            let offset = at % PAGE_SIZE;
            let take = to.len().min(PAGE_SIZE - offset);
            let (now, rest) = to.split_at_mut(take);
            self.0[at / PAGE_SIZE].read(offset, now);
            to = rest;
            at += take;
        }
    }
    fn write(&self, mut at: usize, mut from: &[u8]) {
        while !from.is_empty() {
            let offset = at % PAGE_SIZE;
            let (now, rest) = from.split_at(from.len().min(PAGE_SIZE - offset));
            self.0[at / PAGE_SIZE].write(offset, now);
            at += now.len();
            from = rest;
        }
    }
    fn load(&self, at: usize) -> u32 {
        self.0[at / PAGE_SIZE].load(at % PAGE_SIZE)
    }
    fn store(&self, at: usize, value: u32) {
        self.0[at / PAGE_SIZE].store(at % PAGE_SIZE, value)
    }
}

/// An event channel bound to the peer.
pub trait Doorbell {
    /// Raises the peer's end.
    fn notify(&self);
    /// Ready once our end has been raised since the last time this returned ready.
    fn poll_raised(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<N: Doorbell + ?Sized> Doorbell for Rc<N> {
    fn notify(&self) {
        (**self).notify()
    }
    fn poll_raised(&self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_raised(cx)
    }
}

/// Waits until the peer has rung.
pub async fn raised<N: Doorbell + ?Sized>(bell: &N) {
    poll_fn(|cx| bell.poll_raised(cx)).await
}

/// A page of ours that the peer may map writable. Dropping it ends the grant; if the peer still
/// has it mapped the implementation must keep the frame out of use until it no longer does.
pub trait GrantedPage: SharedMem {
    /// What to tell the peer.
    fn gref(&self) -> GrantRef;
}

/// Copy from a page the peer granted into memory of ours.
pub struct CopyIn<'a> {
    /// The peer's page.
    pub gref: GrantRef,
    /// First byte in it; `offset + to.len()` is at most [`PAGE_SIZE`].
    pub offset: u16,
    /// Where the bytes go.
    pub to: &'a mut [u8],
    /// Set by the copy.
    pub result: Result<(), ShareError>,
}

/// Copy from memory of ours into a page the peer granted.
pub struct CopyOut<'a> {
    /// The peer's page.
    pub gref: GrantRef,
    /// First byte in it; `offset + from.len()` is at most [`PAGE_SIZE`].
    pub offset: u16,
    /// The bytes.
    pub from: &'a [u8],
    /// Set by the copy.
    pub result: Result<(), ShareError>,
}

/// The pages one peer has granted us, as a backend reaches them. The hypervisor checks every
/// reference; a bad one fails that one operation.
pub trait PeerMemory {
    /// A mapped page; dropping it unmaps.
    type Mapping: SharedMem;
    /// Maps one granted page, writable.
    fn map(&self, gref: GrantRef) -> Result<Self::Mapping, ShareError>;
    /// Does each copy, in one hypercall where it can, and sets each `result`.
    fn copy_in(&self, batch: &mut [CopyIn<'_>]);
    /// Does each copy, in one hypercall where it can, and sets each `result`.
    fn copy_out(&self, batch: &mut [CopyOut<'_>]);
}

impl<G: PeerMemory + ?Sized> PeerMemory for Rc<G> {
    type Mapping = G::Mapping;
    fn map(&self, gref: GrantRef) -> Result<G::Mapping, ShareError> {
        (**self).map(gref)
    }
    fn copy_in(&self, batch: &mut [CopyIn<'_>]) {
        (**self).copy_in(batch)
    }
    fn copy_out(&self, batch: &mut [CopyOut<'_>]) {
        (**self).copy_out(batch)
    }
}
