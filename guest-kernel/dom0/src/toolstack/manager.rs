//! The domains this toolstack runs: creating, stopping, restarting and taking them apart.
//!
//! The hardest decision is the order of a destruction. The domain is paused, then the backends are asked to let
//! go of its memory and given a while, then dom0's own rings are unmapped, and only then the hypervisor is
//! told: a frame that somebody still maps would keep the dead domain's number in use.

use super::archive::Files;
use super::build::{self, Built};
use super::config::domain::check_name as check_domain_name;
use super::config::{Action, DomainConfig, syntax};
use super::devices;
use super::entries::{self, Identity};
use super::hypervisor::Hypervisor;
use super::unpack::Unpacker;
use crate::xenstored::store::RELEASE_DOMAIN;
use crate::xenstored::{Client, Server};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;
use guest_kernel::executor::sleep;
use shared_abi::sched::{SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_SUSPEND};
use shared_abi::{DomId, Errno};

/// How long backends may take to let go of a domain.
const BACKENDS: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
/// Where the administrator's configurations lie.
const CONFIGS: &str = "etc/xen/";
/// Where configurations lie that are started with dom0.
pub const AUTOSTART: &str = "etc/xen/auto/";
/// libxl's LIBXL_MIN_DOM0_MEM.
const DOM0_LEAST_KIB: u64 = 128 << 10;
/// A domain that ends sooner than this after its start is not restarted at once.
const QUICK_NS: u64 = 2_000_000_000;

/// What the toolstack needs of the consoles.
pub trait ConsoleHub {
    /// Starts serving the console of a domain that was just built.
    fn add(&self, built: &Built) -> Result<(), Errno>;
    /// Stops serving a domain's console.
    fn remove(&self, domain: DomId);
}

/// A domain that this toolstack has created.
#[derive(Clone, Debug)]
pub struct Running {
    /// What it was made from.
    pub config: DomainConfig,
    /// Its identity.
    pub uuid: [u8; 16],
    /// When it started, in nanoseconds of the machine's uptime.
    pub started: u64,
}

/// The toolstack.
pub struct Manager<H: Hypervisor> {
    /// The hypervisor.
    pub hypervisor: H,
    /// Its connection to xenstore.
    pub store: Client,
    /// Kernels and configurations.
    pub files: Rc<dyn Files>,
    pub(super) server: Rc<RefCell<Server>>,
    consoles: Rc<dyn ConsoleHub>,
    unpacker: Unpacker,
    running: RefCell<BTreeMap<DomId, Running>>,
}

impl<H: Hypervisor> Manager<H> {
    /// A toolstack that runs no domain yet; tells xenstore who dom0 is.
    pub fn new(
        hypervisor: H,
        server: &Rc<RefCell<Server>>,
        files: Rc<dyn Files>,
        consoles: Rc<dyn ConsoleHub>,
    ) -> Manager<H> {
        let store = Client::new(server);
        for (name, value) in [("name", "Domain-0"), ("domid", "0")] {
            // A fresh store takes it.
            let _ = store.write(&format!("/local/domain/0/{name}"), value);
        }
        let (unpacker, running) = (Unpacker::default(), RefCell::default());
        Manager { hypervisor, store, files, server: server.clone(), consoles, unpacker, running }
    }

    /// The name of a domain, if it has one.
    pub fn name(&self, domain: DomId) -> Option<String> {
        self.store.read_text(&format!("/local/domain/{}/name", domain.0))
    }

    /// The domain that a user means by a name or number.
    pub fn find(&self, text: &str) -> Option<DomId> {
        if let Ok(number) = text.parse() {
            return self.hypervisor.info(DomId(number)).ok().map(|info| info.domain);
        }
        // Those that it has created are called as it has them: the store is asked for the others alone.
        let running = self.running.borrow();
        if let Some((domain, _)) = running.iter().find(|(_, running)| running.config.name == text) {
            return Some(*domain);
        }
        // One that xenstore has not been told of has no name there.
        let mut others = self.server.borrow().introduced();
        others.retain(|domain| !running.contains_key(domain));
        others.push(DomId(0));
        others.into_iter().find(|domain| self.name(*domain).as_deref() == Some(text))
    }

    /// What a running domain was made from.
    pub fn running(&self, domain: DomId) -> Option<Running> {
        self.running.borrow().get(&domain).cloned()
    }

    /// Changes what a domain will be made from when it restarts.
    pub(super) fn configured(&self, domain: DomId, change: impl FnOnce(&mut Running)) {
        if let Some(running) = self.running.borrow_mut().get_mut(&domain) {
            change(running);
        }
    }

