//! Packets from the guest: taken from the ring in batches and copied in with one hypercall.

use crate::net::protocol::{Transmit, from_tx_flags};
use crate::net::{Checksum, FRAME_BUFFER, Frame, FrameSink, Limit, MAX_FRAME, MIN_FRAME};
use crate::ring::BackRing;
use crate::share::{CopyIn, PAGE_SIZE, PeerMemory, RingCorrupt, SharedMem};
use alloc::boxed::Box;
use alloc::vec;
use arrayvec::ArrayVec;
use shared_abi::GrantRef;
use shared_abi::io::netif::{
    NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY, NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, NetifExtraInfo,
    NetifTxRequest, NetifTxResponse, XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_TYPE_MAX,
    XEN_NETIF_NR_SLOTS_MIN,
};
use zerocopy::{FromBytes, IntoBytes};

/// Packets in a batch.
const PACKETS: usize = 64;
/// Ring slots in a batch: enough that a packet of the most slots always fits in an empty one.
const SLOTS: usize = 128;
const EXTRAS: usize = XEN_NETIF_EXTRA_TYPE_MAX as usize - 1;
const MOST_SLOTS: usize = XEN_NETIF_NR_SLOTS_MIN + EXTRAS;

/// Working space of one batch. It is used without pause, so all backends of a domain share one.
pub struct Scratch {
    data: Box<[u8]>,
}

impl Scratch {
    /// 128 KiB of buffers.
    pub fn new() -> Self {
        Scratch { data: vec![0; PACKETS * FRAME_BUFFER].into_boxed_slice() }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// A piece of a packet, in a page of the guest's.
struct Piece {
    gref: GrantRef,
    offset: u16,
    len: u16,
}

/// A packet as described by its slots.
struct Packet {
    pieces: ArrayVec<Piece, XEN_NETIF_NR_SLOTS_MIN>,
    /// Total length, or `None` if the description is bad.
    len: Option<usize>,
    checksum: Checksum,
    /// Its ring slots, in the batch's list.
    slots: core::ops::Range<usize>,
}

/// What a batch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batch {
    /// The ring is empty, and armed.
    Empty,
    /// There may be more at once.
    Some,
    /// The rate limit forbids more until this time.
    Later(u64),
}

pub(super) struct TransmitSide<M> {
    pub(super) ring: BackRing<Transmit, M>,
    pub(super) limit: Option<Limit>,
    /// Bytes that went although the limit forbade them; nothing goes until they are paid for.
    owed: u64,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) errors: u64,
}

impl<M: SharedMem> TransmitSide<M> {
    pub(super) fn new(ring: BackRing<Transmit, M>, limit: Option<Limit>) -> Self {
        TransmitSide { ring, limit, owed: 0, packets: 0, bytes: 0, errors: 0 }
    }

    /// Takes one batch and hands its good packets to `sink`; the bool says whether to notify the
    /// frontend of the responses.
    pub(super) fn batch<G: PeerMemory, S: FrameSink>(
        &mut self,
        memory: &G,
        sink: &S,
        scratch: &mut Scratch,
        now: u64,
    ) -> Result<(Batch, bool), RingCorrupt> {
        if let Some(limit) = &mut self.limit {
            if let Err(when) = limit.spend(self.owed, now) {
                return Ok((Batch::Later(when), false));
            }
            self.owed = 0;
        }
        let mut packets = ArrayVec::<Packet, PACKETS>::new();
        // Each slot's id, and whether it was an extra and gets the response of none.
        let mut slots = ArrayVec::<(u16, bool), SLOTS>::new();
        let mut state = Batch::Some;
        while packets.len() < PACKETS && slots.len() + MOST_SLOTS <= SLOTS {
            let Some(first) = self.ring.pop()? else {
                state = if self.ring.arm()? { Batch::Some } else { Batch::Empty };
                break;
            };
            let packet = self.packet(first, &mut slots)?;
            let len = packet.len.unwrap_or(0) as u64;
            packets.push(packet);
            if let Some(limit) = &mut self.limit
                && let Err(when) = limit.spend(len, now)
            {
                // This packet still goes, for it was taken. The next ones wait.
                self.owed = len;
                state = Batch::Later(when);
                break;
            }
        }
        if packets.is_empty() {
            return Ok((state, false));
        }
        let good = copy(memory, &packets, &mut scratch.data);
        for ((packet, buffer), good) in packets.iter().zip(scratch.data.chunks_exact(FRAME_BUFFER)).zip(good)
        {
            let status = match packet.len {
                Some(len) if good => {
                    self.packets += 1;
                    self.bytes += len as u64;
                    sink.frame(Frame { bytes: &buffer[..len], checksum: packet.checksum });
                    NETIF_RSP_OKAY
                }
                _ => {
                    self.errors += 1;
                    NETIF_RSP_ERROR
                }
            };
            for &(id, extra) in &slots[packet.slots.clone()] {
                let status = if extra { NETIF_RSP_NULL } else { status };
                self.ring.push(&NetifTxResponse { id, status })?;
            }
        }
        sink.flush();
        Ok((state, self.ring.publish()))
    }

