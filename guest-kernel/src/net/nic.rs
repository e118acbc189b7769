//! A network interface, as the TCP/IP stack sees it.

use super::frame::Checksum;
use alloc::rc::Rc;
use core::task::{Context, Poll};

/// Sends and receives Ethernet frames by copying them. An interface whose other end is away
/// receives nothing and drops what it is given.
pub trait Nic {
    /// The interface's own address.
    fn mac(&self) -> [u8; 6];
    /// Takes a received frame into `to` and returns its length. One that stands for many
    /// ([`LARGE_FRAME`](super::LARGE_FRAME)) is taken as well; what has no room in `to` is dropped.
    fn receive(&self, to: &mut [u8]) -> Option<(usize, Checksum)>;
    /// Whether [`send`](Self::send) would find room.
    fn can_send(&self) -> bool;
    /// Sends a frame of at most [`MAX_FRAME`](super::MAX_FRAME) bytes. `frame` is scratch space
    /// afterwards. With [`Checksum::Blank`] the interface sees to the transport checksum.
    fn send(&self, frame: &mut [u8], checksum: Checksum);
    /// The end of a batch of the above: tells the other end, if it wants to know.
    fn flush(&self);
    /// Ready when something may have come, or there may be room again.
    fn poll_event(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<T: Nic + ?Sized> Nic for Rc<T> {
    fn mac(&self) -> [u8; 6] {
        (**self).mac()
    }
    fn receive(&self, to: &mut [u8]) -> Option<(usize, Checksum)> {
        (**self).receive(to)
    }
    fn can_send(&self) -> bool {
        (**self).can_send()
    }
    fn send(&self, frame: &mut [u8], checksum: Checksum) {
        (**self).send(frame, checksum)
    }
    fn flush(&self) {
        (**self).flush()
    }
    fn poll_event(&self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_event(cx)
    }
}
