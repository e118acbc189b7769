//! Installing Debian packages, and the one detour that QEMU sometimes needs.
//!
//! QEMU's packages must all have one version. A machine image that took one of them (`qemu-utils`) from
//! the release's backports without naming that suite in its sources cannot install the others from the
//! release itself; then they are installed from the same backports, by the mirror and key the machine
//! already trusts.

use std::io::IsTerminal;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::cmd::Failure;
use crate::steps::Step;
use crate::{cmd, paths};

/// The package that holds `qemu-system-x86_64`.
pub const QEMU: &str = "qemu-system-x86";
/// What apt says of versions that do not go together.
const UNMET: &str = "unmet dependencies";

/// Installs `packages`, as root or by `sudo`.
///
/// # Errors
/// One line with the command to type when this machine has no apt or gives no root rights.
pub fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if paths::find_program("apt-get").is_none() {
        bail!("this machine has no apt-get: install these (Debian's package names) by hand: {list}");
    }
    let Some(root) = Root::find()? else {
        bail!(
            "installing needs root's rights, which sudo does not give here; \
             let somebody who has them type: apt-get install {list}"
        );
    };

    // what is left of the old lists may do; if not, the installation tells
    let _ = update_as(&root);
    let others: Vec<&str> = packages.iter().copied().filter(|p| *p != QEMU).collect();
    if packages.contains(&QEMU) {
        install_qemu(&root)?;
    }
    if !others.is_empty() {
        let step = Step::new(&format!("installing {}", others.join(" ")));
        apt(&step, root.install().args(others))?;
        step.done("");
    }
    Ok(())
}

/// Fetches the lists of packages anew.
///
/// # Errors
/// As [`install`]'s, or apt's.
pub fn update() -> Result<()> {
    update_as(&Root::find()?.context("apt-get update needs root's rights")?)
}

fn update_as(root: &Root) -> Result<()> {
    let step = Step::new("updating apt's lists");
    apt(&step, root.apt().arg("update"))?;
    step.done("");
    Ok(())
}

/// Runs apt. Its many lines at a failure go to a log; the error has the one that says why.
fn apt(step: &Step, command: &mut Command) -> Result<()> {
    cmd::run_in_step(step, command).map_err(|error| match error.downcast_ref::<Failure>() {
        Some(failure) => {
            let log = paths::logs().map(|logs| logs.join("apt.log"));
            let log = log.and_then(|log| cmd::write(&log, failure.to_string().as_bytes()).map(|()| log));
            let shown = log.map_or_else(|error| error.to_string(), |log| log.display().to_string());
            anyhow!("apt-get cannot install it: {} (all it said: {shown})", reason(&failure.said))
        }
        None => error,
    })
}

/// Of what apt said, the line that a person wants.
fn reason(said: &str) -> &str {
    let is_error = |line: &&str| line.starts_with("E: ");
    let unmet = said.lines().find(|line| line.contains(UNMET));
    unmet.or_else(|| said.lines().find(is_error)).or_else(|| said.lines().last()).unwrap_or("nothing").trim()
}

fn install_qemu(root: &Root) -> Result<()> {
    let step = Step::new(&format!("installing {QEMU}"));
    if let Err(plain) = apt(&step, root.install().arg(QEMU)) {
        let codename = codename().filter(|_| plain.to_string().contains(UNMET)).ok_or(plain)?;
        let suite = format!("{codename}-backports");
        step.detail(&format!("its versions conflict: trying {suite}"));
        if !cmd::output(cmd::program("apt-cache").arg("policy"))?.contains(&format!("a={suite}")) {
            root.write("/etc/apt/sources.list.d/oxen-backports.sources", &backports_source(&suite)?)?;
            apt(&step, root.apt().arg("update"))?;
        }
        apt(&step, root.install().args(["-t", &suite, QEMU]))?;
    }
    step.done("");
    Ok(())
}

/// How commands get root's rights here.
struct Root {
    sudo: bool,
}

impl Root {
    fn find() -> Result<Option<Self>> {
        if cmd::output(Command::new("id").arg("-u"))?.trim() == "0" {
            return Ok(Some(Self { sudo: false }));
        }
        let asks_nothing = || cmd::run(Command::new("sudo").args(["-n", "true"])).is_ok();
        let can_ask = || std::io::stdin().is_terminal() && cmd::shown_to_user(Command::new("sudo").arg("-v"));
        let sudo = paths::find_program("sudo").is_some() && (asks_nothing() || can_ask());
        Ok(sudo.then_some(Self { sudo: true }))
    }

    fn command(&self, program: &str) -> Command {
        if self.sudo {
            let mut command = Command::new("sudo");
            // where there is a terminal it may ask there again, when its patience has run out
            command.args((!std::io::stdin().is_terminal()).then_some("-n"));
            command.args(["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", program]);
            return command;
        }
        let mut command = Command::new(program);
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
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

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn of_what_apt_says_the_reason_is_told() {
        let no_network = "Reading package lists...\nErr:1 http://mirror/debian stable/main amd64 mtools\n\
             E: Failed to fetch http://mirror/x.deb  Could not resolve 'mirror'\nE: Unable to fetch some archives\n";
        assert!(reason(no_network).contains("Could not resolve"));
        let conflict = "Some packages could not be installed.\nThe following packages have unmet dependencies:\n \
             qemu-system-x86 : Depends: qemu-system-common (= 1)\nE: Unable to correct problems\n";
        assert!(reason(conflict).contains(super::UNMET));
        assert_eq!(reason(""), "nothing");
    }
}
