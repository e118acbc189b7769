//! What is shown while something takes its time: a spinner on a terminal, one line per step elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One step of work, shown from its creation until [`Step::done`]; dropped earlier, it was a failure.
pub struct Step {
    name: String,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Starts a step called `name`, e.g. "building oxen".
    pub fn new(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{spinner} {prefix} {wide_msg:.dim}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.set_prefix(name.to_string());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("  {name} ...");
        }
        Self { name: name.to_string(), start: Instant::now(), bar }
    }

    /// Shows what the step is busy with, on a terminal.
    pub fn detail(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_string());
        }
    }

    /// Ends the step well, saying `result` (e.g. a size) and the time taken when it was noticeable.
    pub fn done(mut self, result: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let seconds = self.start.elapsed().as_secs_f64();
        let time = if seconds >= 0.5 { format!(" ({seconds:.1} s)") } else { String::new() };
        let colon = if result.is_empty() { "" } else { ": " };
        eprintln!("  {}{colon}{result}{time}", self.name);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
