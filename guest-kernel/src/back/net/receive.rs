//! Packets for the guest: kept in a bounded queue until the guest has given pages for them.

use crate::net::protocol::{Receive, to_rx_flags};
use crate::net::{Checksum, FRAME_BUFFER, Frame, MAX_FRAME, checksum};
use crate::ring::BackRing;
use crate::share::{CopyOut, PeerMemory, RingCorrupt, SharedMem};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use shared_abi::io::netif::{NETIF_RSP_ERROR, NetifRxRequest, NetifRxResponse};

/// Packets copied out with one hypercall.
const BATCH: usize = 32;
/// Packets kept for a guest that is slow to take them; the next are dropped.
pub(super) const QUEUE: usize = 128;

struct Queued {
    bytes: Box<[u8; FRAME_BUFFER]>,
    len: usize,
    checksum: Checksum,
}

/// Which blank checksums a frontend takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepts {
    /// No `feature-no-csum-offload`.
    pub blank_ipv4: bool,
    /// `feature-ipv6-csum-offload`.
    pub blank_ipv6: bool,
}

pub(super) struct ReceiveSide<M> {
    ring: BackRing<Receive, M>,
    accepts: Accepts,
    queue: VecDeque<Queued>,
    /// Buffers that have been used and will be again.
    spare: Vec<Box<[u8; FRAME_BUFFER]>>,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) dropped: u64,
}

impl<M: SharedMem> ReceiveSide<M> {
    pub(super) fn new(ring: BackRing<Receive, M>, accepts: Accepts) -> Self {
        let (queue, spare) = (VecDeque::new(), Vec::new());
        ReceiveSide { ring, accepts, queue, spare, packets: 0, bytes: 0, dropped: 0 }
    }

    /// Queues a copy of a frame; true if there is a batch of them now.
    pub(super) fn queue(&mut self, frame: Frame<'_>) -> bool {
        let len = frame.bytes.len();
        if len > MAX_FRAME || self.queue.len() >= QUEUE {
            self.dropped += 1;
            return false;
        }
        let mut bytes = self.spare.pop().unwrap_or_else(|| Box::new([0; FRAME_BUFFER]));
        bytes[..len].copy_from_slice(frame.bytes);
        let mut state = frame.checksum;
        let takes =
            if checksum::is_ipv6(frame.bytes) { self.accepts.blank_ipv6 } else { self.accepts.blank_ipv4 };
        if state == Checksum::Blank && !takes {
            checksum::fill(&mut bytes[..len]);
            state = Checksum::Valid;
        }
        self.queue.push_back(Queued { bytes, len, checksum: state });
        self.queue.len().is_multiple_of(BATCH)
    }

    /// Copies queued packets into the guest's pages as long as there are any; true if the frontend
    /// is to be notified.
    pub(super) fn flush<G: PeerMemory>(&mut self, memory: &G) -> Result<bool, RingCorrupt> {
        while !self.queue.is_empty() {
            let mut pages = ArrayVec::<NetifRxRequest, BATCH>::new();
            while pages.len() < BATCH.min(self.queue.len())
                && let Some(page) = self.ring.pop()?
            {
                pages.push(page);
            }
            if pages.is_empty() {
                // Out of pages. The frontend says when it has more (`feature-rx-notify`).
                if self.ring.arm()? {
                    continue;
                }
                break;
            }
            self.copy(memory, &pages)?;
        }
        Ok(self.ring.publish())
    }

    fn copy<G: PeerMemory>(&mut self, memory: &G, pages: &[NetifRxRequest]) -> Result<(), RingCorrupt> {
        let mut batch = ArrayVec::<CopyOut<'_>, BATCH>::new();
        for (page, packet) in pages.iter().zip(&self.queue) {
            let from = &packet.bytes[..packet.len];
            batch.push(CopyOut { gref: page.gref, offset: 0, from, result: Ok(()) });
        }
        memory.copy_out(&mut batch);
        let results: ArrayVec<_, BATCH> = batch.iter().map(|copy| copy.result).collect();
        drop(batch);
        // Responses go into the slots their requests came from, in order: frontends rely on it.
        for (page, result) in pages.iter().zip(results) {
            let Some(packet) = self.queue.pop_front() else { break };
            let status = match result {
                Ok(()) => {
                    self.packets += 1;
                    self.bytes += packet.len as u64;
                    packet.len as i16
                }
                Err(_) => {
                    self.dropped += 1;
                    NETIF_RSP_ERROR
                }
            };
            let flags = if status < 0 { 0 } else { to_rx_flags(packet.checksum) };
            self.ring.push(&NetifRxResponse { id: page.id, offset: 0, flags, status })?;
            self.spare.push(packet.bytes);
        }
        Ok(())
    }
}
