//! The network card (virtio 1.2, section 5.1): frames in and out, as a bridge's port.
//!
//! Every frame has a buffer of a fixed pool, half a page, so one descriptor each. Frames to send
//! are copied into one and shown to the device at the end of a batch, with one register write;
//! buffers of frames that are sent are taken back when one is needed, so sending raises no
//! interrupts. Received frames are handed on in batches.

#[cfg(test)]
mod tests;

use super::pci::Kick;
use super::queue::{Piece, Queue};
use super::{Bell, Broken, Error, Transport};
use crate::pci::{Config, Function};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use guest_kernel::executor::yield_now;
use guest_kernel::memory::Pages;
use guest_kernel::net::{Checksum, FRAME_BUFFER, Frame, FrameSink, Large, MAX_FRAME, MIN_FRAME, checksum};
use guest_kernel::share::{Doorbell, raised};
use shared_abi::PAGE_SIZE;

/// Feature: the card's address stands in the configuration.
const MAC: u64 = 1 << 5;
/// In a received packet's header: the device has checked the checksum.
const DATA_VALID: u8 = 2;
/// `struct virtio_net_hdr` with its number of buffers.
const HEADER: usize = 12;
/// Buffers in each direction at most.
const BUFFERS: u16 = 256;
/// Frames received before other tasks get a turn.
const TURN: usize = 64;

/// What a card has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub received: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Frames sent.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Frames that were too long, too short, or found no room.
    pub dropped: u64,
}

/// A queue with a buffer for each of its requests.
struct Side {
    queue: Queue,
    buffers: Pages,
    /// Buffers that the device does not have.
    free: Vec<u16>,
    /// For each descriptor its request's buffer.
    owner: Vec<u16>,
}

impl Side {
    fn new(queue: Queue) -> Result<Side, Error> {
        let count = queue.size().min(BUFFERS);
        let buffers = Pages::new((usize::from(count) * FRAME_BUFFER).div_ceil(PAGE_SIZE))?;
        let owner = vec![0; usize::from(queue.size())];
        Ok(Side { queue, buffers, free: (0..count).rev().collect(), owner })
    }

    /// Where a buffer lies in `buffers`.
    fn offset(buffer: u16) -> usize {
        usize::from(buffer) * FRAME_BUFFER
    }

    /// Gives a buffer's first `len` bytes to the device.
    fn push(&mut self, buffer: u16, len: usize, write: bool) {
        let (page, offset) = (Self::offset(buffer) / PAGE_SIZE, Self::offset(buffer) % PAGE_SIZE);
        let address = self.buffers.mfn(page).0 * PAGE_SIZE as u64 + offset as u64;
        match self.queue.push(&[Piece { address, len: len as u32, write }]) {
            Some(number) => self.owner[usize::from(number)] = buffer,
            None => self.free.push(buffer),
        }
    }

    /// Takes back a buffer: which, and how many bytes the device wrote.
    fn pop(&mut self) -> Result<Option<(u16, usize)>, Broken> {
        let popped = self.queue.pop()?;
        Ok(popped.map(|(number, len)| (self.owner[usize::from(number)], len as usize)))
    }
}

/// A network card. `N` is the receive queue's doorbell, `K` the other's.
pub struct Nic<N = Bell, K = Kick> {
    mac: [u8; 6],
    /// Dropped, and so the device stopped, before the memory that it uses.
    bell: N,
    receive: RefCell<Side>,
    transmit: RefCell<Side>,
    kick: K,
    counters: Cell<Counters>,
    broken: Cell<bool>,
}

impl Nic {
    /// Starts the card that `function` is. Some task must [`Nic::run`] it.
    pub async fn start(config: &impl Config, function: &Function) -> Result<Nic, Error> {
        let transport = Transport::start(config, function, MAC).await?;
        let mut mac = [0; 6];
        if transport.has(MAC) {
            let words = [0, 4].map(|at| transport.config_u32(at).to_le_bytes());
            mac.copy_from_slice(&words.as_flattened()[..6]);
        }
        let (receive, bell) = transport.queue(0, true)?;
        let (transmit, kick) = transport.queue(1, false)?;
        let nic = Nic::new(mac, receive, transmit, transport.bell(bell), kick)?;
        transport.ready();
        nic.bell.notify();
        Ok(nic)
    }
}

