//! Interrupt lines: what pins are wired to, several to one.
//!
//! Xen gives a line one event channel, and the line falls silent only when every device on it
//! does. So a task for each line wakes all its devices' drivers, lets them run, and only then
//! tells Xen that the interrupt was handled. A line once used stays: there are few.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::task::{Context, Poll, Waker};
use guest_kernel::Local;
use guest_kernel::events::EventChannel;
use guest_kernel::executor::{spawn, yield_now};
use guest_kernel::hypercall::{Errno, Result, physdev_op};
use shared_abi::DomId;
use shared_abi::physdev::{MAP_PIRQ_TYPE_GSI, PhysdevMapPirq, PhysdevSetupGsi};

#[derive(Default, Debug)]
struct Line {
    /// How often it was raised.
    count: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Line {
    fn raise(&self) {
        self.count.set(self.count.get() + 1);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

/// One device's end of a line.
#[derive(Debug)]
pub(super) struct Tap {
    line: Rc<Line>,
    seen: Cell<u64>,
}

impl Tap {
    fn new(line: Rc<Line>) -> Tap {
        let seen = line.count.clone();
        Tap { line, seen }
    }

    /// Ready if the line was raised since the last time, by whichever device.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.seen.replace(self.line.count.get()) != self.line.count.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.line.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

static LINES: Local<BTreeMap<u32, Rc<Line>>> = Local::new(BTreeMap::new);

/// Connects to the line `gsi`.
pub(super) fn tap(gsi: u32) -> Result<Tap> {
    if let Some(line) = LINES.with(|lines| lines.get(&gsi).cloned()) {
        return Ok(Tap::new(line));
    }
    let channel = EventChannel::bind_pirq(map(gsi as i32)? as u32)?;
    let line = Rc::new(Line::default());
    LINES.with(|lines| lines.insert(gsi, line.clone()));
    let raising = line.clone();
    spawn(async move {
        loop {
            channel.wait().await;
            raising.raise();
            yield_now().await;
            channel.eoi();
        }
    });
    Ok(Tap::new(line))
}

/// Makes a GSI a pirq of ours.
fn map(gsi: i32) -> Result<i32> {
    // PCI's pins are active low and stay so until the device is silenced.
    let mut setup = PhysdevSetupGsi { gsi, triggering: 1, polarity: 1, _pad: 0 };
    match physdev_op(&mut setup) {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let mut op = PhysdevMapPirq {
        domid: DomId::SELF,
        r#type: MAP_PIRQ_TYPE_GSI,
        index: gsi,
        pirq: gsi,
        ..Default::default()
    };
    physdev_op(&mut op)?;
    Ok(op.pirq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::future::poll_fn;
    use guest_kernel::executor::block_on;

    #[test]
    fn every_device_on_a_line_is_told_of_each_interrupt() {
        block_on(async {
            let line = Rc::new(Line::default());
            let taps = [Tap::new(line.clone()), Tap::new(line.clone())];
            let told = Rc::new(Cell::new(0));
            for tap in taps {
                let told = told.clone();
                spawn(async move {
                    loop {
                        poll_fn(|cx| tap.poll(cx)).await;
                        told.set(told.get() + 1);
                    }
                });
            }
            for round in 1..4 {
                yield_now().await;
                assert_eq!(told.get(), 2 * (round - 1));
                line.raise();
                yield_now().await;
                assert_eq!(told.get(), 2 * round);
            }
        });
    }
}
