//! The executor: cooperative tasks on the one vcpu.
//!
//! A task is polled, runs until it waits, and is polled again when its waker was called: by an
//! event, a timer or another task. The decision that shapes the file: no code of a task (poll or
//! drop) ever runs while the executor's own state is borrowed, so tasks may spawn, abort and wake
//! freely. When no task is ready the vcpu blocks in the hypervisor until an event or the next
//! timer.

mod combine;
mod sync;
mod timer;

pub use combine::{Either, join, select};
pub use sync::{Closed, Notify, Receiver, Sender, channel};
pub use timer::{Elapsed, Sleep, sleep, sleep_until, timeout};

use crate::{Local, events};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A place for a task. It is empty while the task runs and after it ended.
#[derive(Default)]
struct Place {
    /// Counts the tasks that had this place, so that a waker of an earlier one finds nobody.
    generation: u64,
    task: Option<(Task, Arc<Handle>)>,
    /// The task is being polled.
    running: bool,
}

/// What wakes one task.
struct Handle {
    index: usize,
    generation: u64,
    queued: AtomicBool,
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            READY.with(|ready| ready.push_back(self.clone()));
        }
    }
}

#[derive(Default)]
struct Executor {
    places: Vec<Place>,
    free: Vec<usize>,
}

impl Executor {
    fn add(&mut self, task: Task) -> Arc<Handle> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        let place = &mut self.places[index];
        let handle = Arc::new(Handle { index, generation: place.generation, queued: AtomicBool::new(false) });
        place.task = Some((task, handle.clone()));
        handle
    }

    fn current(&mut self, handle: &Handle) -> Option<&mut Place> {
        self.places.get_mut(handle.index).filter(|place| place.generation == handle.generation)
    }

    /// Ends a task's claim to its place.
    fn vacate(&mut self, handle: &Handle) -> Option<(Task, Arc<Handle>)> {
        let place = self.current(handle)?;
        place.generation += 1;
        place.running = false;
        let task = place.task.take();
        self.free.push(handle.index);
        task
    }
}

static EXECUTOR: Local<Executor> = Local::new(Executor::default);
static READY: Local<VecDeque<Arc<Handle>>> = Local::new(VecDeque::new);

/// Polls one ready task. False when none is ready.
fn step() -> bool {
    let Some(handle) = READY.with(VecDeque::pop_front) else { return false };
    handle.queued.store(false, Ordering::Relaxed);
    let taken = EXECUTOR.with(|e| {
        let place = e.current(&handle)?;
        place.running = true;
        place.task.take()
    });
    let Some((mut task, handle)) = taken else { return true };
    let waker = Waker::from(handle.clone());
    if task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
        EXECUTOR.with(|e| e.vacate(&handle));
        return true;
    }
    // Give it back, unless it was aborted while it ran.
    let aborted = EXECUTOR.with(|e| match e.current(&handle) {
        Some(place) => {
            place.running = false;
            place.task = Some((task, handle.clone()));
            None
        }
        None => Some(task),
    });
    drop(aborted);
    true
}

/// Runs `future` and everything spawned until `future` ends.
pub fn block_on<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    let main = spawn(future);
    loop {
        // A round is what is ready now: tasks that keep waking each other don't hold up events.
        for _ in 0..READY.with(|r| r.len()) {
            step();
        }
        if let Some(value) = main.take() {
            return value;
        }
        events::deliver();
        let next = timer::expire();
        if READY.with(|r| r.is_empty()) {
            guest_machine::clock::wait(next);
            events::deliver();
            timer::expire();
        }
    }
}

struct Joint<T> {
    value: Option<T>,
    ended: bool,
    waiter: Option<Waker>,
}

/// Marks the task's end also when its future is dropped in mid-flight.
struct End<T>(Rc<RefCell<Joint<T>>>);

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        let mut joint = self.0.borrow_mut();
        joint.ended = true;
        let waiter = joint.waiter.take();
        drop(joint);
        if let Some(waker) = waiter {
            waker.wake();
        }
    }
}

