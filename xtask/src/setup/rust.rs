//! The compiler for the kernels' target.
//!
//! `x86_64-unknown-none` is looked for, then asked of rustup, and where rustup's server cannot be
//! reached, Debian's own compiler of about the same age builds `core` and `alloc` from its source
//! package.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::steps::Step;
use crate::{cmd, paths};

use super::apt;

/// The kernels' target: freestanding, soft-float, no red zone.
pub const TARGET: &str = "x86_64-unknown-none";

/// Which compiler builds the kernels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Toolchain {
    /// The one that runs this program, with the target's libraries installed.
    Rustup,
    /// Debian's `rustc-web` and `cargo-web`, with `rust-web-src`.
    Debian,
}

/// The compiler that is ready to build the kernels, if one is.
pub fn toolchain() -> Option<Toolchain> {
    if rustup_has_target() {
        return Some(Toolchain::Rustup);
    }
    debian_is_complete().then_some(Toolchain::Debian)
}

/// A compiler for the kernels is there.
pub fn present() -> bool {
    toolchain().is_some()
}

/// Makes sure that a compiler for the kernels is there.
pub fn ensure() -> Result<()> {
    if present() {
        return Ok(());
    }
    let step = Step::new(&format!("adding the Rust target {TARGET}"));
    let by_rustup =
        cmd::run_within(Duration::from_secs(60), Command::new("rustup").args(["target", "add", TARGET]));
    let Err(rustup_said) = by_rustup else {
        step.done("by rustup");
        return Ok(());
    };
    drop(step);
    eprintln!("  rustup cannot add {TARGET}: taking Debian's compiler");
    apt::install(&["rustc-web", "cargo-web", "rust-web-src", "lld"])
        .map_err(|apt_said| anyhow!("no compiler for {TARGET}: {rustup_said}; {apt_said:#}"))?;
    if !present() {
        return Err(anyhow!(
            "Debian's rustc-web and rust-web-src are installed, yet their library is not found"
        ));
    }
    Ok(())
}

fn rustup_has_target() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = cmd::output(Command::new(rustc).args(["--print", "sysroot"])).unwrap_or_default();
    Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

fn debian_is_complete() -> bool {
    let rustc = Path::new("/usr/bin/rustc");
    let cargo = Path::new("/usr/bin/cargo");
    if !rustc.exists() || !cargo.exists() || paths::find_program("ld.lld").is_none() {
        return false;
    }
    let sysroot = cmd::output(Command::new(rustc).args(["--print", "sysroot"])).unwrap_or_default();
    PathBuf::from(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
}
