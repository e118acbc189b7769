//! Typed shared rings (`io/ring.h`) over memory the peer can write.
//!
//! Requests and responses share one array of slots; each side publishes a producer index and asks
//! for a wake-up through an event index. The hardest decision is what to believe: nothing twice.
//! A producer index is read once per batch and compared with what the peer can possibly have
//! produced; outside that it is [`RingCorrupt`]. A request or response is copied out once and only
//! the copy is handed on. Our own indices live in private memory, so a peer that scribbles over
//! the shared ones harms its own view alone.

use crate::share::{RingCorrupt, SharedMem};
use core::marker::PhantomData;
use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};
use shared_abi::io::ring::{
    Sring, entry_offset, must_notify, request_prod_overflow, ring_size, unconsumed_responses,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const REQ_PROD: usize = offset_of!(Sring, req_prod);
const REQ_EVENT: usize = offset_of!(Sring, req_event);
const RSP_PROD: usize = offset_of!(Sring, rsp_prod);
const RSP_EVENT: usize = offset_of!(Sring, rsp_event);

/// The two message types of a ring. A slot is as large as the larger of them.
pub trait RingKind {
    /// What a frontend sends.
    type Request: FromBytes + IntoBytes + Immutable + Copy;
    /// What a backend answers.
    type Response: FromBytes + IntoBytes + Immutable + Copy;
    /// Size of one slot in bytes: `sizeof(union NAME_sring_entry)`.
    const SLOT: usize = {
        let (req, rsp) = (size_of::<Self::Request>(), size_of::<Self::Response>());
        if req > rsp { req } else { rsp }
    };
}

/// The requesting half of a ring.
pub struct FrontRing<K, M> {
    mem: M,
    size: u32,
    /// Next request slot to fill.
    req_prod: u32,
    /// Requests up to here have been shown to the backend.
    published: u32,
    /// Next response to take.
    rsp_cons: u32,
    /// Responses up to here are known to be there.
    rsp_seen: u32,
    kind: PhantomData<K>,
}

impl<K: RingKind, M: SharedMem> FrontRing<K, M> {
    /// Makes a fresh, empty ring in `mem`, whose pages the peer must not use yet.
    pub fn new(mem: M) -> Self {
        let size = ring_size(mem.len(), K::SLOT);
        mem.write(0, Sring::INIT.as_bytes());
        FrontRing { mem, size, req_prod: 0, published: 0, rsp_cons: 0, rsp_seen: 0, kind: PhantomData }
    }

    /// The shared memory, for its grant references.
    pub fn memory(&self) -> &M {
        &self.mem
    }

    /// Gives the shared memory back.
    pub fn into_memory(self) -> M {
        self.mem
    }

    /// Number of slots.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Requests that can be pushed before a response has to be taken.
    pub fn free(&self) -> u32 {
        self.size - self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// Puts a request on the ring, not yet visible to the backend, and returns its index.
    /// `None` if the ring is full.
    pub fn push(&mut self, request: &K::Request) -> Option<u32> {
        if self.free() == 0 {
            return None;
        }
        let index = self.req_prod;
        self.mem.write(entry_offset(index, self.size, K::SLOT), request.as_bytes());
        self.req_prod = index.wrapping_add(1);
        Some(index)
    }

    /// Shows the pushed requests to the backend; true if it asked to be notified of them.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let old = self.published;
        if self.req_prod == old {
            return false;
        }
        self.mem.store(REQ_PROD, self.req_prod);
        self.published = self.req_prod;
        // The backend arms REQ_EVENT and then looks at REQ_PROD; we do the reverse. A full
        // barrier between makes at least one side see the other's write.
        fence(Ordering::SeqCst);
        must_notify(old, self.req_prod, self.mem.load(REQ_EVENT))
    }

    /// Takes the next response and the index of the slot it was in.
    pub fn pop(&mut self) -> Result<Option<(u32, K::Response)>, RingCorrupt> {
        if self.rsp_cons == self.rsp_seen && !self.look()? {
            return Ok(None);
        }
        let index = self.rsp_cons;
        let mut response = K::Response::new_zeroed();
        self.mem.read(entry_offset(index, self.size, K::SLOT), response.as_mut_bytes());
        self.rsp_cons = index.wrapping_add(1);
        Ok(Some((index, response)))
    }

    /// Asks for an event at the next response; true if one has come meanwhile, so that the caller
    /// takes it instead of sleeping.
    pub fn arm(&mut self) -> Result<bool, RingCorrupt> {
        if self.rsp_cons != self.rsp_seen {
            return Ok(true);
        }
        self.mem.store(RSP_EVENT, self.rsp_cons.wrapping_add(1));
        fence(Ordering::SeqCst);
        self.look()
    }

    /// Reads the backend's producer index once.
    fn look(&mut self) -> Result<bool, RingCorrupt> {
        let produced = self.mem.load(RSP_PROD);
        let waiting = unconsumed_responses(produced, self.rsp_cons, self.published);
        // A producer index that goes back hides responses it has shown; keep the further one.
        if waiting.ok_or(RingCorrupt)? > self.rsp_seen.wrapping_sub(self.rsp_cons) {
            self.rsp_seen = produced;
        }
        Ok(self.rsp_seen != self.rsp_cons)
    }
}

/// The answering half of a ring.
pub struct BackRing<K, M> {
    mem: M,
    size: u32,
    /// Next request to take.
    req_cons: u32,
    /// Requests up to here are known to be there.
    req_seen: u32,
    /// Next response slot to fill.
    rsp_prod: u32,
    /// Responses up to here have been shown to the frontend.
    published: u32,
    kind: PhantomData<K>,
}

impl<K: RingKind, M: SharedMem> BackRing<K, M> {
    /// Attaches to a ring the frontend made. After an earlier backend it goes on behind the last
    /// response that one gave.
    pub fn attach(mem: M) -> Result<Self, RingCorrupt> {
        let size = ring_size(mem.len(), K::SLOT);
        let start = mem.load(RSP_PROD);
        if request_prod_overflow(size, mem.load(REQ_PROD), start) {
            return Err(RingCorrupt);
        }
        Ok(BackRing {
            mem,
            size,
            req_cons: start,
            req_seen: start,
            rsp_prod: start,
            published: start,
            kind: PhantomData,
        })
    }

    /// Number of slots.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Takes the next request.
    pub fn pop(&mut self) -> Result<Option<K::Request>, RingCorrupt> {
        if self.req_cons == self.req_seen && !self.look()? {
            return Ok(None);
        }
        let mut request = K::Request::new_zeroed();
        self.mem.read(entry_offset(self.req_cons, self.size, K::SLOT), request.as_mut_bytes());
        self.req_cons = self.req_cons.wrapping_add(1);
        Ok(Some(request))
    }

    /// Requests that are there to be taken, reading the frontend's index once.
    pub fn pending(&mut self) -> Result<u32, RingCorrupt> {
        self.look()?;
        Ok(self.req_seen.wrapping_sub(self.req_cons))
    }

    /// Asks for an event at the next request; true if one has come meanwhile.
    pub fn arm(&mut self) -> Result<bool, RingCorrupt> {
        if self.req_cons != self.req_seen {
            return Ok(true);
        }
        self.mem.store(REQ_EVENT, self.req_cons.wrapping_add(1));
        fence(Ordering::SeqCst);
        self.look()
    }

    /// Puts a response on the ring, not yet visible. There is room for one per request taken;
    /// more than that is a bug of ours and is refused.
    pub fn push(&mut self, response: &K::Response) -> Result<(), RingCorrupt> {
        if self.rsp_prod == self.req_cons {
            return Err(RingCorrupt);
        }
        self.mem.write(entry_offset(self.rsp_prod, self.size, K::SLOT), response.as_bytes());
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
        Ok(())
    }

    /// Shows the pushed responses to the frontend; true if it asked to be notified of them.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let old = self.published;
        if self.rsp_prod == old {
            return false;
        }
        self.mem.store(RSP_PROD, self.rsp_prod);
        self.published = self.rsp_prod;
        fence(Ordering::SeqCst);
        must_notify(old, self.rsp_prod, self.mem.load(RSP_EVENT))
    }

    /// Reads the frontend's producer index once. Every slot holds a request not yet taken, one
    /// being worked on, or a response: the frontend cannot be further than a ring ahead of our
    /// responses.
    fn look(&mut self) -> Result<bool, RingCorrupt> {
        let produced = self.mem.load(REQ_PROD);
        let room = self.size - self.req_cons.wrapping_sub(self.rsp_prod);
        let waiting = produced.wrapping_sub(self.req_cons);
        if waiting > room {
            return Err(RingCorrupt);
        }
        if waiting > self.req_seen.wrapping_sub(self.req_cons) {
            self.req_seen = produced;
        }
        Ok(self.req_seen != self.req_cons)
    }
}

#[cfg(test)]
mod tests;
