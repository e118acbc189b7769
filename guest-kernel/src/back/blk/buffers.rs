//! Transfer buffers shared by all block backends of a driver domain, fairly between the guests.
//!
//! Data passes through a buffer of ours between the guest's pages and the disk, so a disk driver
//! never sees memory that a guest can change under it. Their number bounds what all guests
//! together can have in flight. One that is given back goes to the guest that holds the fewest of
//! those that wait: however many disks a guest has and however many requests it makes, another one
//! with as much to do gets as much done, and one with a single request waits for one buffer.

use crate::block::protocol::MAX_SEGMENTS;
use crate::share::PAGE_SIZE;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::ops::{Deref, DerefMut};
use core::task::{Poll, Waker};
use shared_abi::DomId;

/// Bytes in a buffer: the largest request.
pub const BUFFER_SIZE: usize = MAX_SEGMENTS * PAGE_SIZE;

/// A fixed number of buffers of [`BUFFER_SIZE`] bytes.
pub struct Buffers(RefCell<Pool>);

struct Pool {
    /// While there is one, nobody waits.
    free: Vec<Box<[u8]>>,
    /// How many each guest holds; none is left out.
    held: BTreeMap<DomId, usize>,
    /// In the order of their arrival.
    waiting: Vec<Waiting>,
    arrivals: u64,
}

/// A task that waits for a buffer.
struct Waiting {
    number: u64,
    guest: DomId,
    waker: Option<Waker>,
    given: Option<Box<[u8]>>,
}

impl Buffers {
    /// `count` buffers; at least one.
    pub fn new(count: usize) -> Rc<Self> {
        let free = (0..count.max(1)).map(|_| vec![0; BUFFER_SIZE].into_boxed_slice()).collect();
        let pool = Pool { free, held: BTreeMap::new(), waiting: Vec::new(), arrivals: 0 };
        Rc::new(Buffers(RefCell::new(pool)))
    }

    /// Number of buffers nobody holds.
    pub fn available(&self) -> usize {
        self.0.borrow().free.len()
    }

    /// What `guest` has of them.
    pub fn of(self: &Rc<Self>, guest: DomId) -> Share {
        Share { buffers: self.clone(), guest }
    }
}

impl Pool {
    /// Gives a buffer to whom it is due, or keeps it.
    fn put(&mut self, bytes: Box<[u8]>) {
        let held = |guest: &DomId| self.held.get(guest).copied().unwrap_or(0);
        let waiting = self.waiting.iter_mut().filter(|waiting| waiting.given.is_none());
        // The first of those with as few as it.
        let Some(next) = waiting.min_by_key(|waiting| held(&waiting.guest)) else {
            return self.free.push(bytes);
        };
        next.given = Some(bytes);
        if let Some(waker) = &next.waker {
            waker.wake_by_ref();
        }
        let guest = next.guest;
        *self.held.entry(guest).or_default() += 1;
    }

    /// Takes a buffer back from a guest.
    fn give_back(&mut self, guest: DomId, bytes: Box<[u8]>) {
        if let Some(held) = self.held.get_mut(&guest) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&guest);
            }
        }
        self.put(bytes);
    }
}

/// One guest's share of the buffers.
#[derive(Clone)]
pub struct Share {
    buffers: Rc<Buffers>,
    guest: DomId,
}