    /// Reads a configuration file, with an error that starts with its name. A name that is no path is looked
    /// for among the administrator's files: `web` is then `etc/xen/web.cfg`. `more` are lines that come after the file's and override them.
    pub fn read_config(&self, path: &str, more: &[&str]) -> Result<DomainConfig, String> {
        let places = [path.into(), format!("{CONFIGS}{path}"), format!("{CONFIGS}{path}.cfg")];
        let found = places.iter().find_map(|place| self.files.read(place));
        let bytes = found.ok_or_else(|| format!("cannot read {path}: no such file"))?;
        let text = core::str::from_utf8(bytes).map_err(|_| format!("{path}: not text"))?;
        // A fault of the file's own is told first: what follows its end would get the blame.
        syntax::parse(text).map_err(|error| format!("{path}: {error}"))?;
        let lines = text.split('\n').count();
        let text = if more.is_empty() { text.into() } else { format!("{text}\n{}\n", more.join("\n")) };
        DomainConfig::parse(&text).map_err(|error| {
            match (error.at.line as usize).checked_sub(lines + 1).and_then(|n| more.get(n)) {
                Some(word) if word.contains(['"', '\'']) => format!("{word}: {}", error.message),
                // The shell has taken them away.
                Some(word) => format!("{word}: {}; quotes need quotes: 'name=\"x\"'", error.message),
                None => format!("{path}: {error}"),
            }
        })
    }

    /// Creates a domain. On an error nothing of it is left.
    pub async fn create(&self, config: DomainConfig, paused: bool) -> Result<DomId, String> {
        let uuid = config.uuid.unwrap_or_else(|| self.fresh_uuid(&config.name));
        self.create_as(config, uuid, paused).await
    }

    /// Creates the domains whose configurations lie in [`AUTOSTART`]; which files those were, and what became
    /// of each.
    pub async fn autostart(&self) -> Vec<(String, Result<DomId, String>)> {
        let mut results = Vec::new();
        for path in self.files.list() {
            if path.starts_with(AUTOSTART) && path.ends_with(".cfg") {
                let result = match self.read_config(path, &[]) {
                    Ok(config) => self.create(config, false).await,
                    Err(error) => Err(error),
                };
                results.push((path.into(), result));
            }
        }
        results
    }

    async fn create_as(&self, config: DomainConfig, uuid: [u8; 16], paused: bool) -> Result<DomId, String> {
        self.check_name(&config.name)?;
        let read =
            |path: &String| self.files.read(path).ok_or_else(|| format!("cannot read {path}: no such file"));
        let ramdisk = config.ramdisk.as_ref().map(read).transpose()?;
        let kernel = self.unpacker.unpack(&config.kernel, read(&config.kernel)?).await?;
        if kernel.was_packed() {
            // Another domain may have got it meanwhile. Until it has its name nothing waits.
            self.check_name(&config.name)?;
        }
        let built = build::build(&self.hypervisor, &config, uuid, &kernel, ramdisk)?;
        let domain = built.domain;
        let started = self.hypervisor.uptime();
        if let Err(error) = self.connect(&config, &built, uuid) {
            let _ = self.take_apart(domain);
            return Err(error);
        }
        self.running.borrow_mut().insert(domain, Running { config, uuid, started });
        if let Err(error) = self.all_served(domain).await {
            let _ = self.destroy(domain).await;
            return Err(error);
        }
        if !paused && let Err(errno) = self.hypervisor.unpause(domain) {
            let _ = self.take_apart(domain);
            return Err(format!("cannot start the domain: {}", errno.name()));
        }
        Ok(domain)
    }

    fn check_name(&self, name: &str) -> Result<(), String> {
        match self.find(name) {
            Some(other) => Err(format!("a domain named \"{name}\" is running already, as {}", other.0)),
            None => Ok(()),
        }
    }

    fn connect(&self, config: &DomainConfig, built: &Built, uuid: [u8; 16]) -> Result<(), String> {
        let identity = Identity { built, uuid, started: self.hypervisor.wallclock() };
        entries::write(&self.store, config, &identity)
            .map_err(|error| format!("cannot write to xenstore: {error}"))?;
        self.consoles.add(built).map_err(|errno| format!("cannot serve the console: {}", errno.name()))?;
        self.server
            .borrow_mut()
            .introduce(built.domain.0, built.xenstore.0, built.xenstore_port.0)
            .map_err(|error| format!("cannot introduce the domain to xenstore: {error}"))
    }

    /// A uuid that no domain of this machine has: made from the name, the time and the machine's uptime.
    fn fresh_uuid(&self, name: &str) -> [u8; 16] {
        let seeds = [self.hypervisor.wallclock(), self.hypervisor.uptime()];
        let mut uuid = [0; 16];
        for (half, seed) in uuid.chunks_mut(8).zip(seeds) {
            // FNV-1a over seed and name.
            let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
            let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
            half.copy_from_slice(&hash.to_be_bytes());
        }
        // Version 4, variant 1.
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }

    /// Destroys a domain, whatever it does.
    pub async fn destroy(&self, domain: DomId) -> Result<(), Errno> {
        // It may be dying already; what follows is still needed then.
        let _ = self.hypervisor.pause(domain);
        self.release_devices(domain).await;
        self.take_apart(domain)
    }

    /// Takes all of a domain's devices away, whatever it says, and gives its backends a while.
    async fn release_devices(&self, domain: DomId) {
        let mut backends = devices::close_all(&self.store, domain);
        let start = self.hypervisor.uptime();
        while !backends.is_empty() && self.hypervisor.uptime() - start < BACKENDS.as_nanos() as u64 {
            sleep(POLL).await;
            backends.retain(|path| {
                self.store.read_text(&format!("{path}/state")).is_some_and(|state| state != "6")
            });
        }
    }

    fn take_apart(&self, domain: DomId) -> Result<(), Errno> {
        self.running.borrow_mut().remove(&domain);
        entries::remove(&self.store, domain);
        self.consoles.remove(domain);
        // Not introduced is as good.
        let _ = self.server.borrow_mut().release(domain);
        self.hypervisor.destroy(domain)
    }

    /// Asks a domain to stop: `poweroff`, `reboot` and the like. What then happens is its policy's matter.
    pub fn request(&self, domain: DomId, what: &str) -> Result<(), String> {
        self.store
            .write(&format!("/local/domain/{}/control/shutdown", domain.0), what)
            .map_err(|error| format!("cannot write control/shutdown: {error}"))
    }

    /// Sets how much memory a domain is to have, and lets it have no more.
    pub fn set_memory(&self, domain: DomId, kib: u64) -> Result<(), String> {
        if domain.0 == 0 && kib < DOM0_LEAST_KIB {
            return Err(format!(
                "memory target {kib} KiB for dom0 is below the minimum of {DOM0_LEAST_KIB} KiB"
            ));
        }
        let home = format!("/local/domain/{}/memory", domain.0);
        let max: Option<u64> =
            self.store.read_text(&format!("{home}/static-max")).and_then(|text| text.parse().ok());
        if let Some(max) = max.filter(|max| kib > *max) {
            return Err(format!("memory target {kib} KiB exceeds the domain's maximum of {max} KiB"));
        }
        self.store
            .write(&format!("{home}/target"), kib.to_string())
            .map_err(|error| format!("cannot write memory/target: {error}"))?;
        // dom0 keeps what it has until it lets go of it.
        if domain.0 != 0 {
            let limit = self.hypervisor.set_max_memory(domain, kib + 1024);
            limit.map_err(|errno| format!("cannot set the memory limit: {}", errno.name()))?;
        }
        self.configured(domain, |running| running.config.memory = kib.div_ceil(1024));
        Ok(())
    }

    /// Limits how much memory a domain may have. What it has it keeps.
    pub fn set_memory_limit(&self, domain: DomId, kib: u64) -> Result<(), String> {
        let told = |what: &str| format!("cannot {what}: no such domain");
        let info = self.hypervisor.info(domain).map_err(|_| told("set the memory limit"))?;
        if kib < info.pages * 4 {
            return Err(format!(
                "memory limit {kib} KiB is below the {} KiB that the domain has",
                info.pages * 4
            ));
        }
        let limit = self.hypervisor.set_max_memory(domain, kib);
        limit.map_err(|errno| format!("cannot set the memory limit: {}", errno.name()))?;
        self.store
            .write(&format!("/local/domain/{}/memory/static-max", domain.0), kib.to_string())
            .map_err(|error| format!("cannot write memory/static-max: {error}"))
    }

    /// Gives a domain another name.
    pub fn rename(&self, domain: DomId, name: &str) -> Result<(), String> {
        check_domain_name(name)?;
        self.check_name(name)?;
        self.store
            .write(&format!("/local/domain/{}/name", domain.0), name)
            .map_err(|error| format!("cannot write the name: {error}"))?;
        self.configured(domain, |running| running.config.name = name.into());
        Ok(())
    }

    /// Changes what a domain is made from when it starts again. It keeps its name.
    pub fn update(&self, domain: DomId, config: DomainConfig) -> Result<(), String> {
        let mut is_ours = false;
        self.configured(domain, |running| {
            let name = core::mem::take(&mut running.config.name);
            running.config = DomainConfig { name, ..config };
            is_ours = true;
        });
        if is_ours { Ok(()) } else { Err("this domain was not created here".into()) }
    }