    /// Reads the slots of one packet. A frontend must publish a packet whole, and one of too many
    /// slots cannot be answered sensibly: both are a broken ring.
    fn packet(
        &mut self,
        first: NetifTxRequest,
        slots: &mut ArrayVec<(u16, bool), SLOTS>,
    ) -> Result<Packet, RingCorrupt> {
        let start = slots.len();
        slots.push((first.id, false));
        let mut more = first.flags & NETTXF_EXTRA_INFO != 0;
        let mut extras = 0;
        while more {
            let slot = self.ring.pop()?.ok_or(RingCorrupt)?;
            let (extra, _) = NetifExtraInfo::read_from_prefix(slot.as_bytes()).map_err(|_| RingCorrupt)?;
            extras += 1;
            if extras > EXTRAS {
                return Err(RingCorrupt);
            }
            // An extra lies over the id; the frontend tells by the slot, so any id will do.
            slots.push((slot.id, true));
            more = extra.flags & XEN_NETIF_EXTRA_FLAG_MORE != 0;
        }
        let mut pieces = ArrayVec::new();
        pieces.push(Piece { gref: first.gref, offset: first.offset, len: 0 });
        let mut rest = 0usize;
        let mut more = first.flags & NETTXF_MORE_DATA != 0;
        while more {
            let slot = self.ring.pop()?.ok_or(RingCorrupt)?;
            let piece = Piece { gref: slot.gref, offset: slot.offset, len: slot.size };
            pieces.try_push(piece).map_err(|_| RingCorrupt)?;
            slots.push((slot.id, false));
            rest += usize::from(slot.size);
            more = slot.flags & NETTXF_MORE_DATA != 0;
        }
        let checksum = from_tx_flags(first.flags);
        let total = usize::from(first.size);
        // The first slot's size is the whole packet's; its own piece is what the others leave.
        pieces[0].len = total.saturating_sub(rest) as u16;
        let inside = |piece: &Piece| usize::from(piece.offset) + usize::from(piece.len) <= PAGE_SIZE;
        // No extra is understood, for none is offered: segmentation is not to be ignored.
        let good = extras == 0
            && rest < total
            && (MIN_FRAME..=MAX_FRAME).contains(&total)
            && pieces.iter().all(inside);
        Ok(Packet { pieces, len: good.then_some(total), checksum, slots: start..slots.len() })
    }
}

/// Copies the good packets' pieces into a buffer each, in one batch; says for which it worked.
fn copy<G: PeerMemory>(
    memory: &G,
    packets: &ArrayVec<Packet, PACKETS>,
    data: &mut [u8],
) -> ArrayVec<bool, PACKETS> {
    let mut batch = ArrayVec::<CopyIn<'_>, SLOTS>::new();
    for (packet, buffer) in packets.iter().zip(data.chunks_exact_mut(FRAME_BUFFER)) {
        if packet.len.is_none() {
            continue;
        }
        let mut rest = buffer;
        for piece in &packet.pieces {
            let (to, tail) = rest.split_at_mut(usize::from(piece.len));
            batch.push(CopyIn { gref: piece.gref, offset: piece.offset, to, result: Ok(()) });
            rest = tail;
        }
    }
    memory.copy_in(&mut batch);
    let mut copies = batch.iter();
    packets
        .iter()
        .map(|packet| {
            let count = if packet.len.is_some() { packet.pieces.len() } else { 0 };
            let failed = copies.by_ref().take(count).filter(|copy| copy.result.is_err()).count();
            failed == 0
        })
        .collect()
}
