//! An initramfs for Linux: one statically linked busybox and a script.
//!
//! The format is cpio's `newc` (Linux's Documentation/driver-api/early-userspace/buffer-format.rst).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::{cmd, paths};

/// The device that a console is: major and minor number.
const CONSOLE: (u32, u32) = (5, 1);

/// Writes `target/oxen/NAME.cpio`, whose first process runs `script` in busybox's shell.
pub fn write(name: &str, script: &str) -> Result<PathBuf> {
    with_files(name, script, &[])
}

/// [`write`] with more files: programs for `/bin`, kernel modules for `/modules`.
pub fn with_files(name: &str, script: &str, files: &[(String, Vec<u8>)]) -> Result<PathBuf> {
    let busybox = cmd::read(&paths::find_program("busybox").context("busybox is missing")?)?;
    let is_linked = busybox[..4096.min(busybox.len())].windows(8).any(|bytes| bytes == b"ld-linux");
    ensure!(!is_linked, "busybox needs libraries here: install the package busybox-static");
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "modules", "proc", "sbin", "sys"] {
        archive.add(directory, Node::Directory);
    }
    archive.add("dev/console", Node::Characters(CONSOLE));
    archive.add("bin/busybox", Node::File(&busybox));
    archive.add("init", Node::File(format!("#!/bin/busybox sh\n{script}\n").as_bytes()));
    for (path, data) in files {
        archive.add(path, Node::File(data));
    }
    let file = paths::out().join(format!("{name}.cpio"));
    cmd::write(&file, &archive.end())?;
    Ok(file)
}

/// What there is under a name.
pub enum Node<'a> {
    /// A folder.
    Directory,
    /// A file that may be executed.
    File(&'a [u8]),
    /// A symbolic link.
    Link(&'a str),
    /// A character device: major and minor number.
    Characters((u32, u32)),
}

/// An archive under construction. Linux unpacks several that follow each other.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a node; its folder comes before it.
    pub fn add(&mut self, path: &str, node: Node<'_>) {
        match node {
            Node::Directory => self.entry(path, 0o040_755, (0, 0), &[]),
            Node::File(data) => self.entry(path, 0o100_755, (0, 0), data),
            Node::Link(to) => self.entry(path, 0o120_777, (0, 0), to.as_bytes()),
            Node::Characters(device) => self.entry(path, 0o020_600, device, &[]),
        }
    }

    /// The whole.
    pub fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), data: &[u8]) {
        self.entries += 1;
        let (size, name) = (data.len() as u32, path.len() as u32 + 1);
        // inode, mode, owner, group, links, time, size, the file's device, its own, length of the name, sum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
