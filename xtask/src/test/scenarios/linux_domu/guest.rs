//! A Linux domain's shell, typed on through dom0's.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::super::shell::{PROMPT, free_memory};
use crate::machine::{Machine, PATIENCE};

/// How long a domain may take to boot, by way of GRUB too.
const BOOT: Duration = Duration::from_secs(400);
/// The key that leaves a domain's console.
const DETACH: &str = "\x1d";

/// A machine whose dom0 runs a Linux domain. Between calls dom0's shell has the console.
pub struct Guest {
    /// The machine.
    pub machine: Machine,
    name: &'static str,
    commands: u32,
}

impl Guest {
    /// Waits for dom0's shell of `machine`, in which `name` is going to be the domain.
    pub fn new(mut machine: Machine, name: &'static str) -> Result<Self> {
        machine.wait_for_prompt(PROMPT)?;
        Ok(Self { machine, name, commands: 0 })
    }

    /// What dom0's shell answers to `command`, which is short enough to be shown whole.
    pub fn dom0(&mut self, command: &str) -> Result<String> {
        self.machine.type_line(command)?;
        self.machine.wait_for(command)?; // the echo
        let before = self.machine.seen();
        self.machine.wait_for_prompt(PROMPT)?;
        let said = self.machine.said();
        let end = said[before..].find(PROMPT).map_or(said.len(), |at| before + at);
        Ok(said[before..end].to_string())
    }

    /// Has dom0's shell do what it has nothing to say about.
    pub fn does(&mut self, command: &str) -> Result<()> {
        let said = self.dom0(command)?;
        let is_hypervisors = |line: &&str| line.starts_with("(oxen)");
        ensure!(said.lines().all(|line| line.is_empty() || is_hypervisors(&line)), "{command}: {said}");
        Ok(())
    }

    /// Creates the domain by what stands after `xl create`.
    pub fn create(&mut self, words: &str) -> Result<()> {
        let said = self.dom0(&format!("xl create {words}"))?;
        let file = words.split(' ').next().unwrap_or(words);
        ensure!(!said.contains(&format!("{file}: ")), "{said}");
        Ok(())
    }

    /// Waits until the machine has as much free memory as it had before the domain: `free`.
    pub fn gave_back(&mut self, free: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let after = free_memory(&mut self.machine)?;
            if after == free {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "free memory was {free} MiB before the domain, and is {after} MiB"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Logs in at the domain's console, when it asks who does.
    pub fn log_in(&mut self) -> Result<()> {
        self.machine.type_line(&format!("xl console {}", self.name))?;
        self.machine.wait_for("Ctrl-] leaves")?;
        self.machine.prompt_at_most(BOOT, "guest login: ")?;
        self.machine.type_line("root")?;
        self.machine.wait_for_prompt("guest# ")?;
        self.detach()
    }

    /// What the domain's shell says to `command`, which must succeed.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let (said, status) = self.attempt(command)?;
        ensure!(status == "0", "{command}: status {status}, {said}");
        Ok(said)
    }

    /// What the domain's shell says to `command`, and its status.
    pub fn attempt(&mut self, command: &str) -> Result<(String, String)> {
        self.machine.type_line(&format!("xl console {}", self.name))?;
        self.machine.wait_for("Ctrl-] leaves")?;
        self.commands += 1;
        let n = self.commands;
        // What the console shows again of earlier commands has other numbers; the line typed has quotes.
        self.machine.type_line(&format!("echo '<'{n}; {command}; echo $?'>'{n}"))?;
        self.machine.wait_for(&format!("<{n}"))?;
        let before = self.machine.seen();
        let line = self.machine.wait_for(&format!(">{n}"))?;
        let said = self.machine.said();
        let end = said[before..].find(&line).map_or(said.len(), |at| before + at);
        let said = said[before..end].to_string();
        self.detach()?;
        Ok((said, line.trim_end().trim_end_matches(&format!(">{n}")).to_string()))
    }

    fn detach(&mut self) -> Result<()> {
        self.machine.type_keys(DETACH)?;
        self.machine.wait_for_prompt(PROMPT)
    }
}
