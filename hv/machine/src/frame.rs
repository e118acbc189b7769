//! Who owns each frame of memory, what it is in use as, and by how many: the hypervisor's security core.
//!
//! The rule is one: **a frame is never writable by a guest and a page table (or descriptors) at once.**
//! From it follows that a guest can't forge a translation, so it reaches its own memory and what was
//! granted to it, nothing else.
//!
//! | file | what |
//! | --- | --- |
//! | `word.rs` | the 64 bits per frame: owner, type, counts, flags |
//! | `entry.rs` | every step by which they change, each one compare-and-swap |
//! | `clock.rs` | when a stale TLB entry can exist |
//! | `table.rs` | the table of all frames, the M2P, boot's declarations |
//! | `alloc.rs` | free frames |
//! | `owners.rs`, `memory.rs` | domains' frames: populate, disown, steal, pin, relinquish |
//! | `handle.rs` | references as values |
//! | `types.rs` | becoming and ceasing to be a page table, in bounded steps |
//! | `direct.rs` | what an entry may say; replacing one |
//! | `grant.rs` | entries that map a granted frame |
//! | `desc.rs` | segment descriptors |
//!
//! # What the caller must do
//!
//! * Give every vcpu a [`Work`]. At the start of each hypercall that comes here `refill` it and
//!   [`FrameTable::settle`]; restart the hypercall on [`Stop::Again`].
//! * Hold a [`Frame<L4>`] for whatever is in CR3, and drop it only after CR3 holds something else.
//! * Bracket every CR3 load by `CLOCK.begin()` and `end()` (the tick is drawn *before* the load), with `PCIDE` clear; answer flush requests in
//!   every loop that spins; call [`TlbClock::overdue`] in the timer interrupt.
//! * Flush by itself what it promises guests: nothing here does for `UVMF_*` and `MMUEXT_*TLB*`.
//! * After unmapping a grant, see [`FlushDue`].

#![deny(unsafe_code)]

mod alloc;
mod clock;
mod desc;
mod direct;
mod entry;
mod grant;
mod handle;
mod memory;
mod owners;
mod table;
mod types;
mod word;

#[cfg(test)]
mod tests;

pub use alloc::{Limit, MAX_ORDER};
pub use clock::{CLOCK, MAX_CPUS, TlbClock};
pub use desc::sanitise as sanitise_descriptor;
pub use direct::{Device, Rights, Store};
pub use grant::FlushDue;
pub use handle::{Block, Frame, Held, L4, SegDesc, Shared, State, Table, Writable};
pub use memory::Stolen;
pub use table::{Cpus, FIRST_HV_SLOT, FrameTable, HV_SLOTS, INVALID_M2P_ENTRY, PRIVATE, frames, install};
pub use types::{Progress, Stop, Work};
pub use word::{Phase, Type, Word};
