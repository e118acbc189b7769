//! Xen's public ABI as plain data.
#![no_std]
#![forbid(unsafe_code)]
