//! A domain's entries in xenstore, as libxl writes them: the domain's own directory, its `/vm` record, the
//! toolstack's record under `/libxl`, and a frontend and a backend directory for each device.

use crate::toolstack::build::Built;
use crate::toolstack::config::{DomainConfig, vif::Mac};
use crate::xenstored::perms::{Perms, Rights};
use crate::xenstored::{Client, Error};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use shared_abi::DomId;

/// State of a device before its halves have met: XenbusStateInitialising.
const INITIALISING: &str = "1";
/// State in which a half asks the other to let go: XenbusStateClosing.
const CLOSING: &str = "5";

/// A uuid as text.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::new();
    for (n, byte) in uuid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&n) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}

fn dom0_only() -> Perms {
    Perms::new(DomId(0), Rights::default())
}

fn readable_by(domain: DomId) -> Perms {
    dom0_only().with(domain, Rights::READ)
}

fn owned_by(domain: DomId) -> Perms {
    Perms::new(domain, Rights::default())
}

/// A directory to be written: a path, its permissions (inherited by what it contains), its contents.
struct Directory<'a> {
    path: String,
    perms: Perms,
    entries: Vec<(&'a str, String)>,
}

impl Directory<'_> {
    fn write(&self, store: &Client) -> Result<(), Error> {
        store.mkdir(&self.path)?;
        store.set_perms(&self.path, &self.perms)?;
        self.entries.iter().try_for_each(|(name, value)| store.write(&format!("{}/{name}", self.path), value))
    }
}

/// What is not in the configuration.
pub struct Identity<'a> {
    /// The domain as built.
    pub built: &'a Built,
    /// Its uuid.
    pub uuid: [u8; 16],
    /// Seconds since 1970.
    pub started: u64,
}

/// Writes everything, in one transaction.
pub fn write(store: &Client, config: &DomainConfig, identity: &Identity<'_>) -> Result<(), Error> {
    let directories = all(config, identity);
    store.transaction(|store| directories.iter().try_for_each(|directory| directory.write(store)))
}

/// Takes everything away again, devices included.
pub fn remove(store: &Client, domain: DomId) {
    let vm = store.read_text(&format!("/local/domain/{}/vm", domain.0));
    for kind in ["vbd", "vif", "console"] {
        let _ = store.rm(&format!("/local/domain/0/backend/{kind}/{}", domain.0));
    }
    for path in vm.into_iter().chain([format!("/libxl/{}", domain.0), format!("/local/domain/{}", domain.0)])
    {
        // Gone already is as good.
        let _ = store.rm(&path);
    }
}

/// Asks the backends to let the domain's devices go, and says which backend directories those are.
pub fn close_devices(store: &Client, domain: DomId) -> Vec<String> {
    let mut backends = Vec::new();
    for kind in ["vbd", "vif"] {
        let above = format!("/local/domain/0/backend/{kind}/{}", domain.0);
        for device in store.directory(&above).unwrap_or_default() {
            let path = format!("{above}/{device}");
            let _ = store.write(&format!("{path}/online"), "0");
            let state = store.read_text(&format!("{path}/state"));
            // A backend that never saw its frontend has nothing to let go.
            if state.is_some_and(|state| state != INITIALISING && state != "6") {
                let _ = store.write(&format!("{path}/state"), CLOSING);
                backends.push(path);
            }
        }
    }
    backends
}

