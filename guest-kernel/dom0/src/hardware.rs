//! The machine's devices at dom0's start: found, told to Xen, started, and put to use.
//!
//! A device that does not work is told of and left alone; the rest goes on without it.

use crate::bridge::{Bridge, MacPolicy, Plug};
use crate::pci::{Function, Ports, announce, enumerate};
use crate::virtio::{Disk, Error, Kind, Nic, kind};
use crate::volumes::{Volumes, gpt};
use alloc::rc::Rc;
use alloc::vec::Vec;
use guest_kernel::block::{BlockDevice, SECTOR_SIZE};
use guest_kernel::executor::spawn;
use guest_kernel::log::{info, warn};
use guest_kernel::time::Instant;

/// What the machine has.
pub struct Hardware {
    /// PCI functions.
    pub functions: Vec<Function>,
    /// Disks.
    pub disks: Vec<Rc<Disk>>,
    /// Network cards; each is a port of the bridge.
    pub nics: Vec<Rc<Nic>>,
    /// What is on the disks.
    pub volumes: Rc<Volumes<Disk>>,
    /// The bridge `xenbr0`.
    pub bridge: Rc<Bridge>,
}

/// Finds and starts all devices.
pub async fn start() -> Hardware {
    let functions = enumerate(&Ports);
    let (volumes, bridge) = (Rc::new(Volumes::default()), Bridge::new(|| Instant::now().as_nanos()));
    let mut hardware = Hardware { functions, disks: Vec::new(), nics: Vec::new(), volumes, bridge };
    // Before any device is used: Xen must know them to program their interrupts.
    for function in &hardware.functions {
        info!("pci {function}");
        if let Err(errno) = announce(function) {
            warn!("pci {}: Xen refuses to know it: {errno:?}", function.address);
        }
    }
    for function in hardware.functions.clone() {
        let started = match kind(&function) {
            Some(Kind::Blk) => hardware.disk(&function).await,
            Some(Kind::Net) => hardware.nic(&function).await,
            None => continue,
        };
        if let Err(error) = started {
            warn!("pci {}: {error}", function.address);
        }
    }
    if hardware.disks.is_empty() {
        warn!("no disk: guests have no volumes (dom0 has a driver for modern virtio-blk only)");
    }
    if hardware.nics.is_empty() {
        warn!("no network card: guests reach each other only (dom0 has a driver for modern virtio-net only)");
    }
    hardware
}

impl Hardware {
    async fn disk(&mut self, function: &Function) -> Result<(), Error> {
        let disk = Rc::new(Disk::start(&Ports, function).await?);
        let server = disk.clone();
        spawn(async move {
            server.serve().await;
            warn!("disk: the device broke its queue; it is not used any more");
        });
        let partitions = match gpt::read(&disk).await {
            Ok(partitions) => partitions,
            Err(error) => {
                warn!("pci {}: {error}", function.address);
                Vec::new()
            }
        };
        let mib = |sectors: u64| sectors / ((1 << 20) / SECTOR_SIZE as u64);
        let geometry = disk.geometry();
        let name = self.volumes.add(disk.clone(), partitions.clone());
        info!(
            "disk {name}: pci {}, {} MiB, {} partitions",
            function.address,
            mib(geometry.sectors),
            partitions.len()
        );
        for entry in &partitions {
            info!("disk {name}{}: {:?}, {} MiB", entry.number, entry.name, mib(entry.count));
        }
        self.disks.push(disk);
        Ok(())
    }

    async fn nic(&mut self, function: &Function) -> Result<(), Error> {
        let nic = Rc::new(Nic::start(&Ports, function).await?);
        let plug = Plug::new(self.bridge.clone());
        plug.attach(MacPolicy::Any, None, true, nic.clone());
        let runner = nic.clone();
        spawn(async move {
            runner.run(&plug).await;
            plug.detach();
            warn!("net: the card broke its queue; it is not used any more");
        });
        let [a, b, c, d, e, f] = nic.mac();
        info!(
            "net: pci {}, {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, port of xenbr0",
            function.address
        );
        self.nics.push(nic);
        Ok(())
    }
}
