//! Tasks waiting: for something to change ([`WaitList`]), or for their turn ([`Line`]).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

/// Wakers of the tasks that wait; each task is in it once. Allocates only while it grows to the
/// number of tasks that ever wait together.
#[derive(Default)]
pub struct WaitList {
    wakers: Vec<Waker>,
}

impl WaitList {
    /// Nobody waits.
    pub const fn new() -> Self {
        WaitList { wakers: Vec::new() }
    }

    /// Wakes this task at the next `wake_…`.
    pub fn park(&mut self, cx: &Context<'_>) {
        if !self.is_parked(cx) {
            self.wakers.push(cx.waker().clone());
        }
    }

    /// Whether this task is parked.
    pub fn is_parked(&self, cx: &Context<'_>) -> bool {
        self.wakers.iter().any(|waker| waker.will_wake(cx.waker()))
    }

    /// Wakes the task that has parked last.
    pub fn wake_one(&mut self) {
        if let Some(waker) = self.wakers.pop() {
            waker.wake();
        }
    }

    /// Wakes everybody.
    pub fn wake_all(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}

/// Tasks that want the same scarce things, served in the order in which they came.
///
/// Waking whoever waits is not enough for that: the task that has just given something back runs
/// on, and would take it again before any other gets to look.
#[derive(Default)]
pub struct Line {
    places: RefCell<VecDeque<(u64, Option<Waker>)>>,
}

impl Line {
    /// Nobody waits.
    pub const fn new() -> Self {
        Line { places: RefCell::new(VecDeque::new()) }
    }

    /// Waits for the turn, and then until `take` gives something. `take` is asked again after each
    /// [`wake`](Self::wake).
    pub async fn wait<T>(&self, mut take: impl FnMut() -> Option<T>) -> T {
        if self.places.borrow().is_empty()
            && let Some(taken) = take()
        {
            return taken;
        }
        let place = self.enter();
        poll_fn(|cx| {
            let mut places = self.places.borrow_mut();
            if places.front().is_some_and(|(number, _)| *number == place.number)
                && let Some(taken) = take()
            {
                return Poll::Ready(taken);
            }
            if let Some((_, waker)) = places.iter_mut().find(|(number, _)| *number == place.number) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// There may be something now, for the task at the front.
    pub fn wake(&self) {
        if let Some((_, Some(waker))) = self.places.borrow().front() {
            waker.wake_by_ref();
        }
    }

    fn enter(&self) -> Place<'_> {
        let mut places = self.places.borrow_mut();
        let number = places.back().map_or(0, |(last, _)| last.wrapping_add(1));
        places.push_back((number, None));
        Place { line: self, number }
    }
}

/// A place in the line, given up when dropped, served or not.
struct Place<'a> {
    line: &'a Line,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.line.places.borrow_mut().retain(|(number, _)| *number != self.number);
        // The next one's turn; what this one left may do for it, too.
        self.line.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{block_on, spawn, yield_now};
    use alloc::rc::Rc;
    use core::cell::Cell;

    /// A task that gives a thing back and asks for one again at once used to get it each time: two
    /// busy disks kept a third one's guest waiting for ever.
    #[test]
    fn who_comes_back_waits_behind_who_waits() {
        block_on(async {
            let (line, things) = (Rc::new(Line::new()), Rc::new(Cell::new(1)));
            let order = Rc::new(RefCell::new(Vec::new()));
            let tasks: Vec<_> = (0..3)
                .map(|task| {
                    let (line, things, order) = (line.clone(), things.clone(), order.clone());
                    spawn(async move {
                        for _ in 0..3 {
                            line.wait(|| (things.get() > 0).then(|| things.set(things.get() - 1))).await;
                            order.borrow_mut().push(task);
                            yield_now().await;
                            things.set(things.get() + 1);
                            line.wake();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
            assert_eq!(*order.borrow(), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        });
    }

    /// A task that gives up at the front passes its turn on.
    #[test]
    fn a_place_that_is_given_up_holds_nobody_up() {
        block_on(async {
            let (line, things) = (Rc::new(Line::new()), Rc::new(Cell::new(0)));
            let wait = |line: Rc<Line>, things: Rc<Cell<i32>>| async move {
                line.wait(|| (things.get() > 0).then(|| things.set(things.get() - 1))).await
            };
            let first = spawn(wait(line.clone(), things.clone()));
            let second = spawn(wait(line.clone(), things.clone()));
            yield_now().await;
            things.set(1);
            line.wake();
            first.abort();
            assert_eq!(second.await, Some(()));
        });
    }
}
