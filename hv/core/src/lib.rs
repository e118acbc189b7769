//! The hypervisor's decisions.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod emul;
pub mod event;
pub mod sched;
pub mod time;
