//! The hypervisor's decisions.
#![no_std]
#![forbid(unsafe_code)]

pub mod emul;
