//! Debian's Linux doing the same work natively and as dom0 of either hypervisor (`tests/bench-linux/`).
//!
//! `pvbench` tells each row's time, which counts instructions here. A QEMU plugin counts those of the hypervisor
//! apart, by their addresses: the 64-bit PV interface reserves a range that nobody else executes in.

pub mod io;
mod mix;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Waits;
use crate::build::{self, Built};
use crate::debian::linux::Linux;
use crate::image::Content;
use crate::image::initramfs;
use crate::machine::{COUNTING_CPU, Options};
use crate::qemu::Boot;
use crate::steps::Step;
use crate::{cmd, debian, paths};
use mix::Counts;
pub use table::Compared;

/// All rows natively take some minutes, as a dom0 more.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What Linux told where it ran.
struct Told {
    kernel: String,
    hypervisor: String,
    rows: Vec<Row>,
}

/// A row, its figures per operation.
#[derive(Clone, PartialEq, Debug)]
struct Row {
    name: String,
    ns: f64,
    inside: Counts<f64>,
}

/// Runs the rows whose names begin with one of `rows`, or all, everywhere.
pub fn compared(rows: &[String]) -> Result<Compared> {
    let (kernel, plugin) = (dom0_kernel()?, plugin()?);
    let programs = [("bin/pvbench".into(), cmd::read(&program("pvbench")?)?)];
    let script = cmd::read(&sources().join("init.sh"))?;
    let ramdisk = initramfs::with_files("bench-linux", &String::from_utf8(script)?, &programs)?;
    let bench = Bench { plugin, arguments: format!("quiet panic=-1 norandmaps pvb.args={}", rows.join(",")) };

    let built = build::with(None, None, &[])?;
    let on = |hypervisor: PathBuf| Built {
        hypervisor,
        dom0: kernel.clone(),
        ramdisk: ramdisk.clone(),
        guests: Vec::new(),
        added_mib: 0,
    };
    let oxen = bench.as_dom0(&on(built.hypervisor), "oxen")?;
    let xen = bench.as_dom0(&on(debian::xen()?), "xen")?;
    // QEMU starts the kernel itself, with the one module as its initrd
    let native = bench.natively(&Built { dom0: ramdisk.clone(), ..on(kernel.clone()) })?;
    Compared::new(&native, &oxen, &xen)
}

/// What all runs have in common.
struct Bench {
    plugin: PathBuf,
    /// The kernel's.
    arguments: String,
}

impl Bench {
    fn natively(&self, built: &Built) -> Result<Told> {
        let hypervisor_args = format!("console=ttyS0 {}", self.arguments);
        let content = Content { hypervisor_args, ..Content::default() };
        self.run("natively", Options { boot: Boot::Pvh, memory: "512M", content, ..Options::direct(built) })
    }

    fn as_dom0(&self, built: &Built, name: &str) -> Result<Told> {
        let hypervisor_args = "console=com1 com1=115200 dom0_mem=512M".into();
        let dom0_args = format!("console=hvc0 {}", self.arguments);
        let content = Content { hypervisor_args, dom0_args, ..Content::default() };
        self.run(name, Options { content, ..Options::direct(built) })
    }

    fn run(&self, name: &str, options: Options<'_>) -> Result<Told> {
        let step = Step::new(&format!("measuring Linux, {name}"));
        let counted = paths::logs()?.join(format!("bench-linux-{name}.mix"));
        let mut options = super::counting(Options { cpu: COUNTING_CPU, ..options }, Waits::Skipped);
        options.more.extend(plugin_arguments(&self.plugin, &counted));
        let mut machine = super::start(options, &format!("bench-linux-{name}"))?;
        let end = machine.wait_at_most(PATIENCE, "PI exit ")?;
        ensure!(end.ends_with("PI exit 0"), "pvbench failed: {end}");
        // the plugin's file is whole when QEMU has ended
        machine.wait_for_end()?;
        let counted = String::from_utf8_lossy(&cmd::read(&counted)?).into_owned();
        let told = told(&machine.said(), &counted)?;
        step.done(&format!("{} rows", told.rows.len()));
        Ok(told)
    }
}

fn sources() -> PathBuf {
    paths::root().join("tests/bench-linux")
}

/// The kernel as a file whose name has no space in it, as a module's must not: the cache folder's may.
fn dom0_kernel() -> Result<PathBuf> {
    let kernel = paths::out().join("vmlinuz");
    std::fs::copy(Linux::Generic.bzimage()?, &kernel)?;
    Ok(kernel)
}

/// QEMU's plugin that counts.
fn plugin() -> Result<PathBuf> {
    compiled("cc", "insnmix.c", "insnmix.so", &["-shared", "-fPIC", "-fvisibility=hidden"])
}

