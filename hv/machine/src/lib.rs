//! All of the hypervisor's unsafe code: the machine, the entry to guests, and guests' memory.
//!
//! What is here offers safe functions to the crates above, which forbid `unsafe`. On a host (for tests)
//! only what needs no machine is compiled: the frame and type state machine over fake RAM, boot
//! information, locks.
#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

pub mod boot;
#[cfg(not(target_os = "none"))]
pub mod budget;
pub mod frame;
pub mod guest_mem;
pub mod heap;
pub mod lock;
pub mod ram;
pub mod ticks;

#[cfg(target_os = "none")]
pub mod vcpu;
#[cfg(target_os = "none")]
pub mod x86_64;
