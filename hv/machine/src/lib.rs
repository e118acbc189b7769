//! All of the hypervisor unsafe code.
#![no_std]
