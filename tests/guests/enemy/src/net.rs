//! Network cards' rings (`io/netif.h`): packets that can't be, packets that change, indices that can't be.

use alloc::string::{String, ToString};
use core::time::Duration;

use guest_kernel::executor::sleep;
use guest_kernel::grants::SharedPage;
use guest_kernel::ring::{FrontRing, RingKind};
use guest_kernel::share::{GrantedPage, SharedMem};
use guest_kernel::shared_abi::Errno;
use guest_kernel::shared_abi::io::netif::{
    NETIF_RSP_ERROR, NETIF_RSP_OKAY, NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, NetifRxResponse, NetifTxResponse,
};
use guest_kernel::xenbus::{XenbusState, frontends};
use guest_kernel::xenstore::Xenstore;

use crate::device::{self, Frontend, OTHER_WORDS, REQ_PROD, WILD_REF, judge, judge_closed};

/// `struct netif_tx_request`: reference, offset, flags, id, size.
type Packet = [u8; 12];

struct Transmit;

impl RingKind for Transmit {
    type Request = Packet;
    type Response = NetifTxResponse;
}

struct Receive;

impl RingKind for Receive {
    /// `struct netif_rx_request`: id, padding, reference.
    type Request = [u8; 8];
    type Response = NetifRxResponse;
}

fn packet(reference: u32, offset: u16, flags: u16, size: u16) -> Packet {
    let mut packet = [0; 12];
    packet[..4].copy_from_slice(&reference.to_le_bytes());
    for (at, word) in packet[4..].chunks_mut(2).zip([offset, flags, 7, size]) {
        at.copy_from_slice(&word.to_le_bytes());
    }
    packet
}