/// A spawned task, to await or abort. Dropping it lets the task run on.
pub struct JoinHandle<T> {
    joint: Rc<RefCell<Joint<T>>>,
    task: Arc<Handle>,
}

impl<T> JoinHandle<T> {
    /// Ends the task at the point where it waits. Its future is dropped.
    pub fn abort(&self) {
        let task = EXECUTOR.with(|e| e.vacate(&self.task));
        drop(task);
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.joint.borrow().ended
    }

    fn take(&self) -> Option<T> {
        self.joint.borrow_mut().value.take()
    }
}

impl<T> Future for JoinHandle<T> {
    /// `None` if the task was aborted.
    type Output = Option<T>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut joint = self.joint.borrow_mut();
        if joint.ended {
            return Poll::Ready(joint.value.take());
        }
        joint.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Starts a task. It first runs when the current one waits.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    let joint = Rc::new(RefCell::new(Joint { value: None, ended: false, waiter: None }));
    let end = End(joint.clone());
    let task = Box::pin(async move {
        let value = future.await;
        end.0.borrow_mut().value = Some(value);
    });
    let task = EXECUTOR.with(|e| e.add(task));
    task.clone().wake();
    JoinHandle { joint, task }
}

/// Lets every other ready task run once.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Instant;
    use core::time::Duration;

    #[test]
    fn tasks_interleave_and_join() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let got = order.clone();
        block_on(async move {
            let tasks: Vec<_> = (0..3)
                .map(|n| {
                    let order = order.clone();
                    spawn(async move {
                        for round in 0..2 {
                            order.borrow_mut().push((round, n));
                            yield_now().await;
                        }
                        n * 10
                    })
                })
                .collect();
            for (n, task) in tasks.into_iter().enumerate() {
                assert_eq!(task.await, Some(n * 10));
            }
        });
        assert_eq!(*got.borrow(), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn sleeps_end_in_order_of_their_deadlines() {
        block_on(async {
            let start = Instant::now();
            let long = spawn(sleep(Duration::from_secs(3600)));
            sleep(Duration::from_millis(5)).await;
            assert_eq!(start.elapsed(), Duration::from_millis(5));
            assert!(!long.is_finished());
            assert_eq!(timeout(Duration::from_secs(1), long).await.map(|_| ()), Err(Elapsed));
            assert_eq!(start.elapsed(), Duration::from_millis(1005));
            assert_eq!(timeout(Duration::from_secs(1), async { 4 }).await, Ok(4));
        });
    }

    /// A task that aborts itself must not be put back into its place after its poll, which would
    /// let it run again under the next task's name.
    #[test]
    fn a_task_can_abort_itself_and_others() {
        block_on(async {
            let slot: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
            let own = slot.clone();
            let dropped = Rc::new(());
            let held = dropped.clone();
            let task = spawn(async move {
                let _held = held;
                own.borrow().as_ref().unwrap().abort();
                yield_now().await;
                panic!("ran after its abort");
            });
            *slot.borrow_mut() = Some(task);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(Rc::strong_count(&dropped), 1);
            let other = spawn(core::future::pending::<()>());
            other.abort();
            assert_eq!(other.await, None);
        });
    }

    #[test]
    fn a_stale_waker_wakes_nobody() {
        block_on(async {
            let kept: Rc<RefCell<Option<Waker>>> = Rc::default();
            let keep = kept.clone();
            spawn(poll_fn(move |cx| {
                *keep.borrow_mut() = Some(cx.waker().clone());
                Poll::Ready(())
            }))
            .await;
            let polls = Rc::new(RefCell::new(0));
            let count = polls.clone();
            let next = spawn(poll_fn(move |_| {
                *count.borrow_mut() += 1;
                Poll::<()>::Pending
            }));
            yield_now().await;
            kept.borrow().as_ref().unwrap().wake_by_ref();
            yield_now().await;
            assert_eq!(*polls.borrow(), 1);
            next.abort();
        });
    }
}
