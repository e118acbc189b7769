//! `cargo xtask bench`: what operations cost on Oxen and on Debian's Xen, in one run.
//!
//! Both boot the guest `tests/guests/bench` as dom0 under QEMU's instruction counting, where a
//! nanosecond of virtual time is an instruction: the figures repeat on a noisy host. They include the
//! guest's own few instructions around a call, the same on both.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::build::{self, Built};
use crate::machine::{Machine, Options};
use crate::test::peer;
use crate::{cmd, paths, setup, workspace};

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Under `-icount` QEMU aborts on writes to the x2APIC's timer, and REP MOVSB counts one a byte.
const CPU: &str = "max,-x2apic,-erms,-fsrm";

/// Runs `cargo xtask bench`.
pub fn command(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::For::Test)?;
    let guest = build::kernel(&workspace::packages()?, "bench")?;
    let built = build::with(None, Some(&guest))?;
    let oxen = measure(&built, "bench-oxen")?;
    let xen = measure(&Built { hypervisor: peer::xen()?, ..built }, "bench-xen")?;

    let mut rows = Vec::new();
    for (name, ours) in &oxen {
        let theirs = xen.iter().find(|(n, _)| n == name).map(|(_, count)| *count);
        let theirs = theirs.with_context(|| format!("no row {name:?} on Xen"))?;
        rows.push((name, *ours, theirs, *ours as f64 / theirs.max(1) as f64));
    }
    let json: Vec<_> = rows
        .iter()
        .map(
            |(name, oxen, xen, ratio)| json!({ "operation": name, "oxen": oxen, "xen": xen, "ratio": ratio }),
        )
        .collect();
    let text = serde_json::to_string_pretty(&json)?;
    cmd::write(&paths::out().join("bench.json"), text.as_bytes())?;
    if args.json {
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<36} {:>10} {:>10} {:>7}", "instructions", "Oxen", "Xen", "ratio");
    for (name, oxen, xen, ratio) in rows {
        println!("{name:<36} {oxen:>10} {xen:>10} {ratio:>7.2}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The guest's rows: `row NAME: COUNT` each.
fn measure(built: &Built, name: &str) -> Result<Vec<(String, u64)>> {
    let mut options = Options { cpu: CPU, ..Options::direct(built) };
    options.more = vec!["-icount".into(), "shift=0,sleep=off".into()];
    let log = paths::out().join(format!("logs/{name}.log"));
    std::fs::create_dir_all(paths::out().join("logs"))?;
    let mut machine = Machine::start(&options, &log)?;
    machine.wait_for("bench end").with_context(|| format!("see {}", log.display()))?;
    let mut rows = Vec::new();
    for line in machine.said().lines() {
        if line.starts_with("bench failed") {
            bail!("{line}");
        }
        let row = line.strip_prefix("row ").and_then(|row| row.rsplit_once(": "));
        if let Some((name, count)) = row {
            rows.push((name.to_string(), count.parse().with_context(|| line.to_string())?));
        }
    }
    Ok(rows)
}
