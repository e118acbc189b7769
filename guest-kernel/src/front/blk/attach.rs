//! A virtual disk found in the store: its handshake (`io/blkif.h`, "Startup"), and what happens
//! when its backend goes away.
//!
//! A backend that closes while its `online` node is 1 will be replaced; operations wait for the
//! next one. Otherwise the device has been taken away, and everything that waits fails.

use super::{Disk, Offer};
use crate::events::EventChannel;
use crate::executor::{Either, select, spawn};
use crate::grants::SharedPage;
use crate::hypercall::Errno;
use crate::ring::FrontRing;
use crate::share::{GrantedPage, PageRun};
use crate::xenbus::{Device, PeerStates, XenbusState};
use crate::xenstore::{Result, Xenstore};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use shared_abi::io::blkif::VDISK_READONLY;
use shared_abi::io::protocols::XEN_IO_PROTO_ABI_X86_64;

/// A disk on this machine.
pub type VirtualDisk = Disk<SharedPage, EventChannel>;

/// How much memory a disk takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Pages that data moves through; with 33 and more a request can be of 128 KiB.
    pub pages: usize,
    /// The ring has 2^order pages, and 32 requests in each; less if the backend takes less.
    pub ring_order: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { pages: 48, ring_order: 0 }
    }
}

/// Attaches the disk `device/vbd/<id>`: returns when it can be used. A task keeps it connected.
pub async fn attach(store: &Xenstore, id: u32, options: Options) -> Result<Rc<VirtualDisk>> {
    let device = Device::frontend(store, "vbd", id).await?;
    let pages = (0..options.pages.max(1)).map(|_| SharedPage::new(device.peer));
    let disk = Rc::new(VirtualDisk::new(pages.collect::<Result<Vec<_>>>()?));
    let mut peer = device.watch_peer().await?;
    let known = connect(&device, &mut peer, &disk, options).await?;
    let kept = disk.clone();
    spawn(async move {
        if let Err(errno) = keep(&device, &mut peer, &kept, options, known).await {
            log::warn!("disk {}: {errno}", device.id);
        }
        kept.give_up();
        let _ = device.switch_state(XenbusState::Closed).await;
    });
    Ok(disk)
}

/// The numbers of the disks this guest has, in the order of its configuration's device names.
pub async fn disks(store: &Xenstore) -> Result<Vec<u32>> {
    let mut numbers = crate::xenbus::frontends(store, "vbd").await?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// One handshake, from the backend's offer to both halves connected. `ENODEV` if it closes.
async fn connect(
    device: &Device,
    peer: &mut PeerStates,
    disk: &VirtualDisk,
    options: Options,
) -> Result<XenbusState> {
    device.switch_state(XenbusState::Initialising).await?;
    reach(peer, &[XenbusState::InitWait, XenbusState::Initialised, XenbusState::Connected]).await?;
    let order = device.read_peer_or("max-ring-page-order", 0).await?.min(options.ring_order).min(4);
    let pages = (0..1 << order).map(|_| SharedPage::new(device.peer)).collect::<Result<Vec<_>>>()?;
    let references: Vec<_> = pages.iter().map(|page| page.gref().to_string()).collect();
    let ring = FrontRing::new(PageRun(pages));
    let bell = Rc::new(EventChannel::alloc_unbound(device.peer)?);
    let port = bell.port().to_string();
    let mut nodes: Vec<(String, &str)> = Vec::new();
    nodes.push(("event-channel".into(), &port));
    nodes.push(("protocol".into(), XEN_IO_PROTO_ABI_X86_64));
    nodes.push(("feature-persistent".into(), "1"));
    let order_text = order.to_string();
    if order == 0 {
        nodes.push(("ring-ref".into(), &references[0]));
    } else {
        nodes.push(("ring-page-order".into(), &order_text));
        nodes.extend(references.iter().enumerate().map(|(n, text)| (format!("ring-ref{n}"), text.as_str())));
    }
    let nodes: Vec<(&str, &str)> = nodes.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    device.publish(&nodes).await?;
    device.switch_state(XenbusState::Initialised).await?;
    let state = reach(peer, &[XenbusState::Connected]).await?;
    let offer = offer(device).await?;
    disk.connect(ring, bell, offer);
    device.switch_state(XenbusState::Connected).await?;
    Ok(state)
}

/// Waits for one of `states`; `ENODEV` if the backend closes or is taken away.
async fn reach(peer: &mut PeerStates, states: &[XenbusState]) -> Result<XenbusState> {
    loop {
        let state = peer.next().await?;
        if states.contains(&state) {
            return Ok(state);
        }
        if matches!(state, XenbusState::Unknown | XenbusState::Closing | XenbusState::Closed) {
            return Err(Errno::ENODEV);
        }
    }
}

async fn offer(device: &Device) -> Result<Offer> {
    // We do not announce feature-large-sector-size, so nothing else may be offered.
    if device.read_peer_or("sector-size", 512).await? != 512 {
        return Err(Errno::EINVAL);
    }
    let flag = async |key: &str| device.read_peer_or(key, 0u32).await.map(|value| value != 0);
    Ok(Offer {
        sectors: device.read_peer("sectors").await?,
        read_only: device.read_peer_or("info", 0).await? & VDISK_READONLY != 0
            || device.read_peer_or("mode", String::new()).await? == "r",
        flush: flag("feature-flush-cache").await?,
        discard: flag("feature-discard").await?,
        indirect_segments: device.read_peer_or("feature-max-indirect-segments", 0).await?,
    })
}

/// Keeps the disk connected until it is taken away.
async fn keep(
    device: &Device,
    peer: &mut PeerStates,
    disk: &VirtualDisk,
    options: Options,
    mut known: XenbusState,
) -> Result<()> {
    loop {
        while known == XenbusState::Connected {
            known = match select(disk.run(), peer.next()).await {
                Either::Left(_) => {
                    log::error!("disk {}: the backend has broken the ring", device.id);
                    return Err(Errno::EIO);
                }
                Either::Right(state) => state?,
            };
        }
        let ring = disk.disconnect();
        device.switch_state(XenbusState::Closed).await?;
        // While the backend still has the ring mapped its grants cannot end.
        while !matches!(known, XenbusState::Closed | XenbusState::Unknown | XenbusState::InitWait) {
            known = peer.next().await?;
        }
        drop(ring);
        if known == XenbusState::Unknown || device.read_peer_or("online", 1).await? == 0 {
            return Ok(());
        }
        log::info!("disk {}: waiting for another backend", device.id);
        // A backend that has closed comes back for a frontend that begins again.
        device.switch_state(XenbusState::Initialising).await?;
        while known == XenbusState::Closed {
            known = peer.next().await?;
        }
        // A fresh watch begins with the state as it is now.
        *peer = device.watch_peer().await?;
        known = connect(device, peer, disk, options).await?;
        log::info!("disk {}: connected again", device.id);
    }
}
