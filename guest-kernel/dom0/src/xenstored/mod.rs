//! xenstored: the tree in which domains find each other.
//!
//! What a request means follows Xen's docs/misc/xenstore.txt and, where that is silent, what Xen 4.17's own
//! daemon does. [`store`] holds the nodes, [`transaction`] a connection's private changes to them, [`ops`] the
//! operations with their permission checks over either; [`watches`] says who hears of a change; [`wire`] is
//! the byte format, written for a hostile peer; [`server`] turns one request into replies and events;
//! [`client`] is dom0's own connection, without a ring.

pub mod client;
pub mod conns;
pub mod control;
pub mod error;
pub mod ops;
pub mod path;
pub mod path_map;
pub mod perms;
pub mod quota;
pub mod server;
pub mod service;
pub mod store;
pub mod transaction;
pub mod watches;
pub mod wire;

#[cfg(test)]
pub(crate) mod model;

pub use client::Client;
pub use error::Error;
pub use server::Server;
