//! dom0's shell, typed on over the serial console: guests come and go, and bad input is told.

use anyhow::{Result, bail, ensure};

use crate::build::Built;
use crate::debian;
use crate::machine::{Machine, Options, SWITCH};
use crate::test::kit;
use crate::test::lab::Lab;

/// What dom0's shell asks with.
pub const PROMPT: &str = "oxen# ";

/// A guest runs on Oxen and ends.
pub fn guest_on_oxen(lab: &mut Lab) -> Result<()> {
    guest_comes_and_goes(lab, kit::with_test_files()?)
}

/// The same dom0 and guest on Debian's Xen.
pub fn guest_on_xen(lab: &mut Lab) -> Result<()> {
    let built = Built { hypervisor: debian::xen()?, ..kit::with_test_files()?.clone() };
    guest_comes_and_goes(lab, &built)
}

fn guest_comes_and_goes(lab: &mut Lab, built: &Built) -> Result<()> {
    let mut machine = lab.boot(&Options::direct(built))?;
    machine.wait_for_prompt(PROMPT)?;
    let before = free_memory(&mut machine)?;
    for id in 1..=2 {
        machine.type_line("xl create /etc/xen/test/alone.cfg")?;
        machine.wait_for("Parsing config")?;
        machine.wait_for_prompt(PROMPT)?;
        machine.type_line("xl domid alone")?;
        machine.wait_for(&format!("\n{id}"))?;
        machine.wait_for_prompt(PROMPT)?;
        for (command, answer) in [
            ("xl vcpu-pin alone all 0", ""),
            ("xl mem-max alone 40", ""),
            ("xl rename alone other", ""),
            ("xl domname 1", "other"),
            ("xl top", "      40960"),
            ("xl debug-keys h", "'h' pressed"),
            ("xl info -n", "  0:       0        0        0"),
            ("xl info  -n", "      10\nxen_major"),
        ] {
            let said = said(&mut machine, &command.replace("domname 1", &format!("domname {id}")))?;
            ensure!(said.contains(answer) && !said.contains("cannot"), "{command}: {said}");
        }
        machine.type_line("xl destroy other")?;
        machine.wait_for_prompt(PROMPT)?;
    }
    let after = free_memory(&mut machine)?;
    if after != before {
        bail!("free memory was {before} MiB before a guest, and is {after} MiB after");
    }
    Ok(())
}

/// What the shell says to a short `command`.
fn said(machine: &mut Machine, command: &str) -> Result<String> {
    machine.type_line(command)?;
    machine.wait_for(command)?; // the echo
    let before = machine.seen();
    machine.wait_for_prompt(PROMPT)?;
    Ok(machine.said()[before..machine.seen()].to_string())
}

/// A long text pasted at once, faster than dom0 reads: not a character of it is lost, and each line is run.
pub fn paste(lab: &mut Lab) -> Result<()> {
    const LINES: usize = 40;
    let mut machine = lab.boot(&Options::direct(kit::with_test_files()?))?;
    machine.wait_for_prompt(PROMPT)?;
    let name = |n: usize| format!("{}-{n}", "long-name".repeat(12));
    let text: Vec<String> = (0..LINES).map(|n| format!("xl domid {}", name(n))).collect();
    machine.type_line(&text.join("\r"))?;
    for n in 0..LINES {
        machine.wait_for(&format!("of domain name '{}'", name(n)))?;
    }
    Ok(())
}

/// The hypervisor's keys, typed past a dom0 that need not even answer: they show a guest that never leaves its
/// processor, and `R` ends the machine. What is typed before and after reaches dom0 alone.
pub fn hypervisor_keys(lab: &mut Lab) -> Result<()> {
    let mut machine = lab.boot(&Options { smp: 2, ..Options::direct(kit::with_test_files()?) })?;
    machine.wait_for_prompt(PROMPT)?;
    machine.type_line("xl create /etc/xen/test/enemy.cfg 'extra=\"mode=spin\"'")?;
    machine.wait_for("Parsing config")?;
    machine.wait_for_prompt(PROMPT)?;
    machine.type_keys(&format!("{SWITCH}h"))?;
    machine.wait_for("serial input is the hypervisor's")?;
    machine.wait_for("key 't' (ascii '74')")?;
    for (key, answers) in [
        // dom0 idles, and still has its CPU
        ("0", ["d0v0: rip e033:", "r12 "]),
        ("d", ["d1v0: rip e033:", "r12 "]),
        ("q", ["d1: ", "v0: running, CPU "]),
        ("r", ["CPU 0: ", "CPU 1: "]),
        ("e", ["d0: ", "Interdomain"]),
    ] {
        machine.type_keys(key)?;
        machine.wait_for(&format!("'{key}' pressed"))?;
        for answer in answers {
            machine.wait_for(answer)?;
        }
    }
    ensure!(machine.said().contains(" runs d1v0"), "no CPU was shown to run the guest that spins");
    machine.type_keys(SWITCH)?;
    machine.wait_for("serial input is dom0's")?;
    ensure!(!said(&mut machine, "xl list")?.contains("'q' pressed"), "dom0's input went to the hypervisor");
    machine.type_keys(&format!("{SWITCH}R"))?;
    machine.wait_for_end()
}

/// The machine's free memory as `xl info` tells.
pub(super) fn free_memory(machine: &mut Machine) -> Result<String> {
    machine.type_line("xl info")?;
    let line = machine.wait_for("free_memory ")?;
    machine.wait_for_prompt(PROMPT)?;
    Ok(line.split(": ").nth(1).unwrap_or_default().to_string())
}

/// Configurations that can't be: each is refused by a message about its fault, nothing of it is left, and the
/// shell goes on.
pub fn bad_configurations(lab: &mut Lab) -> Result<()> {
    let mut machine = lab.boot(&Options::direct(kit::with_test_files()?))?;
    machine.wait_for_prompt(PROMPT)?;
    let before = free_memory(&mut machine)?;
    let more: u64 = before.trim().parse::<u64>()? + 1;
    for (file, complaint) in [
        ("syntax.cfg", "line 2"),
        ("unknown-key.cfg", "unknown key \"memroy\""),
        ("absent-kernel.cfg", "cannot read /boot/nothing"),
        ("too-much-memory.cfg", "not enough free memory: the domain asks for 100000 MiB"),
        (
            &format!("alone.cfg memory={more}"),
            &format!("not enough free memory: the domain asks for {more} MiB"),
        ),
        ("truncated-kernel.cfg", "/boot/truncated: not a usable ELF file"),
    ] {
        machine.type_line(&format!("xl create /etc/xen/test/{file}"))?;
        machine.wait_for(file)?; // the echo
        machine.wait_for(complaint)?;
        machine.wait_for_prompt(PROMPT)?;
    }
    // All that is free: what the domain takes besides its memory decides whether it can be.
    machine.type_line(&format!("xl create /etc/xen/test/alone.cfg memory={}", more - 1))?;
    machine.wait_for("memory")?; // the echo
    machine.wait_for_prompt(PROMPT)?;
    machine.type_line("xl destroy alone")?;
    machine.wait_for_prompt(PROMPT)?;
    let after = free_memory(&mut machine)?;
    ensure!(after == before, "free memory was {before} MiB before these, and is {after} MiB after");
    machine.type_line("xl create /etc/xen/test/alone.cfg")?;
    machine.wait_for("Parsing config")?;
    machine.wait_for_prompt(PROMPT)?;
    machine.type_line("xl list")?;
    machine.wait_for("alone ").map(drop)
}
