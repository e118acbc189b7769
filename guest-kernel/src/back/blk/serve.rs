//! A block backend found in the store: what it offers, its handshake, and its end.

use super::{Backend, Buffers, INDIRECT_SEGMENTS};
use crate::back::frontend::{End, Frontend};
use crate::back::{Ended, Stop};
use crate::block::BlockDevice;
use crate::events::EventChannel;
use crate::executor::{Either, select, sleep, spawn};
use crate::grants::{Access, GrantMapping, Peer};
use crate::hypercall::Errno;
use crate::xenbus::{Device, XenbusState};
use crate::xenstore::Result;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use shared_abi::io::blkif::VDISK_READONLY;
use shared_abi::io::protocols::XEN_IO_PROTO_ABI_X86_64;
use shared_abi::{GrantRef, Port};

/// Requests of one device in flight.
const WORKERS: usize = 8;
/// Pages of one device kept mapped: a frontend's pool, and more.
const PERSISTENT: usize = 512;
/// How often a ring is looked at that is closed, at most; every how long; and how often it is quiet before it is let go:
/// a frontend on a busy machine takes its time to make the next request.
const LAST_ROUNDS: u32 = 250;
const LAST_ROUND: Duration = Duration::from_millis(20);
const QUIET_ROUNDS: u32 = 25;
/// The largest ring is of 2^3 pages: 256 requests.
const RING_ORDER: u32 = 3;

/// Serves `disk` to the frontend of `device`, one connection after another, until the device is
/// taken away or the backend dies. Returns with everything given back.
pub async fn serve<D: BlockDevice + 'static>(
    device: &Device,
    disk: Rc<D>,
    buffers: Rc<Buffers>,
) -> Result<Ended> {
    let result = sessions(device, disk, buffers).await;
    if result != Ok(Ended::Died) {
        // The directory may be gone already.
        let _ = device.close().await;
    }
    result
}

async fn sessions<D: BlockDevice + 'static>(
    device: &Device,
    disk: Rc<D>,
    buffers: Rc<Buffers>,
) -> Result<Ended> {
    announce(device, &*disk).await?;
    let mut frontend = Frontend::watch(device).await?;
    device.switch_state(XenbusState::InitWait).await?;
    while frontend.ready().await? {
        if session(device, &mut frontend, &disk, &buffers).await? == Stop::Died {
            return frontend.bury().await;
        }
        if !frontend.close().await? {
            break;
        }
        device.switch_state(XenbusState::InitWait).await?;
    }
    Ok(Ended::Closed)
}

async fn announce(device: &Device, disk: &impl BlockDevice) -> Result<()> {
    let geometry = disk.geometry();
    let text = |flag: bool| if flag { "1" } else { "0" };
    device
        .publish(&[
            ("feature-flush-cache", text(geometry.flush)),
            ("feature-barrier", "1"),
            ("feature-discard", text(geometry.discard && !geometry.read_only)),
            ("feature-persistent", "1"),
            ("feature-max-indirect-segments", &INDIRECT_SEGMENTS.to_string()),
            ("max-ring-page-order", &RING_ORDER.to_string()),
            ("max-ring-pages", &(1 << RING_ORDER).to_string()),
            ("hotplug-status", "connected"),
        ])
        .await
}

/// One connection, from the frontend's parameters to its end. A frontend that breaks a ring is an error.
async fn session<D: BlockDevice + 'static>(
    device: &Device,
    frontend: &mut Frontend<'_>,
    disk: &Rc<D>,
    buffers: &Rc<Buffers>,
) -> Result<Stop> {
    let protocol = device.read_peer_or("protocol", String::from(XEN_IO_PROTO_ABI_X86_64)).await?;
    if protocol.trim() != XEN_IO_PROTO_ABI_X86_64 {
        return Err(Errno::EOPNOTSUPP);
    }
    let references = ring_references(device).await?;
    let ring = GrantMapping::map(device.peer, &references, Access::ReadWrite)?;
    let port = Port(device.read_peer("event-channel").await?);
    let bell = EventChannel::bind_interdomain(device.peer, port)?;
    let persistent = if device.read_peer_or("feature-persistent", 0).await? != 0 { PERSISTENT } else { 0 };
    let share = buffers.of(device.peer);
    let backend = Backend::new(disk.clone(), Peer(device.peer), ring, bell, share, persistent);
    let backend = Rc::new(backend.map_err(|_| Errno::EINVAL)?);
    let geometry = disk.geometry();
    let info = if geometry.read_only { VDISK_READONLY } else { 0 };
    device
        .publish(&[
            ("sectors", &geometry.sectors.to_string()),
            ("sector-size", "512"),
            ("physical-sector-size", "512"),
            ("info", &info.to_string()),
        ])
        .await?;
    device.switch_state(XenbusState::Connected).await?;
    for _ in 0..WORKERS {
        let backend = backend.clone();
        spawn(async move { backend.worker().await });
    }
    let stop = match select(backend.run(), frontend.gone()).await {
        Either::Left(stop) => stop,
        Either::Right(end) => {
            let mut quiet = QUIET_ROUNDS;
            if end == Ok(End::Restart) {
                backend.die();
            } else if backend.in_flight() | backend.close() {
                quiet = 0;
            }
            let stop = backend.run().await;
            // Answers make room on the ring, for requests that waited in the frontend.
            for _ in 0..LAST_ROUNDS {
                if stop != Stop::Closed || quiet == QUIET_ROUNDS {
                    break;
                }
                sleep(LAST_ROUND).await;
                quiet = if backend.close() { 0 } else { quiet + 1 };
            }
            stop
        }
    };
    if stop == Stop::Corrupt {
        log::error!("{}: the frontend has broken the ring", device.own);
        device.switch_state(XenbusState::Closing).await?;
        return Err(Errno::EIO);
    }
    // The workers have nothing in flight; they let go of the ring and the mappings by themselves.
    Ok(stop)
}

async fn ring_references(device: &Device) -> Result<Vec<GrantRef>> {
    let pages: u32 = match device.read_peer::<u32>("ring-page-order").await {
        Ok(order) if order <= RING_ORDER => 1 << order,
        Ok(_) => return Err(Errno::EINVAL),
        Err(Errno::ENOENT) => device.read_peer_or("num-ring-pages", 1).await?,
        Err(errno) => return Err(errno),
    };
    if !pages.is_power_of_two() || pages > 1 << RING_ORDER {
        return Err(Errno::EINVAL);
    }
    if pages == 1 {
        match device.read_peer("ring-ref").await {
            Err(Errno::ENOENT) => {}
            reference => return reference.map(|reference| [GrantRef(reference)].into()),
        }
    }
    let mut references = Vec::new();
    for page in 0..pages {
        references.push(GrantRef(device.read_peer(&format!("ring-ref{page}")).await?));
    }
    Ok(references)
}
