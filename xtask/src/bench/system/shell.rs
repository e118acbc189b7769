//! dom0's shell, and the CPU times it tells.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::time::Duration;

use crate::machine::Machine;

/// Xen clears a destroyed guest's memory while it idles, and Oxen any free memory; a guest created before that
/// is over would pay for it, or not, as the host's speed has it. And whatever was begun is over after it.
/// So there is this rest, nearly all of it idle.
const REST: Duration = Duration::from_secs(1);

/// The shell of a machine's dom0.
pub struct Shell<'a> {
    machine: &'a mut Machine,
}

impl<'a> Shell<'a> {
    /// The shell, once it has come up.
    pub fn new(machine: &'a mut Machine) -> Result<Self> {
        machine.wait_for_prompt("oxen# ")?;
        Ok(Self { machine })
    }

    /// Cuts the machine off from QEMU's network, whose packets come at moments of the host's.
    pub fn pull_cable(&mut self) -> Result<()> {
        self.machine.monitor("set_link", json!({ "name": "nic", "up": false })).map(drop)
    }

    /// Lets everything that goes on come to its end.
    pub fn rest(&self) {
        std::thread::sleep(REST);
    }

    /// Rests until a machine of 2 GiB has cleared all of it, even on a busy host.
    pub fn rest_long(&self) {
        std::thread::sleep(10 * REST);
    }

    /// Runs `line` to its end.
    pub fn run(&mut self, line: &str) -> Result<()> {
        self.ask(&format!("{line} --json"), "{\"").map(drop)
    }

    /// Types `line`, whose answer is not waited for.
    pub fn begin(&mut self, line: &str) -> Result<()> {
        self.machine.type_line(line)
    }

    /// Waits for the toolstack's word that `guest` has powered off.
    pub fn powered_off(&mut self, guest: &str) -> Result<()> {
        let told = self.machine.wait_for(&format!("\"{guest}\" has "))?;
        if !told.contains("has powered off") {
            bail!("{told}");
        }
        Ok(())
    }

    /// Types `line` and reads its answer, which begins with `start`.
    pub fn ask(&mut self, line: &str, start: &str) -> Result<Value> {
        self.machine.type_line(line)?;
        let answer = self.machine.wait_for(start)?;
        let at = answer.find(start).unwrap_or_default();
        serde_json::from_str(&answer[at..]).with_context(|| format!("{line} answered {answer}"))
    }

    /// All domains.
    pub fn list(&mut self) -> Result<Value> {
        self.ask("xl list --json", "[{\"")
    }

    /// What dom0 took to run the lines of `typed`, by `run`, which types them.
    pub fn cost(&mut self, typed: &[&str], run: impl FnOnce(&mut Self) -> Result<()>) -> Result<u64> {
        self.dom0()?;
        let start = self.dom0()?;
        for line in typed {
            self.machine.type_line(&" ".repeat(line.len()))?;
        }
        let reading = self.dom0()?;
        run(self)?;
        let end = self.dom0()?;
        let (before, with) = (reading - start, end - reading);
        with.checked_sub(before).with_context(|| format!("{typed:?} took less than nothing"))
    }

    fn dom0(&mut self) -> Result<u64> {
        cpu_time(&self.ask("xl list --json 0", "[{\"")?, "Domain-0")
    }
}

/// The CPU time in nanoseconds of the domain called `name` in what `xl list --json` says.
pub fn cpu_time(list: &Value, name: &str) -> Result<u64> {
    time_of(domain(list, name)?)
}

/// The CPU time of the guests `hello`, all together.
pub fn others(list: &Value) -> Result<u64> {
    let all = list.as_array().into_iter().flatten();
    all.filter(|domain| domain["name"].as_str().is_some_and(|name| name.starts_with("hello")))
        .map(time_of)
        .sum()
}

fn time_of(domain: &Value) -> Result<u64> {
    domain["cpu_time_ns"].as_u64().with_context(|| format!("no cpu_time_ns in {domain}"))
}

/// The domain called `name` in what `xl list --json` says.
pub fn domain<'a>(list: &'a Value, name: &str) -> Result<&'a Value> {
    let mut all = list.as_array().into_iter().flatten();
    all.find(|domain| domain["name"] == name).with_context(|| format!("no domain {name} in {list}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_found_by_name() {
        let list = json!([{ "name": "Domain-0", "cpu_time_ns": 5 }, { "name": "alone", "cpu_time_ns": 7 }]);
        assert_eq!(cpu_time(&list, "alone").unwrap(), 7);
        assert!(cpu_time(&list, "hello").is_err());
        assert!(cpu_time(&json!([{ "name": "alone" }]), "alone").is_err());
    }

    #[test]
    fn the_others_are_added() {
        let hello = |time| json!({ "name": "hello7", "cpu_time_ns": time });
        assert_eq!(others(&json!([{ "name": "web", "cpu_time_ns": 5 }, hello(7), hello(1)])).unwrap(), 8);
        assert_eq!(others(&json!([])).unwrap(), 0);
        assert!(others(&json!([{ "name": "hello1" }])).is_err());
    }
}
