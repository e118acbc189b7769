//! Restates `io/`: the protocols of split drivers, spoken over pages one domain grants another.

pub mod blkif;
pub mod console;
pub mod netif;
pub mod protocols;
pub mod ring;
pub mod xenbus;
pub mod xs_wire;
