//! A domain's split devices in xenstore: their directories, and how they come and go while it runs.
//!
//! Taking a device away is a conversation: `online` becomes 0 and the backend's state `Closing`, the
//! frontend lets go, the backend says `Closed`, and the directories are removed. A frontend that does
//! not answer keeps its device, unless it is forced: then its directory goes, which its backend
//! takes for its end.
//!
//! A device is the frontend's when its backend has what it needs, and not before: Linux's netfront waits without end,
//! and everything that xenstore has to tell its guest with it, for a backend that is closed or gone.

use super::config::disk::Disk;
use super::config::vif::{Mac, Vif};
use super::entries::{Directory, dom0_only, owned_by, readable_by};
use super::hypervisor::Hypervisor;
use super::manager::Manager;
use crate::xenstored::Client;
use crate::xenstored::perms::Rights;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use guest_kernel::executor::{select, sleep};
use shared_abi::DomId;

/// States of a device as they stand in xenstore (`enum xenbus_state` of io/xenbus.h).
const INITIALISING: &str = "1";
const CONNECTED: &str = "4";
const CLOSING: &str = "5";
const CLOSED: &str = "6";

/// How long a frontend may take to let go, or to find another backend.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take when it will be forced to otherwise.
const FORCED: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);
/// How long a backend may take to find what it needs (libxl's LIBXL_HOTPLUG_TIMEOUT).
const HOTPLUG: Duration = Duration::from_secs(40);

/// The two kinds of devices that domains get.
pub const KINDS: [&str; 2] = ["vbd", "vif"];

/// Both ends of a device.
pub(super) struct Pair {
    domain: DomId,
    pub(super) frontend: String,
    pub(super) backend: String,
    record: String,
}

