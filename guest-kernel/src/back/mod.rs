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
    /// It died: what it had not answered stays without an answer.
    Died,
}

/// How a backend's service of a device ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// For good: its state is `Closed`.
    Closed,
    /// It died, its frontend has noticed, and its state is `Initialising`: another one is to be started.
    Died,
}
