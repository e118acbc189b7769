//! The machine's paravirtual devices (virtio 1.2, modern PCI transport): a disk and a network card.
//!
//! The drivers are our own and not the crate `virtio-drivers`, whose requests wait in a loop or
//! need unsafe code to be in flight together, and whose buffers are whatever slices the caller
//! has, which a PV guest must bounce one by one. These are a virtqueue with any number of requests
//! in flight over DMA pages that they own, copied into and out of, so nothing here is unsafe.

mod blk;
mod net;
mod pci;
mod queue;
mod region;

pub use blk::Disk;
pub use net::{Counters, Nic};
pub use pci::{Bell, Kick, Kind, Transport, kind};
pub use queue::{Piece, Queue};

use core::fmt;
use guest_kernel::hypercall::Errno;

/// Why a device cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// It lacks something, or says something impossible: this names it.
    Device(&'static str),
    /// Xen refused, or memory ran out.
    Machine(Errno),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error::Machine(errno)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Device(what) => write!(f, "virtio: {what}"),
            Error::Machine(errno) => write!(f, "{errno:?}"),
        }
    }
}

/// The device has broken the rules of its queue. It is not used any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken;
