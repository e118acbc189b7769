//! Where things are in the source tree and where the results go.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the source tree: the folder above this crate.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ has a parent folder")
}

/// Cargo's target folder: `CARGO_TARGET_DIR` when set, else `target/` in the tree.
pub fn cargo_target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The variable that names another folder than [`out`]'s usual one: a test's machine keeps off the user's.
pub const OUT: &str = "OXEN_OUT";

/// `target/oxen`: the kernels, the ramdisk, the disk image, the logs.
pub fn out() -> PathBuf {
    match std::env::var_os(OUT) {
        Some(dir) => root().join(dir),
        None => cargo_target().join("oxen"),
    }
}

/// `target/oxen/logs`, made if it is not there.
pub fn logs() -> Result<PathBuf> {
    let dir = out().join("logs");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// A path that a user gave, seen from where the command was typed: programs that we start run elsewhere.
pub fn typed(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

/// [`typed`] of a file that is there.
pub fn file(text: &str) -> Result<PathBuf, String> {
    let path = typed(text)?;
    let found = std::fs::metadata(&path).map_err(|error| error.to_string())?;
    if found.is_file() { Ok(path) } else { Err("not a file".into()) }
}

/// [`typed`] of a folder that is there.
pub fn folder(text: &str) -> Result<PathBuf, String> {
    let path = typed(text)?;
    let found = std::fs::metadata(&path).map_err(|error| error.to_string())?;
    if found.is_dir() { Ok(path) } else { Err("not a folder".into()) }
}

/// The first folder that holds `program`, searched like a shell does and then in the system's `sbin`
/// folders, which an ordinary user's `PATH` lacks on Debian.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}
