//! The hypervisor.
#![no_std]
#![forbid(unsafe_code)]
