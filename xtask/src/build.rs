//! `cargo xtask build`: the kernels, stripped, in `target/oxen/`, and dom0's ramdisk.

pub mod elf;
pub mod ramdisk;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::setup::{self, TARGET, Toolchain};
use crate::steps::Step;
use crate::workspace::{self, Package};
use crate::{cmd, paths};

/// The largest hypervisor file allowed: it is loaded below the guests' memory on every boot.
const HYPERVISOR_LIMIT: usize = 2 << 20;

/// Arguments of `build`.
#[derive(clap::Args)]
pub struct Args {
    /// Build only these kernels (`oxen`, `dom0`, or a service's name)
    kernels: Vec<String>,
}

/// What a build leaves in `target/oxen/`.
#[derive(Clone)]
pub struct Built {
    /// The hypervisor, as QEMU's `-kernel` and GRUB load it.
    pub hypervisor: PathBuf,
    /// The control domain's kernel.
    pub dom0: PathBuf,
    /// The services' kernels.
    pub guests: Vec<PathBuf>,
    /// dom0's ramdisk: the guests' kernels and configuration.
    pub ramdisk: PathBuf,
    /// The memory in MiB that dom0 needs for what a user added to that.
    pub added_mib: u64,
}

/// Runs `cargo xtask build`.
pub fn command(args: &Args) -> Result<ExitCode> {
    if args.kernels.is_empty() {
        with(None, None, &[])?;
        return Ok(ExitCode::SUCCESS);
    }
    setup::ensure(setup::For::Build)?;
    let packages = workspace::packages()?;
    for name in &args.kernels {
        kernel(&packages, name)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the hypervisor, dom0, every service and the ramdisk, with what is `added`. A given `hypervisor` or
/// `dom0` stands for ours, which is not built then.
pub fn with(hypervisor: Option<&Path>, dom0: Option<&Path>, added: &[ramdisk::Added]) -> Result<Built> {
    setup::ensure(setup::For::Build)?;
    let packages = workspace::packages()?;
    let ours_or = |given: Option<&Path>, name: &str| match given {
        Some(file) => Ok(file.to_path_buf()),
        None => kernel(&packages, name),
    };
    let hypervisor = ours_or(hypervisor, "oxen")?;
    let dom0 = ours_or(dom0, "dom0")?;
    let mut guests = Vec::new();
    for service in packages.iter().filter(|p| p.is_service && p.bins.contains(&p.name)) {
        guests.push(kernel(&packages, &service.name)?);
    }
    let (ramdisk, added_mib) = ramdisk::write(&guests, added)?;
    Ok(Built { hypervisor, dom0, guests, ramdisk, added_mib })
}

/// Builds the kernel called `name` and gives the stripped file.
pub fn kernel(packages: &[Package], name: &str) -> Result<PathBuf> {
    // every binary is for the kernels' target but this program's own
    let is_kernel = |p: &&Package| p.bins.contains(&p.name) && p.name != env!("CARGO_PKG_NAME");
    if !packages.iter().filter(is_kernel).any(|p| p.name == name) {
        let known: Vec<&str> = packages.iter().filter(is_kernel).map(|p| p.name.as_str()).collect();
        bail!("there is no kernel called {name}; there are {}", known.join(", "));
    }
    let step = Step::new(&format!("building {name}"));
    let mut command = cargo_build();
    cmd::run_in_step(
        &step,
        command.args(["--release", "--target", TARGET, "--package", name, "--bin", name]),
    )?;
    let (file, size) = strip(&unstripped(name), name)?;
    step.done(&format!("{} KiB", size.div_ceil(1024)));
    Ok(file)
}

/// Builds the hypervisor that checks the order in which locks are taken, and its arithmetic.
pub fn checked_hypervisor() -> Result<PathBuf> {
    let step = Step::new("building oxen with debug assertions");
    let mut command = cargo_build();
    command.args(["--profile", "checked", "--target", TARGET, "--package", "oxen", "--bin", "oxen"]);
    cmd::run_in_step(&step, &mut command)?;
    let (file, size) = strip(&target_dir().join(TARGET).join("checked/oxen"), "oxen-checked")?;
    step.done(&format!("{} KiB", size.div_ceil(1024)));
    Ok(file)
}

/// Writes the kernel in the file `unstripped` to `target/oxen/NAME` without its symbols; its size there.
fn strip(unstripped: &Path, name: &str) -> Result<(PathBuf, usize)> {
    let stripped = elf::strip(&cmd::read(unstripped)?, name)?;
    if name == "oxen" && stripped.len() > HYPERVISOR_LIMIT {
        bail!("the hypervisor is {} KiB, the limit is {} KiB", stripped.len() >> 10, HYPERVISOR_LIMIT >> 10);
    }
    let file = paths::out().join(name);
    if std::fs::read(&file).ok().as_ref() != Some(&stripped) {
        cmd::write(&file, &stripped)?;
    }
    Ok((file, stripped.len()))
}

/// The kernel called `name` as the linker writes it, with what a debugger needs.
pub fn unstripped(name: &str) -> PathBuf {
    target_dir().join(TARGET).join("release").join(name)
}

/// Cargo's folder for the kernels: the two compilers have one each.
fn target_dir() -> PathBuf {
    match setup::toolchain() {
        Some(Toolchain::Debian) => paths::cargo_target().join("debian"),
        _ => paths::cargo_target(),
    }
}

/// `cargo build` for the kernels' target with the compiler this machine has.
fn cargo_build() -> Command {
    if setup::toolchain() != Some(Toolchain::Debian) {
        let mut command = cmd::cargo();
        command.arg("build");
        return command;
    }
    let mut command = Command::new("/usr/bin/cargo");
    command
        .current_dir(paths::root())
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["build", "-Zbuild-std=core,alloc", "--config"])
        .arg(format!("target.{TARGET}.linker=\"ld.lld\""))
        .arg("--target-dir")
        .arg(target_dir());
    command
}
