//! `cargo xtask bench`: what operations cost on Oxen and on Debian's Xen, in one run.
//!
//! Both run under QEMU's instruction counting with one processor, where a nanosecond of virtual time is
//! an instruction: the figures repeat on a noisy host. There are two kinds. The guest `tests/guests/bench`,
//! booted as dom0, counts single operations inside the hypervisor, its own instructions around them taken
//! off. Then our dom0 creates and destroys a guest, and tells what that and the memory took.

mod boot;
mod guest;
mod linux;
mod system;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::build::{self, Built};
use crate::image::Content;
use crate::machine::{COUNTING_CPU, Machine, Options};
use crate::{cmd, debian, paths, setup, workspace};

/// Arguments of `bench`.
#[derive(clap::Args)]
#[command(after_help = ABOUT, group = clap::ArgGroup::new("of_linux").args(["linux", "io"]))]
pub struct Args {
    /// Measure Debian's Linux instead: natively, and as dom0 of each hypervisor
    #[arg(long)]
    linux: bool,
    /// Measure a Linux guest's disk and network instead, over the backends of our dom0 and of Linux's
    #[arg(long)]
    io: bool,
    /// Of Linux's rows only those whose names begin so
    #[arg(requires = "of_linux", value_name = "PREFIX")]
    rows: Vec<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Write the JSON to this file too [default: target/oxen/bench.json, bench-linux.json or bench-io.json]
    #[arg(short, long, value_name = "FILE", value_parser = paths::typed)]
    output: Option<PathBuf>,
}

const ABOUT: &str = "\
Both hypervisors boot the same kernels in QEMU on one processor, under its
instruction counting: the figures are instructions and sizes, not times, and a
run on a busy machine gives what a run on an idle one does. An operation's
figure is what runs inside the hypervisor, not in the guest that asks for it.
The ratio is Oxen's figure divided by Xen's: below 1, Oxen takes less.

With --linux the same kernel and the same programs run natively and on both
hypervisors. A row's time stands against the native one; beside it is what one
operation takes inside the hypervisor: instructions, CR3 loads, invalidations.

With --io a Linux guest reads and writes a disk and talks to a peer: over our
dom0's backends to a second guest, over Linux's to dom0. A row's time is that
of all the machine's instructions, a nanosecond each; waiting for QEMU's disk,
which our dom0 has its volumes on, is none. Linux's dom0 has a RAM disk.

Xen comes from Debian by `apt-get download` into ~/.cache/oxen, once.";

/// One figure of one hypervisor.
#[derive(Clone, PartialEq, Debug)]
struct Figure {
    name: String,
    unit: &'static str,
    value: u64,
}

/// Runs `cargo xtask bench`.
pub fn command(args: &Args) -> Result<ExitCode> {
    if args.linux {
        setup::ensure(setup::For::BenchLinux)?;
        let compared = linux::compared(&args.rows)?;
        return show(args, "bench-linux.json", &compared.json(), &compared.text());
    }
    if args.io {
        setup::ensure(setup::For::BenchLinux)?;
        let compared = linux::io::compared(&args.rows)?;
        return show(args, "bench-io.json", &compared.json(), &compared.text());
    }
    setup::ensure(setup::For::Test)?;
    let counter = build::kernel(&workspace::packages()?, "bench")?;
    let (built, disk) = system::files(&build::with(None, None, &[])?)?;
    let (oxen, _) = figures(&built, &counter, &disk, "oxen")?;
    let on_xen = Built { hypervisor: debian::xen()?, ..built.clone() };
    let (xen, xen_version) = figures(&on_xen, &counter, &disk, "xen")?;

    let mut rows = table::rows(&oxen, &xen)?;
    let size = std::fs::metadata(&built.hypervisor)?.len() >> 10;
    rows.push(table::Row { name: "target/oxen/oxen".into(), unit: "KiB", oxen: size, xen: None });
    show(args, "bench.json", &table::json(&rows, &xen_version), &table::text(&rows, &xen_version))
}

/// Writes the JSON to its file, and prints it or the table.
fn show(args: &Args, file: &str, json: &Value, table: &str) -> Result<ExitCode> {
    let json = serde_json::to_string_pretty(json)?;
    let output = args.output.clone().unwrap_or_else(|| paths::out().join(file));
    cmd::write(&output, json.as_bytes())?;
    match args.json {
        true => println!("{json}"),
        false => print!("{table}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// All figures of the hypervisor in `built`, called `name`, and the version it gives itself.
fn figures(built: &Built, counter: &Path, disk: &Path, name: &str) -> Result<(Vec<Figure>, String)> {
    let counting = Built { dom0: counter.to_path_buf(), ..built.clone() };
    let mut counted = options(&counting);
    counted.content.hypervisor_args += boot::ARGUMENTS;
    let mut machine = start(counted, &format!("bench-{name}"))?;
    machine.wait_for("bench end")?;
    let mut figures = guest::figures(&machine.said())?;
    let power_on = figures.iter().position(|f| f.name.starts_with("power-on"));
    let power_on = power_on.context("the guest bench has not told when it began")?;
    figures.insert(power_on + 1, boot::figure(&machine.said(), &figures[power_on])?);
    drop(machine);

    let mut machine = start(options(built), &format!("bench-{name}-memory"))?;
    let (memory, version) = system::memory(&mut machine)?;
    drop(machine);

    let crowd = Options { memory: "2G", disk: Some(disk), ..options(built) };
    let mut machine = start(crowd, &format!("bench-{name}-system"))?;
    figures.extend(system::lives(&mut machine)?);
    figures.push(memory);
    Ok((figures, version))
}

/// A machine that counts instructions.
fn options(built: &Built) -> Options<'_> {
    // no screen, which would be drawn with instructions: on Xen more than a minute of them
    let content =
        Content { hypervisor_args: "console=com1 com1=115200 dom0_mem=128M".into(), ..Content::default() };
    counting(Options { cpu: COUNTING_CPU, content, ..Options::direct(built) }, Waits::Skipped)
}

/// What becomes of the time in which a machine has nothing to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// The next timer is due at once.
    Skipped,
    /// It passes as it does on the host.
    Real,
}

/// The machine of `options` with instructions counted.
fn counting(mut options: Options<'_>, waits: Waits) -> Options<'_> {
    let sleep = if waits == Waits::Real { "on" } else { "off" };
    options.more = vec!["-icount".into(), format!("shift=0,sleep={sleep}")];
    // the date counts instructions too: Xen's start waits for a moment that depends on it
    options.more.extend(["-rtc".into(), "base=2026-01-01,clock=vm".into()]);
    options
}

/// Starts a machine whose console is recorded in `target/oxen/logs/NAME.log`.
fn start(options: Options<'_>, name: &str) -> Result<Machine> {
    let log = paths::logs()?.join(format!("{name}.log"));
    Machine::start(&options, &log).with_context(|| format!("see {}", log.display()))
}
