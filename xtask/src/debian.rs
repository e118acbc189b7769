//! What Debian packages: Xen and Linux, the other side of the interface, and programs. Fetched, unpacked, never committed.
//!
//! What is fetched is kept in the user's cache folder.

pub mod linux;
pub mod toolstack;

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
        let files = unpacked(&download(name, work)?, &["./boot/xen-4*-amd64.gz"], work)?;
        let packed = std::fs::read_dir(files.join("boot"))?.flatten().next();
        unpack("gzip", &cmd::read(&packed.context("Xen's package has no hypervisor")?.path())?, work)
    })
}

/// GRUB for Xen, a kernel that loads another one.
pub fn grub() -> Result<PathBuf> {
    kept("grub-x86_64-xen.bin", |work| {
        let member = "usr/lib/grub-xen/grub-x86_64-xen.bin";
        let files = unpacked(&download("grub-xen-host", work)?, &[&format!("./{member}")], work)?;
        cmd::read(&files.join(member))
    })
}

/// The files of `packages` and of all libraries that they depend on, as far as a program needs them to run: a tar
/// archive.
pub fn programs(packages: &[&str]) -> Result<PathBuf> {
    // another list is another archive
    kept(&format!("programs-{:08x}.tar", crc32fast::hash(packages.join(" ").as_bytes())), |work| {
        let mut depends = Command::new("apt-cache");
        depends.args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"]);
        depends.args(["--no-breaks", "--no-replaces", "--no-enhances"]).args(packages);
        let all = cmd::output(&mut depends)?;
        let is_library = |line: &&str| line.starts_with("lib") || line.starts_with("zlib");
        let mut libraries: Vec<&str> = all.lines().filter(is_library).collect();
        libraries.sort_unstable();
        libraries.dedup();
        let root = work.join("root");
        std::fs::create_dir_all(&root)?;
        let all = libraries.iter().chain(packages).copied();
        cmd::run(Command::new("apt-get").current_dir(work).arg("download").args(all))?;
        for file in std::fs::read_dir(work)?.flatten().map(|e| e.path()) {
            if file.extension().is_some_and(|e| e == "deb") {
                take(&file, &["./*bin/*", "./lib*/*", "./usr/*bin/*", "./usr/lib/*.so*"], &root)?;
            }
        }
        let archive = work.join("root.tar");
        cmd::run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg("."))?;
        cmd::read(&archive)
    })
}

/// The file `name` of the cache, made by `make` from what it does in a folder of its own.
pub fn kept(name: &str, make: impl FnOnce(&Path) -> Result<Vec<u8>>) -> Result<PathBuf> {
    let cache = cache_dir()?;
    let file = cache.join(name);
    if file.exists() {
        return Ok(file);
    }
    // another run may be at it as well
    let work = cache.join(format!("{name}.{}", std::process::id()));
    cmd::fresh(&work)?;
    let draft = work.join("draft");
    let made = make(&work).and_then(|bytes| cmd::write(&draft, &bytes));
    let made = made.and_then(|()| Ok(std::fs::rename(&draft, &file)?));
    std::fs::remove_dir_all(&work)?;
    made.map(|()| file)
}

/// Downloads a package; its file.
fn download(package: &str, work: &Path) -> Result<PathBuf> {
    // as root, apt downloads as another user, who may not write here: it says so and goes on as root
    cmd::run(Command::new("apt-get").current_dir(work).args(["download", package]))?;
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
    };
    let deb = std::fs::read_dir(work)?.flatten().map(|e| e.path()).find(is_it);
    deb.with_context(|| format!("apt-get download left no {package}"))
}

/// Downloads a package into `work`, and unpacks it into the folder `into`.
pub fn package(name: &str, work: &Path, into: &Path) -> Result<()> {
    std::fs::create_dir_all(into)?;
    take(&download(name, work)?, &["./*"], into)
}

/// The files of the package `deb` that match `members`, in a folder of `work`.
fn unpacked(deb: &Path, members: &[&str], work: &Path) -> Result<PathBuf> {
    let files = work.join("files");
    std::fs::create_dir_all(&files)?;
    take(deb, members, &files)?;
    Ok(files)
}

/// Adds the files of the package `deb` that match `members` to the folder `into`.
fn take(deb: &Path, members: &[&str], into: &Path) -> Result<()> {
    let mut archive =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn()?;
    let files = archive.stdout.take().context("dpkg-deb's output")?;
    let mut tar = Command::new("tar");
    tar.arg("-xC").arg(into).arg("--wildcards").args(members).stdin(files).stderr(Stdio::null());
    // that a pattern matches nothing is tar's only complaint here: whoever needs the file finds that out
    tar.status().context("cannot run tar")?;
    ensure!(archive.wait()?.success(), "{} is damaged", deb.display());
    Ok(())
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
