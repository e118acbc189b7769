//! Backends as the toolstack asks for them: it writes a directory, and a task serves the device.
//!
//! `backend/vbd/<domain>/<device>` is a volume for a guest, `backend/vif/<domain>/<device>` a port
//! of the bridge. One task per device, from the handshake to the end; a directory that a task
//! serves is left to it. The hardest decision was where a task begins: only at a directory in
//! state `Initialising`, which the toolstack writes and a backend never does, so nothing that a
//! backend writes about itself can start another, and a device that failed stays closed until the
//! toolstack says otherwise.

#[cfg(test)]
mod tests;
mod uplink;

use crate::bridge::{Bridge, Ip, Mac, MacPolicy};
use crate::volumes::{Volume, VolumeError, Volumes};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::cell::RefCell;
use core::fmt;
use core::time::Duration;
use guest_kernel::back::Ended;
use guest_kernel::back::blk::{self, Buffers};
use guest_kernel::back::net::{self, Scratch};
use guest_kernel::block::BlockDevice;
use guest_kernel::executor::{Either, select, sleep, spawn};
use guest_kernel::hypercall::Errno;
use guest_kernel::log::{debug, warn};
use guest_kernel::net::Addressing;
use guest_kernel::xenbus::{Device, XenbusState, backends, backends_of};
use guest_kernel::xenstore::Xenstore;
use shared_abi::DomId;
use uplink::Uplink;

/// Requests to disks that all guests together can have in flight, 128 KiB each.
const BUFFERS: usize = 16;
/// How long a volume's last user may take to go away, and how often that is looked at.
const LAST_USER: (u32, Duration) = (100, Duration::from_millis(10));
/// The one bridge there is.
const BRIDGE: &str = "xenbr0";

/// What a device is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Vbd,
    Vif,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Vbd => "vbd",
            Kind::Vif => "vif",
        }
    }
}

/// A device's place in the store.
type Key = (Kind, DomId, u32);

/// Why a device is not served.
enum Failure {
    /// There is no such volume, but those of these names.
    Absent(String),
    Volume(VolumeError),
    Bridge(String),
    Mac,
    Errno(Errno),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Errno(errno)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Absent(names) => write!(f, "{}; there are {names}", VolumeError::Absent),
            Failure::Volume(error) => error.fmt(f),
            Failure::Bridge(name) => write!(f, "no bridge {name:?}; there is {BRIDGE:?}"),
            Failure::Mac => f.write_str("no usable address"),
            Failure::Errno(errno) => f.write_str(errno.name()),
        }
    }
}

/// Everything that backends need.
pub struct Backends<D: BlockDevice> {
    store: Xenstore,
    volumes: Rc<Volumes<D>>,
    bridge: Rc<Bridge>,
    buffers: Rc<Buffers>,
    scratch: Rc<RefCell<Scratch>>,
    served: RefCell<BTreeSet<Key>>,
}