type Entries = Vec<(&'static str, String)>;

impl Pair {
    pub(super) fn new(domain: DomId, kind: &str, device: &str, frontend: String) -> Pair {
        let id = domain.0;
        let backend = format!("/local/domain/0/backend/{kind}/{id}/{device}");
        Pair { domain, frontend, backend, record: format!("/libxl/{id}/device/{kind}/{device}") }
    }

    pub(super) fn back(&self, more: Entries) -> Entries {
        let mut entries = Vec::from([
            ("frontend", self.frontend.clone()),
            ("frontend-id", self.domain.0.to_string()),
            ("online", "1".into()),
            ("state", INITIALISING.into()),
        ]);
        entries.extend(more);
        entries
    }

    /// The directories, the backend's last: a backend that sees its own finds everything else.
    fn list(&self, front: Entries, back: Entries) -> [Directory<'static>; 3] {
        let mut entries = Vec::from([
            ("backend", self.backend.clone()),
            ("backend-id", "0".into()),
            ("state", INITIALISING.into()),
        ]);
        entries.extend(front);
        let record = Vec::from([("frontend", self.frontend.clone()), ("backend", self.backend.clone())]);
        let directory = |path: &String, perms, entries| Directory { path: path.clone(), perms, entries };
        [
            directory(&self.record, dom0_only(), record),
            directory(&self.frontend, owned_by(self.domain).with(DomId(0), Rights::READ), entries),
            directory(&self.backend, readable_by(self.domain), self.back(back)),
        ]
    }
}

/// The directories of a disk.
pub(super) fn disk(domain: DomId, disk: &Disk) -> [Directory<'static>; 3] {
    let number = disk.number.to_string();
    let frontend = format!("/local/domain/{}/device/vbd/{number}", domain.0);
    let front = Vec::from([("virtual-device", number.clone()), ("device-type", "disk".into())]);
    let back = Vec::from([
        ("bootable", "1".into()),
        ("removable", "0".into()),
        ("dev", disk.vdev.clone()),
        ("type", "phy".into()),
        ("mode", if disk.writable { "w" } else { "r" }.into()),
        ("device-type", "disk".into()),
        ("params", disk.target.clone()),
    ]);
    Pair::new(domain, "vbd", &number, frontend).list(front, back)
}

/// The directories of a network interface.
pub(super) fn vif(domain: DomId, index: u32, vif: &Vif, mac: Mac) -> [Directory<'static>; 3] {
    let handle = index.to_string();
    let frontend = format!("/local/domain/{}/device/vif/{handle}", domain.0);
    let mut front = Vec::from([("handle", handle.clone()), ("mac", mac.to_string())]);
    let mut back = Vec::from([
        ("handle", handle.clone()),
        ("mac", mac.to_string()),
        ("bridge", vif.bridge.clone()),
        ("type", "vif".into()),
    ]);
    if let Some(ip) = &vif.ip {
        front.push(("ip", ip.clone()));
        back.push(("ip", ip.clone()));
    }
    back.extend(vif.rate.map(|rate| ("rate", format!("{},{}", rate.bytes, rate.interval))));
    Pair::new(domain, "vif", &handle, frontend).list(front, back)
}

/// Takes all of a domain's devices away, whatever it says, and names the backend directories whose
/// state will be `Closed` when that is done.
pub(super) fn close_all(store: &Client, domain: DomId) -> Vec<String> {
    let mut backends = Vec::new();
    for kind in KINDS {
        let above = format!("/local/domain/0/backend/{kind}/{}", domain.0);
        for device in store.directory(&above).unwrap_or_default() {
            let backend = format!("{above}/{device}");
            if ask_to_close(store, &backend) {
                // Gone already is as good.
                let _ = store.rm(&format!("/local/domain/{}/device/{kind}/{device}", domain.0));
                backends.push(backend);
            }
        }
    }
    backends
}

/// Asks both halves to let go; false if the backend has nothing to let go.
fn ask_to_close(store: &Client, backend: &str) -> bool {
    let _ = store.write(&format!("{backend}/online"), "0");
    let state = store.read_text(&format!("{backend}/state"));
    let served = state.is_some_and(|state| state != INITIALISING && state != CLOSED);
    if served {
        let _ = store.write(&format!("{backend}/state"), CLOSING);
    }
    served
}

impl<H: Hypervisor> Manager<H> {
    /// Gives a running domain another disk. On an error nothing has changed.
    pub async fn attach_disk(&self, domain: DomId, new: &Disk) -> Result<(), String> {
        self.attach(domain, "vbd", new.number, disk(domain, new)).await?;
        self.configured(domain, |running| running.config.disks.push(new.clone()));
        Ok(())
    }

    /// Gives a running domain another network interface, and says its number.
    pub async fn attach_vif(&self, domain: DomId, new: &Vif) -> Result<u32, String> {
        let above = format!("/local/domain/{}/device/vif", domain.0);
        let used = self.store.directory(&above).unwrap_or_default();
        // There are fewer interfaces than numbers.
        let index = (0..u32::MAX).find(|index| !used.contains(&index.to_string())).unwrap_or(0);
        let mac = match (new.mac, self.running(domain)) {
            (Some(mac), _) => mac,
            (None, Some(running)) => Mac::derived(&running.uuid, index as u8),
            (None, None) => return Err("mac= is needed: the domain is not this toolstack's".into()),
        };
        self.attach(domain, "vif", index, vif(domain, index, new, mac)).await?;
        self.configured(domain, |running| running.config.vifs.push(Vif { mac: Some(mac), ..new.clone() }));
        Ok(index)
    }

    async fn attach(
        &self,
        domain: DomId,
        kind: &str,
        id: u32,
        mut directories: [Directory<'_>; 3],
    ) -> Result<(), String> {
        let backend = backend(domain, kind, id);
        if self.store.read(&backend).is_ok() {
            return Err(format!("the domain has a {kind} {id} already"));
        }
        let frontend = format!("/local/domain/{}/device/{kind}/{id}", domain.0);
        // A closed one is none yet.
        for directory in directories.iter_mut().filter(|directory| directory.path == frontend) {
            directory.entries.retain(|(name, _)| *name != "state");
            directory.entries.push(("state", CLOSED.into()));
        }
        let written = self
            .store
            .transaction(|store| directories.iter().try_for_each(|directory| directory.write(store)));
        let result = match written {
            Ok(()) => self.served(&backend).await,
            Err(error) => return Err(format!("cannot write to xenstore: {error}")),
        };
        let result = result.and_then(|()| {
            let begun = self.store.write(&format!("{frontend}/state"), INITIALISING);
            begun.map_err(|error| format!("cannot write to xenstore: {error}"))
        });
        if result.is_err() {
            for directory in &directories {
                // Gone already is as good.
                let _ = self.store.rm(&directory.path);
            }
        }
        result
    }

    /// Waits until all of a new domain's backends have what they need. What one cannot have is the error.
    pub(super) async fn all_served(&self, domain: DomId) -> Result<(), String> {
        for kind in KINDS {
            let above = format!("/local/domain/0/backend/{kind}/{}", domain.0);
            for device in self.store.directory(&above).unwrap_or_default() {
                self.served(&format!("{above}/{device}")).await?;
            }
        }
        Ok(())
    }

    /// Waits until a backend has what it needs.
    async fn served(&self, backend: &str) -> Result<(), String> {
        let events = Client::new(&self.server);
        let status = format!("{backend}/hotplug-status");
        // On dom0's own connection a watch is always accepted.
        let _ = events.watch(&status, "");
        let start = self.hypervisor.uptime();
        loop {
            match self.store.read_text(&status).as_deref() {
                Some("connected") => return Ok(()),
                Some(_) => return Err(self.refused(backend, "hotplug-error")),
                None if self.hypervisor.uptime() - start > HOTPLUG.as_nanos() as u64 => {
                    return Err(self.refused(backend, "state"));
                }
                None => select(events.event(), sleep(HOTPLUG / 8)).await,
            };
        }
    }

    /// What a device is to its user, and what its backend says of it in the node `why`.
    fn refused(&self, backend: &str, why: &str) -> String {
        let node = |name: &str| self.store.read_text(&format!("{backend}/{name}")).unwrap_or_default();
        let device = match node("dev") {
            disk if !disk.is_empty() => format!("disk {disk} ({})", node("params")),
            _ => format!("network interface {}", node("handle")),
        };
        match why {
            "state" => format!("{device}: its backend does not answer (state {})", node(why)),
            _ => format!("{device}: {}", node(why)),
        }
    }

    /// Takes a device away; with `force` also from a frontend that holds on to it.
    pub async fn detach(&self, domain: DomId, kind: &str, id: u32, force: bool) -> Result<(), String> {
        let backend = backend(domain, kind, id);
        let frontend = format!("/local/domain/{}/device/{kind}/{id}", domain.0);
        if self.store.read(&backend).is_err() {
            return Err(format!("the domain has no {kind} {id}"));
        }
        if ask_to_close(&self.store, &backend) {
            // One that answers lets go in order, and whoever used the device is told.
            if force && self.state_within(&backend, CLOSED, FORCED).await.is_err() {
                let _ = self.store.rm(&frontend);
            }
            self.state_becomes(&backend, CLOSED).await.map_err(|state| {
                format!(
                    "the frontend does not let go (its backend's state is {state}); --force takes it away"
                )
            })?;
        }
        let mac = self.store.read_text(&format!("{backend}/mac")).and_then(|text| Mac::parse(&text));
        let record = format!("/libxl/{}/device/{kind}/{id}", domain.0);
        for path in [backend, frontend, record] {
            // Gone already is as good.
            let _ = self.store.rm(&path);
        }
        self.configured(domain, |running| {
            if kind == "vbd" {
                return running.config.disks.retain(|disk| disk.number != id);
            }
            let mut index = 0;
            running.config.vifs.retain(|vif| {
                let own = vif.mac.unwrap_or_else(|| Mac::derived(&running.uuid, index));
                index += 1;
                Some(own) != mac
            });
        });
        Ok(())
    }

    /// Lets the backend of a device die as if its domain had crashed, and waits until another one has
    /// taken over.
    pub async fn restart_backend(&self, domain: DomId, kind: &str, id: u32) -> Result<(), String> {
        let backend = backend(domain, kind, id);
        let state = self.store.read_text(&format!("{backend}/state")).unwrap_or_default();
        if state != CONNECTED {
            return Err(format!("{kind} {id} is not connected (state {state:?})"));
        }
        let restart = format!("{backend}/restart");
        let written = self.store.write(&restart, "1");
        written.map_err(|error| format!("cannot write to xenstore: {error}"))?;
        let start = self.hypervisor.uptime();
        // The node goes when the frontend has noticed; only after that the state is the new backend's.
        while self.store.read(&restart).is_ok() {
            if self.hypervisor.uptime() - start > PATIENCE.as_nanos() as u64 {
                return Err(format!("the frontend of {kind} {id} has not noticed that its backend died"));
            }
            sleep(POLL).await;
        }
        self.state_becomes(&backend, CONNECTED)
            .await
            .map_err(|state| format!("{kind} {id} does not find a new backend (state {state})"))
    }

    /// Waits for a backend's state; after a while gives the one that it has.
    async fn state_becomes(&self, backend: &str, wanted: &str) -> Result<(), String> {
        self.state_within(backend, wanted, PATIENCE).await
    }

    async fn state_within(&self, backend: &str, wanted: &str, patience: Duration) -> Result<(), String> {
        let start = self.hypervisor.uptime();
        loop {
            let state = self.store.read_text(&format!("{backend}/state")).unwrap_or_default();
            if state == wanted {
                return Ok(());
            }
            if self.hypervisor.uptime() - start > patience.as_nanos() as u64 {
                return Err(state);
            }
            sleep(POLL).await;
        }
    }
}

fn backend(domain: DomId, kind: &str, id: u32) -> String {
    format!("/local/domain/0/backend/{kind}/{}/{id}", domain.0)
}
