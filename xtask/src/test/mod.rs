//! `cargo xtask test`: every crate's tests on this host, then scenarios on whole machines in QEMU.

mod host;
mod kit;
mod lab;
mod medium;
mod scenarios;
mod screen;
mod site;
mod userland;

use std::process::ExitCode;

use anyhow::Result;

use crate::debian;
use crate::debian::linux::Linux;
use crate::debian::toolstack;
use crate::image::linux;
use crate::setup;
use crate::steps::Step;

/// Arguments of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// List the tests and run none
    #[arg(long)]
    list: bool,
    /// Only the whole machines in QEMU
    #[arg(long)]
    machines: bool,
}

/// Runs `cargo xtask test`. Its last line is `N passed, N failed`.
pub fn command(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::For::Test)?;
    let filter = args.filter.as_deref();
    if args.list {
        host::list(filter)?;
        let _ = scenarios::run(filter, true);
        return Ok(ExitCode::SUCCESS);
    }
    let mut count = if args.machines { Count::default() } else { host::run(filter)? };
    println!("== machines in QEMU");
    let scenarios = scenarios::run(filter, false);
    count += Count { passed: scenarios.num_passed, failed: scenarios.num_failed };
    println!("\n{} passed, {} failed", count.passed, count.failed);
    Ok(if count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Fetches what scenarios take from Debian, unless it is in the cache: they need no network then.
pub fn fetch(step: &Step) -> Result<()> {
    step.detail("Xen");
    debian::xen()?;
    debian::grub()?;
    for kernel in [Linux::Generic, Linux::Cloud] {
        step.detail(&format!("Linux, {}", kernel.flavour()));
        kernel.bzimage()?;
        kernel.modules(&linux::MODULES)?;
    }
    step.detail("a domain's tools");
    debian::programs(&linux::PACKAGES)?;
    step.detail("xl");
    toolstack::userland()?;
    toolstack::modules()?;
    Ok(())
}

/// How many tests ran, and how they ended.
#[derive(Clone, Copy, Default)]
pub struct Count {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed; a test program that could not be built or died counts as one.
    pub failed: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}
