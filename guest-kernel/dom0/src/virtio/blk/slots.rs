//! The disk's slots: DMA memory for one request each, and who waits for its end.

use crate::virtio::{Error, Piece};
use alloc::vec::Vec;
use core::task::{Context, Poll, Waker};
use guest_kernel::memory::Pages;
use shared_abi::PAGE_SIZE;

/// Requests in flight at most.
const SLOTS: usize = 16;
/// Pages of a slot: 128 KiB, the largest request of a guest.
pub(super) const SLOT_PAGES: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    /// On loan, and the device has nothing to do with it.
    Landed,
    Flying,
    /// In flight, but nobody waits any more.
    Forgotten,
}

struct Slot {
    data: Pages,
    /// Runs of `data` that are consecutive in the machine: address and bytes.
    runs: Vec<(u64, usize)>,
    state: State,
    waker: Option<Waker>,
}

/// All of them.
pub(super) struct Slots {
    slots: Vec<Slot>,
}

impl Slots {
    /// As many slots as `descriptors` suffice for, but one at least. A piece has at most `piece`
    /// pages.
    pub fn new(descriptors: usize, piece: usize) -> Result<Slots, Error> {
        let mut slots: Vec<Slot> = Vec::new();
        let mut used = 0;
        while slots.len() < SLOTS {
            let slot = Slot::new(piece * PAGE_SIZE)?;
            used += slot.runs.len() + 2;
            if used > descriptors && !slots.is_empty() {
                break;
            }
            slots.push(slot);
        }
        Ok(Slots { slots })
    }

    /// Number of slots.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Pieces of data that a request of a whole slot has at most.
    pub fn most_pieces(&self) -> usize {
        self.slots.iter().map(|slot| slot.runs.len()).max().unwrap_or(0)
    }

    /// A slot's memory.
    pub fn data(&self, slot: usize) -> &Pages {
        &self.slots[slot].data
    }

    /// The pieces of a slot's first `len` bytes.
    pub fn pieces(&self, slot: usize, mut len: usize, write: bool) -> impl Iterator<Item = Piece> {
        self.slots[slot].runs.iter().map_while(move |(address, run)| {
            let now = len.min(*run);
            len -= now;
            (now > 0).then_some(Piece { address: *address, len: now as u32, write })
        })
    }

    /// Takes a slot, if one is free.
    pub fn take(&mut self) -> Option<usize> {
        let free = self.slots.iter().position(|slot| slot.state == State::Free)?;
        self.slots[free].state = State::Landed;
        Some(free)
    }

    /// The device has got it.
    pub fn launch(&mut self, slot: usize) {
        self.slots[slot].state = State::Flying;
    }

    /// The device has finished with it; true if it is free now.
    #[must_use]
    pub fn finish(&mut self, slot: usize) -> bool {
        let slot = &mut self.slots[slot];
        if slot.state == State::Forgotten {
            slot.state = State::Free;
            true
        } else {
            slot.state = State::Landed;
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
            false
        }
    }

    /// Ready when the device has finished with it.
    pub fn poll_landed(&mut self, slot: usize, cx: &Context<'_>) -> Poll<()> {
        let slot = &mut self.slots[slot];
        if slot.state == State::Landed {
            return Poll::Ready(());
        }
        slot.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Its user needs it no longer; true if it is free now.
    #[must_use]
    pub fn give_back(&mut self, slot: usize) -> bool {
        let slot = &mut self.slots[slot];
        slot.waker = None;
        let free = slot.state != State::Flying;
        slot.state = if free { State::Free } else { State::Forgotten };
        free
    }

    /// Nothing will be finished any more.
    pub fn wake_everybody(&mut self) {
        for waker in self.slots.iter_mut().filter_map(|slot| slot.waker.take()) {
            waker.wake();
        }
    }
}

impl Slot {
    /// A slot whose runs have at most `most` bytes.
    fn new(most: usize) -> Result<Slot, Error> {
        let data = Pages::new(SLOT_PAGES)?;
        let mut runs: Vec<(u64, usize)> = Vec::new();
        for page in 0..SLOT_PAGES {
            let address = data.mfn(page).0 * PAGE_SIZE as u64;
            match runs.last_mut() {
                Some((start, len)) if *start + *len as u64 == address && *len < most => *len += PAGE_SIZE,
                _ => runs.push((address, PAGE_SIZE)),
            }
        }
        Ok(Slot { data, runs, state: State::Free, waker: None })
    }
}
