//! All unsafe code and assembly of the guest kernel: a 64-bit paravirtual guest of Xen.
//!
//! Everything exported here is safe to call: the crates above forbid unsafe code. The hardest
//! decision is the concurrency model that makes most of it simple. The guest has one vcpu and
//! runs with event upcalls masked; they are unmasked only by `SCHEDOP_block`, which does it
//! atomically in the hypervisor, and the upcall handler is three instructions that return with
//! the mask set again. So no Rust code is ever interrupted by Rust code, and [`local::Local`]
//! needs no lock.
//!
//! On the host (any target but `target_os = "none"`) the crate compiles without its boot code
//! and every hypercall answers `-ENOSYS`: the pure parts are tested there.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(
    not(target_os = "none"),
    allow(dead_code, unused_imports, reason = "what only boot uses is absent on the host")
)]

extern crate alloc;

#[cfg(target_os = "none")]
mod asm;
pub mod clock;
pub mod control;
#[cfg(target_os = "none")]
mod crash;
pub mod emergency;
pub mod exchange;
pub mod frames;
pub mod grant;
pub mod heap;
pub mod hypercall;
pub mod local;
pub mod memory;
pub mod paging;
pub mod port;
mod reserve;
pub mod shared;
pub mod shared_info;
pub mod start;
pub mod window;
