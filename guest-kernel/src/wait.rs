//! Tasks waiting for something to change.

use alloc::vec::Vec;
use core::task::{Context, Waker};

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
        if !self.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.wakers.push(cx.waker().clone());
        }
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
