//! Backends that die, and devices that come and go, under guests that run.

use anyhow::{Result, ensure};

use super::kv::{self, Writer};
use super::shell::PROMPT;
use crate::machine::Machine;
use crate::test::lab::Lab;

/// Each of the backends of `kv` dies in the middle of writes, several times. Its clients see a pause:
/// the one connection stays, writes go on, and what was acknowledged is there.
pub fn die_under_load(lab: &mut Lab) -> Result<()> {
    let mut machine = kv::serving(lab)?;
    let writer = Writer::start(machine.port("kv")?)?;
    for round in 1..=3 {
        writer.wait_for(writer.acknowledged() + 200)?;
        for kind in ["vbd", "vif"] {
            machine.type_line(&format!("backend-restart kv {kind}"))?;
            machine.wait_for("connected to another backend")?;
            machine.wait_for_prompt(PROMPT)?;
        }
        println!("round {round}: {} writes acknowledged so far", writer.acknowledged());
    }
    writer.wait_for(writer.acknowledged() + 200)?;
    let acknowledged = writer.end()?;
    kv::all_there(&machine, acknowledged)?;
    // A guest that starts anew finds the same on the volume.
    has_all_when_started_anew(&mut machine, acknowledged)
}

/// A disk is taken from the guest that writes to it: the guest says so, and the volume is free for
/// another one.
pub fn disk_vanishes(lab: &mut Lab) -> Result<()> {
    let mut machine = kv::serving(lab)?;
    let writer = Writer::start(machine.port("kv")?)?;
    writer.wait_for(200)?;
    machine.type_line("xl block-detach kv xvda")?;
    machine.wait_for_prompt(PROMPT)?;
    let list = says(&mut machine, "xl block-list kv", "BE-path")?;
    ensure!(!list.contains("51712"), "the disk is still listed: {list}");
    // The guest lives, and knows that it can't keep anything any more.
    let said = kv::cli(&machine, "SET a b")?;
    ensure!(
        said.contains("MISCONF") || said.contains("ERR") || said.contains("READONLY"),
        "SET said {said:?}"
    );
    let acknowledged = writer.end()?;
    has_all_when_started_anew(&mut machine, acknowledged)
}

/// Another guest on the same volume has what the one before acknowledged.
fn has_all_when_started_anew(machine: &mut Machine, acknowledged: usize) -> Result<()> {
    for command in ["xl destroy kv", "xl create /etc/xen/kv.cfg"] {
        machine.type_line(command)?;
        machine.wait_for_prompt(PROMPT)?;
    }
    kv::wait_until_it_answers(machine)?;
    kv::all_there(machine, acknowledged)
}

/// What a command says, up to the next prompt.
fn says(machine: &mut Machine, command: &str, beginning: &str) -> Result<String> {
    let before = machine.said().len();
    machine.type_line(command)?;
    machine.wait_for(beginning)?;
    machine.wait_for_prompt(PROMPT)?;
    Ok(machine.said().split_off(before))
}
