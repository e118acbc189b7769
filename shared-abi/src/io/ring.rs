//! Restates `io/ring.h`: the ring of fixed-size requests and responses, and byte rings.
//!
//! Only the arithmetic is here. Indices run freely over 32 bits and are reduced to a slot when one is
//! used; the other side writes half of them, so what was read from the page once must be checked with
//! the functions here before it is believed. Loads, stores and their order belong to whoever owns the
//! page.

/// A free-running index.
pub type RingIdx = u32;

abi_structs! {
    /// What a ring's first page starts with; the entries follow.
    pub struct Sring("struct empty_sring", 64) {
        req_prod: RingIdx,
        /// The requester notifies when `req_prod` passes this.
        req_event: RingIdx,
        rsp_prod: RingIdx,
        /// The responder notifies when `rsp_prod` passes this.
        rsp_event: RingIdx,
        /// Union: private to the protocol.
        pvt: [u8; 4],
        __pad: [u8; 44],
    }
}

impl Sring {
    /// `SHARED_RING_INIT`: an empty ring whose sides want to hear of the first entry.
    pub const INIT: Sring =
        Sring { req_prod: 0, req_event: 1, rsp_prod: 0, rsp_event: 1, pvt: [0; 4], __pad: [0; 44] };
}

/// Bytes before the first entry.
pub const HEADER_SIZE: usize = size_of::<Sring>();

/// `__RING_SIZE`: entries of a ring of `bytes`, of `entry_size` bytes each: as many as fit, rounded
/// down to a power of two. 0 if none fits.
pub const fn ring_size(bytes: usize, entry_size: usize) -> u32 {
    if entry_size == 0 {
        return 0;
    }
    let fit = bytes.saturating_sub(HEADER_SIZE) / entry_size;
    match fit.checked_ilog2() {
        Some(log) if log < 32 => 1 << log,
        Some(_) => 1 << 31,
        None => 0,
    }
}

/// The slot of `idx` in a ring of `size` (a power of two) entries.
pub const fn slot(idx: RingIdx, size: u32) -> u32 {
    idx & (size - 1)
}

/// The byte at which the entry of `idx` starts.
pub const fn entry_offset(idx: RingIdx, size: u32, entry_size: usize) -> usize {
    HEADER_SIZE + slot(idx, size) as usize * entry_size
}

/// `RING_FREE_REQUESTS`: how many requests a frontend may still write.
pub const fn free_requests(size: u32, req_prod_pvt: RingIdx, rsp_cons: RingIdx) -> u32 {
    size.saturating_sub(req_prod_pvt.wrapping_sub(rsp_cons))
}

/// Responses a frontend has to read. `None` if the backend claims more than there are requests under
/// way (`RING_RESPONSE_PROD_OVERFLOW`, against the requests that were made).
pub const fn unconsumed_responses(
    rsp_prod: RingIdx,
    rsp_cons: RingIdx,
    req_prod_pvt: RingIdx,
) -> Option<u32> {
    let claimed = rsp_prod.wrapping_sub(rsp_cons);
    if claimed > req_prod_pvt.wrapping_sub(rsp_cons) { None } else { Some(claimed) }
}

/// Requests a backend has to read. `None` if the frontend claims more than the ring holds
/// (`RING_REQUEST_PROD_OVERFLOW`). The count also never passes the slots whose response is not
/// written yet, so no request is read from a slot that is still owed one.
pub const fn unconsumed_requests(
    size: u32,
    req_prod: RingIdx,
    req_cons: RingIdx,
    rsp_prod_pvt: RingIdx,
) -> Option<u32> {
    if request_prod_overflow(size, req_prod, rsp_prod_pvt) {
        return None;
    }
    let claimed = req_prod.wrapping_sub(req_cons);
    let room = size.saturating_sub(req_cons.wrapping_sub(rsp_prod_pvt));
    Some(if claimed < room { claimed } else { room })
}

/// `RING_REQUEST_PROD_OVERFLOW`: the frontend's index is further ahead of the responses than the ring
/// is long, or behind them.
pub const fn request_prod_overflow(size: u32, req_prod: RingIdx, rsp_prod_pvt: RingIdx) -> bool {
    req_prod.wrapping_sub(rsp_prod_pvt) > size
}

/// `RING_REQUEST_CONS_OVERFLOW`: reading the request at `cons` would read a slot still owed a response.
pub const fn request_cons_overflow(size: u32, cons: RingIdx, rsp_prod_pvt: RingIdx) -> bool {
    cons.wrapping_sub(rsp_prod_pvt) >= size
}

/// `RING_RESPONSE_PROD_OVERFLOW`: the backend's index is further ahead than the ring is long, or behind.
pub const fn response_prod_overflow(size: u32, rsp_prod: RingIdx, rsp_cons: RingIdx) -> bool {
    rsp_prod.wrapping_sub(rsp_cons) > size
}

/// Whether the other side asked to hear of a producer moving from `old` to `new`: whether its `event`
/// index, read after `new` was made visible, is in `old + 1 ..= new`.
pub const fn must_notify(old: RingIdx, new: RingIdx, event: RingIdx) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

/// Rings of bytes: the console and the store. `size` is a power of two.
pub mod bytes {
    use super::RingIdx;

    /// Bytes written and not read. `None` if the indices cannot both be right.
    pub const fn used(prod: RingIdx, cons: RingIdx, size: u32) -> Option<u32> {
        let used = prod.wrapping_sub(cons);
        if used > size { None } else { Some(used) }
    }

    /// Bytes that may be written. `None` if the indices cannot both be right.
    pub const fn free(prod: RingIdx, cons: RingIdx, size: u32) -> Option<u32> {
        match used(prod, cons, size) {
            Some(used) => Some(size - used),
            None => None,
        }
    }

    /// Of `len` bytes from `idx` on (at most `size`): where they start, how many lie there before the
    /// ring's end, and how many go on at its start.
    pub const fn split(idx: RingIdx, len: u32, size: u32) -> (usize, usize, usize) {
        let start = idx & (size - 1);
        let len = if len < size { len } else { size };
        let first = if len < size - start { len } else { size - start };
        (start as usize, first as usize, (len - first) as usize)
    }
}
