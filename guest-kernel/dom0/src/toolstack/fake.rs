//! A hypervisor for tests: domains in memory, every call counted, any call made to fail.

use super::archive::Files;
use super::build::Built;
use super::hypervisor::{
    CpuPlace, DomainInfo, ForeignPages, Hypervisor, MachineInfo, NumaNode, Share, VcpuInfo, Version,
};
use super::manager::{ConsoleHub, Manager};
use crate::xenstored::model::FakeHost;
use crate::xenstored::{Client, Server};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use guest_kernel::executor::spawn;
use shared_abi::arch_x86::VcpuGuestContext;
use shared_abi::{DomId, Errno, Mfn, Pfn, Port};

/// Frames of the machine that domains may have.
pub const FRAMES: u64 = 16384;

pub type Frame = Rc<RefCell<Vec<u8>>>;

#[derive(Default)]
pub struct Domain {
    pub info: DomainInfo,
    pub frames: BTreeMap<u64, Frame>,
    pub mapped_writable: Rc<RefCell<BTreeMap<u64, usize>>>,
    pub context: Option<VcpuGuestContext>,
    pub root: Option<Mfn>,
    pub hypercall_page: Option<Mfn>,
    pub grant_frame: Mfn,
    pub max_kib: u64,
    pub tsc_mode: u32,
    pub share: Option<Share>,
    pub pauses: u32,
    pub affinity: BTreeMap<u32, Vec<u32>>,
    pub nmis: u32,
    ports: u32,
}

#[derive(Default)]
pub struct Machine {
    pub domains: BTreeMap<u16, Domain>,
    next_domain: u16,
    next_frame: u64,
    /// Calls so far that may fail, and the one that does.
    pub calls: usize,
    pub fail_at: Option<usize>,
    /// Keys pressed on its console.
    pub keys: String,
}

#[derive(Clone, Default)]
pub struct Fake(pub Rc<RefCell<Machine>>, Rc<Cell<u64>>);

pub struct Pages {
    frames: Vec<(u64, Frame)>,
    mapped: Rc<RefCell<BTreeMap<u64, usize>>>,
}

impl ForeignPages for Pages {
    fn write(&self, at: usize, bytes: &[u8]) {
        for (n, byte) in bytes.iter().enumerate() {
            self.frames[(at + n) / 4096].1.borrow_mut()[(at + n) % 4096] = *byte;
        }
    }
    fn read(&self, at: usize, bytes: &mut [u8]) {
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = self.frames[(at + n) / 4096].1.borrow()[(at + n) % 4096];
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for (mfn, _) in &self.frames {
            *self.mapped.borrow_mut().get_mut(mfn).unwrap() -= 1;
        }
    }
}

fn frame() -> Frame {
    // Not zero: a builder that relies on clean memory shows.
    Rc::new(RefCell::new(alloc::vec![0xa5; 4096]))
}

impl Fake {
    fn on<T>(&self, domain: DomId, act: impl FnOnce(&mut Domain) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut machine = self.0.borrow_mut();
        machine.calls += 1;
        if machine.fail_at == Some(machine.calls) {
            return Err(Errno::EPERM);
        }
        act(machine.domains.get_mut(&domain.0).ok_or(Errno::ESRCH)?)
    }

    pub fn free(&self) -> u64 {
        FRAMES - self.0.borrow().domains.values().map(|domain| domain.info.pages).sum::<u64>()
    }

    /// The domain stops itself.
    pub fn stop(&self, domain: DomId, reason: u32) {
        self.0.borrow_mut().domains.get_mut(&domain.0).unwrap().info.shutdown = Some(reason);
    }
}

impl Hypervisor for Fake {
    type Pages = Pages;

