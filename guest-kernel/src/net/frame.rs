//! Ethernet frames on their way between a network interface, a bridge and a split driver.

use core::num::NonZeroU16;

/// The longest frame on a wire: 1500 bytes of payload, the Ethernet header and a VLAN tag.
pub const MAX_FRAME: usize = 1518;
/// The shortest one: an Ethernet header.
pub const MIN_FRAME: usize = 14;
/// Room for one frame in a buffer; a power of two, so that buffers do not straddle pages.
pub const FRAME_BUFFER: usize = 2048;

/// What is known about the TCP or UDP checksum in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing: the receiver checks it.
    Unknown,
    /// Somebody trustworthy has checked it.
    Valid,
    /// The field holds only the pseudo-header's sum; the frame has not been on a wire, so there is
    /// nothing to check, and whoever puts it on one fills the field in.
    Blank,
    /// As `Blank`, and the frame stands for many: its TCP payload goes out in segments of at most so
    /// many bytes. [`Large::parse`](super::Large::parse) has found it in order.
    PerSegment(NonZeroU16),
}

/// A whole Ethernet frame, without its frame check sequence.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// From the destination address on.
    pub bytes: &'a [u8],
    /// State of its transport checksum.
    pub checksum: Checksum,
}

/// Something frames can be given to: a bridge, or one of a bridge's ports. It takes what it wants
/// during the call and never blocks; a frame it has no room for is dropped.
pub trait FrameSink {
    /// Takes one frame.
    fn frame(&self, frame: Frame<'_>);
    /// The end of a batch: what was taken should be on its way when this returns.
    fn flush(&self);
}

impl<S: FrameSink + ?Sized> FrameSink for alloc::rc::Rc<S> {
    fn frame(&self, frame: Frame<'_>) {
        (**self).frame(frame)
    }
    fn flush(&self) {
        (**self).flush()
    }
}
