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

/// The oldest compiler that this workspace builds with.
const NEEDED: &str = env!("CARGO_PKG_RUST_VERSION");
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

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
    let mut add = Command::new("rustup");
    let rustup_said = match cmd::run_within(Duration::from_secs(60), add.args(["target", "add", TARGET])) {
        Ok(()) if rustup_has_target() => {
            step.done("by rustup");
            return Ok(());
        }
        Ok(()) => anyhow!("rustup added it to another toolchain than the one in use"),
        Err(error) => error,
    };
    drop(step);
    eprintln!("  rustup cannot add {TARGET}: taking Debian's compiler");
    apt::install(&["rustc-web", "cargo-web", "rust-web-src", "lld"])
        .map_err(|apt_said| anyhow!("no compiler for {TARGET}: {rustup_said}; {apt_said:#}"))?;
    if present() {
        return Ok(());
    }
    let found =
        debian_version().map_or_else(|| "not there".into(), |(major, minor)| format!("{major}.{minor}"));
    Err(anyhow!(
        "no compiler for {TARGET}: {rustup_said}; Debian's rustc-web is {found}, at least {NEEDED} is needed"
    ))
}

fn rustup_has_target() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = cmd::output(Command::new(rustc).args(["--print", "sysroot"])).unwrap_or_default();
    Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

/// The version of Debian's compiler, if it is installed.
fn debian_version() -> Option<(u32, u32)> {
    let text = cmd::output(Command::new(DEBIAN_RUSTC).arg("--version")).ok()?;
    version(text.strip_prefix("rustc ")?)
}

/// The first two numbers of `1.90.0 (…)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', ' ', '\n']).map_while(|n| n.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn debian_is_complete() -> bool {
    let new_enough = debian_version() >= version(NEEDED);
    if !new_enough || !Path::new("/usr/bin/cargo").exists() || paths::find_program("ld.lld").is_none() {
        return false;
    }
    let sysroot = cmd::output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"])).unwrap_or_default();
    PathBuf::from(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
}
