//! The supervisor over a real store. There is no hypervisor here, so no frontend ever connects:
//! what can be seen is which devices are served, what is said of them, and that all is given back.

use super::*;
use crate::volumes::gpt;
use crate::volumes::tests::{disk_with, now};
use crate::xenstored::{Client, service};
use guest_kernel::block::MemoryDisk;
use guest_kernel::executor::{block_on, yield_now};

const BACK: &str = "/local/domain/0/backend";

struct Toolstack {
    store: Client,
    volumes: Rc<Volumes<MemoryDisk>>,
    backends: Rc<Backends<MemoryDisk>>,
}

impl Toolstack {
    fn start() -> Toolstack {
        let server = service::start();
        let volumes = Rc::new(Volumes::default());
        let disk = MemoryDisk::from_bytes(disk_with(4096, &[("web", 64, 163), ("kv", 200, 299)]));
        let partitions = now(gpt::read(&disk)).unwrap();
        volumes.add(Rc::new(disk), partitions);
        let backends = Backends::new(service::connect(&server), volumes.clone(), Bridge::new(|| 0));
        spawn(backends.clone().run());
        Toolstack { store: Client::new(&server), volumes, backends }
    }

    /// Writes a device as `xl` does, in one transaction.
    fn device(&self, kind: &str, domain: u16, id: u32, entries: &[(&str, &str)]) -> String {
        let front = format!("/local/domain/{domain}/device/{kind}/{id}");
        let back = format!("{BACK}/{kind}/{domain}/{id}");
        let written = self.store.transaction(|store| {
            store.write(&format!("{front}/state"), "1")?;
            store.write(&format!("{back}/frontend"), &front)?;
            store.write(&format!("{back}/frontend-id"), format!("{domain}"))?;
            store.write(&format!("{back}/online"), "1")?;
            store.write(&format!("{back}/state"), "1")?;
            entries.iter().try_for_each(|(key, value)| store.write(&format!("{back}/{key}"), value))
        });
        written.unwrap();
        back
    }

    fn read(&self, path: &str, key: &str) -> String {
        self.store.read_text(&format!("{path}/{key}")).unwrap_or_default()
    }

    /// Lets everybody do what they can without time passing.
    async fn settle(&self) {
        for _ in 0..400 {
            yield_now().await;
        }
    }
}

#[test]
fn devices_are_offered_and_their_volumes_taken() {
    block_on(async {
        let tools = Toolstack::start();
        tools.settle().await;
        let web = tools.device("vbd", 1, 51712, &[("params", "web"), ("mode", "r")]);
        let again = tools.device("vbd", 2, 51712, &[("params", "web"), ("mode", "r")]);
        let kv = tools.device("vbd", 2, 51728, &[("params", "kv"), ("mode", "w")]);
        let vif = tools.device("vif", 2, 0, &[("mac", "00:16:3e:00:00:01"), ("bridge", "xenbr0")]);
        tools.settle().await;
        for path in [&web, &again, &kv, &vif] {
            assert_eq!(tools.read(path, "state"), "2", "{path}");
            assert_eq!(tools.read(path, "hotplug-status"), "connected", "{path}");
        }
        assert_eq!(tools.read(&kv, "feature-flush-cache"), "1");
        assert_eq!(tools.volumes.open("kv", false).err(), Some(VolumeError::Busy));
        assert!(tools.volumes.open("web", false).is_ok());
        // The domain goes: everything is given back.
        tools.store.rm("/local/domain/2").unwrap();
        tools.store.rm(&format!("{BACK}/vbd/2")).unwrap();
        tools.store.rm(&format!("{BACK}/vif/2")).unwrap();
        tools.settle().await;
        assert!(tools.volumes.open("kv", true).is_ok());
        assert_eq!(tools.backends.served.borrow().len(), 1);
        assert_eq!(tools.read(&web, "state"), "2");
    });
}

#[test]
fn what_cannot_be_served_is_closed_and_says_why() {
    block_on(async {
        let tools = Toolstack::start();
        let cases = [
            ("vbd", 1, vec![("params", "nothing"), ("mode", "r")], "no such volume; there are web, kv"),
            ("vbd", 2, vec![("mode", "r")], "ENOENT"),
            (
                "vif",
                3,
                vec![("mac", "00:16:3e:00:00:01"), ("bridge", "br7")],
                "no bridge \"br7\"; there is \"xenbr0\"",
            ),
            ("vif", 4, vec![("mac", "01:16:3e:00:00:01")], "no usable address"),
        ];
        for (kind, id, entries, reason) in cases {
            let path = tools.device(kind, 1, id, &entries);
            tools.settle().await;
            assert_eq!(tools.read(&path, "state"), "6", "{path}");
            assert_eq!(tools.read(&path, "hotplug-error"), reason, "{path}");
        }
        assert!(tools.backends.served.borrow().is_empty());
        // Told to try again, with what was missing.
        tools.store.write(&format!("{BACK}/vbd/1/1/params"), "web").unwrap();
        tools.settle().await;
        assert_eq!(tools.read(&format!("{BACK}/vbd/1/1"), "state"), "6");
        tools.store.write(&format!("{BACK}/vbd/1/1/state"), "1").unwrap();
        tools.settle().await;
        assert_eq!(tools.read(&format!("{BACK}/vbd/1/1"), "state"), "2");
    });
}

/// A domain that restarts asks for its volume while its predecessor's backend still has it.
#[test]
fn a_writer_waits_a_moment_for_the_last_one() {
    block_on(async {
        let tools = Toolstack::start();
        let held = tools.volumes.open("kv", true).unwrap();
        let path = tools.device("vbd", 1, 51712, &[("params", "kv"), ("mode", "w")]);
        tools.settle().await;
        assert_eq!(tools.read(&path, "state"), "1");
        drop(held);
        sleep(LAST_USER.1 * 2).await;
        tools.settle().await;
        assert_eq!(tools.read(&path, "state"), "2");
        let _held = tools.volumes.open("web", false).unwrap();
        let other = tools.device("vbd", 2, 51712, &[("params", "web"), ("mode", "w")]);
        sleep(LAST_USER.1 * (LAST_USER.0 + 2)).await;
        tools.settle().await;
        assert_eq!(tools.read(&other, "state"), "6");
    });
}

#[test]
fn events_are_read_as_what_they_are_about() {
    for (path, expected) in [
        ("backend/vbd", Place::Above),
        ("backend/vbd/3", Place::Domain(DomId(3))),
        ("backend/vbd/3/51712", Place::Device(DomId(3), 51712)),
        ("/local/domain/0/backend/vbd/3/51712/state", Place::Device(DomId(3), 51712)),
        ("backend/vbd/x/1", Place::Elsewhere),
        ("backend/vbd/1/x", Place::Elsewhere),
        ("backend/vif/1/0", Place::Elsewhere),
    ] {
        assert_eq!(place(Kind::Vbd, path), expected, "{path}");
    }
}
