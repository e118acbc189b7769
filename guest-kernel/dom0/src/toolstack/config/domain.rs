//! The keys of `xl.cfg`, and the domain they describe.

use super::disk::Disk;
use super::keys;
use super::syntax::{self, ConfigError, Kind, Setting, Value};
use super::vif::Vif;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// What happens to a domain that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It is destroyed.
    Destroy,
    /// It is built anew under its name.
    Restart,
    /// It is kept under another name, and built anew.
    RenameRestart,
    /// It is kept as it is.
    Preserve,
}

/// A domain to be created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DomainConfig {
    /// Its name, unique among the running domains.
    pub name: String,
    /// Its identity; made up at creation if not given.
    pub uuid: Option<[u8; 16]>,
    /// The kernel's file.
    pub kernel: String,
    /// The ramdisk's file.
    pub ramdisk: Option<String>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Memory at the start, MiB.
    pub memory: u64,
    /// Memory it may grow to, MiB.
    pub maxmem: u64,
    /// Virtual CPUs online at the start.
    pub vcpus: u32,
    /// Virtual CPUs at most.
    pub maxvcpus: u32,
    /// The physical CPUs that each vcpu may run on; all where there are none.
    pub cpus: Vec<Option<Vec<u32>>>,
    /// Share of CPU time against other domains; the scheduler's default is 256.
    pub cpu_weight: Option<u16>,
    /// Most CPU time in percent of one CPU; 0 is no limit.
    pub cap: Option<u16>,
    /// How it sees the time-stamp counter, by the number of the mode; as the hypervisor has it else.
    pub tsc_mode: Option<u32>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Network interfaces.
    pub vifs: Vec<Vif>,
    /// When it has powered off.
    pub on_poweroff: Action,
    /// When it asks to be rebooted.
    pub on_reboot: Action,
    /// When it has crashed.
    pub on_crash: Action,
    /// What the administrator should know about keys without effect.
    pub warnings: Vec<String>,
}

/// Values of `tsc_mode`, each under its number, which may stand for it (xl.cfg.5).
const TSC_MODES: [&str; 4] = ["default", "always_emulate", "native", "native_paravirt"];

impl DomainConfig {
    /// Reads a file. The first problem in the file is the error.
    pub fn parse(text: &str) -> Result<DomainConfig, ConfigError> {
        let settings = syntax::parse(text)?;
        let warnings = keys::check(&settings)?;
        let mut keys = Keys { settings: &settings, warnings };
        keys.check_type()?;
        let name = keys.text("name")?.ok_or_else(|| missing("name"))?;
        check_name(&name).map_err(|message| keys.error("name", message))?;
        let cmdline = keys.cmdline()?;
        let memory = keys.number("memory", 1, 1 << 24)?.ok_or_else(|| missing("memory"))?;
        let maxmem = keys.number("maxmem", 1, 1 << 24)?.unwrap_or(memory);
        if maxmem < memory {
            return Err(keys.error("maxmem", &format!("maxmem is less than memory ({memory})")));
        }
        let vcpus = keys.number("vcpus", 1, 128)?;
        let maxvcpus = keys.number("maxvcpus", 1, 128)?.or(vcpus).unwrap_or(1);
        let vcpus = vcpus.unwrap_or(maxvcpus);
        if maxvcpus < vcpus {
            return Err(keys.error("maxvcpus", &format!("maxvcpus is less than vcpus ({vcpus})")));
        }
        let config = DomainConfig {
            name,
            uuid: keys.parsed("uuid", |text| uuid(text).ok_or_else(|| format!("\"{text}\" is no uuid")))?,
            kernel: keys.text("kernel")?.ok_or_else(|| missing("kernel"))?,
            // An empty one is none, as for xl: scripts override a file's.
            ramdisk: keys.text("ramdisk")?.filter(|path| !path.is_empty()),
            cmdline,
            memory,
            maxmem,
            vcpus: vcpus as u32,
            maxvcpus: maxvcpus as u32,
            cpus: keys.cpus(maxvcpus as usize)?,
            cpu_weight: keys.number("cpu_weight", 1, 65535)?.map(|weight| weight as u16),
            cap: keys.number("cap", 0, 65535)?.map(|cap| cap as u16),
            tsc_mode: keys.parsed("tsc_mode", tsc_mode)?,
            disks: keys.each("disk", Disk::parse)?,
            vifs: keys.each("vif", Vif::parse)?,
            on_poweroff: keys.action("on_poweroff", Action::Destroy)?,
            on_reboot: keys.action("on_reboot", Action::Restart)?,
            on_crash: keys.action("on_crash", Action::Destroy)?,
            warnings: keys.warnings,
        };
        for (n, disk) in config.disks.iter().enumerate() {
            if config.disks[..n].iter().any(|other| other.number == disk.number) {
                let at =
                    settings.iter().find(|setting| setting.key == "disk").map(|setting| setting.value.at);
                return Err(ConfigError::new(
                    at.unwrap_or_default(),
                    format!("two disks are \"{}\"", disk.vdev),
                ));
            }
        }
        Ok(config)
    }
}

