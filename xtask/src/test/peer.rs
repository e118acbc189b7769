//! Debian's Xen, the other implementation of the interface: fetched, unpacked, never committed.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cmd;

/// The hypervisor that Debian packages, as a file which QEMU and GRUB load. It is kept in the user's
/// cache folder.
pub fn xen() -> Result<PathBuf> {
    let cache = cache_dir()?;
    let file = cache.join("xen.elf");
    if file.exists() {
        return Ok(file);
    }
    let package = package()?;
    let work = cache.join("unpack");
    std::fs::create_dir_all(&work)?;
    // as root, apt downloads as another user, who may not write here: it says so and goes on as root
    cmd::run(Command::new("apt-get").current_dir(&work).args(["download", &package]))?;
    let is_deb = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb");
    let deb = std::fs::read_dir(&work)?.flatten().map(|e| e.path()).find(is_deb);
    let deb = deb.with_context(|| format!("apt-get download left no {package}"))?;
    cmd::run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&work))?;
    let is_xen = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("xen-4") && name.ends_with("-amd64.gz")
    };
    let packed = std::fs::read_dir(work.join("boot"))?.flatten().map(|e| e.path()).find(is_xen);
    let packed = packed.with_context(|| format!("{package} holds no hypervisor"))?;
    let unpacked = Command::new("gzip").arg("-dc").arg(&packed).output().context("cannot run gzip")?;
    if !unpacked.status.success() {
        bail!("{} is damaged", packed.display());
    }
    let draft = cache.join("xen.draft");
    cmd::write(&draft, &unpacked.stdout)?;
    std::fs::rename(&draft, &file)?;
    std::fs::remove_dir_all(&work)?;
    Ok(file)
}

/// The package's name: of 4.17 where there is a choice.
fn package() -> Result<String> {
    let found = cmd::output(Command::new("apt-cache").args(["pkgnames", "xen-hypervisor-4."]))?;
    let mut names: Vec<&str> = found.lines().filter(|name| name.ends_with("-amd64")).collect();
    names.sort_by_key(|name| !name.contains("4.17"));
    let name = names.first().context("apt knows no xen-hypervisor package: run `apt-get update`")?;
    Ok((*name).to_string())
}

fn cache_dir() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let dir = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("oxen");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}
