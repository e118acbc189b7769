//! A [`Nic`] as smoltcp wants it: frames come from and go to private buffers.
//!
//! Transport checksums are not smoltcp's business: a received one is checked here, unless the
//! other end vouches for it, and a sent one is left blank for whoever puts the frame on a wire.

use super::{Checksum, FRAME_BUFFER, LARGE_FRAME, Nic, checksum};
use alloc::boxed::Box;
use alloc::vec;
use smoltcp::phy::{self, Checksum as Offload, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// An Ethernet header and 1500 bytes: no VLAN tags here.
const MTU: usize = 1514;

pub(super) struct Device {
    pub(super) nic: Box<dyn Nic>,
    received: Box<[u8]>,
    sending: Box<[u8; FRAME_BUFFER]>,
    /// Frames dropped for a wrong checksum.
    pub(super) bad: u64,
}

impl Device {
    pub(super) fn new(nic: Box<dyn Nic>) -> Self {
        Device { nic, received: vec![0; LARGE_FRAME].into_boxed_slice(), sending: Box::new([0; _]), bad: 0 }
    }
}

impl phy::Device for Device {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        // An answer must find room, so look for that first.
        if !self.nic.can_send() {
            return None;
        }
        loop {
            let (len, state) = self.nic.receive(&mut self.received[..])?;
            if state == Checksum::Unknown && !checksum::verify(&self.received[..len]) {
                self.bad += 1;
                continue;
            }
            let received = RxToken { frame: &self.received[..len] };
            return Some((received, TxToken { nic: &*self.nic, buffer: &mut self.sending }));
        }
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        self.nic.can_send().then_some(TxToken { nic: &*self.nic, buffer: &mut self.sending })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = Offload::None;
        checksum.udp = Offload::None;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU;
        capabilities.checksum = checksum;
        capabilities
    }
}

pub(super) struct RxToken<'a> {
    frame: &'a [u8],
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.frame)
    }
}

pub(super) struct TxToken<'a> {
    nic: &'a dyn Nic,
    buffer: &'a mut [u8; FRAME_BUFFER],
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        // smoltcp asks for at most MTU bytes.
        let frame = &mut self.buffer[..len];
        let result = f(frame);
        self.nic.send(frame, Checksum::Blank);
        result
    }
}
