//! The control domain: xenstored, consoled, and the toolstack that builds and runs the other domains.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod backends;
pub mod bridge;
pub mod byte_ring;
pub mod consoled;
pub mod hardware;
pub mod pci;
pub mod toolstack;
pub mod virtio;
pub mod volumes;
pub mod xenstored;
