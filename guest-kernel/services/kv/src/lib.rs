//! A key-value store for a guest: Redis's protocol and commands over a log on a block device.
//!
//! Everything but `main.rs` is independent of Xen and runs in tests on the host. All data is in
//! memory; what changes it is an [`Op`](op::Op), and a change is answered only when the flush of the
//! log that covers it is over. The hardest decision was the unit of the log: it is the frame, one
//! write and one flush for whatever all connections did meanwhile, which begins at a sector of its
//! own so that writing it can't touch what has been acknowledged.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod commands;
pub mod connection;
pub mod frame;
pub mod glob;
pub mod journal;
pub mod op;
pub mod resp;
pub mod server;
pub mod store;
pub mod superblock;

#[cfg(test)]
mod faulty;
