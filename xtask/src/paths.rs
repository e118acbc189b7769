//! Where things are in the source tree and where the results go.

use std::path::{Path, PathBuf};

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

/// `target/oxen`: the kernels, the ramdisk, the disk image, the logs.
pub fn out() -> PathBuf {
    root().join("target/oxen")
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
