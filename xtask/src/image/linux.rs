//! `--linux`: Debian's stock kernel as a guest, which dom0's `xl create debian.cfg` starts.
//!
//! The kernel and the programs are Debian's packages, fetched once; `images/linux/` has the rest: the domain's
//! configuration, the initramfs's first process, and the files of `/etc` that make a system of busybox.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{initramfs, volumes};
use crate::build::ramdisk::Added;
use crate::debian::linux::Linux;
use crate::setup;
use crate::steps::Step;
use crate::{cmd, debian, paths};

/// Its programs, beside busybox.
pub const PACKAGES: [&str; 4] = ["dropbear-bin", "e2fsprogs", "fio", "iperf3"];
/// What it needs to reach its root file system and its network, each after those it needs, and the devices of
/// `/dev/xen`.
pub const MODULES: [&str; 11] = [
    "crc32c_generic",
    "libcrc32c",
    "crc16",
    "mbcache",
    "jbd2",
    "ext4",
    "xen-blkfront",
    "xen-netfront",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
];
/// The size of its root file system, most of which is free.
const ROOT_SIZE: u64 = 1 << 30;

/// The files for dom0's ramdisk, which [`make`] makes.
pub fn files() -> Vec<Added> {
    let added = |path: &str, file: PathBuf| Added { path: path.into(), file };
    vec![
        added("boot/vmlinuz", work().join("vmlinuz")),
        added("boot/initramfs", work().join("initramfs.cpio")),
        added("etc/xen/debian.cfg", sources().join("debian.cfg")),
    ]
}

/// Its root file system, which [`make`] makes.
pub fn volume() -> volumes::Added {
    volumes::Added { name: "debian".into(), size: ROOT_SIZE, file: Some(work().join("root.ext4")) }
}

/// Fetches what is not in the cache, and makes the files.
pub fn make() -> Result<()> {
    setup::ensure(setup::For::Linux)?;
    let step = Step::new("Debian's Linux");
    // on a machine where nothing had to be installed, nobody may have asked for the lists of packages
    fetch(&step).or_else(|_| setup::update().and_then(|()| fetch(&step)))?;
    step.detail("its root file system");
    std::fs::create_dir_all(work())?;
    std::fs::copy(Linux::Generic.bzimage()?, work().join("vmlinuz"))?;
    let made = initramfs(Linux::Generic, "debian", &sources().join("init"))?;
    std::fs::rename(made, work().join("initramfs.cpio"))?;
    let root = work().join("root");
    tree(&root)?;
    file_system(&root, ROOT_SIZE, &work().join("root.ext4"))?;
    step.done("");
    Ok(())
}

fn fetch(step: &Step) -> Result<()> {
    step.detail("the kernel");
    Linux::Generic.bzimage()?;
    Linux::Generic.modules(&MODULES)?;
    step.detail("the programs");
    debian::programs(&PACKAGES).map(drop)
}

fn sources() -> PathBuf {
    paths::root().join("images/linux")
}

fn work() -> PathBuf {
    paths::out().join("linux")
}

/// Makes `root` the folder of its root file system.
pub fn tree(root: &Path) -> Result<()> {
    cmd::fresh(root)?;
    cmd::run(Command::new("tar").arg("-xf").arg(debian::programs(&PACKAGES)?).arg("-C").arg(root))?;
    for folder in ["bin", "sbin", "dev", "proc", "sys", "tmp", "run", "root", "mnt", "etc/dropbear"] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    std::fs::copy(paths::find_program("busybox").context("busybox is missing")?, root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/init"))?;
    // what the kernel runs when dom0 asks for its end
    for name in ["poweroff", "reboot", "halt"] {
        symlink("../bin/busybox", root.join("sbin").join(name))?;
    }
    overlay(&sources().join("root/etc"), &root.join("etc"))
}

/// Copies the files in the folder `from` into the folder `to`: each may be executed.
pub fn overlay(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())?.flatten() {
        let file = to.join(entry.file_name());
        std::fs::copy(entry.path(), &file)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Makes `file` a file system of `size` bytes with the content of the folder `root`, all of it root's.
pub fn file_system(root: &Path, size: u64, file: &Path) -> Result<()> {
    std::fs::File::create(file)?.set_len(size)?;
    let mke2fs = cmd::program("mke2fs");
    // whose files they are here is nobody's business there
    let is_roots = rustix::process::geteuid().is_root();
    let mut as_root = Command::new("unshare");
    as_root.args(["--map-root-user", "--"]);
    let may = !is_roots && cmd::run(Command::new("unshare").args(["--map-root-user", "--", "true"])).is_ok();
    let mut command = if may {
        as_root.arg(mke2fs.get_program());
        as_root
    } else {
        mke2fs
    };
    // features that GRUB knows, whatever this host's mke2fs has by itself
    let features =
        "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file";
    command.args(["-q", "-F", "-t", "ext4", "-L", "root", "-O", features, "-E", "root_owner=0:0", "-d"]);
    cmd::run(command.args([root, file]))
}

/// The initramfs with the script `init` for a domain's `linux`, as `target/oxen/NAME.cpio`.
pub fn initramfs(linux: Linux, name: &str, init: &Path) -> Result<PathBuf> {
    let script = cmd::read(init)?;
    let modules = linux.modules(&MODULES)?.into_iter().enumerate();
    // a shell lists them in this order
    let modules: Vec<_> = modules.map(|(n, (file, data))| (format!("modules/{n:02}-{file}"), data)).collect();
    initramfs::with_files(name, &String::from_utf8_lossy(&script), &modules)
}