struct Keys<'a> {
    settings: &'a [Setting],
    warnings: Vec<String>,
}

fn tsc_mode(text: &str) -> Result<u32, String> {
    let by_name = TSC_MODES.iter().position(|mode| *mode == text);
    let number = by_name.or_else(|| text.parse().ok().filter(|number| *number < TSC_MODES.len()));
    number
        .map(|number| number as u32)
        .ok_or_else(|| format!("tsc_mode \"{text}\" is none of {}", TSC_MODES.join(", ")))
}

fn missing(key: &str) -> ConfigError {
    ConfigError::new(syntax::At { line: 1, column: 1 }, format!("\"{key}\" is missing"))
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.settings.iter().find(|setting| setting.key == key).map(|setting| &setting.value)
    }

    fn error(&self, key: &str, message: &str) -> ConfigError {
        ConfigError::new(self.get(key).map(|value| value.at).unwrap_or_default(), message)
    }

    fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        match self.get(key).map(|value| &value.kind) {
            None => Ok(None),
            Some(Kind::Text(text) | Kind::Number(text)) => Ok(Some(text.clone())),
            Some(Kind::List(_)) => Err(self.error(key, &format!("\"{key}\" takes a string, not a list"))),
        }
    }

    fn parsed<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        self.text(key)?.map(|text| read(&text).map_err(|message| self.error(key, &message))).transpose()
    }

    fn number(&self, key: &str, min: i64, max: i64) -> Result<Option<u64>, ConfigError> {
        self.parsed(key, |text| {
            let number =
                syntax::integer(text).ok_or_else(|| format!("\"{key}\" takes a number, not \"{text}\""))?;
            let legal = (min..=max).contains(&number);
            if legal {
                Ok(number as u64)
            } else {
                Err(format!("\"{key}\" is {number}, not between {min} and {max}"))
            }
        })
    }

    fn each<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, ConfigError> {
        let values = match self.get(key).map(|value| &value.kind) {
            None => return Ok(Vec::new()),
            Some(Kind::List(values)) => values,
            Some(_) => return Err(self.error(key, &format!("\"{key}\" takes a list of strings"))),
        };
        let one = |value: &Value| match &value.kind {
            Kind::Text(text) | Kind::Number(text) => {
                read(text).map_err(|message| ConfigError::new(value.at, message))
            }
            Kind::List(_) => Err(ConfigError::new(value.at, format!("\"{key}\" takes a list of strings"))),
        };
        values.iter().map(one).collect()
    }

    fn check_type(&mut self) -> Result<(), ConfigError> {
        for (key, legal) in [("type", &["pv"][..]), ("builder", &["generic", "linux"])] {
            self.parsed(key, |kind| {
                if legal.contains(&kind) {
                    Ok(())
                } else {
                    Err(format!("{key} \"{kind}\" is not supported, only \"{}\"", legal[0]))
                }
            })?;
        }
        Ok(())
    }

    /// `cmdline`, or else what `root` and `extra` make.
    fn cmdline(&mut self) -> Result<String, ConfigError> {
        let (root, extra) = (self.text("root")?, self.text("extra")?);
        if let Some(cmdline) = self.text("cmdline")? {
            if root.is_some() || extra.is_some() {
                self.warnings.push("\"root\" and \"extra\" are ignored, as there is \"cmdline\"".to_string());
            }
            return Ok(cmdline);
        }
        let parts: Vec<String> = root.map(|root| format!("root={root}")).into_iter().chain(extra).collect();
        Ok(parts.join(" "))
    }

    /// Of a list, each entry is for one vcpu.
    fn cpus(&self, vcpus: usize) -> Result<Vec<Option<Vec<u32>>>, ConfigError> {
        if let Some(Kind::List(_)) = self.get("cpus").map(|value| &value.kind) {
            return self.each("cpus", cpu_set);
        }
        Ok(self.parsed("cpus", cpu_set)?.map_or(Vec::new(), |set| vec![set; vcpus]))
    }

    fn action(&mut self, key: &str, default: Action) -> Result<Action, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(default) };
        let plain = text.strip_prefix("coredump-").unwrap_or(&text);
        let action = match plain {
            "destroy" => Action::Destroy,
            "restart" => Action::Restart,
            "rename-restart" => Action::RenameRestart,
            "preserve" => Action::Preserve,
            _ => {
                let message =
                    format!("{key} \"{text}\" is none of destroy, restart, rename-restart, preserve");
                return Err(self.error(key, &message));
            }
        };
        if plain != text {
            self.warnings.push(format!("{key}: no core is dumped, \"{plain}\" is done"));
        }
        Ok(action)
    }
}

