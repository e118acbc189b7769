//! Many guests at once.

use anyhow::{Result, bail};
use serde_json::json;

use super::shell::{PROMPT, free_memory};
use crate::machine::{COUNTING_CPU, Machine, Options};
use crate::services::crowd::COUNT;
use crate::test::kit;
use crate::test::lab::Lab;

/// A hundred guests `hello` in 2 GiB all answer a guest beside them; gone, they leave nothing behind.
///
/// The machine counts instructions and skips its idle time: the guest that asks may ask for one address a second.
pub fn a_hundred_hellos(lab: &mut Lab) -> Result<()> {
    let mut options = Options { memory: "2G", cpu: COUNTING_CPU, ..Options::direct(kit::with_test_files()?) };
    options.more = vec!["-icount".into(), "shift=0,sleep=off".into()];
    let mut machine = lab.boot(&options)?;
    machine.wait_for_prompt(PROMPT)?;
    // In time that is skipped the network's router would advertise itself without an end.
    machine.monitor("set_link", json!({ "name": "nic", "up": false }))?;
    each(&mut machine, |n| format!("xl create hello{n}"))?;
    machine.type_line("xl create /etc/xen/test/client-of-many.cfg")?;
    // It crashes when one is silent.
    let end = machine.wait_for("\"client\" has ")?;
    if !end.contains("has powered off") {
        bail!("not all answer: {end}");
    }
    run(&mut machine, "xl destroy client")?;
    each(&mut machine, |n| format!("xl destroy hello{n}"))?;
    // The hypervisor's heap has grown to hold so many, and stays so.
    let before = free_memory(&mut machine)?;
    each(&mut machine, |n| format!("xl create -p hello{n}"))?;
    each(&mut machine, |n| format!("xl destroy hello{n}"))?;
    let after = free_memory(&mut machine)?;
    if before != after {
        bail!("{before} MiB were free before a hundred guests and {after} after them");
    }
    Ok(())
}

/// Runs a line about each of the guests.
fn each(machine: &mut Machine, line: impl Fn(u8) -> String) -> Result<()> {
    (0..COUNT).try_for_each(|n| run(machine, &line(n)))
}

/// Runs `line` to its end.
fn run(machine: &mut Machine, line: &str) -> Result<()> {
    machine.type_line(&format!("{line} --json"))?;
    let answer = machine.wait_for("{\"")?;
    if answer.contains("\"error\"") {
        bail!("{line}: {answer}");
    }
    Ok(())
}
