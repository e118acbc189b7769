//! Timers: deadlines in order, each with the waker of the task that sleeps.

use crate::Local;
use crate::executor::{Either, select};
use crate::time::Instant;
use alloc::collections::BTreeMap;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

/// By deadline, then by the order in which the sleeps began.
#[derive(Default)]
struct Timers {
    waiting: BTreeMap<(Instant, u64), Waker>,
    begun: u64,
}

static TIMERS: Local<Timers> = Local::new(Timers::default);

/// Wakes everybody whose deadline has passed. The next deadline in ns, if any.
pub(super) fn expire() -> Option<u64> {
    loop {
        let next = TIMERS.with(|t| {
            let first = t.waiting.first_entry()?;
            let deadline = first.key().0;
            Some((deadline, (deadline <= Instant::now()).then(|| first.remove())))
        });
        match next {
            Some((_, Some(waker))) => waker.wake(),
            Some((deadline, None)) => return Some(deadline.as_nanos()),
            None => return None,
        }
    }
}

/// Ends at its deadline.
#[derive(Debug)]
pub struct Sleep {
    deadline: Instant,
    key: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline <= Instant::now() {
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        self.key = Some(TIMERS.with(|t| {
            let key = self.key.unwrap_or_else(|| {
                t.begun += 1;
                (deadline, t.begun)
            });
            t.waiting.insert(key, cx.waker().clone());
            key
        }));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = TIMERS.with(|t| t.waiting.remove(&key));
            drop(waker);
        }
    }
}

/// Waits until `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, key: None }
}

/// Waits that long.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// The time was over first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed;

impl core::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("timed out")
    }
}

/// Runs `future` for at most `duration`, then drops it.
pub async fn timeout<T>(duration: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    match select(pin!(future), sleep(duration)).await {
        Either::Left(value) => Ok(value),
        Either::Right(()) => Err(Elapsed),
    }
}
