//! Receiving: pages granted once lie on the ring; a frame is copied out and its page put back.

use crate::net::protocol::{Receive, from_rx_flags};
use crate::net::{Checksum, MIN_FRAME};
use crate::ring::FrontRing;
use crate::share::{GrantedPage, PAGE_SIZE, RingCorrupt};
use alloc::vec;
use alloc::vec::Vec;
use shared_abi::io::netif::{
    NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, NetifExtraInfo, NetifRxRequest, NetifRxResponse,
    XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_TYPE_GSO,
};
use zerocopy::{FromBytes, IntoBytes};

pub(super) struct ReceiveSide<P> {
    pub(super) ring: FrontRing<Receive, P>,
    /// Which page is in each ring slot. Responses come in the slot of their request, and an extra
    /// has no id of its own.
    slots: Vec<u16>,
}

impl<P: GrantedPage> ReceiveSide<P> {
    /// Puts all of `pages` on the ring.
    pub(super) fn new(ring: FrontRing<Receive, P>, pages: &[P]) -> Self {
        let slots = vec![0; ring.size() as usize];
        let mut side = ReceiveSide { ring, slots };
        for id in 0..pages.len().min(side.slots.len()) {
            side.give(pages, id as u16);
        }
        side
    }

    fn give(&mut self, pages: &[P], id: u16) {
        let request = NetifRxRequest { id, pad: 0, gref: pages[usize::from(id)].gref() };
        // There are no more pages than slots.
        if let Some(index) = self.ring.push(&request) {
            let slot = index as usize & (self.slots.len() - 1);
            self.slots[slot] = id;
        }
    }

    /// Takes the next whole frame. If there is none, the backend's next response brings an event.
    pub(super) fn receive(
        &mut self,
        pages: &[P],
        to: &mut [u8],
    ) -> Result<Option<(usize, Checksum)>, RingCorrupt> {
        loop {
            let Some((index, response)) = self.ring.pop()? else {
                if self.ring.arm()? {
                    continue;
                }
                return Ok(None);
            };
            if let Some(taken) = self.frame(pages, index, response, to)? {
                return Ok(Some(taken));
            }
        }
    }

    /// Takes a frame whose first response is `response`. It may be in several pieces, and have extras
    /// between the first one and the others: a backend publishes them all at once. `None` if it is bad.
    fn frame(
        &mut self,
        pages: &[P],
        index: u32,
        response: NetifRxResponse,
        to: &mut [u8],
    ) -> Result<Option<(usize, Checksum)>, RingCorrupt> {
        let flags = response.flags;
        let (mut len, mut good) = (0, true);
        self.piece(pages, index, &response, to, &mut len, &mut good)?;
        let mut extra = flags & NETRXF_EXTRA_INFO != 0;
        while extra {
            // How a frame that stands for many is to be cut is nothing that its receiver needs.
            let (index, response) = self.ring.pop()?.ok_or(RingCorrupt)?;
            let info = NetifExtraInfo::read_from_bytes(response.as_bytes()).map_err(|_| RingCorrupt)?;
            self.give(pages, self.page_in(index));
            good &= info.r#type == XEN_NETIF_EXTRA_TYPE_GSO;
            extra = info.flags & XEN_NETIF_EXTRA_FLAG_MORE != 0;
        }
        let mut more = flags & NETRXF_MORE_DATA != 0;
        while more {
            let (index, response) = self.ring.pop()?.ok_or(RingCorrupt)?;
            self.piece(pages, index, &response, to, &mut len, &mut good)?;
            more = response.flags & NETRXF_MORE_DATA != 0;
        }
        Ok((good && len >= MIN_FRAME).then_some((len, from_rx_flags(flags))))
    }

    /// Appends a piece to the `len` bytes of a frame in `to`, and puts its page back on the ring.
    fn piece(
        &mut self,
        pages: &[P],
        index: u32,
        response: &NetifRxResponse,
        to: &mut [u8],
        len: &mut usize,
        good: &mut bool,
    ) -> Result<(), RingCorrupt> {
        let id = self.page_in(index);
        let offset = usize::from(response.offset);
        match usize::try_from(response.status) {
            Ok(count) if offset + count > PAGE_SIZE => return Err(RingCorrupt),
            Ok(count) => match to.get_mut(*len..*len + count) {
                Some(to) => {
                    pages[usize::from(id)].read(offset, to);
                    *len += count;
                }
                None => *good = false,
            },
            Err(_) => *good = false,
        }
        self.give(pages, id);
        Ok(())
    }

    fn page_in(&self, index: u32) -> u16 {
        self.slots[index as usize & (self.slots.len() - 1)]
    }
}
