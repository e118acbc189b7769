//! How tasks tell each other something: a bell and a queue.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

/// A bell: [`Notify::notify`] wakes every task that waits, or the next one that will.
#[derive(Default, Debug)]
pub struct Notify {
    rung: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Notify {
    /// A bell that has not been rung.
    pub const fn new() -> Notify {
        Notify { rung: Cell::new(false), waiting: RefCell::new(Vec::new()) }
    }

    /// Rings.
    pub fn notify(&self) {
        self.rung.set(true);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits for a ring. A ring that came while nobody waited is remembered, once.
    pub async fn wait(&self) {
        let mut waiting = false;
        poll_fn(|cx| {
            // Woken by a ring, or rung before: whoever comes first takes the mark away.
            if self.rung.take() || (waiting && !self.is_listed(cx.waker())) {
                return Poll::Ready(());
            }
            waiting = true;
            if !self.is_listed(cx.waker()) {
                self.waiting.borrow_mut().push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn is_listed(&self, waker: &Waker) -> bool {
        self.waiting.borrow().iter().any(|w| w.will_wake(waker))
    }
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receiving: bool,
    /// Tasks waiting for room, and the one waiting for an item.
    full: Vec<Waker>,
    empty: Option<Waker>,
}

/// The sending end of a queue. Clones send to the same queue.
#[derive(Debug)]
pub struct Sender<T>(Rc<RefCell<Queue<T>>>);

/// The receiving end of a queue.
#[derive(Debug)]
pub struct Receiver<T>(Rc<RefCell<Queue<T>>>);

/// The other end of a queue is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed;

/// A queue of at most `capacity` items between tasks.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Queue {
        items: VecDeque::new(),
        capacity: capacity.max(1),
        senders: 1,
        receiving: true,
        full: Vec::new(),
        empty: None,
    };
    let queue = Rc::new(RefCell::new(queue));
    (Sender(queue.clone()), Receiver(queue))
}

impl<T> Sender<T> {
    /// Sends if there is room; else gives the item back.
    pub fn try_send(&self, item: T) -> Result<(), T> {
        let mut queue = self.0.borrow_mut();
        if !queue.receiving || queue.items.len() >= queue.capacity {
            return Err(item);
        }
        queue.items.push_back(item);
        if let Some(waker) = queue.empty.take() {
            waker.wake();
        }
        Ok(())
    }

    /// Sends, waiting for room.
    pub async fn send(&self, item: T) -> Result<(), Closed> {
        let mut item = Some(item);
        poll_fn(|cx| {
            let Some(value) = item.take() else { return Poll::Ready(Ok(())) };
            match self.try_send(value) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(_) if !self.0.borrow().receiving => Poll::Ready(Err(Closed)),
                Err(value) => {
                    item = Some(value);
                    self.0.borrow_mut().full.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.borrow_mut().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        queue.senders -= 1;
        if queue.senders == 0
            && let Some(waker) = queue.empty.take()
        {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// An item if one is there.
    pub fn try_receive(&mut self) -> Option<T> {
        let mut queue = self.0.borrow_mut();
        let item = queue.items.pop_front()?;
        for waker in queue.full.drain(..) {
            waker.wake();
        }
        Some(item)
    }

    /// The next item; `None` when all senders are gone and the queue is empty.
    pub async fn receive(&mut self) -> Option<T> {
        poll_fn(|cx| {
            if let Some(item) = self.try_receive() {
                return Poll::Ready(Some(item));
            }
            let mut queue = self.0.borrow_mut();
            if queue.senders == 0 {
                return Poll::Ready(None);
            }
            queue.empty = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        queue.receiving = false;
        let items = core::mem::take(&mut queue.items);
        for waker in queue.full.drain(..) {
            waker.wake();
        }
        drop(queue);
        drop(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{block_on, join, spawn, yield_now};

    #[test]
    fn a_queue_keeps_order_bounds_its_length_and_ends() {
        block_on(async {
            let (tx, mut rx) = channel(2);
            let (_, got) = join(
                async move {
                    for n in 0..10 {
                        tx.send(n).await.unwrap();
                        assert!(tx.0.borrow().items.len() <= 2);
                    }
                },
                async {
                    let mut got = Vec::new();
                    while let Some(n) = rx.receive().await {
                        got.push(n);
                        yield_now().await;
                    }
                    got
                },
            )
            .await;
            assert_eq!(got, (0..10).collect::<Vec<_>>());
            let (tx, rx) = channel(1);
            drop(rx);
            assert_eq!(tx.send(1).await, Err(Closed));
        });
    }

    #[test]
    fn a_ring_wakes_all_waiters_and_is_remembered_once() {
        block_on(async {
            let bell = Rc::new(Notify::new());
            bell.notify();
            bell.wait().await;
            let waiters: Vec<_> = (0..3)
                .map(|_| {
                    let bell = bell.clone();
                    spawn(async move { bell.wait().await })
                })
                .collect();
            yield_now().await;
            assert!(waiters.iter().all(|w| !w.is_finished()));
            bell.notify();
            for waiter in waiters {
                waiter.await;
            }
        });
    }
}
