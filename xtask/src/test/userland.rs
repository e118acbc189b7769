//! A small Debian for domains: its tools and their libraries as a file system, `tests/linux/` on top of it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{initramfs, peer};
use crate::image::{self, Volume};
use crate::{cmd, paths};

/// What checks run.
pub(super) const PACKAGES: [&str; 3] = ["e2fsprogs", "fio", "iperf3"];
/// What a domain needs to reach its root file system and its network, each after those it needs.
pub(super) const MODULES: [&str; 8] =
    ["crc32c_generic", "libcrc32c", "crc16", "mbcache", "jbd2", "ext4", "xen-blkfront", "xen-netfront"];
const ROOT_SIZE: u64 = 512 << 20;

/// The root file system as a folder of this host.
pub fn folder() -> PathBuf {
    paths::out().join("linux-root")
}

/// Writes a disk for dom0 to `target/oxen/NAME`: a volume `root` with the file system, the usual kernel in its `/boot`,
/// and `others`, which are empty.
pub fn disk(name: &str, others: &[(&'static str, u64)]) -> Result<PathBuf> {
    let root = folder();
    peer::fresh(&root)?;
    cmd::run(Command::new("tar").arg("-xf").arg(peer::programs(&PACKAGES)?).arg("-C").arg(&root))?;
    for folder in
        ["bin", "sbin", "dev", "proc", "sys", "tmp", "run", "root", "mnt", "etc", "checks", "boot/grub"]
    {
        std::fs::create_dir_all(root.join(folder))?;
    }
    std::fs::copy(paths::find_program("busybox").context("busybox is missing")?, root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/init"))?;
    let ours = paths::root().join("tests/linux");
    for (from, to) in [("etc", "etc"), ("checks", "checks"), ("grub", "boot/grub")] {
        for entry in std::fs::read_dir(ours.join(from))?.flatten() {
            let file = root.join(to).join(entry.file_name());
            std::fs::copy(entry.path(), &file)?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
        }
    }
    std::fs::copy(peer::Linux::Generic.bzimage()?, root.join("boot/vmlinuz"))?;
    std::fs::copy(initramfs(peer::Linux::Generic)?, root.join("boot/initramfs"))?;
    let volume = paths::out().join("linux-root.ext4");
    std::fs::File::create(&volume)?.set_len(ROOT_SIZE)?;
    let mut mke2fs = cmd::program("mke2fs");
    // features that GRUB knows, whatever this host's mke2fs has by itself
    let features =
        "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file";
    mke2fs.args(["-q", "-F", "-t", "ext4", "-L", "root", "-O", features, "-E", "root_owner=0:0", "-d"]);
    cmd::run(mke2fs.args([&root, &volume]))?;
    let mut volumes = vec![Volume { name: "root", size: ROOT_SIZE, content: Some(volume) }];
    volumes.extend(others.iter().map(|&(name, size)| Volume { name, size, content: None }));
    let disk = paths::out().join(name);
    image::write_volumes(&disk, &volumes)?;
    Ok(disk)
}

/// The initramfs with which `linux` goes on to the volume `root` as its first disk.
pub fn initramfs(linux: peer::Linux) -> Result<PathBuf> {
    let script = cmd::read(&paths::root().join("tests/linux/initramfs-init"))?;
    let name = format!("linux-{}", linux.flavour());
    let modules = linux.modules(&MODULES)?.into_iter().enumerate();
    // a shell lists them in this order
    let modules: Vec<_> = modules.map(|(n, (file, data))| (format!("modules/{n:02}-{file}"), data)).collect();
    initramfs::with_files(&name, &String::from_utf8_lossy(&script), &modules)
}
