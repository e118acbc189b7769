//! A split virtqueue (virtio 1.2, section 2.7).
//!
//! The device has its own copy of nothing: descriptors, the ring of what is available and the
//! ring of what was used all lie in two pages of ours that it reads and writes. What we need to
//! know is kept privately, so a device that scribbles there harms its own requests alone; it names
//! a finished request by a number, which is looked up among those that are really in flight.

use super::{Broken, Error};
use alloc::vec;
use alloc::vec::Vec;
use guest_kernel::memory::{Pages, full_fence};
use shared_abi::PAGE_SIZE;

/// Most descriptors: as many as fill a page.
const MOST: u16 = (PAGE_SIZE / DESCRIPTOR) as u16;
const DESCRIPTOR: usize = 16;
/// Flags of a descriptor: another follows; the device writes.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// The rings are in the second page. Each begins with flags and an index.
const AVAILABLE: usize = PAGE_SIZE;
const USED: usize = PAGE_SIZE + 1024;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
/// In either ring's flags: don't tell me.
const QUIET: u16 = 1;

/// Consecutive bytes of a request in the machine's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The first byte's machine address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes them; else it reads them.
    pub write: bool,
}

/// A virtqueue.
pub struct Queue {
    memory: Pages,
    size: u16,
    /// Descriptors in no request.
    free: Vec<u16>,
    /// For each descriptor the one that follows in its request.
    next: Vec<Option<u16>>,
    /// For each descriptor whether a request in flight starts with it.
    head: Vec<bool>,
    /// Requests made available, and how many of them the device was shown.
    made: u16,
    shown: u16,
    /// Requests taken back.
    taken: u16,
}

impl Queue {
    /// A queue of `most` descriptors, as the device says, or of as many as are of use.
    pub fn new(most: u16) -> Result<Queue, Error> {
        // Powers of two only.
        let size = if most >= MOST { MOST } else { (most + 1).next_power_of_two() >> 1 };
        if size == 0 {
            return Err(Error::Device("queue without room"));
        }
        let places = usize::from(size);
        let (next, head) = (vec![None; places], vec![false; places]);
        let memory = Pages::new(2)?;
        Ok(Queue { memory, size, free: (0..size).rev().collect(), next, head, made: 0, shown: 0, taken: 0 })
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Number of descriptors in no request.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Machine addresses of the descriptors, the available and the used ring.
    pub fn addresses(&self) -> [u64; 3] {
        let [table, rings] = [0, 1].map(|page| self.memory.mfn(page).0 * PAGE_SIZE as u64);
        [table, rings + (AVAILABLE - PAGE_SIZE) as u64, rings + (USED - PAGE_SIZE) as u64]
    }

    /// Makes a request of these pieces, the ones that the device reads before the ones it writes,
    /// and returns its number. `None` without room for it.
    pub fn push(&mut self, pieces: &[Piece]) -> Option<u16> {
        if pieces.is_empty() || pieces.len() > self.free.len() {
            return None;
        }
        let mut follower: Option<u16> = None;
        for piece in pieces.iter().rev() {
            let place = self.free.pop()?;
            let flags = if piece.write { WRITE } else { 0 } | if follower.is_some() { NEXT } else { 0 };
            let mut bytes = [0; DESCRIPTOR];
            bytes[..8].copy_from_slice(&piece.address.to_le_bytes());
            bytes[8..12].copy_from_slice(&piece.len.to_le_bytes());
            bytes[12..14].copy_from_slice(&flags.to_le_bytes());
            bytes[14..].copy_from_slice(&follower.unwrap_or(0).to_le_bytes());
            self.memory.write_bytes(usize::from(place) * DESCRIPTOR, &bytes);
            self.next[usize::from(place)] = follower;
            follower = Some(place);
        }
        let head = follower?;
        self.head[usize::from(head)] = true;
        let slot = usize::from(self.made % self.size);
        self.memory.store_u16(AVAILABLE + ENTRIES + slot * 2, head);
        self.made = self.made.wrapping_add(1);
        Some(head)
    }

    /// Shows the requests to the device; true if it wants to be told.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        if self.made == self.shown {
            return false;
        }
        self.memory.store_u16(AVAILABLE + INDEX, self.made);
        self.shown = self.made;
        // The device clears its wish to be left alone and then looks for requests; we do the
        // reverse. With a full barrier between, at least one sees what the other did.
        full_fence();
        self.memory.load_u16(USED) & QUIET == 0
    }

    /// Takes back a request that the device has finished: its number, and how many bytes were
    /// written.
    pub fn pop(&mut self) -> Result<Option<(u16, u32)>, Broken> {
        let done = self.memory.load_u16(USED + INDEX);
        let waiting = done.wrapping_sub(self.taken);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.shown.wrapping_sub(self.taken) {
            return Err(Broken);
        }
        let at = USED + ENTRIES + usize::from(self.taken % self.size) * 8;
        let (number, len) = (self.memory.load_u32(at), self.memory.load_u32(at + 4));
        let number = u16::try_from(number).ok().filter(|n| *n < self.size).ok_or(Broken)?;
        if !core::mem::take(&mut self.head[usize::from(number)]) {
            return Err(Broken);
        }
        self.taken = self.taken.wrapping_add(1);
        let mut place = Some(number);
        while let Some(this) = place {
            place = self.next[usize::from(this)].take();
            self.free.push(this);
        }
        Ok(Some((number, len)))
    }

    /// Asks the device to leave us alone.
    pub fn quiet(&mut self) {
        self.memory.store_u16(AVAILABLE, QUIET);
    }

    /// Asks the device for an interrupt at the next finished request; true if there is one already.
    pub fn arm(&mut self) -> bool {
        self.memory.store_u16(AVAILABLE, 0);
        full_fence();
        self.memory.load_u16(USED + INDEX) != self.taken
    }
}

#[cfg(test)]
pub(super) mod tests;
