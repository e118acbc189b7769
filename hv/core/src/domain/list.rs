//! The list of domains, by number.
//!
//! Every event to another domain and every grant looks a number up, so that must not wait for others who look up
//! other numbers: each number has a place of its own, with a lock that guards no more than the cloning of what
//! is there. Places come in chunks that are never freed, so the way to one needs no lock. A bitmap for each chunk says
//! which may be taken, for those who walk over all.

use super::Domain;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use hv_machine::lock::{Mutex, rank};
use shared_abi::{DomId, Errno};
use spin::Once;

const CHUNK: usize = 64;
const CHUNKS: usize = (DomId::FIRST_RESERVED.0 as usize).div_ceil(CHUNK);

struct Chunk {
    /// Which places a domain is in, or about to be put in or taken from.
    used: AtomicU64,
    places: Box<[Mutex<Option<Arc<Domain>>>; CHUNK]>,
}

static CHUNK_OF: [Once<Chunk>; CHUNKS] = [const { Once::new() }; CHUNKS];

/// A domain by number.
#[inline]
pub fn find(id: DomId) -> Option<Arc<Domain>> {
    let chunk = CHUNK_OF.get(usize::from(id.0) / CHUNK)?.get()?;
    chunk.places[usize::from(id.0) % CHUNK].lock().clone()
}

/// The first domain from `id` on (`XEN_SYSCTL_getdomaininfolist`).
pub fn next_from(id: DomId) -> Option<Arc<Domain>> {
    let first = usize::from(id.0) / CHUNK;
    for (c, chunk) in CHUNK_OF.iter().enumerate().skip(first) {
        let Some(chunk) = chunk.get() else { continue };
        let skipped = if c == first { usize::from(id.0) % CHUNK } else { 0 };
        let mut left = chunk.used.load(SeqCst) & u64::MAX << skipped;
        while left != 0 {
            if let Some(d) = chunk.places[left.trailing_zeros() as usize].lock().clone() {
                return Some(d);
            }
            left &= left - 1;
        }
    }
    None
}

/// Adds a domain to the list.
///
/// # Errors
/// `EEXIST`: the number is taken. `EINVAL`: it is none that a domain may have. `ENOMEM`.
pub(super) fn insert(d: Arc<Domain>) -> Result<(), Errno> {
    let (chunk, at) = (usize::from(d.id.0) / CHUNK, usize::from(d.id.0) % CHUNK);
    let chunk = CHUNK_OF.get(chunk).ok_or(Errno::EINVAL)?.try_call_once(|| {
        let mut places = Vec::new();
        places.try_reserve_exact(CHUNK).map_err(|_| Errno::ENOMEM)?;
        places.resize_with(CHUNK, || Mutex::new(rank::DOMAIN_LIST, None));
        let places = places.into_boxed_slice().try_into().map_err(|_| Errno::ENOMEM)?;
        Ok(Chunk { used: AtomicU64::new(0), places })
    })?;
    let mut place = chunk.places[at].lock();
    if place.is_some() {
        return Err(Errno::EEXIST);
    }
    chunk.used.fetch_or(1 << at, SeqCst);
    *place = Some(d);
    Ok(())
}

/// Takes a domain from the list, if it is there: by now its number may be another's.
pub(super) fn remove(dom: &Domain) -> Option<Arc<Domain>> {
    let chunk = CHUNK_OF.get(usize::from(dom.id.0) / CHUNK)?.get()?;
    let at = usize::from(dom.id.0) % CHUNK;
    let mut place = chunk.places[at].lock();
    if !place.as_ref().is_some_and(|found| core::ptr::eq(&raw const **found, dom)) {
        return None;
    }
    chunk.used.fetch_and(!(1 << at), SeqCst);
    place.take()
}
