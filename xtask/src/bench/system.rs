//! Figures of the whole system, from our dom0 on either hypervisor: what its shell tells.
//!
//! An operation's cost is the CPU time that domains took for it, as the hypervisor accounts it: a hypercall
//! counts for its caller, idling for nobody. The reading itself and the typing of the line are measured
//! with a line of blanks just before, and taken off.

mod life;
mod shell;

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Figure;
use crate::build::ramdisk::{self, Entry};
use crate::build::{self, Built};
use crate::image::{self, Content};
use crate::machine::Machine;
use crate::services::crowd;
use crate::{cmd, paths, workspace};
use life::{Alone, Web};
use shell::Shell;

/// A guest that finds no network, says so and powers off; it is kept until it is destroyed.
const ALONE: &str = "name = \"alone\"\nkernel = \"/boot/hello\"\nmemory = 8\non_poweroff = \"preserve\"\n";
/// A guest that asks `web` when it is asked to stop, and powers off when it has the answer.
const CLIENT: &str = "name = \"client\"\nkernel = \"/boot/client\"\nmemory = 8\non_poweroff = \"preserve\"\n\
    vif = [ 'mac=00:16:3e:00:01:00,bridge=xenbr0' ]\n\
    extra = \"ip=10.0.2.99/16 gw=10.0.2.2 first=10.0.2.20 wait=yes\"\n";
/// How many guests `hello` run beside what is measured.
const OTHERS: [usize; 4] = [0, 1, 10, 100];
/// The median of so many is taken: a timer may fall into one.
const TIMES: usize = 3;

/// What the machines for these figures boot, with a ramdisk that has the guests to measure and starts none
/// by itself; and a disk with their volumes.
pub fn files(built: &Built) -> Result<(Built, PathBuf)> {
    let mut guests = built.guests.clone();
    guests.push(build::kernel(&workspace::packages()?, "client")?);
    let mut files = ramdisk::entries(&guests)?;
    files.retain(|entry| !entry.path.starts_with("etc/xen/auto/"));
    for (name, config) in [("alone", ALONE), ("client", CLIENT)] {
        files.push(Entry { path: format!("etc/xen/{name}.cfg"), data: config.into() });
    }
    files.extend(crowd::configs());
    let ramdisk = paths::out().join("bench.tar");
    cmd::write(&ramdisk, &ramdisk::archive(&files)?)?;
    let built = Built { ramdisk, ..built.clone() };
    let disk = paths::out().join("bench.img");
    image::write(&disk, &built, &Content::default(), false)?;
    Ok((built, disk))
}

/// How much memory the hypervisor keeps of a machine with our dom0, and its version.
pub fn memory(machine: &mut Machine) -> Result<(Figure, String)> {
    let mut shell = Shell::new(machine)?;
    let info = shell.ask("xl info --json", "{\"")?;
    let own = own_memory(&info, &shell.list()?)?;
    let version = info["xen_version"].as_str().context("xl info without xen_version")?.to_string();
    Ok((Figure { name: "memory for itself, of 1 GiB".into(), unit: "MiB", value: own }, version))
}

/// What the lives of guests cost beside few others and many, in a machine with our dom0, the files of
/// [`files`], and 2 GiB for a hundred guests.
pub fn lives(machine: &mut Machine) -> Result<Vec<Figure>> {
    let mut shell = Shell::new(machine)?;
    shell.pull_cable()?;
    let (mut alone, mut web) = (Vec::new(), Vec::new());
    let mut running = 0;
    for others in OTHERS {
        for number in running..others {
            shell.run(&format!("xl create hello{number}"))?;
        }
        running = others;
        shell.rest_long();
        if others == 0 || others == 100 {
            alone.extend(Alone::median(&mut shell, TIMES)?.figures(others));
        }
        web.extend(Web::median(&mut shell, TIMES)?.figures(others));
    }
    alone.extend(web);
    Ok(alone)
}

/// MiB of the machine that are neither free nor dom0's, from what `xl info` and `xl list` say.
fn own_memory(info: &Value, list: &Value) -> Result<u64> {
    let mib = |key: &str| -> Result<u64> {
        let text = info[key].as_str().with_context(|| format!("xl info without {key}"))?;
        text.parse().with_context(|| format!("{key} is {text:?}"))
    };
    let dom0 = shell::domain(list, "Domain-0")?["mem_mib"].as_u64().context("Domain-0 has no mem_mib")?;
    let own = mib("total_memory")?.checked_sub(mib("free_memory")? + dom0);
    own.context("more memory is free than there is")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn own_memory_is_what_nobody_else_has() {
        let info = json!({ "total_memory": "1023", "free_memory": "755" });
        let list = json!([{ "name": "Domain-0", "mem_mib": 256 }]);
        assert_eq!(own_memory(&info, &list).unwrap(), 12);
        assert!(own_memory(&json!({ "total_memory": "1", "free_memory": "2" }), &list).is_err());
        assert!(own_memory(&json!({}), &list).is_err());
    }
}
