//! The pages data goes through, granted to the backend once and for good.
//!
//! The most recently used page is used next, so that a backend which keeps a bounded number of
//! them mapped finds the ones it has (`feature-persistent` in `io/blkif.h`).

use crate::share::{GrantedPage, PAGE_SIZE};
use crate::wait::WaitList;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use arrayvec::ArrayVec;

/// Which page of the pool.
pub(super) type PageId = u16;

pub(super) struct Pool<P> {
    pages: Vec<P>,
    free: Vec<PageId>,
    /// Who waits for pages, first come first served: a large transfer is not overtaken for ever
    /// by small ones.
    line: VecDeque<u64>,
    next_ticket: u64,
    pub(super) waiting: WaitList,
}

impl<P: GrantedPage> Pool<P> {
    pub(super) fn new(pages: Vec<P>) -> Self {
        let free = (0..pages.len() as PageId).rev().collect();
        Pool { pages, free, line: VecDeque::new(), next_ticket: 0, waiting: WaitList::new() }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.pages.len()
    }

    #[cfg(test)]
    pub(super) fn available(&self) -> usize {
        self.free.len()
    }

    pub(super) fn page(&self, id: PageId) -> &P {
        &self.pages[usize::from(id)]
    }

    /// Joins the line.
    pub(super) fn enter(&mut self) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.line.push_back(ticket);
        ticket
    }

    /// Leaves the line, served or not.
    pub(super) fn leave(&mut self, ticket: u64) {
        self.line.retain(|&waiting| waiting != ticket);
        self.waiting.wake_all();
    }

    /// Takes `count` pages if it is this ticket's turn and there are as many.
    pub(super) fn take<const N: usize>(&mut self, ticket: u64, count: usize) -> Option<ArrayVec<PageId, N>> {
        if self.line.front() != Some(&ticket) || self.free.len() < count {
            return None;
        }
        let left = self.free.len() - count;
        Some(self.free.drain(left..).rev().collect())
    }

    pub(super) fn give_back(&mut self, pages: &[PageId]) {
        self.free.extend(pages.iter().rev());
        self.waiting.wake_all();
    }

    /// Copies `data` into the pages, one after the other.
    pub(super) fn fill(&self, pages: &[PageId], data: &[u8]) {
        for (&id, chunk) in pages.iter().zip(data.chunks(PAGE_SIZE)) {
            self.page(id).write(0, chunk);
        }
    }

    /// Copies the pages' bytes into `data`.
    pub(super) fn empty(&self, pages: &[PageId], data: &mut [u8]) {
        for (&id, chunk) in pages.iter().zip(data.chunks_mut(PAGE_SIZE)) {
            self.page(id).read(0, chunk);
        }
    }
}
