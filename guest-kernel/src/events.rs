//! Event channels: one bit from somebody else, as something a task can wait for.
//!
//! An event carries no data and several may arrive as one. So a waiting task always looks at its
//! ring after [`EventChannel::wait`] returns, and before it waits again.

use crate::Local;
use crate::share::Doorbell;
use crate::wait::WaitList;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Context, Poll};
use guest_machine::hypercall::{self, Result, event_channel_op, physdev_op};
use guest_machine::shared_info;
use shared_abi::event_channel::*;
use shared_abi::physdev::{PhysdevEoi, PhysdevIrqStatusQuery, XENIRQSTAT_NEEDS_EOI};
use shared_abi::{DomId, Port, VcpuId};

#[derive(Default)]
struct Slot {
    pending: bool,
    waiters: WaitList,
}

/// By port: Xen numbers them from the lowest that is free.
#[derive(Default)]
struct Slots(Vec<Option<Slot>>);

impl Slots {
    fn get(&mut self, port: Port) -> Option<&mut Slot> {
        self.0.get_mut(port.0 as usize)?.as_mut()
    }

    fn get_or_new(&mut self, port: Port) -> &mut Slot {
        let index = port.0 as usize;
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index].get_or_insert_default()
    }

    fn remove(&mut self, port: Port) {
        if let Some(slot) = self.0.get_mut(port.0 as usize) {
            *slot = None;
        }
    }
}

static SLOTS: Local<Slots> = Local::new(Slots::default);

/// Hands the events that are pending to the tasks that wait for them.
pub(crate) fn deliver() {
    shared_info::take_pending(|port| {
        SLOTS.with(|slots| match slots.get(port) {
            Some(slot) => {
                slot.pending = true;
                slot.waiters.wake_all();
            }
            // A port that was closed a moment ago.
            None => shared_info::mask(port),
        });
    });
}

/// A port of ours. Closed on drop.
#[derive(Debug)]
pub struct EventChannel {
    port: Port,
    /// The physical interrupt behind it, if it needs to be told that it was handled.
    eoi: Option<u32>,
    close: bool,
}

impl EventChannel {
    fn open(port: Port) -> EventChannel {
        SLOTS.with(|slots| *slots.get_or_new(port) = Slot::default());
        shared_info::clear(port);
        shared_info::unmask(port);
        EventChannel { port, eoi: None, close: true }
    }

    /// A port that `remote` may connect to.
    pub fn alloc_unbound(remote: DomId) -> Result<EventChannel> {
        let mut op = EvtchnAllocUnbound { dom: DomId::SELF, remote_dom: remote, ..Default::default() };
        event_channel_op(&mut op)?;
        Ok(Self::open(op.port))
    }

    /// A port on behalf of `domain` (a privileged domain's right): the toolstack gives a new
    /// domain its console and store ports. It is `domain`'s to use and close.
    pub fn alloc_unbound_for(domain: DomId, remote: DomId) -> Result<Port> {
        let mut op = EvtchnAllocUnbound { dom: domain, remote_dom: remote, ..Default::default() };
        event_channel_op(&mut op)?;
        Ok(op.port)
    }

    /// Connects to the port that `remote` allocated for us.
    pub fn bind_interdomain(remote: DomId, remote_port: Port) -> Result<EventChannel> {
        let mut op = EvtchnBindInterdomain { remote_dom: remote, remote_port, ..Default::default() };
        event_channel_op(&mut op)?;
        Ok(Self::open(op.local_port))
    }

    /// A virtual interrupt (`shared_abi::xen::VIRQ_*`).
    pub fn bind_virq(virq: u32) -> Result<EventChannel> {
        let mut op = EvtchnBindVirq { virq, vcpu: VcpuId(0), ..Default::default() };
        event_channel_op(&mut op)?;
        Ok(Self::open(op.port))
    }

    /// A physical interrupt that Xen has mapped for us. Call [`EventChannel::eoi`] after each event.
    pub fn bind_pirq(pirq: u32) -> Result<EventChannel> {
        let mut op = EvtchnBindPirq { pirq, flags: BIND_PIRQ__WILL_SHARE, ..Default::default() };
        event_channel_op(&mut op)?;
        let mut status = PhysdevIrqStatusQuery { irq: pirq, ..Default::default() };
        physdev_op(&mut status)?;
        let mut channel = Self::open(op.port);
        channel.eoi = (status.flags & XENIRQSTAT_NEEDS_EOI != 0).then_some(pirq);
        Ok(channel)
    }