fn all<'a>(config: &'a DomainConfig, identity: &Identity<'_>) -> Vec<Directory<'a>> {
    let built = identity.built;
    let domain = built.domain;
    let id = domain.0;
    let home = format!("/local/domain/{id}");
    let uuid = uuid_text(&identity.uuid);
    let vm = format!("/vm/{uuid}");
    let kib = |mib: u64| (mib * 1024).to_string();
    let mut list = Vec::new();
    let mut directory = |path: String, perms: Perms, entries: Vec<(&'a str, String)>| {
        list.push(Directory { path, perms, entries });
    };

    let mut image = Vec::from([("ostype", "linux".into()), ("kernel", config.kernel.clone())]);
    image.extend(config.ramdisk.clone().map(|ramdisk| ("ramdisk", ramdisk)));
    image.push(("cmdline", config.cmdline.clone()));
    directory(
        vm.clone(),
        readable_by(domain),
        Vec::from([
            ("uuid", uuid),
            ("name", config.name.clone()),
            ("start_time", format!("{}.00", identity.started)),
        ]),
    );
    directory(format!("{vm}/image"), readable_by(domain), image);
    directory(format!("/libxl/{id}"), dom0_only(), Vec::from([("type", "pv".into())]));
    directory(
        home.clone(),
        readable_by(domain),
        Vec::from([("vm", vm), ("name", config.name.clone()), ("domid", id.to_string())]),
    );
    directory(
        format!("{home}/memory"),
        readable_by(domain),
        Vec::from([
            ("static-max", kib(config.maxmem)),
            ("target", kib(config.memory)),
            ("videoram", "0".into()),
        ]),
    );
    for vcpu in 0..config.maxvcpus {
        let available = if vcpu < config.vcpus { "online" } else { "offline" };
        directory(
            format!("{home}/cpu/{vcpu}"),
            readable_by(domain),
            Vec::from([("availability", available.into())]),
        );
    }
    for name in ["device", "control"] {
        directory(format!("{home}/{name}"), readable_by(domain), Vec::new());
    }
    for name in ["shutdown", "feature-poweroff", "feature-reboot", "feature-suspend", "sysrq"] {
        directory(format!("{home}/control/{name}"), owned_by(domain), Vec::new());
    }
    for name in ["data", "drivers", "feature", "attr", "error"] {
        directory(format!("{home}/{name}"), owned_by(domain), Vec::new());
    }
    let rings =
        [("store", built.xenstore, built.xenstore_port), ("console", built.console, built.console_port)];
    for (name, frame, port) in rings {
        let entries = Vec::from([("port", port.0.to_string()), ("ring-ref", frame.0.to_string())]);
        directory(format!("{home}/{name}"), readable_by(domain), entries);
    }

    let console = Pair::new(domain, "console", "0", format!("{home}/console"));
    let entries = Vec::from([
        ("backend", console.backend.clone()),
        ("backend-id", "0".into()),
        ("limit", "1048576".into()),
        ("type", "xenconsoled".into()),
        ("output", "pty".into()),
        ("tty", String::new()),
    ]);
    directory(console.frontend.clone(), readable_by(domain), entries);
    directory(
        console.backend.clone(),
        readable_by(domain),
        console.back(Vec::from([("protocol", "vt100".into())])),
    );

    for disk in &config.disks {
        let number = disk.number.to_string();
        let pair = Pair::new(domain, "vbd", &number, format!("{home}/device/vbd/{number}"));
        let front = Vec::from([("virtual-device", number), ("device-type", "disk".into())]);
        let back = Vec::from([
            ("bootable", "1".into()),
            ("removable", "0".into()),
            ("dev", disk.vdev.clone()),
            ("type", "phy".into()),
            ("mode", if disk.writable { "w" } else { "r" }.into()),
            ("device-type", "disk".into()),
            ("params", disk.target.clone()),
        ]);
        pair.list(front, back).into_iter().for_each(|(path, perms, entries)| directory(path, perms, entries));
    }
    for (index, vif) in config.vifs.iter().enumerate() {
        let mac = vif.mac.unwrap_or_else(|| Mac::derived(&identity.uuid, index as u8)).to_string();
        let pair = Pair::new(domain, "vif", &index.to_string(), format!("{home}/device/vif/{index}"));
        let mut front = Vec::from([("handle", index.to_string()), ("mac", mac.clone())]);
        let mut back = Vec::from([
            ("handle", index.to_string()),
            ("mac", mac),
            ("bridge", vif.bridge.clone()),
            ("type", "vif".into()),
        ]);
        if let Some(ip) = &vif.ip {
            front.push(("ip", ip.clone()));
            back.push(("ip", ip.clone()));
        }
        back.extend(vif.rate.map(|rate| ("rate", format!("{},{}", rate.bytes, rate.interval))));
        pair.list(front, back).into_iter().for_each(|(path, perms, entries)| directory(path, perms, entries));
    }
    list
}

/// Both ends of a device.
struct Pair {
    domain: DomId,
    frontend: String,
    backend: String,
    record: String,
}

type Entries = Vec<(&'static str, String)>;

impl Pair {
    fn new(domain: DomId, kind: &str, device: &str, frontend: String) -> Pair {
        let id = domain.0;
        let backend = format!("/local/domain/0/backend/{kind}/{id}/{device}");
        Pair { domain, frontend, backend, record: format!("/libxl/{id}/device/{kind}/{device}") }
    }

    fn back(&self, more: Entries) -> Entries {
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
    fn list(&self, front: Entries, back: Entries) -> [(String, Perms, Entries); 3] {
        let mut entries = Vec::from([
            ("backend", self.backend.clone()),
            ("backend-id", "0".into()),
            ("state", INITIALISING.into()),
        ]);
        entries.extend(front);
        let record = Vec::from([("frontend", self.frontend.clone()), ("backend", self.backend.clone())]);
        [
            (self.record.clone(), dom0_only(), record),
            (self.frontend.clone(), owned_by(self.domain).with(DomId(0), Rights::READ), entries),
            (self.backend.clone(), readable_by(self.domain), self.back(back)),
        ]
    }
}