impl<D: BlockDevice + 'static> Backends<D> {
    /// Serves `volumes` and `bridge` to guests.
    pub fn new(store: Xenstore, volumes: Rc<Volumes<D>>, bridge: Rc<Bridge>) -> Rc<Self> {
        let (buffers, scratch) = (Buffers::new(BUFFERS), Rc::default());
        Rc::new(Backends { store, volumes, bridge, buffers, scratch, served: RefCell::default() })
    }

    /// Follows the store: runs for good, as a task.
    pub async fn run(self: Rc<Self>) -> Result<(), Errno> {
        let mut vbds = self.store.watch("backend/vbd").await?;
        let mut vifs = self.store.watch("backend/vif").await?;
        loop {
            let (kind, path) = match select(vbds.next(), vifs.next()).await {
                Either::Left(path) => (Kind::Vbd, path),
                Either::Right(path) => (Kind::Vif, path),
            };
            let path = path.ok_or(Errno::EIO)?;
            match place(kind, &path) {
                Place::Device(domain, id) => self.look((kind, domain, id)).await,
                Place::Domain(domain) => {
                    // News of one domain costs no look at the others'.
                    for id in backends_of(&self.store, kind.name(), domain).await.unwrap_or_default() {
                        self.look((kind, domain, id)).await;
                    }
                }
                Place::Above => {
                    for (domain, id) in backends(&self.store, kind.name()).await.unwrap_or_default() {
                        self.look((kind, domain, id)).await;
                    }
                }
                Place::Elsewhere => {}
            }
        }
    }

    /// Starts a task for a device that waits for one.
    async fn look(self: &Rc<Self>, key: Key) {
        let (kind, domain, id) = key;
        if self.served.borrow().contains(&key) {
            return;
        }
        // Not there any more, or not there as a whole, is no news.
        let Ok(device) = Device::backend(&self.store, kind.name(), domain, id).await else { return };
        if device.state().await != Ok(XenbusState::Initialising) {
            return;
        }
        self.served.borrow_mut().insert(key);
        let backends = self.clone();
        spawn(async move {
            debug!("{}: served", device.own);
            let result = match kind {
                Kind::Vbd => backends.vbd(&device).await,
                Kind::Vif => backends.vif(&device).await,
            };
            match result {
                Ok(Ended::Closed) => debug!("{}: closed", device.own),
                Ok(Ended::Died) => warn!("{}: the backend died, another one takes over", device.own),
                Err(failure) => backends.fail(&device, &failure).await,
            }
            backends.served.borrow_mut().remove(&key);
            // It may have been asked for again meanwhile.
            backends.look(key).await;
        });
    }

    /// Notes in the device's directory why it does not work, as libxl's scripts do.
    async fn fail(&self, device: &Device, failure: &Failure) {
        warn!("{}: {failure}", device.own);
        // Nothing to note it in is as good.
        if device.state().await.unwrap_or(XenbusState::Unknown) != XenbusState::Unknown {
            let text = failure.to_string();
            // The status last: who reads it may take the directory away and ask for the device anew, and would find the
            // new one closed.
            let _ = device.close().await;
            let _ = device.publish(&[("hotplug-error", &text), ("hotplug-status", "error")]).await;
        }
    }

    async fn vbd(&self, device: &Device) -> Result<Ended, Failure> {
        let target = device.read("params").await?;
        let writable = device.read("mode").await?.trim() == "w";
        let volume = self.open(target.trim(), writable).await.map_err(|error| match error {
            VolumeError::Absent => Failure::Absent(self.volumes.names()),
            error => Failure::Volume(error),
        })?;
        Ok(blk::serve(device, Rc::new(volume), self.buffers.clone()).await?)
    }

    /// Opens a volume, waiting a moment for its last user: a domain that restarts finds its own
    /// predecessor's backend at its last breath.
    async fn open(&self, target: &str, writable: bool) -> Result<Volume<D>, VolumeError> {
        let (times, pause) = LAST_USER;
        for _ in 0..times {
            match self.volumes.open(target, writable) {
                Err(VolumeError::Busy) => sleep(pause).await,
                result => return result,
            }
        }
        self.volumes.open(target, writable)
    }

    async fn vif(&self, device: &Device) -> Result<Ended, Failure> {
        let bridge = device.read_or("bridge", String::from(BRIDGE)).await?;
        if bridge.trim() != BRIDGE {
            return Err(Failure::Bridge(bridge));
        }
        let mac = parse_mac(&device.read("mac").await?).ok_or(Failure::Mac)?;
        let ip = parse_ip(&device.read_or("ip", String::new()).await?);
        let uplink = Uplink::new(self.bridge.clone(), MacPolicy::Only(mac), ip);
        Ok(net::serve(device, uplink, self.scratch.clone()).await?)
    }
}

/// What a watch event is about.
#[derive(PartialEq, Eq, Debug)]
enum Place {
    /// A device's directory, or something in it.
    Device(DomId, u32),
    /// The directory of a domain's devices.
    Domain(DomId),
    /// The directory above those.
    Above,
    /// No device.
    Elsewhere,
}

/// Reads an event's path: the watch's own, relative or absolute, and what follows.
fn place(kind: Kind, path: &str) -> Place {
    let above = format!("backend/{}", kind.name());
    let Some((_, rest)) = path.split_once(above.as_str()) else { return Place::Elsewhere };
    let mut names = rest.split('/').skip(1);
    match (names.next().map(str::parse), names.next().map(str::parse)) {
        (Some(Ok(domain)), Some(Ok(id))) => Place::Device(DomId(domain), id),
        (Some(Ok(domain)), None) => Place::Domain(DomId(domain)),
        (None, _) => Place::Above,
        _ => Place::Elsewhere,
    }
}

/// The `ip=` of a `vif`, if it is one address.
fn parse_ip(text: &str) -> Option<Ip> {
    match Addressing::parse(text.trim()) {
        Ok(Addressing::Static(address)) => Some(address.cidr.address().octets()),
        _ => None,
    }
}

/// `00:16:3e:01:02:03`
fn parse_mac(text: &str) -> Option<Mac> {
    crate::toolstack::config::vif::Mac::parse(text.trim()).map(|mac| mac.0).filter(|mac| mac[0] & 1 == 0)
}
