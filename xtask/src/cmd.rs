//! Running other programs, with their output kept for the moment it is needed: a failure.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::steps::Step;

/// A program that ended badly, and everything it said.
#[derive(Debug)]
pub struct Failure {
    line: String,
    status: ExitStatus,
    /// Its standard output and its standard error.
    pub said: String,
}

impl std::error::Error for Failure {}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` failed ({}):\n{}", self.line, self.status, self.said)
    }
}

/// The program and its arguments as one would type them.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// A command for a program in the system's usual folders (`sbin` too).
pub fn program(name: &str) -> Command {
    Command::new(crate::paths::find_program(name).unwrap_or_else(|| name.into()))
}

/// Cargo itself, for this tree. The variables by which an outer `cargo run` describes `xtask` are
/// taken away: build scripts of other packages would take them for their own.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::paths::root());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `command` silently. A program's bad end is a [`Failure`].
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs `command` on the user's own terminal; true when it succeeded.
pub fn shown_to_user(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

/// Runs `command` and gives its standard output. A program's bad end is a [`Failure`].
pub fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{line}`"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        let said = text + &String::from_utf8_lossy(&out.stderr);
        return Err(Failure { line, status: out.status, said }.into());
    }
    Ok(text)
}

/// Runs `command` with its last line of output shown as `step`'s progress. A program's bad end is a
/// [`Failure`].
pub fn run_in_step(step: &Step, command: &mut Command) -> Result<()> {
    let line = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    let (to_us, said) = mpsc::channel::<String>();
    let pipes: [Option<Box<dyn std::io::Read + Send>>; 2] =
        [child.stdout.take().map(|p| Box::new(p) as _), child.stderr.take().map(|p| Box::new(p) as _)];
    for pipe in pipes.into_iter().flatten() {
        let to_us = to_us.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let _ = to_us.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
    }
    drop(to_us);
    let mut all = String::new();
    for said in said {
        step.detail(said.trim());
        all.push_str(&said);
        all.push('\n');
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(Failure { line, status, said: all }.into());
    }
    Ok(())
}

/// Runs `command` silently for at most `limit`; a program that takes longer is ended and is an error.
pub fn run_within(limit: Duration, command: &mut Command) -> Result<()> {
    let line = shown(command);
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return if status.success() { Ok(()) } else { bail!("`{line}` failed ({status})") };
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            bail!("`{line}` took longer than {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Makes `dir` an empty folder.
pub fn fresh(dir: &Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

/// Reads a whole file, naming it in the error.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a whole file, making its folder, naming it in the error.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