/// QEMU's arguments for `plugin`, which writes to `counted`.
fn plugin_arguments(plugin: &Path, counted: &Path) -> [String; 4] {
    let plugin = format!("{},out={}", plugin.display(), counted.display());
    ["-plugin".into(), plugin, "-seed".into(), "1".into()]
}

/// The program `name`, to run on Linux without libraries.
fn program(name: &str) -> Result<PathBuf> {
    // the kernel's own headers lie beside those of the other C library
    let headers = ["-static", "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"];
    compiled("musl-gcc", &format!("{name}.c"), name, &headers)
}

/// Compiles a program of [`sources`] into `target/oxen`.
fn compiled(compiler: &str, source: &str, name: &str, arguments: &[&str]) -> Result<PathBuf> {
    let file = paths::out().join(name);
    let mut command: Command = cmd::program(compiler);
    command.args(["-O2", "-Wall", "-Wno-unused-result"]).args(arguments);
    cmd::run(command.arg(sources().join(source)).arg("-o").arg(&file))?;
    Ok(file)
}

/// Puts together what pvbench said on the console and what the plugin counted.
fn told(said: &str, counted: &str) -> Result<Told> {
    let marks = mix::marks(counted)?;
    let tsc: u64 = word(said, "tsc")?.parse().context("PI tsc")?;
    let boot = marks.userspace.since(&marks.kernel);
    let mut rows = vec![
        Row { name: "boot.poweron".into(), ns: tsc as f64, inside: marks.userspace.per(1) },
        Row { name: "boot.kernel".into(), ns: boot.all as f64, inside: boot.per(1) },
    ];
    rows.extend(paired(said, &marks.rows)?);
    Ok(Told { kernel: word(said, "kernel")?, hypervisor: word(said, "hypervisor")?, rows })
}

/// What Linux said of `name`.
fn word(said: &str, name: &str) -> Result<String> {
    let found = said.lines().find_map(|line| line.split_once(&format!("PI {name} ")));
    found.map(|(_, value)| value.trim().to_string()).with_context(|| format!("Linux has not told its {name}"))
}

/// The rows that a program said on the console, with what the plugin counted of them.
fn paired(said: &str, counted: &[Counts<u64>]) -> Result<Vec<Row>> {
    // firmware's or the hypervisor's text may stand before it on the line
    let lines: Vec<&str> =
        said.lines().filter_map(|line| line.split_once("PB ").map(|(_, row)| row)).collect();
    ensure!(
        !lines.is_empty() && lines.len() == counted.len(),
        "{} rows told, {} counted",
        lines.len(),
        counted.len()
    );
    let row = |(line, counts): (&str, &Counts<u64>)| {
        let mut words = line.split_whitespace();
        let row = (|| Some((words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?)))();
        let (name, ns, operations) = row.with_context(|| format!("not a row: {line}"))?;
        Ok(Row { name: name.into(), ns, inside: counts.per(operations) })
    };
    lines.into_iter().zip(counted).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTED: &str = "\
        FIRST user 0xfffffff0 0 user=0 hyp=0 kern=0 cr3=0 invlpg=0\n\
        FIRST kern 0xffffffff81000000 0 user=10 hyp=20 kern=0 cr3=1 invlpg=0\n\
        POINT 3 user=20 hyp=50 kern=70 cr3=4 invlpg=2\n\
        ROW 1 user=30 hyp=500 kern=70 cr3=20 invlpg=10\n\
        EXIT 0 user=90 hyp=900 kern=900 cr3=40 invlpg=20\n";

    #[test]
    fn rows_are_paired_with_their_counts() {
        let said = "Booting from ROM..PI tsc 140\nPI kernel 6.1\nPI hypervisor .\nPB sys.null 360.50 10\nPI exit 0\n";
        let told = told(said, COUNTED).unwrap();
        assert_eq!((told.kernel.as_str(), told.hypervisor.as_str()), ("6.1", "."));
        let names: Vec<_> = told.rows.iter().map(|row| (row.name.as_str(), row.ns)).collect();
        assert_eq!(names, [("boot.poweron", 140.0), ("boot.kernel", 110.0), ("sys.null", 360.5)]);
        let null = &told.rows[2].inside;
        assert_eq!((null.hypervisor, null.cr3, null.invlpg), (50.0, 2.0, 1.0));
    }

    #[test]
    fn a_row_that_only_one_of_them_has_is_an_error() {
        let said = "PI tsc 140\nPI kernel 6.1\nPI hypervisor .\n";
        assert!(told(said, COUNTED).is_err());
        let two = format!("{said}PB a 1.00 1\nPB b 1.00 1\n");
        assert!(told(&two, COUNTED).is_err());
        assert!(told(&format!("{said}PB a 1.00\n"), COUNTED).is_err());
    }
}
