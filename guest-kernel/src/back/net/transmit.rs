//! Packets from the guest: taken from the ring in batches and copied in with one hypercall.

use crate::net::protocol::{Transmit, from_tx_flags};
use crate::net::{Checksum, FRAME_BUFFER, Frame, FrameSink, LARGE_FRAME, Large, Limit, MAX_FRAME, MIN_FRAME};
use crate::ring::BackRing;
use crate::share::{CopyIn, PAGE_SIZE, PeerMemory, RingCorrupt, SharedMem};
use alloc::boxed::Box;
use alloc::vec;
use arrayvec::ArrayVec;
use core::num::NonZeroU16;
use shared_abi::GrantRef;
use shared_abi::io::netif::{
    NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY, NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, NetifExtraInfo,
    NetifTxRequest, NetifTxResponse, XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_TYPE_MAX, XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6, XEN_NETIF_NR_SLOTS_MIN,
};
use zerocopy::{FromBytes, IntoBytes};

/// Packets in a batch.
const PACKETS: usize = 64;
/// Room for a batch: a packet begins at a multiple of [`FRAME_BUFFER`], and the longest one always has
/// room behind as many others of usual size as make a batch.
const ROOM: usize = PACKETS * FRAME_BUFFER + (LARGE_FRAME + 1);
/// Ring slots in a batch: enough that a packet of the most slots always fits in an empty one.
const SLOTS: usize = 128;
const EXTRAS: usize = XEN_NETIF_EXTRA_TYPE_MAX as usize - 1;
const MOST_SLOTS: usize = XEN_NETIF_NR_SLOTS_MIN + EXTRAS;

/// Working space of one batch. It is used without pause, so all backends of a domain share one.
pub struct Scratch {
    data: Box<[u8]>,
}

impl Scratch {
    /// 192 KiB of buffers.
    pub fn new() -> Self {
        Scratch { data: vec![0; ROOM].into_boxed_slice() }
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
    /// What its sender says of segments, and whether that is of IPv6. To be compared with its bytes.
    segments: Option<(NonZeroU16, bool)>,
    /// Where in the buffers it goes.
    at: usize,
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
        let mut at = 0;
        while packets.len() < PACKETS && slots.len() + MOST_SLOTS <= SLOTS && at + LARGE_FRAME < ROOM {
            let Some(first) = self.ring.pop()? else {
                state = if self.ring.arm()? { Batch::Some } else { Batch::Empty };
                break;
            };
            let packet = self.packet(first, at, &mut slots)?;
            at += packet.len.unwrap_or(0).next_multiple_of(FRAME_BUFFER);
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
        for (packet, good) in packets.iter().zip(good) {
            let len = packet.len.filter(|_| good);
            let bytes = len.and_then(|len| scratch.data.get(packet.at..packet.at + len));
            let status = match bytes.and_then(|bytes| packet.frame(bytes)) {
                Some(frame) => {
                    self.packets += 1;
                    self.bytes += frame.bytes.len() as u64;
                    sink.frame(frame);
                    NETIF_RSP_OKAY
                }
                None => {
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
        at: usize,
        slots: &mut ArrayVec<(u16, bool), SLOTS>,
    ) -> Result<Packet, RingCorrupt> {
        let start = slots.len();
        slots.push((first.id, false));
        let mut more = first.flags & NETTXF_EXTRA_INFO != 0;
        let mut extras = 0;
        let (mut segments, mut understood) = (None, true);
        while more {
            let slot = self.ring.pop()?.ok_or(RingCorrupt)?;
            let (extra, _) = NetifExtraInfo::read_from_prefix(slot.as_bytes()).map_err(|_| RingCorrupt)?;
            extras += 1;
            if extras > EXTRAS {
                return Err(RingCorrupt);
            }
            // An extra lies over the id; the frontend tells by the slot, so any id will do.
            slots.push((slot.id, true));
            let ipv6 = match extra.gso().r#type {
                XEN_NETIF_GSO_TYPE_TCPV4 => Some(false),
                XEN_NETIF_GSO_TYPE_TCPV6 => Some(true),
                _ => None,
            };
            let size = NonZeroU16::new(extra.gso().size);
            let gso = size.zip(ipv6).filter(|_| extra.r#type == XEN_NETIF_EXTRA_TYPE_GSO);
            // Only segmentation was offered, and to say it twice makes no sense.
            understood &= gso.is_some() && segments.is_none();
            segments = gso;
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
        let longest = if segments.is_some() { LARGE_FRAME } else { MAX_FRAME };
        let good =
            understood && rest < total && (MIN_FRAME..=longest).contains(&total) && pieces.iter().all(inside);
        let (len, slots) = (good.then_some(total), start..slots.len());
        Ok(Packet { pieces, len, checksum, segments, at, slots })
    }
}

impl Packet {
    /// The packet whose bytes have arrived, unless it is not what its sender says.
    fn frame<'a>(&self, bytes: &'a [u8]) -> Option<Frame<'a>> {
        let Some((size, ipv6)) = self.segments else {
            return Some(Frame { bytes, checksum: self.checksum });
        };
        let large = Large::parse(bytes, size).filter(|large| large.is_ipv6() == ipv6)?;
        let many = large.count() > 1;
        // A group address for a TCP packet is a way to have it multiplied.
        if many && bytes[0] & 1 == 1 {
            return None;
        }
        let single = || (bytes.len() <= MAX_FRAME).then_some(Checksum::Blank);
        let checksum = if many { Checksum::PerSegment(size) } else { single()? };
        Some(Frame { bytes, checksum })
    }
}

/// Copies the good packets' pieces to their places, in one batch; says for which it worked.
fn copy<G: PeerMemory>(
    memory: &G,
    packets: &ArrayVec<Packet, PACKETS>,
    data: &mut [u8],
) -> ArrayVec<bool, PACKETS> {
    let mut batch = ArrayVec::<CopyIn<'_>, SLOTS>::new();
    let (mut rest, mut at) = (data, 0);
    for packet in packets.iter().filter(|packet| packet.len.is_some()) {
        (_, rest) = rest.split_at_mut(packet.at - at);
        at = packet.at;
        for piece in &packet.pieces {
            let (to, tail) = rest.split_at_mut(usize::from(piece.len));
            batch.push(CopyIn { gref: piece.gref, offset: piece.offset, to, result: Ok(()) });
            (rest, at) = (tail, at + usize::from(piece.len));
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