    /// A port that exists already, such as the console's. It stays open on drop.
    pub fn adopt(port: Port) -> EventChannel {
        let mut channel = Self::open(port);
        channel.close = false;
        channel
    }

    /// The port's number, for the other side.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Sends an event to the other side.
    pub fn notify(&self) {
        // A peer that is gone can't be told anything.
        let _ = event_channel_op(&mut EvtchnSend { port: self.port });
    }

    /// Waits until at least one event came since the last time. Several tasks may wait: an event
    /// wakes them all. One that came while nobody waited is kept for the first who does.
    pub async fn wait(&self) {
        let mut parked = false;
        poll_fn(|cx| {
            SLOTS.with(|slots| {
                let slot = slots.get_or_new(self.port);
                // Another task may have taken the mark of the event that woke this one.
                if core::mem::take(&mut slot.pending) || (parked && !slot.waiters.is_parked(cx)) {
                    return Poll::Ready(());
                }
                parked = true;
                slot.waiters.park(cx);
                Poll::Pending
            })
        })
        .await
    }

    /// Whether an event came since the last time, without waiting.
    pub fn take_pending(&self) -> bool {
        deliver();
        SLOTS.with(|slots| slots.get(self.port).is_some_and(|slot| core::mem::take(&mut slot.pending)))
    }

    /// Tells Xen that a physical interrupt was handled, so that the next can come.
    pub fn eoi(&self) {
        if let Some(irq) = self.eoi {
            let _ = physdev_op(&mut PhysdevEoi { irq });
        }
    }

    /// What Xen knows of the port.
    pub fn status(&self) -> Result<EvtchnStatus> {
        let mut op = EvtchnStatus { dom: DomId::SELF, port: self.port, ..Default::default() };
        hypercall::event_channel_op(&mut op)?;
        Ok(op)
    }
}

impl Doorbell for EventChannel {
    fn notify(&self) {
        EventChannel::notify(self);
    }

    fn poll_raised(&self, cx: &mut Context<'_>) -> Poll<()> {
        SLOTS.with(|slots| {
            let slot = slots.get_or_new(self.port);
            if core::mem::take(&mut slot.pending) {
                return Poll::Ready(());
            }
            slot.waiters.park(cx);
            Poll::Pending
        })
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        shared_info::mask(self.port);
        SLOTS.with(|slots| slots.remove(self.port));
        if self.close {
            let _ = event_channel_op(&mut EvtchnClose { port: self.port });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor;
    use alloc::rc::Rc;

    #[test]
    fn an_event_wakes_its_waiter_and_is_not_lost_before_the_wait() {
        executor::block_on(async {
            let channel = EventChannel::adopt(Port(9));
            shared_info::raise(Port(9));
            channel.wait().await;
            let waiter = executor::spawn(async move {
                channel.wait().await;
                channel.port()
            });
            executor::yield_now().await;
            shared_info::raise(Port(9));
            assert_eq!(waiter.await, Some(Port(9)));
            // Closed by the drop: an event now disturbs nobody.
            shared_info::raise(Port(9));
            executor::yield_now().await;
        });
    }

    /// A second task that waited used to take the first one's place, which then slept for ever.
    #[test]
    fn an_event_wakes_everybody_who_waits() {
        executor::block_on(async {
            let channel = Rc::new(EventChannel::adopt(Port(11)));
            for _ in 0..3 {
                let tasks: Vec<_> = (0..3)
                    .map(|_| {
                        let channel = channel.clone();
                        executor::spawn(async move { channel.wait().await })
                    })
                    .collect();
                executor::yield_now().await;
                assert!(tasks.iter().all(|task| !task.is_finished()));
                shared_info::raise(Port(11));
                for task in tasks {
                    assert_eq!(task.await, Some(()));
                }
            }
            // And no mark is left of it.
            assert!(!channel.take_pending());
        });
    }
}
