//! The tests that run on this host: each package's own, by `cargo test`.
//!
//! Package by package, so that one which does not compile is one failure and the others still run.
//! Kernels' binaries are not built here: they are for another target. Only `xtask`'s own is for the host.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::Count;
use crate::cmd;
use crate::workspace::{self, Package};

/// Runs all host tests whose name contains `filter`.
pub fn run(filter: Option<&str>) -> Result<Count> {
    let mut count = Count::default();
    for package in workspace::packages()? {
        if let Some(mut command) = cargo_test(&package) {
            command.args(filter.map(|f| ["--", f]).into_iter().flatten());
            count += run_package(&package.name, &mut command)?;
        }
    }
    Ok(count)
}

/// Prints the names of all host tests whose name contains `filter`.
pub fn list(filter: Option<&str>) -> Result<()> {
    for package in workspace::packages()? {
        if let Some(mut command) = cargo_test(&package) {
            command.args(["--quiet", "--", "--list"]).args(filter);
            let text = cmd::output(&mut command)?;
            for test in text.lines().filter_map(|line| line.strip_suffix(": test")) {
                println!("{}::{test}", package.name);
            }
        }
    }
    Ok(())
}

/// The command that runs `package`'s tests; none if it has nothing that could hold a test.
fn cargo_test(package: &Package) -> Option<Command> {
    let mut command = cmd::cargo();
    command.args(["test", "--no-fail-fast", "--package", &package.name]);
    if package.lib {
        command.arg("--lib");
    } else if package.name == env!("CARGO_PKG_NAME") {
        command.arg("--bins");
    } else if package.tests.is_empty() {
        return None;
    }
    for test in &package.tests {
        command.args(["--test", test]);
    }
    Some(command)
}

fn run_package(name: &str, command: &mut Command) -> Result<Count> {
    println!("== {name}");
    let line = cmd::shown(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run `{line}`"))?;
    let mut count = Count::default();
    for line in BufReader::new(child.stdout.take().context("cargo's output")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        match summary(&line) {
            Some(more) => count += more,
            None if line.is_empty() || line.starts_with("running ") => continue,
            None => {}
        }
        println!("{line}");
    }
    let ended_well = child.wait()?.success();
    if !ended_well && count.failed == 0 {
        count.failed = 1;
    }
    Ok(count)
}

/// The counts in libtest's closing line: `test result: ok. 3 passed; 0 failed; …`.
fn summary(line: &str) -> Option<Count> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number =
        |word: &str| counts.split("; ").find_map(|part| part.strip_suffix(word)?.trim().parse::<u64>().ok());
    Some(Count { passed: number("passed")?, failed: number("failed")? })
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn the_closing_line_of_a_test_program_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        let count = summary(line).expect("a closing line");
        assert_eq!((count.passed, count.failed), (12, 3));
        assert!(summary("test tests::x ... ok").is_none());
    }
}
