//! Figures of the whole system, from our dom0 on either hypervisor: what its shell tells.
//!
//! An operation's cost is the CPU time that dom0 took for it, as the hypervisor accounts it: a hypercall
//! counts for its caller, idling for nobody. The reading itself and the typing of the line are measured
//! with a line of blanks just before, and taken off.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Figure;
use crate::build::Built;
use crate::build::ramdisk::{self, Entry};
use crate::machine::Machine;
use crate::{cmd, paths};

/// A guest that finds no network, says so and powers off; it is kept until it is destroyed.
const GUEST: &str = "name = \"alone\"\nkernel = \"/boot/hello\"\nmemory = 8\non_poweroff = \"preserve\"\n";
const CREATE: &str = "xl create /etc/xen/alone.cfg";
const DESTROY: &str = "xl destroy alone";
/// The median of so many is taken: a timer of dom0's may fall into one.
const TIMES: usize = 5;
/// Xen clears a destroyed guest's memory while it idles; a guest created before that is over would pay
/// for it, or not, as the host's speed has it. So a guest is created after this rest, all of it idle.
const REST: Duration = Duration::from_secs(1);
/// How many other guests there are in the rows about many: powered off, kept.
const OTHERS: usize = 20;

/// dom0's ramdisk with the guest to measure, which is not started by itself; nor is any other.
pub fn ramdisk(built: &Built) -> Result<PathBuf> {
    let mut files = ramdisk::entries(&built.guests)?;
    files.retain(|entry| !entry.path.starts_with("etc/xen/auto/"));
    files.push(Entry { path: "etc/xen/alone.cfg".into(), data: GUEST.into() });
    let file = paths::out().join("bench.tar");
    cmd::write(&file, &ramdisk::archive(&files)?)?;
    Ok(file)
}

/// The figures of a machine with our dom0, and the hypervisor's version.
pub fn measure(machine: &mut Machine) -> Result<(Vec<Figure>, String)> {
    machine.wait_for_prompt("oxen# ")?;
    let info = ask(machine, "xl info --json", "{\"")?;
    let own = own_memory(&info, &ask(machine, "xl list --json", "[{\"")?)?;
    let version = info["xen_version"].as_str().context("xl info without xen_version")?.to_string();

    let mut few = Costs::default();
    for _ in 0..TIMES {
        few.add(machine)?;
    }
    for other in 0..OTHERS {
        machine.type_line(&format!("{CREATE} 'name=\"other{other}\"'"))?;
        settled(machine, &format!("other{other}"))?;
    }
    let mut many = Costs::default();
    for _ in 0..TIMES {
        many.add(machine)?;
    }
    let instructions =
        |name: &str, values| Figure { name: name.into(), unit: "instructions", value: median(values) };
    let figures = vec![
        instructions("xl create, a guest of 8 MiB, in dom0", few.create),
        instructions(&format!("xl create with {OTHERS} other guests"), many.create),
        instructions("that guest's run, start to power-off", few.run),
        instructions("xl destroy, in dom0", few.destroy),
        instructions(&format!("xl destroy with {OTHERS} other guests"), many.destroy),
        Figure { name: "memory for itself, of 1 GiB".into(), unit: "MiB", value: own },
    ];
    Ok((figures, version))
}

/// What the guest's lives cost, one after the other.
#[derive(Default)]
struct Costs {
    create: Vec<u64>,
    run: Vec<u64>,
    destroy: Vec<u64>,
}

impl Costs {
    /// Adds one life.
    fn add(&mut self, machine: &mut Machine) -> Result<()> {
        std::thread::sleep(REST);
        self.create.push(cost(machine, CREATE)?);
        self.run.push(settled(machine, "alone")?);
        self.destroy.push(cost(machine, DESTROY)?);
        Ok(())
    }
}

/// What dom0 took to run `line`.
fn cost(machine: &mut Machine, line: &str) -> Result<u64> {
    let mut read = |line: &str| {
        machine.type_line(line)?;
        cpu_time(&ask(machine, "xl list --json 0", "[{\"")?, "Domain-0")
    };
    read("")?;
    let start = read("")?;
    let reading = read(&" ".repeat(line.len()))?;
    let end = read(line)?;
    let (before, with) = (reading - start, end - reading);
    with.checked_sub(before).with_context(|| format!("{line:?} took less than nothing"))
}

/// The CPU time of the guest called `name` once it has powered off.
fn settled(machine: &mut Machine, name: &str) -> Result<u64> {
    for _ in 0..100 {
        let list = ask(machine, "xl list --json", "[{\"")?;
        if !domain(&list, name)?["shutdown_reason"].is_null() {
            return cpu_time(&list, name);
        }
    }
    bail!("the guest {name} does not power off")
}

/// Types `line` and reads its answer, which begins with `start`.
fn ask(machine: &mut Machine, line: &str, start: &str) -> Result<Value> {
    machine.type_line(line)?;
    let answer = machine.wait_for(start)?;
    let at = answer.find(start).unwrap_or_default();
    serde_json::from_str(&answer[at..]).with_context(|| format!("{line} answered {answer}"))
}

/// The CPU time in nanoseconds of the domain called `name` in what `xl list --json` says.
fn cpu_time(list: &Value, name: &str) -> Result<u64> {
    let time = domain(list, name)?["cpu_time_ns"].as_u64();
    time.with_context(|| format!("{name} has no cpu_time_ns"))
}

fn domain<'a>(list: &'a Value, name: &str) -> Result<&'a Value> {
    let mut all = list.as_array().into_iter().flatten();
    all.find(|domain| domain["name"] == name).with_context(|| format!("no domain {name} in {list}"))
}

/// MiB of the machine that are neither free nor dom0's, from what `xl info` and `xl list` say.
fn own_memory(info: &Value, list: &Value) -> Result<u64> {
    let mib = |key: &str| -> Result<u64> {
        let text = info[key].as_str().with_context(|| format!("xl info without {key}"))?;
        text.parse().with_context(|| format!("{key} is {text:?}"))
    };
    let dom0 = domain(list, "Domain-0")?["mem_mib"].as_u64().context("Domain-0 has no mem_mib")?;
    let own = mib("total_memory")?.checked_sub(mib("free_memory")? + dom0);
    own.context("more memory is free than there is")
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_domain_is_found_by_name() {
        let list = json!([{ "name": "Domain-0", "cpu_time_ns": 5 }, { "name": "alone", "cpu_time_ns": 7 }]);
        assert_eq!(cpu_time(&list, "alone").unwrap(), 7);
        assert!(cpu_time(&list, "hello").is_err());
        assert!(cpu_time(&json!([{ "name": "alone" }]), "alone").is_err());
    }

    #[test]
    fn own_memory_is_what_nobody_else_has() {
        let info = json!({ "total_memory": "1023", "free_memory": "755" });
        let list = json!([{ "name": "Domain-0", "mem_mib": 256 }]);
        assert_eq!(own_memory(&info, &list).unwrap(), 12);
        assert!(own_memory(&json!({ "total_memory": "1", "free_memory": "2" }), &list).is_err());
        assert!(own_memory(&json!({}), &list).is_err());
    }

    #[test]
    fn the_median_ignores_an_outlier() {
        assert_eq!(median(vec![10, 9_000_000, 11, 12, 1]), 11);
    }
}
