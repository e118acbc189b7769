//! The small Debian that users have as a guest, with `tests/linux/` on top of it.

use std::path::PathBuf;

use anyhow::Result;

use crate::debian::linux::Linux;
use crate::image::{self, Volume, linux};
use crate::{cmd, paths};

const ROOT_SIZE: u64 = 512 << 20;

/// The root file system as a folder of this host.
pub fn folder() -> PathBuf {
    paths::out().join("linux-root")
}

/// Writes a disk for dom0 to `target/oxen/NAME`: a volume `root` with the file system, the usual kernel in its `/boot`,
/// and `others`, which are empty.
pub fn disk(name: &str, others: &[(&'static str, u64)]) -> Result<PathBuf> {
    let root = folder();
    linux::tree(&root)?;
    let ours = paths::root().join("tests/linux");
    for (from, to) in [("etc", "etc"), ("checks", "checks"), ("grub", "boot/grub")] {
        std::fs::create_dir_all(root.join(to))?;
        linux::overlay(&ours.join(from), &root.join(to))?;
    }
    let mut compiler = cmd::program("cc");
    compiler.args(["-static", "-O2", "-Wall", "-o"]).arg(root.join("checks/abuse")).arg(ours.join("abuse.c"));
    cmd::run(&mut compiler)?;
    std::fs::copy(Linux::Generic.bzimage()?, root.join("boot/vmlinuz"))?;
    std::fs::copy(initramfs(Linux::Generic)?, root.join("boot/initramfs"))?;
    let volume = paths::out().join("linux-root.ext4");
    linux::file_system(&root, ROOT_SIZE, &volume)?;
    let mut volumes = vec![Volume { name: "root", size: ROOT_SIZE, content: Some(volume) }];
    volumes.extend(others.iter().map(|&(name, size)| Volume { name, size, content: None }));
    let disk = paths::out().join(name);
    image::write_volumes(&disk, &volumes)?;
    Ok(disk)
}

/// The initramfs with which `linux` goes on to the volume `root` as its first disk.
pub fn initramfs(linux: Linux) -> Result<PathBuf> {
    let init = paths::root().join("tests/linux/initramfs-init");
    linux::initramfs(linux, &format!("linux-{}", linux.flavour()), &init)
}
