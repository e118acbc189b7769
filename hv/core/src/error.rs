//! How a hypercall ends when it doesn't simply succeed.

use hv_machine::guest_mem::Fault;
use shared_abi::errno::Errno;

/// Why a handler stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An error for the guest.
    Error(Errno),
    /// Not finished: the arguments say where to go on, and the guest issues the same call again (after
    /// interrupts and other vcpus had their turn).
    Retry,
    /// The guest broke a rule that leaves nothing to return to.
    Crash(&'static str),
}

/// What a hypercall's handler returns: the value for the guest's rax, or why not.
pub type HcResult = Result<u64, Stop>;

impl From<Errno> for Stop {
    #[inline]
    fn from(e: Errno) -> Stop {
        Stop::Error(e)
    }
}
impl From<Fault> for Stop {
    #[inline]
    fn from(_: Fault) -> Stop {
        Stop::Error(Errno::EFAULT)
    }
}
