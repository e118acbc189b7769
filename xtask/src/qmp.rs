//! QEMU's machine protocol: one JSON object per line over a UNIX socket.
//!
//! The socket's file is there only until the connection is made, so that no end of this program leaves it
//! behind.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection to a machine's monitor.
pub struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// A socket's name for a machine's monitor, short enough for a UNIX address and not yet there.
    pub fn socket() -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("oxen-{}-{n}.qmp", std::process::id()))
    }

    /// Connects to `socket`, waiting for `qemu` to make it.
    pub fn connect(socket: &Path, qemu: &mut Child) -> Result<Self> {
        const LIMIT: Duration = Duration::from_secs(60); // for a very busy host
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if start.elapsed() < LIMIT => {
                    if let Some(status) = qemu.try_wait()? {
                        bail!("QEMU did not start ({status})");
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error).context("QEMU's monitor does not answer"),
            }
        };
        std::fs::remove_file(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut qmp = Self { lines: BufReader::new(stream) };
        qmp.line()?; // the greeting
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs `command` and gives what it returns.
    ///
    /// # Errors
    /// QEMU's own error text, or a connection that ended.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.lines.get_mut(), "{request}")?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU's {command}: {}", error["desc"].as_str().unwrap_or_default());
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