    fn create(&self, uuid: [u8; 16], vcpus: u32) -> Result<DomId, Errno> {
        let mut machine = self.0.borrow_mut();
        machine.calls += 1;
        if machine.fail_at == Some(machine.calls) {
            return Err(Errno::ENOMEM);
        }
        machine.next_domain += 1;
        let number = machine.next_domain;
        let base = 1 << 20 | u64::from(number) << 8;
        let info = DomainInfo {
            domain: DomId(number),
            uuid,
            paused: true,
            vcpus,
            vcpus_online: 1,
            shared_info: Mfn(base),
            ..DomainInfo::default()
        };
        let frames = BTreeMap::from([(base, frame()), (base + 1, frame())]);
        let domain = Domain { info, frames, grant_frame: Mfn(base + 1), pauses: 1, ..Domain::default() };
        machine.domains.insert(number, domain);
        Ok(DomId(number))
    }
    fn set_max_memory(&self, domain: DomId, kib: u64) -> Result<(), Errno> {
        self.on(domain, |d| Ok(d.max_kib = kib))
    }
    fn set_memory_map(&self, domain: DomId, _: u64) -> Result<(), Errno> {
        self.on(domain, |_| Ok(()))
    }
    fn populate(&self, domain: DomId, _: Pfn, count: u64) -> Result<Vec<Mfn>, Errno> {
        if count > self.free() {
            return Err(Errno::ENOMEM);
        }
        let first = self.0.borrow().next_frame;
        self.0.borrow_mut().next_frame += count;
        self.on(domain, |d| {
            d.info.pages = count;
            // Machine frames in no order.
            let mfns: Vec<Mfn> = (first..first + count).rev().map(|n| Mfn((n ^ 5) + 100)).collect();
            d.frames.extend(mfns.iter().map(|mfn| (mfn.0, frame())));
            Ok(mfns)
        })
    }
    fn map(&self, domain: DomId, frames: &[Mfn]) -> Result<Pages, Errno> {
        self.on(domain, |d| {
            let frames: Option<Vec<_>> =
                frames.iter().map(|mfn| Some((mfn.0, d.frames.get(&mfn.0)?.clone()))).collect();
            let frames = frames.ok_or(Errno::EINVAL)?;
            for (mfn, _) in &frames {
                *d.mapped_writable.borrow_mut().entry(*mfn).or_default() += 1;
            }
            Ok(Pages { frames, mapped: d.mapped_writable.clone() })
        })
    }
    fn alloc_port(&self, domain: DomId) -> Result<Port, Errno> {
        self.on(domain, |d| {
            d.ports += 1;
            Ok(Port(d.ports))
        })
    }
    fn grant_frame(&self, domain: DomId) -> Result<Mfn, Errno> {
        self.on(domain, |d| Ok(d.grant_frame))
    }
    fn fill_hypercall_page(&self, domain: DomId, frame: Mfn) -> Result<(), Errno> {
        self.on(domain, |d| Ok(d.hypercall_page = Some(frame)))
    }
    fn pin(&self, domain: DomId, root: Mfn) -> Result<(), Errno> {
        self.on(domain, |d| {
            // As Xen: no frame that is mapped writable becomes a page table.
            if d.mapped_writable.borrow().values().any(|count| *count > 0) {
                return Err(Errno::EINVAL);
            }
            Ok(d.root = Some(root))
        })
    }
    fn set_context(&self, domain: DomId, context: &VcpuGuestContext) -> Result<(), Errno> {
        self.on(domain, |d| Ok(d.context = Some(*context)))
    }
    fn set_affinity(&self, domain: DomId, vcpu: u32, cpus: &[u32]) -> Result<(), Errno> {
        self.on(domain, |d| Ok(drop(d.affinity.insert(vcpu, cpus.to_vec()))))
    }
    fn send_nmi(&self, domain: DomId, vcpu: u32) -> Result<(), Errno> {
        self.on(domain, |d| if vcpu < d.info.vcpus { Ok(d.nmis += 1) } else { Err(Errno::ESRCH) })
    }
    fn set_tsc_mode(&self, domain: DomId, mode: u32) -> Result<(), Errno> {
        self.on(domain, |d| Ok(d.tsc_mode = mode))
    }
    fn share(&self, domain: DomId) -> Result<Share, Errno> {
        self.on(domain, |d| Ok(d.share.unwrap_or(Share { weight: 256, cap: 0 })))
    }
    fn set_share(&self, domain: DomId, share: Share) -> Result<(), Errno> {
        self.on(domain, |d| Ok(d.share = Some(share)))
    }
    fn pause(&self, domain: DomId) -> Result<(), Errno> {
        self.on(domain, |d| {
            d.pauses += 1;
            Ok(d.info.paused = true)
        })
    }
    fn unpause(&self, domain: DomId) -> Result<(), Errno> {
        self.on(domain, |d| {
            d.pauses = d.pauses.saturating_sub(1);
            Ok(d.info.paused = d.pauses > 0)
        })
    }
    fn destroy(&self, domain: DomId) -> Result<(), Errno> {
        self.0.borrow_mut().domains.remove(&domain.0).map(drop).ok_or(Errno::ESRCH)
    }
    fn info(&self, domain: DomId) -> Result<DomainInfo, Errno> {
        self.0.borrow().domains.get(&domain.0).map(|d| d.info.clone()).ok_or(Errno::ESRCH)
    }
    fn list(&self) -> Result<Vec<DomainInfo>, Errno> {
        Ok(self.0.borrow().domains.values().map(|domain| domain.info.clone()).collect())
    }
    fn vcpu(&self, domain: DomId, _: u32) -> Result<VcpuInfo, Errno> {
        let info = self.info(domain)?;
        Ok(VcpuInfo {
            online: true,
            running: info.running,
            blocked: info.blocked,
            cpu_time: info.cpu_time,
            cpu: 0,
            hard: Vec::from([0]),
            soft: Vec::from([0]),
        })
    }
    fn machine(&self) -> Result<MachineInfo, Errno> {
        Ok(MachineInfo { cpus: 1, total_pages: FRAMES, free_pages: self.free(), ..MachineInfo::default() })
    }
    fn cpu_places(&self) -> Result<Vec<CpuPlace>, Errno> {
        Ok(Vec::from([CpuPlace { core: 0, socket: 0, node: 0 }]))
    }
    fn numa_nodes(&self) -> Result<Vec<NumaNode>, Errno> {
        let (memory, free) = (FRAMES << 12, self.free() << 12);
        Ok(Vec::from([NumaNode { memory, free, distances: Vec::from([10, 20]) }]))
    }
    fn scheduler(&self) -> Result<String, Errno> {
        Ok("credit2".into())
    }
    fn ratelimit(&self) -> Result<u32, Errno> {
        Ok(1000)
    }
    fn version(&self) -> Version {
        Version { number: (4, 17), extra: ".5".into(), ..Version::default() }
    }
    fn log(&self, _: bool) -> Result<Vec<u8>, Errno> {
        Ok(b"(XEN) log\n".to_vec())
    }
    fn debug_keys(&self, keys: &str) -> Result<(), Errno> {
        Ok(self.0.borrow_mut().keys += keys)
    }
    fn wallclock(&self) -> u64 {
        1_700_000_000
    }
    fn uptime(&self) -> u64 {
        // Time passes, so that no wait is without end.
        self.1.set(self.1.get() + 1_000_000_000);
        self.1.get()
    }
}

