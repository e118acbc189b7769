//! What a scenario works with: its machines and their logs.

use std::path::PathBuf;

use anyhow::Result;

use crate::machine::{INQUEST, Machine, Options};
use crate::paths;

/// The machines of one scenario.
pub struct Lab {
    name: String,
    logs: Vec<PathBuf>,
}

impl Lab {
    /// A lab for the scenario called `name`.
    pub fn new(name: &str) -> Self {
        Self { name: name.replace("::", "-"), logs: Vec::new() }
    }

    /// Starts a machine.
    pub fn boot(&mut self, options: &Options) -> Result<Machine> {
        let log = paths::logs()?.join(format!("{}-{}.log", self.name, self.logs.len() + 1));
        self.logs.push(log.clone());
        Machine::start(options, &log)
    }

    /// The end of what each machine said, for a failure's message, and all that it was asked when time was up.
    pub fn tails(&self) -> String {
        let mut text = String::new();
        for log in &self.logs {
            let said = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
            let (said, inquest) = said.split_at(said.find(INQUEST).unwrap_or(said.len()));
            let lines: Vec<&str> = said.lines().collect();
            text += &format!("\n--- the end of {}:\n", log.display());
            text += &lines[lines.len().saturating_sub(40)..].join("\n");
            text += &format!("\n{inquest}");
        }
        text
    }
}
