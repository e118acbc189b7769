//! A virtual network interface found in the store: its handshake, and its backend's successors.

use super::{Interface, Offer};
use crate::events::EventChannel;
use crate::executor::{Either, select, spawn};
use crate::grants::SharedPage;
use crate::hypercall::Errno;
use crate::ring::FrontRing;
use crate::share::GrantedPage;
use crate::xenbus::{Device, PeerStates, XenbusState};
use crate::xenstore::{Result, Xenstore};
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;

/// An interface on this machine.
pub type VirtualInterface = Interface<SharedPage, EventChannel>;

/// How much memory an interface takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Pages to receive into, one frame in each: the longest burst that is not dropped.
    pub receive_pages: usize,
    /// Pages to send from, two frames in each.
    pub transmit_pages: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { receive_pages: 64, transmit_pages: 32 }
    }
}

/// Attaches the interface `device/vif/<id>`: returns when it can be used. A task keeps it connected.
pub async fn attach(store: &Xenstore, id: u32, options: Options) -> Result<Rc<VirtualInterface>> {
    let device = Device::frontend(store, "vif", id).await?;
    let mac = parse_mac(&device.read("mac").await?).ok_or(Errno::EINVAL)?;
    let pages =
        |count: usize| (0..count.max(1)).map(|_| SharedPage::new(device.peer)).collect::<Result<Vec<_>>>();
    let interface =
        Rc::new(VirtualInterface::new(mac, pages(options.receive_pages)?, pages(options.transmit_pages)?));
    let mut peer = device.watch_peer().await?;
    connect(&device, &mut peer, &interface).await?;
    let kept = interface.clone();
    spawn(async move {
        if let Err(errno) = keep(&device, &mut peer, &kept).await {
            log::warn!("interface {}: {errno}", device.id);
        }
        kept.disconnect();
        let _ = device.switch_state(XenbusState::Closed).await;
    });
    Ok(interface)
}

/// `00:16:3e:01:02:03`
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    // A group address is no interface's.
    (parts.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

/// One handshake. `ENODEV` if the backend closes.
async fn connect(device: &Device, peer: &mut PeerStates, interface: &VirtualInterface) -> Result<()> {
    device.switch_state(XenbusState::Initialising).await?;
    reach(peer, &[XenbusState::InitWait, XenbusState::Initialised, XenbusState::Connected]).await?;
    // All backends of this century copy; page flipping is gone from the interface.
    if device.read_peer_or("feature-rx-copy", 1).await? == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let offer = Offer {
        blank_ipv4: device.read_peer_or("feature-no-csum-offload", 0).await? == 0,
        blank_ipv6: device.read_peer_or("feature-ipv6-csum-offload", 0).await? != 0,
    };
    let transmit = FrontRing::new(SharedPage::new(device.peer)?);
    let receive = FrontRing::new(SharedPage::new(device.peer)?);
    let bell = Rc::new(EventChannel::alloc_unbound(device.peer)?);
    device
        .publish(&[
            ("tx-ring-ref", &transmit.memory().gref().to_string()),
            ("rx-ring-ref", &receive.memory().gref().to_string()),
            ("event-channel", &bell.port().to_string()),
            ("request-rx-copy", "1"),
            ("feature-rx-notify", "1"),
            ("feature-sg", "1"),
            ("feature-gso-tcpv4", "1"),
            ("feature-gso-tcpv6", "1"),
            ("feature-ipv6-csum-offload", "1"),
        ])
        .await?;
    // The receive ring is full of pages before the backend looks.
    interface.connect(transmit, receive, bell, offer);
    device.switch_state(XenbusState::Connected).await?;
    reach(peer, &[XenbusState::Connected]).await
}

async fn reach(peer: &mut PeerStates, states: &[XenbusState]) -> Result<()> {
    loop {
        let state = peer.next().await?;
        if states.contains(&state) {
            return Ok(());
        }
        if matches!(state, XenbusState::Unknown | XenbusState::Closing | XenbusState::Closed) {
            return Err(Errno::ENODEV);
        }
    }
}

/// Keeps the interface connected until it is taken away.
async fn keep(device: &Device, peer: &mut PeerStates, interface: &VirtualInterface) -> Result<()> {
    loop {
        let mut known = XenbusState::Connected;
        while known == XenbusState::Connected {
            known = match select(interface.broken(), peer.next()).await {
                Either::Left(_) => {
                    log::error!("interface {}: the backend has broken a ring", device.id);
                    return Err(Errno::EIO);
                }
                Either::Right(state) => state?,
            };
        }
        let rings = interface.disconnect();
        device.switch_state(XenbusState::Closed).await?;
        while !matches!(known, XenbusState::Closed | XenbusState::Unknown | XenbusState::InitWait) {
            known = peer.next().await?;
        }
        drop(rings);
        if known == XenbusState::Unknown || device.read_peer_or("online", 1).await? == 0 {
            return Ok(());
        }
        // A backend that has closed comes back for a frontend that begins again.
        device.switch_state(XenbusState::Initialising).await?;
        while known == XenbusState::Closed {
            known = peer.next().await?;
        }
        // A fresh watch begins with the state as it is now.
        *peer = device.watch_peer().await?;
        connect(device, peer, interface).await?;
        log::info!("interface {}: connected again", device.id);
    }
}

#[cfg(test)]
#[test]
fn addresses_are_read_or_refused() {
    assert_eq!(parse_mac("00:16:3e:0a:Bc:ff\n"), Some([0, 0x16, 0x3e, 0x0a, 0xbc, 0xff]));
    for bad in ["", "00:16:3e:0a:bc", "00:16:3e:0a:bc:ff:00", "01:16:3e:0a:bc:ff", "00:16:3e:0a:bc:100", "x"]
    {
        assert_eq!(parse_mac(bad), None, "{bad}");
    }
}
