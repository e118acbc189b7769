//! The library OS.
#![no_std]
#![forbid(unsafe_code)]
