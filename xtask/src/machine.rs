//! A machine that this program talks to: booted, its console read and typed on, its plug pulled.
//!
//! Waiting is for a line with a generous limit, never for a time: a slow host makes a test slow, not
//! red. What the console said is in a log under `target/oxen/logs/`, whose end a failure shows.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

pub use crate::qemu::Options;
use crate::qemu::{Lines, Serial};
use crate::qmp::Qmp;
use crate::services::Forward;

/// How long a machine may take for one step, unless the test says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The CPU model of machines that count instructions: under `-icount` QEMU aborts on writes to the x2APIC's timer,
/// and REP MOVSB counts one a byte.
pub const COUNTING_CPU: &str = "max,-x2apic,-erms,-fsrm";

/// What changes over between dom0 and the hypervisor who gets what is typed on the serial line.
pub const SWITCH: &str = "\x01\x01\x01";

/// What a log has where a machine that did not say what it was waited for begins to be asked what it does.
pub const INQUEST: &str = "--- what it was asked when time was up:";

/// How dom0's first line begins.
pub const DOM0_SPEAKS: &str = "Oxen dom0";

/// A running machine. Dropped, it is switched off at once, as by pulling its plug.
pub struct Machine {
    qemu: Child,
    keyboard: ChildStdin,
    console: Arc<Console>,
    monitor: Qmp,
    log: File,
    /// Ports of the host that lead to guests.
    pub forwards: Vec<Forward>,
}

/// What the serial port has said.
#[derive(Default)]
struct Console {
    state: Mutex<Said>,
    more: Condvar,
}

#[derive(Default)]
struct Said {
    text: String,
    /// Up to where [`Machine::wait_for`] has looked.
    seen: usize,
    ended: bool,
}

impl Machine {
    /// Starts a machine whose console is recorded in `log`.
    pub fn start(options: &Options, log: &Path) -> Result<Self> {
        let monitor = Qmp::socket();
        let lines = Lines { serial: Serial::Pipe, monitor: &monitor, gdb: false };
        let mut command = options.command(&lines)?;
        let mut log_file = File::create(log).with_context(|| log.display().to_string())?;
        // what TCG leaves out of a CPU model is told on standard error, at each start
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file.try_clone()?);
        let log = log_file.try_clone()?;
        let mut qemu = command.arg("-no-reboot").spawn().context("cannot start QEMU")?;
        let keyboard = qemu.stdin.take().context("QEMU's standard input")?;
        let mut serial = qemu.stdout.take().context("QEMU's standard output")?;
        let console = Arc::new(Console::default());
        let heard = Arc::clone(&console);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = serial.read(&mut bytes) {
                let _ = log_file.write_all(&bytes[..n]);
                heard.add(&String::from_utf8_lossy(&bytes[..n]).replace('\r', ""));
            }
            heard.end();
        });
        let forwards = options.forwards.clone();
        let monitor = Qmp::connect(&monitor, &mut qemu).inspect_err(|_| {
            let _ = qemu.kill();
            let _ = qemu.wait();
        })?;
        Ok(Self { qemu, keyboard, console, monitor, log, forwards })
    }

    /// Waits for a whole line with `text` in it, after what was found before, and gives it.
    ///
    /// # Errors
    /// The machine ended, or [`PATIENCE`] ran out.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        self.wait_at_most(PATIENCE, text)
    }

    /// [`Machine::wait_for`] with another limit.
    pub fn wait_at_most(&mut self, limit: Duration, text: &str) -> Result<String> {
        self.wait_until(limit, text, |after| after.find('\n'))
    }

    /// Waits for `text` alone, which need not end its line: a prompt.
    pub fn wait_for_prompt(&mut self, text: &str) -> Result<()> {
        self.prompt_at_most(PATIENCE, text)
    }

    /// [`Machine::wait_for_prompt`] with another limit.
    pub fn prompt_at_most(&mut self, limit: Duration, text: &str) -> Result<()> {
        self.wait_until(limit, text, |_| Some(text.len())).map(drop)
    }

    /// Waits for `text` and for its end, which `end` finds in what begins with it. Gives the line from
    /// its beginning to that end.
    fn wait_until(
        &mut self,
        limit: Duration,
        text: &str,
        end: impl Fn(&str) -> Option<usize>,
    ) -> Result<String> {
        let until = Instant::now() + limit;
        let mut said = self.console.lock();
        loop {
            let found = said.text[said.seen..].find(text).map(|at| at + said.seen);
            let found = found.and_then(|at| Some((at, at + end(&said.text[at..])?)));
            if let Some((at, end)) = found {
                let start = said.text[..at].rfind('\n').map_or(0, |n| n + 1);
                said.seen = end;
                return Ok(said.text[start..end].to_string());
            }
            if said.ended {
                bail!("the machine ended before it said {text:?}");
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(said);
                let _ = self.inquest();
                bail!("the machine did not say {text:?} within {} s", limit.as_secs());
            }
            said = self.console.more.wait_timeout(said, left).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Writes into the log what a machine does that has not come to what was waited for: what the hypervisor's keys
    /// show of domains, run queues and event channels (Oxen's and Xen's are the same), and the processors' registers,
    /// twice, as QEMU sees them.
    fn inquest(&mut self) -> Result<()> {
        const QUIET: Duration = Duration::from_secs(2);
        const LIMIT: Duration = Duration::from_secs(20);
        writeln!(self.log, "\n{INQUEST}")?;
        for _ in 0..2 {
            let command = json!({ "command-line": "info registers -a" });
            let registers = self.monitor("human-monitor-command", command)?;
            writeln!(self.log, "{}", registers.as_str().unwrap_or_default())?;
        }
        let start = Instant::now();
        self.type_keys(&format!("{SWITCH}qrde{SWITCH}"))?;
        let mut said = self.console.lock();
        let mut length = said.text.len();
        while start.elapsed() < LIMIT {
            said = self.console.more.wait_timeout(said, QUIET).unwrap_or_else(|e| e.into_inner()).0;
            if said.text.len() == length {
                break;
            }
            length = said.text.len();
        }
        Ok(())
    }

    /// Waits until the machine has switched itself off.
    pub fn wait_for_end(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.qemu.try_wait()?.is_none() {
            if Instant::now() > until {
                let _ = self.inquest();
                bail!("the machine does not switch itself off within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Up to where what was said has been looked at.
    pub fn seen(&self) -> usize {
        self.console.lock().seen
    }

    /// All that was said so far.
    pub fn said(&self) -> String {
        self.console.lock().text.clone()
    }

    /// Presses one key on the serial console.
    pub fn press(&mut self, key: u8) -> Result<()> {
        self.keyboard.write_all(&[key])?;
        self.keyboard.flush().context("the machine's console is closed")
    }

    /// Types `line` and Enter on the serial console.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.type_keys(&format!("{line}\r"))
    }

    /// Presses `keys` on the serial console.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes())?;
        self.keyboard.flush().context("the machine's console is closed")
    }

    /// Runs a command of QEMU's monitor.
    pub fn monitor(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.monitor.execute(command, arguments)
    }

    /// The host's port that leads to `service`.
    pub fn port(&self, service: &str) -> Result<u16> {
        let forward = self.forwards.iter().find(|f| f.name == service);
        Ok(forward.with_context(|| format!("no port is forwarded to {service}"))?.host_port)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Console {
    fn lock(&self) -> std::sync::MutexGuard<'_, Said> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn add(&self, text: &str) {
        self.lock().text.push_str(text);
        self.more.notify_all();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.more.notify_all();
    }
}