/// Whether a domain may be called so.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_control() || byte == b'/') || name.len() > 64
    {
        return Err("a name has 1 to 64 characters, none of them '/'");
    }
    if name.parse::<u64>().is_ok() {
        return Err("a name that is a number would be taken for a domain's id");
    }
    Ok(())
}

/// CPUs are numbered below this.
const CPUS: u32 = 4096;

/// Reads a list of CPUs such as `0-3,5,^1`, `all,^0` or `nodes:0`; `None` for all. An empty result is an error.
pub fn cpu_set(text: &str) -> Result<Option<Vec<u32>>, String> {
    let bad = || format!("\"{text}\" is no list of CPUs such as \"0-3,^1\"");
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|cpu| *cpu < CPUS).ok_or_else(bad);
    let mut set: alloc::collections::BTreeSet<u32> = Default::default();
    for part in text.split(',').map(str::trim) {
        let (exclude, part) = part.strip_prefix('^').map_or((false, part), |rest| (true, rest));
        let node = part.strip_prefix("nodes:").or_else(|| part.strip_prefix("node:"));
        let range = node.unwrap_or(part);
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let range = match part {
            "all" => 0..=CPUS - 1,
            _ => number(first)?..=number(last)?,
        };
        let range = match node {
            // A machine is one node here, with all of its CPUs.
            Some(_) if range.contains(&0) => 0..=CPUS - 1,
            Some(_) => return Err(format!("\"{part}\": there is node 0 alone")),
            None => range,
        };
        for cpu in range {
            if exclude {
                set.remove(&cpu)
            } else {
                set.insert(cpu)
            };
        }
    }
    match set.len() {
        0 => Err(bad()),
        count if count == CPUS as usize => Ok(None),
        _ => Ok(Some(set.into_iter().collect())),
    }
}

