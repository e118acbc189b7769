//! Sending: frames are copied into pages that are granted once, two to a page.

use crate::front::net::Offer;
use crate::net::protocol::{Transmit, to_tx_flags};
use crate::net::{Checksum, FRAME_BUFFER, MAX_FRAME, checksum};
use crate::ring::FrontRing;
use crate::share::{GrantedPage, PAGE_SIZE, RingCorrupt};
use alloc::vec;
use alloc::vec::Vec;
use shared_abi::io::netif::{NETIF_RSP_NULL, NetifTxRequest};

const PER_PAGE: usize = PAGE_SIZE / FRAME_BUFFER;

pub(super) struct TransmitSide<P> {
    pub(super) ring: FrontRing<Transmit, P>,
    /// Buffers not with the backend.
    free: Vec<u16>,
    /// Which buffers are.
    away: Vec<bool>,
}

impl<P: GrantedPage> TransmitSide<P> {
    /// Sends through `buffers` pages, all of them ours again.
    pub(super) fn new(ring: FrontRing<Transmit, P>, buffers: usize) -> Self {
        let count = (buffers * PER_PAGE).min(ring.size() as usize);
        TransmitSide { ring, free: (0..count as u16).rev().collect(), away: vec![false; count] }
    }

    /// Whether there is a free buffer, taking responses if there seems to be none. If there is
    /// still none, the backend's next response brings an event.
    pub(super) fn ready(&mut self) -> Result<bool, RingCorrupt> {
        while self.free.is_empty() {
            match self.ring.pop()? {
                Some((_, response)) if response.status == NETIF_RSP_NULL => return Err(RingCorrupt),
                Some((_, response)) => {
                    let id = usize::from(response.id);
                    if !core::mem::take(self.away.get_mut(id).ok_or(RingCorrupt)?) {
                        return Err(RingCorrupt);
                    }
                    self.free.push(response.id);
                    self.reclaim()?;
                }
                None if self.ring.arm()? => {}
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Takes the rest of the responses that are there.
    fn reclaim(&mut self) -> Result<(), RingCorrupt> {
        while let Some((_, response)) = self.ring.pop()? {
            let away = self.away.get_mut(usize::from(response.id)).ok_or(RingCorrupt)?;
            if !core::mem::take(away) {
                return Err(RingCorrupt);
            }
            self.free.push(response.id);
        }
        Ok(())
    }

    /// Puts a frame on the ring.
    pub(super) fn send(
        &mut self,
        pages: &[P],
        frame: &mut [u8],
        mut state: Checksum,
        offer: &Offer,
    ) -> Result<bool, RingCorrupt> {
        if frame.len() > MAX_FRAME || !self.ready()? {
            return Ok(false);
        }
        if state == Checksum::Blank {
            let takes = if checksum::is_ipv6(frame) { offer.blank_ipv6 } else { offer.blank_ipv4 };
            let (done, result) = if takes {
                (checksum::prepare(frame), Checksum::Blank)
            } else {
                (checksum::fill(frame), Checksum::Unknown)
            };
            state = if done { result } else { Checksum::Unknown };
        }
        let Some(id) = self.free.pop() else { return Ok(false) };
        let (page, offset) = (&pages[usize::from(id) / PER_PAGE], usize::from(id) % PER_PAGE * FRAME_BUFFER);
        page.write(offset, frame);
        let request = NetifTxRequest {
            gref: page.gref(),
            offset: offset as u16,
            flags: to_tx_flags(state),
            id,
            size: frame.len() as u16,
        };
        // There are no more buffers than slots.
        self.away[usize::from(id)] = self.ring.push(&request).is_some();
        Ok(true)
    }
}
