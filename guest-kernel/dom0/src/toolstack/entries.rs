//! A domain's entries in xenstore, as libxl writes them: the domain's own directory, its `/vm` record, the
//! toolstack's record under `/libxl`, and a frontend and a backend directory for each device.

use crate::toolstack::build::Built;
use crate::toolstack::config::{DomainConfig, vif::Mac};
use crate::toolstack::devices::{self, Pair};
use crate::xenstored::perms::{Perms, Rights};
use crate::xenstored::{Client, Error};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use shared_abi::DomId;

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

pub(super) fn dom0_only() -> Perms {
    Perms::new(DomId(0), Rights::default())
}

pub(super) fn readable_by(domain: DomId) -> Perms {
    dom0_only().with(domain, Rights::READ)
}

pub(super) fn owned_by(domain: DomId) -> Perms {
    Perms::new(domain, Rights::default())
}

/// A directory to be written: a path, its permissions (inherited by what it contains), its contents.
pub(super) struct Directory<'a> {
    pub(super) path: String,
    pub(super) perms: Perms,
    pub(super) entries: Vec<(&'a str, String)>,
}

impl Directory<'_> {
    pub(super) fn write(&self, store: &Client) -> Result<(), Error> {
        store.mkdir(&self.path)?;
        store.set_perms(&self.path, &self.perms)?;
        let mut path = [&self.path, "/"].concat();
        let above = path.len();
        self.entries.iter().try_for_each(|(name, value)| {
            path.truncate(above);
            path.push_str(name);
            store.write(&path, value)
        })
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
        list.extend(devices::disk(domain, disk));
    }
    for (index, vif) in (0..).zip(&config.vifs) {
        list.extend(devices::vif(
            domain,
            index,
            vif,
            vif.mac.unwrap_or_else(|| Mac::derived(&identity.uuid, index as u8)),
        ));
    }
    list
}
