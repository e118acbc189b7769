//! Xen 4.17's public ABI as plain data, for x86-64 paravirtual guests.
//!
//! Both halves of Oxen (the hypervisor and the guests) meet here and only here, so this crate decides
//! nothing: it restates the public headers of Debian's `libxen-dev` (`/usr/include/xen`), one module
//! per header, and adds the few computations that are part of the ABI itself (ring indices, slots of
//! a table, page-table entry bits, the clock's scaling).
//!
//! * A constant keeps its C name in upper case, a structure its C name in camel case without the
//!   `xen_` prefix and `_t` suffix, a field its C name. Padding is explicit and starts with `_`.
//! * Every structure is valid for any bytes, so it can be read from memory a guest wrote before
//!   anything in it has been believed. Unknown values are therefore representable everywhere: the
//!   ABI's enumerations are integers with named constants.
//! * A C union is an integer or an array with one accessor for each of its members.
//! * Sizes are asserted while compiling; `tests/abi_conformance.rs` compiles C against the headers
//!   and compares every structure, field and constant.
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod layout;

pub mod arch_x86;
pub mod callback;
pub mod cpuid;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod hvm_start_info;
pub mod hypfs;
pub mod io;
pub mod memory;
pub mod nmi;
pub mod physdev;
pub mod platform;
pub mod pte;
pub mod sched;
pub mod sysctl;
pub mod vcpu;
pub mod version;
pub mod xen;
pub mod xsm;

mod types;

pub use errno::Errno;
pub use layout::{Constant, Field, Layout};
pub use types::{DomId, Gfn, GrantRef, GuestAddr, Mfn, Pfn, Port, VcpuId};

/// log2 of a page's bytes.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes of a page, the unit of every frame number in this ABI.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
