//! The other side of the interface, as Debian packages it: Xen, and Linux. Fetched, unpacked, never committed.
//!
//! What is fetched is kept in the user's cache folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cmd;

/// The hypervisor that Debian packages, as a file which QEMU and GRUB load.
pub fn xen() -> Result<PathBuf> {
    kept("xen.elf", |work| {
        let names = cmd::output(Command::new("apt-cache").args(["pkgnames", "xen-hypervisor-4."]))?;
        let mut names: Vec<&str> = names.lines().filter(|name| name.ends_with("-amd64")).collect();
        // 4.17 where there is a choice
        names.sort_by_key(|name| !name.contains("4.17"));
        let name = names.first().context("apt knows no xen-hypervisor package: run `apt-get update`")?;
        let packed = boot_file(name, work, |file| file.starts_with("xen-4") && file.ends_with("-amd64.gz"))?;
        unpack("gzip", &cmd::read(&packed)?, work)
    })
}

/// The distribution's Linux: its bzImage.
pub fn linux() -> Result<PathBuf> {
    kept("vmlinuz", |work| {
        let all = cmd::output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
        let name = all.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        let name = name.context("apt knows no linux-image-amd64: run `apt-get update`")?;
        cmd::read(&boot_file(&format!("linux-image-{name}"), work, |file| file.starts_with("vmlinuz-"))?)
    })
}

/// The file `name` of the cache, made by `make` from what it does in a folder of its own.
fn kept(name: &str, make: impl FnOnce(&Path) -> Result<Vec<u8>>) -> Result<PathBuf> {
    let cache = cache_dir()?;
    let file = cache.join(name);
    if file.exists() {
        return Ok(file);
    }
    let work = cache.join(format!("{name}.work"));
    std::fs::create_dir_all(&work)?;
    let bytes = make(&work)?;
    let draft = work.join("draft");
    cmd::write(&draft, &bytes)?;
    std::fs::rename(&draft, &file)?;
    std::fs::remove_dir_all(&work)?;
    Ok(file)
}

/// Downloads a package and takes one file from its /boot.
fn boot_file(package: &str, work: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    // as root, apt downloads as another user, who may not write here: it says so and goes on as root
    cmd::run(Command::new("apt-get").current_dir(work).args(["download", package]))?;
    let is_deb = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb");
    let deb = std::fs::read_dir(work)?.flatten().map(|e| e.path()).find(is_deb);
    let deb = deb.with_context(|| format!("apt-get download left no {package}"))?;
    let mut archive =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&deb).stdout(Stdio::piped()).spawn()?;
    let files = archive.stdout.take().context("dpkg-deb's output")?;
    let status = Command::new("tar").arg("-xC").arg(work).arg("./boot").stdin(files).status();
    ensure!(status.context("cannot run tar")?.success() && archive.wait()?.success(), "{package} is damaged");
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut boot = std::fs::read_dir(work.join("boot"))?.flatten().map(|e| e.path());
    boot.find(|path| wanted(&name(path))).with_context(|| format!("{package} lacks its file in /boot"))
}

/// What `program -dc` makes of `packed`.
fn unpack(program: &str, packed: &[u8], work: &Path) -> Result<Vec<u8>> {
    let file = work.join("packed");
    cmd::write(&file, packed)?;
    let unpacked = Command::new(program).arg("-dc").stdin(std::fs::File::open(&file)?).output();
    let unpacked = unpacked.with_context(|| format!("cannot run {program}"))?;
    ensure!(unpacked.status.success(), "{program}: {}", String::from_utf8_lossy(&unpacked.stderr));
    Ok(unpacked.stdout)
}

fn cache_dir() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let dir = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("oxen");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}
