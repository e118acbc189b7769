//! `cargo xtask`: builds, runs, tests and measures Oxen.
//!
//! Everything a person would otherwise keep in shell scripts is here, so that a clone and `cargo` are
//! enough: each command first makes sure that what it needs is on the machine (`setup`).
#![forbid(unsafe_code)]

mod bench;
mod build;
mod cmd;
mod debian;
mod image;
mod machine;
mod new_service;
mod paths;
mod qemu;
mod qmp;
mod run;
mod services;
mod setup;
mod steps;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Oxen: a memory-safe hypervisor that speaks Xen's ABI, and services in Rust on it.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything, write a disk, boot it in QEMU: ends at dom0's shell
    Run(run::Args),
    /// Install and fetch what is missing on this machine (apt, rustup); nothing to do is quick
    Setup(setup::Args),
    /// Build the hypervisor, dom0, the services and dom0's ramdisk into target/oxen/
    Build(build::Args),
    /// Write a disk image that boots on PC firmware (BIOS and UEFI)
    Image(image::Args),
    /// Run the tests: every crate's on this host, then whole machines in QEMU
    Test(test::Args),
    /// Count instructions on Oxen and on Debian's Xen, side by side
    Bench(bench::Args),
    /// Begin a service of your own
    NewService(new_service::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::command(&args),
        Command::Setup(args) => setup::command(&args),
        Command::Build(args) => build::command(&args),
        Command::Image(args) => image::command(&args),
        Command::Bench(args) => bench::command(&args),
        Command::NewService(args) => new_service::command(&args),
        Command::Test(args) => test::command(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
