//! The backends of the split drivers: what a driver domain serves its guests with.

pub mod blk;
pub mod net;
