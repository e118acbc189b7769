//! A network backend found in the store: what it offers, its handshake, and its end.

use super::{Accepts, Backend, Clock, Scratch};
use crate::back::frontend::{End, Frontend};
use crate::back::{Ended, Stop};
use crate::events::EventChannel;
use crate::executor::{Either, select, sleep_until};
use crate::grants::{Access, GrantMapping, Peer};
use crate::hypercall::Errno;
use crate::net::{FrameSink, Limit};
use crate::time::Instant;
use crate::xenbus::{Device, XenbusState};
use crate::xenstore::Result;
use alloc::rc::Rc;
use core::cell::RefCell;
use shared_abi::{GrantRef, Port};

/// Where a guest's frames go to and come from: a bridge's port.
pub trait Uplink: FrameSink {
    /// The guest can be given frames.
    fn plug(&self, guest: Rc<dyn FrameSink>);
    /// It cannot any more; what was given to `plug` is let go.
    fn unplug(&self);
}

/// A guest's interface on this machine.
pub type VirtualPort<U> = Backend<Peer, GrantMapping, EventChannel, Rc<U>>;

/// The machine's clock.
struct MachineClock;

impl Clock for MachineClock {
    fn now(&self) -> u64 {
        Instant::now().as_nanos()
    }
    async fn sleep_until(&self, when: u64) {
        sleep_until(Instant::from_nanos(when)).await
    }
}

/// Connects the frontend of `device` to `uplink`, one connection after another, until the device
/// is taken away or the backend dies. Returns with everything given back.
pub async fn serve<U: Uplink + 'static>(
    device: &Device,
    uplink: Rc<U>,
    scratch: Rc<RefCell<Scratch>>,
) -> Result<Ended> {
    let result = sessions(device, uplink, scratch).await;
    if result != Ok(Ended::Died) {
        // The directory may be gone already.
        let _ = device.close().await;
    }
    result
}

async fn sessions<U: Uplink + 'static>(
    device: &Device,
    uplink: Rc<U>,
    scratch: Rc<RefCell<Scratch>>,
) -> Result<Ended> {
    device
        .publish(&[
            ("feature-rx-copy", "1"),
            ("feature-rx-flip", "0"),
            ("feature-sg", "1"),
            ("feature-gso-tcpv4", "1"),
            ("feature-gso-tcpv6", "1"),
            ("feature-ipv6-csum-offload", "1"),
            ("feature-split-event-channels", "0"),
            ("multi-queue-max-queues", "1"),
            ("hotplug-status", "connected"),
        ])
        .await?;
    let mut frontend = Frontend::watch(device).await?;
    device.switch_state(XenbusState::InitWait).await?;
    while frontend.ready().await? {
        if session(device, &mut frontend, &uplink, &scratch).await? == Stop::Died {
            return frontend.bury().await;
        }
        if !frontend.close().await? {
            break;
        }
        device.switch_state(XenbusState::InitWait).await?;
    }
    Ok(Ended::Closed)
}

/// One connection, from the frontend's parameters to its end. A frontend that breaks a ring is an error.
async fn session<U: Uplink + 'static>(
    device: &Device,
    frontend: &mut Frontend<'_>,
    uplink: &Rc<U>,
    scratch: &Rc<RefCell<Scratch>>,
) -> Result<Stop> {
    let map = async |key: &str| {
        let reference = GrantRef(device.read_peer(key).await?);
        GrantMapping::map(device.peer, &[reference], Access::ReadWrite)
    };
    let (transmit, receive) = (map("tx-ring-ref").await?, map("rx-ring-ref").await?);
    if device.read_peer_or("request-rx-copy", 0).await? == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let port = Port(device.read_peer("event-channel").await?);
    let bell = EventChannel::bind_interdomain(device.peer, port)?;
    let flag = async |key: &str| device.read_peer_or(key, 0).await.map(|value| value != 0);
    let pieces = flag("feature-sg").await?;
    let accepts = Accepts {
        blank_ipv4: !flag("feature-no-csum-offload").await?,
        blank_ipv6: flag("feature-ipv6-csum-offload").await?,
        large_ipv4: pieces && flag("feature-gso-tcpv4").await?,
        large_ipv6: pieces && flag("feature-gso-tcpv6").await?,
    };
    let limit = rate(&device.read_or("rate", alloc::string::String::new()).await?);
    let backend: VirtualPort<U> = Backend::new(
        Peer(device.peer),
        transmit,
        receive,
        bell,
        uplink.clone(),
        accepts,
        limit,
        scratch.clone(),
    )
    .map_err(|_| Errno::EINVAL)?;
    let backend = Rc::new(backend);
    device.switch_state(XenbusState::Connected).await?;
    uplink.plug(backend.clone());
    let clock = MachineClock;
    let stop = match select(backend.run(&clock), frontend.gone()).await {
        Either::Left(stop) => stop,
        Either::Right(Ok(End::Restart)) => Stop::Died,
        Either::Right(_) => Stop::Closed,
    };
    backend.close();
    uplink.unplug();
    if stop == Stop::Corrupt {
        log::error!("{}: the frontend has broken a ring", device.own);
        device.switch_state(XenbusState::Closing).await?;
        return Err(Errno::EIO);
    }
    Ok(stop)
}

/// The `rate` node: so many bytes in so many microseconds.
fn rate(text: &str) -> Option<Limit> {
    let (bytes, micros) = text.trim().split_once(',')?;
    let (bytes, micros): (u64, u64) = (bytes.parse().ok()?, micros.parse().ok()?);
    let per_second = u128::from(bytes) * 1_000_000 / u128::from(micros.max(1));
    Some(Limit::new(u64::try_from(per_second).ok()?, bytes))
}

#[cfg(test)]
#[test]
fn rates_are_read_as_the_toolstack_writes_them() {
    let mut limit = rate("1000,50000\n").expect("a rate");
    // 1000 bytes at once, then 20 000 a second.
    assert_eq!(limit.spend(1000, 0), Ok(()));
    assert_eq!(limit.spend(1000, 0), Err(50_000_000));
    for none in ["", "0", "x,y", "5,"] {
        assert!(rate(none).is_none(), "{none}");
    }
}
