//! All of the guest kernel unsafe code.
#![no_std]