/// `struct netif_extra_info` of a type that there is not, with more to follow.
fn extra(more: u8) -> Packet {
    [77, more, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

struct Card {
    frontend: Frontend,
    transmit: FrontRing<Transmit, SharedPage>,
    receive: FrontRing<Receive, SharedPage>,
    page: SharedPage,
}

impl Card {
    async fn new(store: &Xenstore, id: u32) -> Result<Card, Errno> {
        let frontend = Frontend::new(store, "vif", id).await?;
        let (transmit, receive) = (device::ring(&frontend.device)?, device::ring(&frontend.device)?);
        let page = SharedPage::new(frontend.device.peer)?;
        // A broadcast from this card's own address.
        let mac = frontend.device.read("mac").await?;
        let mac = mac.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap_or(0));
        page.write(0, &[0xff; 6]);
        for (at, byte) in mac.enumerate().take(6) {
            page.write(6 + at, &[byte]);
        }
        Ok(Card { frontend, transmit, receive, page })
    }

    /// Offers the card, with one node other than it should be.
    async fn offer(&self, but: Option<(&str, u32)>) -> Result<XenbusState, Errno> {
        let nodes = [
            ("tx-ring-ref", device::reference(&self.transmit)),
            ("rx-ring-ref", device::reference(&self.receive)),
            ("event-channel", self.frontend.port()),
            ("request-rx-copy", "1".into()),
            ("feature-rx-notify", "1".into()),
        ];
        let nodes = nodes.map(|(key, value): (_, String)| match but {
            Some((other, wrong)) if other == key => (key, wrong.to_string()),
            _ => (key, value),
        });
        self.frontend.offer(&nodes).await
    }

    async fn connect(store: &Xenstore, id: u32) -> Result<Card, Errno> {
        let card = Card::new(store, id).await?;
        match card.offer(None).await? {
            XenbusState::Connected => Ok(card),
            _ => Err(Errno::ENODEV),
        }
    }

    /// A frame that everybody gets.
    fn good(&self) -> Packet {
        packet(self.page.gref().0, 0, 0, 60)
    }

    /// Sends the slots of one packet; whether all were answered, the packet's own with `expected`.
    async fn expect(&mut self, what: &str, slots: &[Packet], expected: i16) {
        let mut first = None;
        let bell = self.frontend.bell.clone();
        let all = device::exchange(&mut self.transmit, &bell, slots, |answer| {
            first.get_or_insert(answer.status);
        })
        .await;
        judge(what, all && first == Some(expected), first);
    }
}

/// Attacks each of the cards in its own way. There have to be seven.
pub async fn attack(store: &Xenstore) -> Result<(), Errno> {
    let mut ids = frontends(store, "vif").await?;
    ids.sort_unstable();
    let [sender, index, receiver, pages, ring, extras, old] = ids[..] else { return Err(Errno::ENODEV) };

    // These two wait for what the first card sends.
    let impossible = Card::connect(store, receiver).await?;
    impossible.receive.memory().store(REQ_PROD, 0x4000_0000);
    let mut ungranted = Card::connect(store, pages).await?;
    for n in 0..32u32 {
        let [a, b, c, d] = (WILD_REF + n).to_le_bytes();
        ungranted.receive.push(&[n as u8, 0, 0, 0, a, b, c, d]);
    }
    let _ = ungranted.receive.publish();

    let mut card = Card::connect(store, sender).await?;
    let (good, mine) = (card.good(), card.page.gref().0);
    card.expect("a frame", &[good], NETIF_RSP_OKAY).await;
    impossible.frontend.refused("an impossible number of pages for frames").await;
    let mut refused = None;
    for _ in 0..100 {
        match ungranted.receive.pop() {
            Ok(Some((_, answer))) => refused = Some(answer.status),
            _ => sleep(Duration::from_millis(20)).await,
        }
        if refused.is_some() {
            break;
        }
    }
    judge("a frame into a page that was not granted", refused == Some(NETIF_RSP_ERROR), refused);

    let chain = |count: usize, piece: Packet, size: u16| {
        let mut slots = alloc::vec![piece; count];
        slots[0] = packet(mine, 0, NETTXF_MORE_DATA, size);
        if let Some(last) = slots.last_mut() {
            last[6..8].fill(0);
        }
        slots
    };
    let wild = packet(WILD_REF, 0, NETTXF_MORE_DATA, 50);
    let long = packet(mine, 0, NETTXF_MORE_DATA, 60_000);
    for (what, slots) in [
        ("a frame that was not granted", &[packet(WILD_REF, 0, 0, 60)][..]),
        ("a frame of nothing", &[packet(mine, 0, 0, 0)]),
        ("a frame of 65535 bytes", &[packet(mine, 0, 0, u16::MAX)]),
        ("a frame over the page's end", &[packet(mine, 4090, 0, 60)]),
        ("a frame that begins behind the page", &[packet(mine, u16::MAX, 0, 60)]),
        ("a frame of 18 pieces not granted", &chain(18, wild, 1000)),
        ("a frame smaller than its pieces", &chain(5, long, 100)),
        ("a frame whose first piece is less than nothing", &chain(2, wild, 20)),
        ("a frame with an extra of no known type", &[packet(mine, 0, NETTXF_EXTRA_INFO, 60), extra(0)]),
    ] {
        card.expect(what, slots, NETIF_RSP_ERROR).await;
    }
    for at in OTHER_WORDS {
        card.transmit.memory().store(at, 0x8000_0001);
    }
    card.expect("a frame with the ring's other words overwritten", &[good], NETIF_RSP_OKAY).await;
    let bell = card.frontend.bell.clone();
    let bad = packet(WILD_REF, 4000, 0, 5000);
    let answered = device::change_while_read(&mut card.transmit, &bell, &good, &bad, 300).await;
    judge("a frame that changes while it is read", answered, answered);
    card.expect("a frame after all that", &[good], NETIF_RSP_OKAY).await;
    card.transmit.push(&packet(mine, 0, NETTXF_MORE_DATA, 60));
    let _ = card.transmit.publish();
    card.frontend.refused("a frame without its end").await;

    let card = Card::connect(store, index).await?;
    card.transmit.memory().store(REQ_PROD, 257);
    card.frontend.refused("one frame more than the ring has room for").await;

    let mut card = Card::connect(store, extras).await?;
    card.transmit.push(&packet(card.page.gref().0, 0, NETTXF_EXTRA_INFO, 60));
    for _ in 0..100 {
        card.transmit.push(&extra(1));
    }
    let _ = card.transmit.publish();
    card.frontend.refused("a hundred extras").await;

    for (id, what, but) in [
        (ring, "a ring that was not granted", ("tx-ring-ref", WILD_REF)),
        (old, "a card that wants pages flipped", ("request-rx-copy", 0)),
    ] {
        judge_closed(what, Card::new(store, id).await?.offer(Some(but)).await);
    }
    Ok(())
}
