//! `cargo xtask setup`: finds what is missing on this machine and installs it.
//!
//! Every other command calls [`ensure`] with the part it needs. When all is there that costs a few
//! file look-ups and no network; so nothing is remembered between runs and nothing can be stale.

mod apt;
mod rust;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::steps::Step;
use crate::{paths, test};
pub use apt::update;
pub use rust::{TARGET, Toolchain, toolchain};

/// Arguments of `setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Only say what is missing; fails when something is
    #[arg(long)]
    check: bool,
}

/// What a command is about to do, and so what it needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum For {
    /// Compile the kernels.
    Build,
    /// Write a disk image.
    Image,
    /// Start a machine.
    Run,
    /// Make Debian's Linux a guest.
    Linux,
    /// Run all the tests.
    Test,
    /// Measure Linux.
    BenchLinux,
}

/// A thing this machine should have: where one sees that it is there, and the package that brings it.
struct Need {
    purpose: For,
    what: &'static str,
    sign: Sign,
    package: &'static str,
}

enum Sign {
    Program(&'static str),
    File(&'static str),
}

const fn program(purpose: For, name: &'static str, package: &'static str) -> Need {
    Need { purpose, what: name, sign: Sign::Program(name), package }
}

const fn file(purpose: For, what: &'static str, path: &'static str, package: &'static str) -> Need {
    Need { purpose, what, sign: Sign::File(path), package }
}

const NEEDS: &[Need] = &[
    program(For::Image, "grub-mkimage", "grub-common"),
    file(For::Image, "GRUB for PC BIOS", "/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    file(For::Image, "GRUB for UEFI", "/usr/lib/grub/x86_64-efi/multiboot2.mod", "grub-efi-amd64-bin"),
    program(For::Image, "mformat", "mtools"),
    program(For::Image, "mke2fs", "e2fsprogs"),
    program(For::Run, "qemu-system-x86_64", apt::QEMU),
    file(For::Run, "UEFI firmware", "/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    program(For::Test, "cc", "gcc"),
    file(For::Test, "C library headers", "/usr/include/stdio.h", "libc6-dev"),
    file(For::Test, "Xen's public headers", "/usr/include/xen/xen.h", "libxen-dev"),
    program(For::Test, "curl", "curl"),
    program(For::Test, "redis-cli", "redis-tools"),
    program(For::Test, "redis-benchmark", "redis-tools"),
    program(For::Test, "wrk", "wrk"),
    program(For::Test, "tshark", "tshark"),
    program(For::Linux, "dpkg-deb", "dpkg"),
    program(For::Linux, "busybox", "busybox-static"),
    program(For::Test, "xz", "xz-utils"),
    program(For::BenchLinux, "musl-gcc", "musl-tools"),
];

/// Runs `cargo xtask setup`.
pub fn command(args: &Args) -> Result<ExitCode> {
    if args.check {
        let missing = missing(For::Test);
        for need in &missing {
            println!("missing: {} (package {})", need.what, need.package);
        }
        let target = rust::present();
        if !target {
            println!("missing: the Rust target {}", rust::TARGET);
        }
        if missing.is_empty() && target {
            println!("everything is there");
            return Ok(ExitCode::SUCCESS);
        }
        return Ok(ExitCode::FAILURE);
    }
    ensure(For::Test)?;
    let step = Step::new("what the tests take from Debian");
    // on a machine where nothing had to be installed, nobody may have asked for the lists of packages
    match test::fetch(&step).or_else(|_| apt::update().and_then(|()| test::fetch(&step))) {
        Ok(()) => step.done(""),
        Err(error) => eprintln!("  tests of Xen and Linux will fail: {error:#}"),
    }
    println!("everything is there");
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that all of `purpose`'s needs are met, installing what is missing.
///
/// # Errors
/// Says in one line what is missing and how to get it, when this machine cannot install it by itself.
pub fn ensure(purpose: For) -> Result<()> {
    let missing = missing(purpose);
    if !missing.is_empty() {
        let mut packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
        packages.dedup();
        let names: Vec<&str> = missing.iter().map(|need| need.what).collect();
        eprintln!("  missing: {}", names.join(", "));
        apt::install(&packages)?;
    }
    rust::ensure()
}

fn missing(purpose: For) -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| need.purpose <= purpose && !there(&need.sign)).collect()
}

fn there(sign: &Sign) -> bool {
    match sign {
        Sign::Program(name) => paths::find_program(name).is_some(),
        Sign::File(path) => Path::new(path).exists(),
    }
}