/// Reads a uuid with or without dashes.
pub fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let shaped = digits.len() == 32 && [0, 4].contains(&(text.len() - 32));
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks(2)) {
        let pair =
            core::str::from_utf8(pair).ok().filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    shaped.then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::super::keys::KEYS;
    use super::*;
    use proptest::prelude::*;

    const BASE: &str = "name = \"web\"\nkernel = '/boot/web'\nmemory = 8\n";

    #[test]
    fn a_whole_file_is_read() {
        let config = DomainConfig::parse(
            "# a web server
name = \"web\"
uuid = \"01234567-89ab-cdef-0123-456789abcdef\"
type = 'pv'
kernel = \"/boot/web.elf\"
ramdisk = '/boot/web.img'
root = \"/dev/xvda ro\"
extra = \"quiet\"
memory = 0x40
maxmem = 128
vcpus = 2
cpus = \"0-3,^1\"
cpu_weight = 512
cap = 50
tsc_mode = \"native\"
disk = [ 'phy:/dev/site,xvda,r',
         'format=raw, vdev=xvdb, access=rw, target=/dev/data', ]
vif = [ 'bridge=br0,ip=10.0.0.2' ]
on_crash = \"coredump-restart\"
vnc = 1
",
        )
        .unwrap();
        assert_eq!((config.name.as_str(), config.memory, config.maxmem), ("web", 64, 128));
        assert_eq!((config.vcpus, config.maxvcpus, config.cpus), (2, 2, vec![Some(vec![0, 2, 3]); 2]));
        assert_eq!(config.cmdline, "root=/dev/xvda ro quiet");
        assert_eq!((config.cpu_weight, config.cap), (Some(512), Some(50)));
        assert_eq!(config.tsc_mode, Some(2));
        assert_eq!(config.disks.iter().map(|disk| disk.number).collect::<Vec<_>>(), [51712, 51728]);
        assert_eq!(config.vifs[0].ip.as_deref(), Some("10.0.0.2"));
        assert_eq!(
            (config.on_poweroff, config.on_reboot, config.on_crash),
            (Action::Destroy, Action::Restart, Action::Restart)
        );
        assert_eq!(config.uuid.unwrap()[..4], [1, 0x23, 0x45, 0x67]);
        assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    }

    #[test]
    fn cpus_are_for_all_vcpus_or_for_each() {
        let cpus = |text: &str| DomainConfig::parse(&format!("{BASE}vcpus = 3\ncpus = {text}")).unwrap().cpus;
        assert_eq!(cpus("1"), vec![Some(vec![1]); 3]);
        assert_eq!(cpus("[ '2', 0, 'all' ]"), [Some(vec![2]), Some(vec![0]), None]);
        assert_eq!(cpus("'nodes:0'"), [None, None, None]);
        let but_one = cpu_set("all,^1").unwrap().unwrap();
        assert_eq!((but_one.len(), &but_one[..2]), (4095, &[0, 2][..]));
        assert!(cpu_set("node:1").is_err() && cpu_set("all,^node:0").is_err());
    }

    #[test]
    fn an_empty_ramdisk_is_none() {
        let ramdisk = |more: &str| DomainConfig::parse(&format!("{BASE}{more}")).unwrap().ramdisk;
        assert_eq!(ramdisk("ramdisk = '/boot/r'").as_deref(), Some("/boot/r"));
        assert_eq!(ramdisk("ramdisk = '/boot/r'\nramdisk = \"\""), None);
    }

    fn error(more: &str) -> String {
        DomainConfig::parse(&format!("{BASE}{more}")).unwrap_err().to_string()
    }

    #[test]
    fn problems_are_named_with_their_place() {
        assert_eq!(error("memroy = 8"), "line 4, column 1: unknown key \"memroy\"; did you mean \"memory\"?");
        assert_eq!(error("type = \"hvm\""), "line 4, column 8: type \"hvm\" is not supported, only \"pv\"");
        assert_eq!(error("pci = ['00:1f.2']"), "line 4, column 1: \"pci\" is not supported");
        assert_eq!(error("vcpus = 'two'"), "line 4, column 9: \"vcpus\" takes a number, not \"two\"");
        assert_eq!(error("vcpus = 1000"), "line 4, column 9: \"vcpus\" is 1000, not between 1 and 128");
        assert_eq!(error("disk = [ 'a,xvda',\n 'b,xvd' ]"), "line 5, column 2: unknown disk format \"xvd\"");
        assert_eq!(error("disk = ['a,xvda','b,xvda']"), "line 4, column 8: two disks are \"xvda\"");
        assert_eq!(error("vif = 'x'"), "line 4, column 7: \"vif\" takes a list of strings");
        assert_eq!(
            error("name = '12'"),
            "line 4, column 8: a name that is a number would be taken for a domain's id"
        );
        assert_eq!(error("maxmem = 4"), "line 4, column 10: maxmem is less than memory (8)");
        assert_eq!(
            error("on_crash = 'explode'"),
            "line 4, column 12: on_crash \"explode\" is none of destroy, restart, rename-restart, preserve"
        );
        assert_eq!(
            error("tsc_mode = 4"),
            "line 4, column 12: tsc_mode \"4\" is none of default, always_emulate, native, native_paravirt"
        );
        assert_eq!(error("cpus = '3-1'"), "line 4, column 8: \"3-1\" is no list of CPUs such as \"0-3,^1\"");
        assert_eq!(DomainConfig::parse("name='x'\nmemory=1").unwrap_err().message, "\"kernel\" is missing");
    }

    proptest! {
        #[test]
        fn no_value_panics(key in prop::sample::select(KEYS), value in "[ -~]{0,40}", list in any::<bool>()) {
            let quoted = Kind::Text(value);
            let line = if list { format!("{key} = [{quoted}]") } else { format!("{key} = {quoted}") };
            let _ = DomainConfig::parse(&format!("{BASE}{line}"));
        }
    }
}
