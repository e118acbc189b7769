//! Networking: frames, checksums, rate limits, and the TCP/IP stack of a guest.

pub mod checksum;
mod config;
mod device;
mod frame;
mod limit;
mod nic;
pub(crate) mod protocol;
pub(crate) mod segment;
mod stack;
mod start;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

pub use config::{Address, Addressing, BadAddress};
pub use frame::{Checksum, FRAME_BUFFER, Frame, FrameSink, MAX_FRAME, MIN_FRAME};
pub use limit::Limit;
pub use nic::Nic;
pub use segment::{LARGE_FRAME, Large, MOST_SEGMENTS};
pub use smoltcp::wire::{IpAddress, IpEndpoint, Ipv4Address};
pub use stack::Stack;
pub use start::{interface, run, start};
pub use tcp::{Buffers, Stream, TcpError, TcpListener, TcpStream};
pub use udp::{UdpError, UdpSocket};
