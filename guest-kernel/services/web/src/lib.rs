//! A web server for a guest: static files of a volume over HTTP/1.1.
//!
//! Everything but `main.rs` is independent of Xen and runs in tests on the host: a connection is a
//! [`Stream`](connection::Stream), the volume is [`Files`](files::Files). The hardest decision was
//! memory: a guest of 8 MiB serves any file to many connections, so a file is never held whole; each
//! connection has one buffer for a request's head and, while it sends, one for a piece of the file.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod conditional;
pub mod connection;
pub mod date;
pub mod files;
pub mod media;
pub mod metrics;
pub mod path;
pub mod range;
pub mod request;
pub mod response;