/// Consoles that remember whose they are.
#[derive(Default)]
pub struct FakeConsoles(pub RefCell<Vec<DomId>>);

impl ConsoleHub for FakeConsoles {
    fn add(&self, built: &Built) -> Result<(), Errno> {
        self.0.borrow_mut().push(built.domain);
        Ok(())
    }
    fn remove(&self, domain: DomId) {
        self.0.borrow_mut().retain(|served| *served != domain);
    }
}

/// Files in a map.
pub struct FakeFiles(pub BTreeMap<String, Vec<u8>>);

impl Files for FakeFiles {
    fn read(&self, path: &str) -> Option<&[u8]> {
        self.0.get(path).map(Vec::as_slice)
    }
    fn list(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// A toolstack over a fake machine that has dom0 and these files.
pub struct Bench {
    pub fake: Fake,
    pub manager: Rc<Manager<Fake>>,
    pub store: Client,
    pub server: Rc<RefCell<Server>>,
    pub consoles: Rc<FakeConsoles>,
}

pub fn bench(files: &[(&str, &[u8])]) -> Bench {
    let fake = Fake::default();
    let dom0 = DomainInfo { running: true, vcpus: 1, vcpus_online: 1, pages: 256, ..DomainInfo::default() };
    fake.0.borrow_mut().domains.insert(0, Domain { info: dom0, ..Domain::default() });
    let server = Rc::new(RefCell::new(Server::new(Box::new(FakeHost::default()))));
    let consoles = Rc::new(FakeConsoles::default());
    let files = files.iter().map(|(path, bytes)| (path.to_string(), bytes.to_vec())).collect();
    let manager = Rc::new(Manager::new(fake.clone(), &server, Rc::new(FakeFiles(files)), consoles.clone()));
    let store = Client::new(&server);
    let backends = Client::new(&server);
    backends.watch("/local/domain/0/backend", "").unwrap();
    spawn(serve_devices(backends));
    Bench { fake, manager, store, server, consoles }
}

/// The backends as far as a device's beginning: each has what it needs, but for a volume or a bridge called `absent`.
async fn serve_devices(store: Client) {
    loop {
        let path = store.event().await.path;
        let Some(backend) = path.strip_suffix("/online") else { continue };
        let node = |name: &str| store.read_text(&format!("{backend}/{name}"));
        // `online` is written to a directory that goes, too.
        if backend.contains("/console/")
            || node("state").as_deref() != Some("1")
            || node("hotplug-status").is_some()
        {
            continue;
        }
        let absent = [node("params"), node("bridge")].iter().flatten().any(|name| name == "absent");
        if absent {
            store.write(&format!("{backend}/hotplug-error"), "there is none").unwrap();
            store.write(&format!("{backend}/state"), "6").unwrap();
        }
        let status = if absent { "error" } else { "connected" };
        store.write(&format!("{backend}/hotplug-status"), status).unwrap();
    }
}
