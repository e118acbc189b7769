//! Installing Debian packages, and the one detour that QEMU sometimes needs.
//!
//! QEMU's packages must all have one version. A machine image that took one of them (`qemu-utils`) from
//! the release's backports without naming that suite in its sources cannot install the others from the
//! release itself; then they are installed from the same backports, by the mirror and key the machine
//! already trusts.

use std::io::IsTerminal;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::Step;
use crate::{cmd, paths};

/// The package that holds `qemu-system-x86_64`.
pub const QEMU: &str = "qemu-system-x86";

/// Installs `packages`, as root or by `sudo`.
///
/// # Errors
/// One line with the command to type when this machine has no apt or gives no root rights.
pub fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if paths::find_program("apt-get").is_none() {
        bail!("this machine has no apt-get: install these (Debian's package names) by hand: {list}");
    }
    let root =
        Root::find().with_context(|| format!("type this, then try again: sudo apt-get install {list}"))?;

    let step = Step::new("updating apt's lists");
    cmd::run_in_step(&step, root.apt().arg("update"))?;
    step.done("");

    let others: Vec<&str> = packages.iter().copied().filter(|p| *p != QEMU).collect();
    if packages.contains(&QEMU) {
        install_qemu(&root)?;
    }
    if !others.is_empty() {
        let step = Step::new(&format!("installing {}", others.join(" ")));
        cmd::run_in_step(&step, root.install().args(others))?;
        step.done("");
    }
    Ok(())
}

fn install_qemu(root: &Root) -> Result<()> {
    let step = Step::new(&format!("installing {QEMU}"));
    if let Err(plain) = cmd::run_in_step(&step, root.install().arg(QEMU)) {
        let codename = codename().ok_or(plain)?;
        let suite = format!("{codename}-backports");
        step.detail(&format!("its versions conflict: trying {suite}"));
        if !cmd::output(cmd::program("apt-cache").arg("policy"))?.contains(&format!("a={suite}")) {
            root.write("/etc/apt/sources.list.d/oxen-backports.sources", &backports_source(&suite)?)?;
            cmd::run_in_step(&step, root.apt().arg("update"))?;
        }
        cmd::run_in_step(&step, root.install().args(["-t", &suite, QEMU]))?;
    }
    step.done("");
    Ok(())
}

/// How commands get root's rights here.
struct Root {
    sudo: bool,
}

impl Root {
    fn find() -> Result<Self> {
        if cmd::output(Command::new("id").arg("-u"))?.trim() == "0" {
            return Ok(Self { sudo: false });
        }
        let asks_nothing = || cmd::run(Command::new("sudo").args(["-n", "true"])).is_ok();
        let can_ask = || std::io::stdin().is_terminal() && cmd::shown_to_user(Command::new("sudo").arg("-v"));
        if paths::find_program("sudo").is_some() && (asks_nothing() || can_ask()) {
            return Ok(Self { sudo: true });
        }
        bail!("installing packages needs root's rights, and sudo does not give them here")
    }

    fn command(&self, program: &str) -> Command {
        if self.sudo {
            let mut command = Command::new("sudo");
            command.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", program]);
            return command;
        }
        let mut command = Command::new(program);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn apt(&self) -> Command {
        self.command("apt-get")
    }

    fn install(&self) -> Command {
        let mut command = self.apt();
        command.args(["install", "-y", "--no-install-recommends"]);
        command
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let draft = paths::out().join("oxen-backports.sources");
        cmd::write(&draft, text.as_bytes())?;
        cmd::run(self.command("install").args(["-m", "644"]).arg(&draft).arg(path))
    }
}

/// Debian's codename of this machine's release; none on other systems, which have no such backports.
fn codename() -> Option<String> {
    let release = std::fs::read_to_string("/etc/os-release").ok()?;
    let value = |key: &str| {
        release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).map(|v| v.trim_matches('"'))
    };
    (value("ID") == Some("debian")).then(|| value("VERSION_CODENAME").map(str::to_string)).flatten()
}

/// A source for `suite` by the mirror and keyring of the machine's own sources.
fn backports_source(suite: &str) -> Result<String> {
    let mut mirror = String::from("http://deb.debian.org/debian");
    for entry in std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let uri = text.lines().find_map(|l| l.strip_prefix("URIs:")).map(str::trim);
        if let Some(uri) = uri.filter(|uri| uri.trim_end_matches('/').ends_with("/debian")) {
            mirror = uri.to_string();
            break;
        }
    }
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    if !Path::new(keyring).exists() {
        bail!("{keyring} is missing: cannot add {suite}");
    }
    Ok(format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n"))
}
