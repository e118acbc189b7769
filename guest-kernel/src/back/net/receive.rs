//! Packets for the guest: kept in a bounded queue until the guest has given pages for them.
//!
//! A packet takes a ring slot for each page of its bytes, and one more if it stands for many. The
//! slots of a packet are filled all at once or not at all, so pages that are too few for the packet
//! at the queue's front are held until there are more.

use crate::net::protocol::{Receive, to_rx_flags};
use crate::net::{Checksum, FRAME_BUFFER, Frame, LARGE_FRAME, Large, MAX_FRAME, checksum};
use crate::ring::BackRing;
use crate::share::{CopyOut, PAGE_SIZE, PeerMemory, RingCorrupt, SharedMem};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::num::NonZeroU16;
use shared_abi::io::netif::{
    NETIF_RSP_ERROR, NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, NetifExtraGso, NetifExtraInfo, NetifRxRequest,
    NetifRxResponse, XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6,
};
use zerocopy::IntoBytes;

/// Slots filled with one hypercall: enough for several of the longest packets.
const BATCH: usize = 64;
/// Packets kept for a guest that is slow to take them; the next are dropped.
pub(super) const QUEUE: usize = 128;
/// Bytes kept for it.
const QUEUE_BYTES: usize = 256 << 10;
/// Buffers of ordinary frames kept for the next ones.
const SPARE: usize = 32;
const _: () = assert!(LARGE_FRAME.div_ceil(PAGE_SIZE) < BATCH);

struct Queued {
    bytes: Vec<u8>,
    checksum: Checksum,
}

impl Queued {
    fn pages(&self) -> usize {
        self.bytes.len().div_ceil(PAGE_SIZE)
    }

    /// How it is to be cut, if it stands for many.
    fn segments(&self) -> Option<NonZeroU16> {
        match self.checksum {
            Checksum::PerSegment(size) => Some(size),
            _ => None,
        }
    }

    fn slots(&self) -> usize {
        self.pages() + usize::from(self.segments().is_some())
    }
}

/// What a frontend takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    /// No `feature-no-csum-offload`: blank checksums of IPv4.
    pub blank_ipv4: bool,
    /// `feature-ipv6-csum-offload`.
    pub blank_ipv6: bool,
    /// `feature-sg` and `feature-gso-tcpv4`: packets that stand for many.
    pub large_ipv4: bool,
    /// `feature-sg` and `feature-gso-tcpv6`.
    pub large_ipv6: bool,
}

pub(super) struct ReceiveSide<M> {
    ring: BackRing<Receive, M>,
    accepts: Accepts,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// The guest's pages that have been taken from the ring and not been used yet.
    held: VecDeque<NetifRxRequest>,
    /// Buffers of ordinary frames that have been used and will be again.
    spare: Vec<Vec<u8>>,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) dropped: u64,
}

impl<M: SharedMem> ReceiveSide<M> {
    pub(super) fn new(ring: BackRing<Receive, M>, accepts: Accepts) -> Self {
        let (queue, held, spare) = (VecDeque::new(), VecDeque::new(), Vec::new());
        ReceiveSide { ring, accepts, queue, queued_bytes: 0, held, spare, packets: 0, bytes: 0, dropped: 0 }
    }

    /// Queues a copy of a frame; true if there is a batch of them now.
    pub(super) fn queue(&mut self, frame: Frame<'_>) -> bool {
        if let Checksum::PerSegment(size) = frame.checksum {
            let Some(large) = Large::parse(frame.bytes, size) else {
                self.dropped += 1;
                return false;
            };
            let takes = if large.is_ipv6() { self.accepts.large_ipv6 } else { self.accepts.large_ipv4 };
            if !takes {
                let mut full = false;
                large.cut(|bytes| full |= self.queue(Frame { bytes, checksum: Checksum::Blank }));
                return full;
            }
        } else if frame.bytes.len() > MAX_FRAME {
            self.dropped += 1;
            return false;
        }
        let len = frame.bytes.len();
        if len > LARGE_FRAME || self.queue.len() >= QUEUE || self.queued_bytes + len > QUEUE_BYTES {
            self.dropped += 1;
            return false;
        }
        let mut bytes = if len <= FRAME_BUFFER {
            self.spare.pop().unwrap_or_else(|| Vec::with_capacity(FRAME_BUFFER))
        } else {
            Vec::with_capacity(len)
        };
        bytes.extend_from_slice(frame.bytes);
        let mut state = frame.checksum;
        let takes = if checksum::is_ipv6(&bytes) { self.accepts.blank_ipv6 } else { self.accepts.blank_ipv4 };
        if state == Checksum::Blank && !takes {
            checksum::fill(&mut bytes);
            state = Checksum::Valid;
        }
        self.queue.push_back(Queued { bytes, checksum: state });
        self.queued_bytes += len;
        self.queue.len().is_multiple_of(BATCH / 2)
    }

