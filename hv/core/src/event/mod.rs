//! Event channels: one bit of notification between domains, from virtual and physical
//! interrupts, and between a domain's own vcpus.
//!
//! The hardest decision here is what a send may touch. A channel's whole state is one atomic
//! word ([`channel::Ports`]), so `EVTCHNOP_send` reads the sender's word, finds the peer domain
//! and reads the peer's word without taking either domain's event lock. Everything that
//! *changes* a port needs `&mut` [`Control`], which the owner of the domain keeps behind that
//! domain's event lock.
//!
//! A send that races with a close on another CPU may still set the peer's pending bit after the
//! port was freed: one spurious event, the thing every user of this ABI must live with anyhow
//! (binding an interdomain port always makes one, and the pending bits lie in memory the guest
//! writes). Nothing in the hypervisor reads those bits to decide anything but a wake-up.
//!
//! # Lock order
//!
//! One event lock per domain. An operation over two domains takes both, the one of the smaller
//! domain id first; no other lock is taken inside. [`Ports::peer_of`] tells before any lock is
//! taken which second domain a close needs; [`Side::close`] checks it again under the locks.
//!
//! | file | concept |
//! | --- | --- |
//! | `channel` | a port's states, its packed word, the growing port table |
//! | `ops` | the `EVTCHNOP_*` that change ports |
//! | `two_level` | delivery: pending, mask and selector bits |
//! | `fifo` | delivery where the guest asked for queues |
//! | `virq`, `pirq` | which port a virtual or physical interrupt is bound to |
//! | `poll` | vcpus asleep in `SCHEDOP_poll` |

pub mod channel;
pub mod fifo;
pub mod ops;
pub mod pirq;
pub mod poll;
pub mod two_level;
pub mod virq;

pub use channel::{Channel, Limits, Ports, Route, State};
pub use fifo::{EventPage, Fifo};
pub use ops::{Closed, Control, Rebound, Side};
pub use two_level::{Delivery, SharedBits};

#[cfg(test)]
mod tests;