impl Share {
    /// Waits for a buffer. It still holds what its last user left in it.
    pub async fn take(&self) -> Buffer {
        let number = {
            let mut pool = self.buffers.0.borrow_mut();
            if let Some(bytes) = pool.free.pop() {
                *pool.held.entry(self.guest).or_default() += 1;
                return Buffer { bytes, home: self.clone() };
            }
            pool.arrivals += 1;
            let number = pool.arrivals;
            pool.waiting.push(Waiting { number, guest: self.guest, waker: None, given: None });
            number
        };
        let place = Place { share: self, number };
        let bytes = poll_fn(|cx| {
            let mut pool = self.buffers.0.borrow_mut();
            let Some(waiting) = pool.waiting.iter_mut().find(|waiting| waiting.number == place.number) else {
                return Poll::Pending;
            };
            match waiting.given.take() {
                Some(bytes) => Poll::Ready(bytes),
                None => {
                    waiting.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        Buffer { bytes, home: self.clone() }
    }
}

/// A place among those who wait, given up when dropped; a buffer that was given and not taken goes on.
struct Place<'a> {
    share: &'a Share,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut pool = self.share.buffers.0.borrow_mut();
        if let Some(at) = pool.waiting.iter().position(|waiting| waiting.number == self.number) {
            let Waiting { guest, given, .. } = pool.waiting.remove(at);
            if let Some(bytes) = given {
                pool.give_back(guest, bytes);
            }
        }
    }
}

/// A buffer on loan; it goes back when dropped.
pub struct Buffer {
    bytes: Box<[u8]>,
    home: Share,
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Share { buffers, guest } = &self.home;
        buffers.0.borrow_mut().give_back(*guest, core::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{JoinHandle, block_on, spawn, yield_now};
    use core::cell::Cell;

    /// `tasks` tasks that take a buffer, hold it for a while, and ask for one again; how often they got one.
    fn busy(share: &Share, tasks: usize) -> (Rc<Cell<u32>>, Vec<JoinHandle<()>>) {
        let got = Rc::new(Cell::new(0));
        let task = |_| {
            let (share, got) = (share.clone(), got.clone());
            spawn(async move {
                loop {
                    let buffer = share.take().await;
                    got.set(got.get() + 1);
                    yield_now().await;
                    yield_now().await;
                    drop(buffer);
                }
            })
        };
        let tasks = (0..tasks).map(task).collect();
        (got, tasks)
    }

    /// A guest with twenty disks used to get ten times what a guest with two got.
    #[test]
    fn guests_have_equal_shares_whatever_they_ask_for() {
        block_on(async {
            let buffers = Buffers::new(16);
            let [many, few] =
                [(1, 160), (2, 16)].map(|(guest, tasks)| busy(&buffers.of(DomId(guest)), tasks));
            for _ in 0..300 {
                yield_now().await;
            }
            let (many_got, few_got) = (many.0.get(), few.0.get());
            assert!(few_got > 500 && many_got.abs_diff(few_got) <= 32, "{many_got} and {few_got}");
            for task in many.1.into_iter().chain(few.1) {
                task.abort();
            }
            assert_eq!(buffers.available(), 16);
            assert!(buffers.0.borrow().held.is_empty() && buffers.0.borrow().waiting.is_empty());
        });
    }

    #[test]
    fn a_single_request_waits_for_one_buffer_beside_a_flood() {
        block_on(async {
            let buffers = Buffers::new(4);
            let (got, tasks) = busy(&buffers.of(DomId(1)), 100);
            yield_now().await;
            let other = buffers.of(DomId(2));
            for _ in 0..50 {
                let before = got.get();
                let buffer = other.take().await;
                assert!(got.get() - before <= 4, "{} others came first", got.get() - before);
                drop(buffer);
                yield_now().await;
            }
            tasks.iter().for_each(JoinHandle::abort);
        });
    }

    /// What was given to a task that gives up in the same moment is not lost.
    #[test]
    fn a_place_that_is_given_up_passes_its_buffer_on() {
        block_on(async {
            let buffers = Buffers::new(1);
            let held = buffers.of(DomId(1)).take().await;
            let wait = |guest| {
                let share = buffers.of(DomId(guest));
                spawn(async move { share.take().await })
            };
            let (first, second) = (wait(2), wait(3));
            yield_now().await;
            drop(held);
            first.abort();
            let buffer = second.await;
            assert!(buffer.is_some() && buffers.available() == 0);
            drop(buffer);
            assert_eq!(buffers.available(), 1);
        });
    }
}