    /// Sets how many of its vcpus a domain is to use: the first `count`.
    pub fn set_vcpus(&self, domain: DomId, count: u32) -> Result<(), String> {
        let info = self.hypervisor.info(domain);
        let most = info.map_err(|errno| format!("cannot get the domain's state: {}", errno.name()))?.vcpus;
        if count == 0 || count > most {
            return Err(format!("{count} vcpus are asked for, the domain has 1 to {most} (maxvcpus)"));
        }
        let home = format!("/local/domain/{}/cpu", domain.0);
        self.store
            .transaction(|store| {
                (0..most).try_for_each(|vcpu| {
                    let available = if vcpu < count { "online" } else { "offline" };
                    store.write(&format!("{home}/{vcpu}/availability"), available)
                })
            })
            .map_err(|error| format!("cannot write cpu/N/availability: {error}"))?;
        self.configured(domain, |running| running.config.vcpus = count);
        Ok(())
    }

    /// Lets a domain act as if this magic SysRq key had been pressed.
    pub fn sysrq(&self, domain: DomId, key: char) -> Result<(), String> {
        self.store
            .write(&format!("/local/domain/{}/control/sysrq", domain.0), key.to_string())
            .map_err(|error| format!("cannot write control/sysrq: {error}"))
    }

    /// Handles the ends of domains: runs for good.
    pub async fn attend(&self, log: impl Fn(&str)) {
        // On dom0's own connection a watch is always accepted.
        let events = Client::new(&self.server);
        let _ = events.watch(RELEASE_DOMAIN, "toolstack");
        loop {
            for domain in self.ended() {
                self.settle(domain, &log).await;
            }
            events.event().await;
        }
    }

    /// The domains of ours that have stopped or are gone. xenstore knows which may have.
    fn ended(&self) -> Vec<DomId> {
        let server = self.server.borrow();
        let running = self.running.borrow();
        let stopped = running.keys().copied().filter(|domain| !server.goes_on(*domain));
        let suspended = |domain: &DomId| {
            let info = self.hypervisor.info(*domain);
            info.is_ok_and(|info| {
                !info.dying && info.shutdown.is_none_or(|reason| reason == SHUTDOWN_SUSPEND)
            })
        };
        stopped.filter(|domain| !suspended(domain)).collect()
    }

    /// Does what the policy of an ended domain says.
    async fn settle(&self, domain: DomId, log: &impl Fn(&str)) {
        let Some(running) = self.running(domain) else { return };
        let name = running.config.name.clone();
        let reason = self.hypervisor.info(domain).ok().and_then(|info| info.shutdown);
        let action = match reason {
            None => Action::Destroy,
            Some(SHUTDOWN_POWEROFF) => running.config.on_poweroff,
            Some(SHUTDOWN_REBOOT) => running.config.on_reboot,
            Some(_) => running.config.on_crash,
        };
        let what = reason.map_or("was destroyed", reason_text);
        log(&format!("Domain {} \"{name}\" {what}: {}", domain.0, action_text(action)));
        match action {
            Action::Preserve => {
                self.running.borrow_mut().remove(&domain);
            }
            Action::Destroy => {
                let _ = self.destroy(domain).await;
            }
            Action::Restart => {
                let _ = self.destroy(domain).await;
                self.restart(running, log).await;
            }
            Action::RenameRestart => {
                self.running.borrow_mut().remove(&domain);
                // The one that is kept for a look needs none of them, the new one may need them alone.
                self.release_devices(domain).await;
                let _ = self
                    .store
                    .write(&format!("/local/domain/{}/name", domain.0), format!("{name}-{}", domain.0));
                let fresh = Running { uuid: self.fresh_uuid(&name), ..running };
                self.restart(fresh, log).await;
            }
        }
    }

    async fn restart(&self, running: Running, log: &impl Fn(&str)) {
        if self.hypervisor.uptime().saturating_sub(running.started) < QUICK_NS {
            sleep(Duration::from_nanos(QUICK_NS)).await;
        }
        let name = running.config.name.clone();
        match self.create_as(running.config, running.uuid, false).await {
            Ok(domain) => log(&format!("Domain \"{name}\" is running again, as {}", domain.0)),
            Err(error) => log(&format!("Domain \"{name}\" cannot be restarted: {error}")),
        }
    }
}

fn reason_text(reason: u32) -> &'static str {
    match reason {
        SHUTDOWN_POWEROFF => "has powered off",
        SHUTDOWN_REBOOT => "asks for a reboot",
        SHUTDOWN_SUSPEND => "has suspended",
        shared_abi::sched::SHUTDOWN_CRASH => "has crashed",
        shared_abi::sched::SHUTDOWN_WATCHDOG => "was stopped by its watchdog",
        _ => "has stopped",
    }
}

fn action_text(action: Action) -> &'static str {
    match action {
        Action::Destroy => "destroying it",
        Action::Restart => "restarting it",
        Action::RenameRestart => "keeping it and starting another",
        Action::Preserve => "keeping it",
    }
}
