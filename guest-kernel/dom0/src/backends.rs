//! dom0's backends: for every device the toolstack writes into the store, one that serves it.
//!
//! One watch on the `backend` directory says that something changed; what is there and not yet
//! served gets a task. A task ends when its device is taken away, and a device that cannot be
//! served says why in the log and is left closed: one guest's bad device is nobody else's matter.

use crate::bridge::{Bridge, Mac, MacPolicy, Plug};
use crate::volumes::Volumes;
use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::RefCell;
use guest_kernel::back::blk::{self, Buffers};
use guest_kernel::back::net::{self, Scratch, Uplink};
use guest_kernel::block::BlockDevice;
use guest_kernel::executor::spawn;
use guest_kernel::hypercall::Errno;
use guest_kernel::log;
use guest_kernel::net::{Frame, FrameSink};
use guest_kernel::xenbus::{self, Device, XenbusState};
use guest_kernel::xenstore::{Result, Xenstore};
use shared_abi::DomId;

/// Transfer buffers of all disks together: what can be in flight at once, 128 KiB each.
const BUFFERS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Disk,
    Interface,
}

impl Kind {
    /// The name in the store.
    fn name(self) -> &'static str {
        match self {
            Kind::Disk => "vbd",
            Kind::Interface => "vif",
        }
    }
}

/// What backends serve from, and which there are.
pub struct Backends<D> {
    store: Xenstore,
    volumes: Rc<Volumes<D>>,
    bridge: Rc<Bridge>,
    buffers: Rc<Buffers>,
    scratch: Rc<RefCell<Scratch>>,
    serving: RefCell<BTreeSet<(Kind, DomId, u32)>>,
}

impl<D: BlockDevice + 'static> Backends<D> {
    /// Backends for disks out of `volumes` and interfaces on `bridge`; none yet.
    pub fn new(store: Xenstore, volumes: Rc<Volumes<D>>, bridge: Rc<Bridge>) -> Rc<Self> {
        Rc::new(Backends {
            store,
            volumes,
            bridge,
            buffers: Buffers::new(BUFFERS),
            scratch: Rc::default(),
            serving: RefCell::default(),
        })
    }

    /// Serves what the store has, and what comes: runs for good.
    pub async fn run(self: Rc<Self>) -> Result<()> {
        let mut watch = self.store.watch("backend").await?;
        while watch.next().await.is_some() {
            watch.take_all();
            for kind in [Kind::Disk, Kind::Interface] {
                for (domain, id) in xenbus::backends(&self.store, kind.name()).await? {
                    self.start(kind, domain, id).await;
                }
            }
        }
        Ok(())
    }

    /// Starts a backend for a device that has none and waits for one.
    async fn start(self: &Rc<Self>, kind: Kind, domain: DomId, id: u32) {
        let key = (kind, domain, id);
        if self.serving.borrow().contains(&key) {
            return;
        }
        // A device that was given up stays closed; one half written will be seen again.
        let Ok(device) = Device::backend(&self.store, kind.name(), domain, id).await else { return };
        if device.state().await != Ok(XenbusState::Initialising) {
            return;
        }
        self.serving.borrow_mut().insert(key);
        let backends = self.clone();
        spawn(async move {
            let result = match kind {
                Kind::Disk => backends.disk(&device).await,
                Kind::Interface => backends.interface(&device).await,
            };
            if let Err(why) = result {
                log::error!("{}: {why}", device.own);
                // The directory may be gone already.
                let _ = device.switch_state(XenbusState::Closed).await;
            }
            backends.serving.borrow_mut().remove(&key);
        });
    }

    async fn disk(&self, device: &Device) -> core::result::Result<(), String> {
        let target = text(device.read("params").await)?;
        let writable = text(device.read_or("mode", String::from("w")).await)?.trim() == "w";
        let volume = self.volumes.open(target.trim(), writable);
        let volume = volume.map_err(|error| alloc::format!("cannot open {target}: {error}"))?;
        text(blk::serve(device, Rc::new(volume), self.buffers.clone()).await)
    }

    async fn interface(&self, device: &Device) -> core::result::Result<(), String> {
        let mac = text(device.read("mac").await)?;
        let mac = parse_mac(&mac).ok_or_else(|| alloc::format!("{mac:?} is no address"))?;
        let port = Rc::new(GuestPort { plug: Plug::new(self.bridge.clone()), mac });
        text(net::serve(device, port, self.scratch.clone()).await)
    }
}

fn text<T>(result: core::result::Result<T, Errno>) -> core::result::Result<T, String> {
    result.map_err(|errno| alloc::format!("{errno}"))
}

fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

/// A guest's port of the bridge: it may use the address it was given and no other.
struct GuestPort {
    plug: Rc<Plug>,
    mac: Mac,
}

impl FrameSink for GuestPort {
    fn frame(&self, frame: Frame<'_>) {
        self.plug.frame(frame)
    }
    fn flush(&self) {
        self.plug.flush()
    }
}

impl Uplink for GuestPort {
    fn plug(&self, guest: Rc<dyn FrameSink>) {
        self.plug.attach(MacPolicy::Only(self.mac), false, guest);
    }
    fn unplug(&self) {
        self.plug.detach();
    }
}
