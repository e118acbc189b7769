//! Receiving: pages granted once lie on the ring; a frame is copied out and its page put back.

use crate::net::protocol::{Receive, from_rx_flags};
use crate::net::{Checksum, MAX_FRAME, MIN_FRAME};
use crate::ring::FrontRing;
use crate::share::{GrantedPage, PAGE_SIZE, RingCorrupt};
use alloc::vec;
use alloc::vec::Vec;
use shared_abi::io::netif::{
    NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, NetifExtraInfo, NetifRxRequest, NetifRxResponse,
    XEN_NETIF_EXTRA_FLAG_MORE,
};
use zerocopy::{FromBytes, IntoBytes};

/// What the next response is part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A frame.
    First,
    /// The rest of a frame that is dropped, for it is in several pieces.
    Rest,
    /// Something about a frame; `more` pieces of the frame follow it.
    Extra { more: bool },
}

pub(super) struct ReceiveSide<P> {
    pub(super) ring: FrontRing<Receive, P>,
    /// Which page is in each ring slot. Responses come in the slot of their request, and an extra
    /// has no id of its own.
    slots: Vec<u16>,
    expect: Expect,
}

impl<P: GrantedPage> ReceiveSide<P> {
    /// Puts all of `pages` on the ring.
    pub(super) fn new(ring: FrontRing<Receive, P>, pages: &[P]) -> Self {
        let slots = vec![0; ring.size() as usize];
        let mut side = ReceiveSide { ring, slots, expect: Expect::First };
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
            let id = self.slots[index as usize & (self.slots.len() - 1)];
            let taken = self.response(&response, &pages[usize::from(id)], to);
            self.give(pages, id);
            if let Some(taken) = taken? {
                return Ok(Some(taken));
            }
        }
    }

    fn response(
        &mut self,
        response: &NetifRxResponse,
        page: &P,
        to: &mut [u8],
    ) -> Result<Option<(usize, Checksum)>, RingCorrupt> {
        if let Expect::Extra { more } = self.expect {
            let extra = NetifExtraInfo::read_from_bytes(response.as_bytes()).map_err(|_| RingCorrupt)?;
            if extra.flags & XEN_NETIF_EXTRA_FLAG_MORE == 0 {
                self.expect = if more { Expect::Rest } else { Expect::First };
            }
            return Ok(None);
        }
        let whole = self.expect == Expect::First;
        let more = response.flags & NETRXF_MORE_DATA != 0;
        let extra = whole && response.flags & NETRXF_EXTRA_INFO != 0;
        self.expect = match (extra, more) {
            (true, more) => Expect::Extra { more },
            (false, true) => Expect::Rest,
            (false, false) => Expect::First,
        };
        let (offset, Ok(len)) = (usize::from(response.offset), usize::try_from(response.status)) else {
            return Ok(None);
        };
        if offset + len > PAGE_SIZE {
            return Err(RingCorrupt);
        }
        // Neither scatter-gather nor any extra was offered: such a frame is not for us.
        if !whole || more || extra || !(MIN_FRAME..=MAX_FRAME.min(to.len())).contains(&len) {
            return Ok(None);
        }
        page.read(offset, &mut to[..len]);
        Ok(Some((len, from_rx_flags(response.flags))))
    }
}
