//! A guest that attacks the hypervisor (`tests/guests/enemy`), beside one that serves.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::services::{curl, fetch, forwards};
use super::shell::{PROMPT, free_memory};
use crate::machine::{Machine, Options, PATIENCE};
use crate::test::kit;
use crate::test::lab::Lab;

/// While the enemy attacks by `mode` and afterwards `hello` answers, and the enemy's memory comes back:
/// when it has ended by itself, or is destroyed if it never does.
pub fn attack(lab: &mut Lab, mode: &str) -> Result<()> {
    let mut options = Options::direct(kit::with_test_files()?);
    options.smp = 2;
    options.disk = Some(kit::image()?);
    options.forwards = forwards(&["hello"])?;
    let mut machine = lab.boot(&options)?;
    machine.wait_for_prompt(PROMPT)?;
    machine.type_line("xl create /etc/xen/hello.cfg")?;
    fetch(&machine, "hello", "/")?;
    machine.wait_for_prompt(PROMPT)?;
    let before = free_memory(&mut machine)?;
    machine.type_line(&format!("xl create /etc/xen/test/enemy-{mode}.cfg"))?;
    machine.wait_for("Parsing config")?;
    machine.wait_for_prompt(PROMPT)?;
    curl(&machine, "hello", "/")?;
    if mode == "spin" {
        ensure!(lives(&mut machine)?, "the enemy that spins has ended");
        machine.type_line("xl destroy enemy-spin")?;
        machine.wait_for_prompt(PROMPT)?;
    }
    let until = Instant::now() + PATIENCE;
    while lives(&mut machine)? {
        ensure!(Instant::now() < until, "the enemy does not end");
    }
    fetch(&machine, "hello", "/")?;
    let after = free_memory(&mut machine)?;
    ensure!(after == before, "free memory was {before} MiB before the enemy, and is {after} MiB after");
    Ok(())
}

/// `xl list` shows a domain whose name begins with `enemy`.
fn lives(machine: &mut Machine) -> Result<bool> {
    let before = machine.said().len();
    machine.type_line("xl list")?;
    machine.wait_for("Name ")?;
    machine.wait_for("hello ")?;
    machine.wait_for_prompt(PROMPT)?;
    Ok(machine.said()[before..].lines().any(|line| line.starts_with("enemy")))
}
