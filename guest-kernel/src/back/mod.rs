//! The backends of the split drivers: what a driver domain serves its guests with.

pub mod blk;
mod frontend;
pub mod net;

/// Why a backend stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was told to.
    Closed,
    /// The frontend broke a ring.
    Corrupt,
}