    /// Copies queued packets into the guest's pages as long as there are any; true if the frontend
    /// is to be notified.
    pub(super) fn flush<G: PeerMemory>(&mut self, memory: &G) -> Result<bool, RingCorrupt> {
        while !self.queue.is_empty() {
            let (mut packets, mut slots) = (0, 0);
            for packet in &self.queue {
                let more = slots + packet.slots();
                while self.held.len() < more.min(BATCH)
                    && let Some(page) = self.ring.pop()?
                {
                    self.held.push_back(page);
                }
                if more > self.held.len() {
                    break;
                }
                (packets, slots) = (packets + 1, more);
            }
            if packets == 0 {
                // Out of pages. The frontend says when it has more (`feature-rx-notify`).
                if self.ring.arm()? {
                    continue;
                }
                break;
            }
            self.copy(memory, packets)?;
        }
        Ok(self.ring.publish())
    }

    /// Moves the first `count` packets into pages that are held: there are enough, and no more than a
    /// batch of them is needed.
    fn copy<G: PeerMemory>(&mut self, memory: &G, count: usize) -> Result<(), RingCorrupt> {
        let mut batch = ArrayVec::<CopyOut<'_>, BATCH>::new();
        let mut pages = self.held.iter();
        for packet in self.queue.iter().take(count) {
            for (number, from) in packet.bytes.chunks(PAGE_SIZE).enumerate() {
                let Some(page) = pages.next() else { break };
                batch.push(CopyOut { gref: page.gref, offset: 0, from, result: Ok(()) });
                if number == 0 && packet.segments().is_some() {
                    // The slot of what is said about it: its page stays unused.
                    pages.next();
                }
            }
        }
        memory.copy_out(&mut batch);
        let results: ArrayVec<_, BATCH> = batch.iter().map(|copy| copy.result.is_ok()).collect();
        drop(batch);
        let mut results = results.as_slice();
        for _ in 0..count {
            let Some(packet) = self.queue.pop_front() else { break };
            let (own, others) = results.split_at(packet.pages().min(results.len()));
            results = others;
            self.respond(&packet, own.iter().all(|good| *good))?;
            self.queued_bytes -= packet.bytes.len();
            if packet.bytes.capacity() == FRAME_BUFFER && self.spare.len() < SPARE {
                let mut bytes = packet.bytes;
                bytes.clear();
                self.spare.push(bytes);
            }
        }
        Ok(())
    }

    /// Answers the slots of a packet. Responses go into the slots their requests came from, in order:
    /// frontends rely on it.
    fn respond(&mut self, packet: &Queued, good: bool) -> Result<(), RingCorrupt> {
        if !good {
            self.dropped += 1;
            for page in self.held.drain(..packet.slots().min(self.held.len())) {
                let response = NetifRxResponse { id: page.id, offset: 0, flags: 0, status: NETIF_RSP_ERROR };
                self.ring.push(&response)?;
            }
            return Ok(());
        }
        self.packets += 1;
        self.bytes += packet.bytes.len() as u64;
        let mut flags = to_rx_flags(packet.checksum);
        let mut extra = packet.segments();
        if extra.is_some() {
            flags |= NETRXF_EXTRA_INFO;
        }
        let mut chunks = packet.bytes.chunks(PAGE_SIZE).peekable();
        while let Some(chunk) = chunks.next() {
            let Some(page) = self.held.pop_front() else { break };
            let more = if chunks.peek().is_some() { NETRXF_MORE_DATA } else { 0 };
            // At most a page.
            let status = chunk.len() as i16;
            self.ring.push(&NetifRxResponse { id: page.id, offset: 0, flags: flags | more, status })?;
            flags = 0;
            if let Some(size) = extra.take() {
                self.held.pop_front();
                self.ring.push(&gso_response(size, checksum::is_ipv6(&packet.bytes)))?;
            }
        }
        Ok(())
    }
}

/// The slot that says how a packet is to be cut: a `netif_extra_info` over a response.
fn gso_response(size: NonZeroU16, ipv6: bool) -> NetifRxResponse {
    let r#type = if ipv6 { XEN_NETIF_GSO_TYPE_TCPV6 } else { XEN_NETIF_GSO_TYPE_TCPV4 };
    let mut extra = NetifExtraInfo { r#type: XEN_NETIF_EXTRA_TYPE_GSO, flags: 0, u: [0; 3] };
    extra.set_gso(NetifExtraGso { size: size.get(), r#type, pad: 0, features: 0 });
    let mut response = NetifRxResponse { id: 0, offset: 0, flags: 0, status: 0 };
    response.as_mut_bytes().copy_from_slice(extra.as_bytes());
    response
}
