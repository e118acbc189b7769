//! Networking: frames, checksums, rate limits, and the TCP/IP stack of a guest.

pub mod checksum;
mod frame;
mod limit;
mod nic;
pub(crate) mod protocol;

pub use frame::{Checksum, FRAME_BUFFER, Frame, FrameSink, MAX_FRAME, MIN_FRAME};
pub use limit::Limit;
pub use nic::Nic;
