//! The frontends of the split drivers: a guest's disks and network interfaces.

pub mod blk;
pub mod net;
