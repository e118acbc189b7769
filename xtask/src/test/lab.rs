//! What a scenario works with: its machines and their logs.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};

use crate::machine::{INQUEST, Machine, Options};
use crate::paths;

/// The machines of one scenario.
pub struct Lab {
    name: String,
    logs: Mutex<Vec<PathBuf>>,
}

impl Lab {
    /// A lab for the scenario called `name`.
    pub fn new(name: &str) -> Self {
        Self { name: name.replace("::", "-"), logs: Mutex::default() }
    }

    /// Starts a machine, which ends at the latest with the thread that called.
    pub fn boot(&self, options: &Options) -> Result<Machine> {
        let log = {
            let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            let log = paths::logs()?.join(format!("{}-{}.log", self.name, logs.len() + 1));
            logs.push(log.clone());
            log
        };
        Machine::start(options, &log)
    }

    /// Does two parts of the scenario beside each other.
    pub fn beside<A, B: Send>(
        &self,
        one: impl FnOnce(&Self) -> Result<A>,
        other: impl FnOnce(&Self) -> Result<B> + Send,
    ) -> Result<(A, B)> {
        let (one, other) = std::thread::scope(|scope| {
            let other = scope.spawn(|| other(self));
            (one(self), other.join())
        });
        Ok((one?, other.map_err(|_| anyhow!("the other part has no outcome"))??))
    }

    /// The end of what each machine said, for a failure's message, and all that it was asked when time was up.
    pub fn tails(&self) -> String {
        let mut text = String::new();
        for log in self.logs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
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