impl<N: Doorbell, K: Doorbell> Nic<N, K> {
    fn new(mac: [u8; 6], receive: Queue, transmit: Queue, bell: N, kick: K) -> Result<Self, Error> {
        let (mut receive, mut transmit) = (Side::new(receive)?, Side::new(transmit)?);
        while let Some(buffer) = receive.free.pop() {
            receive.push(buffer, FRAME_BUFFER, true);
        }
        let _ = receive.queue.publish();
        transmit.queue.quiet();
        let (receive, transmit) = (RefCell::new(receive), RefCell::new(transmit));
        Ok(Nic { mac, receive, transmit, bell, kick, counters: Cell::default(), broken: Cell::new(false) })
    }

    /// The card's own address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters.get()
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Gives what is received to `sink`, for as long as the card keeps to the rules.
    pub async fn run(&self, sink: &impl FrameSink) {
        while let Ok(more) = self.receive(sink) {
            if more {
                yield_now().await;
            } else {
                raised(&self.bell).await;
            }
        }
        self.broken.set(true);
    }

    /// Hands one batch on; true if there is more.
    fn receive(&self, sink: &impl FrameSink) -> Result<bool, Broken> {
        let mut bytes = [0; FRAME_BUFFER];
        self.receive.borrow_mut().queue.quiet();
        let mut handed = 0;
        while handed < TURN {
            let len = {
                let mut side = self.receive.borrow_mut();
                let Some((buffer, len)) = side.pop()? else { break };
                let len = len.min(FRAME_BUFFER);
                side.buffers.read_bytes(Side::offset(buffer), &mut bytes[..len]);
                // The bytes are ours now: the device may have the buffer again.
                side.push(buffer, FRAME_BUFFER, true);
                len
            };
            handed += 1;
            self.hand_on(&bytes[..len], sink);
        }
        let mut side = self.receive.borrow_mut();
        if side.queue.publish() {
            self.bell.notify();
        }
        let more = side.queue.arm();
        drop(side);
        if handed > 0 {
            sink.flush();
        }
        Ok(more)
    }

    /// Hands on a packet with its header.
    fn hand_on(&self, packet: &[u8], sink: &impl FrameSink) {
        let frame = packet.get(HEADER..).filter(|f| (MIN_FRAME..=MAX_FRAME).contains(&f.len()));
        let Some(bytes) = frame else { return self.count(|c| c.dropped += 1) };
        self.count(|c| {
            c.received += 1;
            c.received_bytes += bytes.len() as u64;
        });
        let checksum = if packet[0] & DATA_VALID != 0 { Checksum::Valid } else { Checksum::Unknown };
        sink.frame(Frame { bytes, checksum });
    }

    /// Queues a frame to be sent; false if there is no room for it.
    fn transmit(&self, frame: Frame<'_>) -> Result<bool, Broken> {
        let len = frame.bytes.len();
        if self.broken.get() || !(MIN_FRAME..=MAX_FRAME).contains(&len) {
            return Ok(false);
        }
        let mut side = self.transmit.borrow_mut();
        if side.free.is_empty() {
            while let Some((buffer, _)) = side.pop()? {
                side.free.push(buffer);
            }
        }
        let Some(buffer) = side.free.pop() else { return Ok(false) };
        // The header before it is zero for good: the device only reads it.
        let at = Side::offset(buffer) + HEADER;
        side.buffers.write_bytes(at, frame.bytes);
        if frame.checksum == Checksum::Blank
            && let Some((field, value)) = checksum::compute(frame.bytes)
        {
            side.buffers.write_bytes(at + field, &value);
        }
        side.push(buffer, HEADER + len, false);
        Ok(true)
    }
}

/// Frames to send.
impl<N: Doorbell, K: Doorbell> FrameSink for Nic<N, K> {
    fn frame(&self, frame: Frame<'_>) {
        if let Checksum::PerSegment(size) = frame.checksum {
            match Large::parse(frame.bytes, size) {
                Some(large) => large.cut(|bytes| self.frame(Frame { bytes, checksum: Checksum::Blank })),
                None => self.count(|c| c.dropped += 1),
            }
            return;
        }
        let len = frame.bytes.len() as u64;
        match self.transmit(frame) {
            Ok(true) => self.count(|c| {
                c.sent += 1;
                c.sent_bytes += len;
            }),
            Ok(false) => self.count(|c| c.dropped += 1),
            Err(Broken) => self.broken.set(true),
        }
    }

    fn flush(&self) {
        if self.transmit.borrow_mut().queue.publish() {
            self.kick.notify();
        }
    }
}
