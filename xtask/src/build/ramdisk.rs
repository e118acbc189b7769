//! dom0's ramdisk: a ustar archive with the guests' kernels and `xl.cfg` files.
//!
//! `boot/NAME` is the kernel of service NAME, `etc/xen/NAME.cfg` its configuration, and the
//! configurations under `etc/xen/auto/` are those which dom0 starts by itself. The archive is the same
//! byte for byte when its content is: no times, no owners.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bzimage::Kernel;

use crate::{cmd, paths};

/// The longest path, in bytes.
const PATH_MAX: usize = 100;
/// What dom0 has left while it unpacks a kernel, and what that takes beside its result.
const UNPACKING: u64 = 16 << 20;

/// A file in the archive.
pub struct Entry {
    /// Its path, without a leading slash; at most 100 bytes.
    pub path: String,
    /// Its content.
    pub data: Vec<u8>,
}

/// The most that files beside our own may take together: they are in memory twice while the machine boots.
const ADDED_MAX: u64 = 512 << 20;

/// A file that a user adds: `PATH=FILE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Added {
    /// Its path in the ramdisk, without the leading slash.
    pub path: String,
    /// The file on this host.
    pub file: PathBuf,
}

impl Added {
    /// Reads `PATH=FILE` as it was typed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, file) = text.split_once('=').ok_or("write it like /boot/vmlinuz=FILE")?;
        let path = path.strip_prefix('/').ok_or("the path in the ramdisk begins with a slash")?;
        if path.split('/').any(|name| ["", ".", ".."].contains(&name)) || path.contains(char::is_control) {
            return Err("the path in the ramdisk is that of a file, like /boot/vmlinuz".into());
        }
        if path.len() > PATH_MAX {
            return Err(format!("a path in the ramdisk has at most {PATH_MAX} bytes"));
        }
        let file = paths::file(file).map_err(|error| format!("{file}: {error}"))?;
        Ok(Self { path: path.into(), file })
    }
}

/// Writes `target/oxen/dom0.tar` from the kernels `guests`, the configurations in `images/` and what is `added`,
/// which takes the place of a file of ours; the file, and how many MiB dom0 needs for what is added.
pub fn write(guests: &[PathBuf], added: &[Added]) -> Result<(PathBuf, u64)> {
    let mut entries = entries(guests)?;
    let (mut bytes, mut unpacked) = (0, 0);
    for Added { path, file } in added {
        // before it is read
        bytes += std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
        if bytes > ADDED_MAX {
            bail!(
                "{}: the files for dom0's ramdisk have more than {} MiB together; a volume may be larger",
                file.display(),
                ADDED_MAX >> 20
            );
        }
        let data = cmd::read(file)?;
        // a domain's kernel is unpacked in dom0's memory, one at a time
        if let Ok(Kernel::Packed(packed)) = bzimage::open(&data) {
            unpacked = unpacked.max(packed.size() as u64 + UNPACKING);
        }
        entries.retain(|entry| entry.path != *path);
        entries.push(Entry { path: path.clone(), data });
    }
    let file = paths::out().join("dom0.tar");
    cmd::write(&file, &archive(&entries)?)?;
    Ok((file, (bytes + unpacked).div_ceil(1 << 20)))
}

/// What is in the ramdisk of the kernels `guests`.
pub fn entries(guests: &[PathBuf]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for kernel in guests {
        let name = kernel.file_name().and_then(|n| n.to_str()).context("a kernel without a name")?;
        entries.push(Entry { path: format!("boot/{name}"), data: cmd::read(kernel)? });
    }
    let images = paths::root().join("images");
    configs(&images, "etc/xen", guests, &mut entries)?;
    configs(&images.join("auto"), "etc/xen/auto", guests, &mut entries)?;
    Ok(entries)
}

/// Adds each `dir/NAME.cfg` whose kernel is among `guests`, as `into/NAME.cfg`.
fn configs(dir: &Path, into: &str, guests: &[PathBuf], entries: &mut Vec<Entry>) -> Result<()> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "cfg"));
    files.retain(|f| guests.iter().any(|g| g.file_name() == f.file_stem()));
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        entries.push(Entry { path: format!("{into}/{name}"), data: cmd::read(&file)? });
    }
    Ok(())
}

/// `entries` as a ustar archive.
pub fn archive(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut tar = Vec::new();
    for entry in entries {
        tar.extend(header(entry)?);
        tar.extend(&entry.data);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0); // two zero blocks end an archive
    Ok(tar)
}

fn header(entry: &Entry) -> Result<[u8; 512]> {
    let mut block = [0u8; 512];
    if entry.path.len() > PATH_MAX {
        bail!("{}: a path in the ramdisk has at most {PATH_MAX} bytes", entry.path);
    }
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &entry.path);
    put(100, "0000644\0"); // mode
    put(108, "0000000\0"); // owner
    put(116, "0000000\0"); // group
    put(124, &format!("{:011o}\0", entry.data.len()));
    put(136, "00000000000\0"); // time
    put(148, "        "); // the checksum counts itself as spaces
    put(156, "0"); // a plain file
    put(257, "ustar\x0000");
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn a_file_is_added_by_its_path_and_what_cannot_be_is_told() {
        let this = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let added = Added::parse(&format!("/etc/xen/a.cfg={this}")).expect("a file");
        assert_eq!(added, Added { path: "etc/xen/a.cfg".into(), file: this.into() });
        let long = format!("/{}", "x".repeat(PATH_MAX + 1));
        for (path, file, complaint) in [
            ("boot/x", this, "begins with a slash"),
            ("/", this, "that of a file"),
            ("/boot/", this, "that of a file"),
            ("/boot//x", this, "that of a file"),
            ("/../x", this, "that of a file"),
            (long.as_str(), this, "at most 100 bytes"),
            ("/x", "/nowhere/x", "/nowhere/x: No such file"),
            ("/x", env!("CARGO_MANIFEST_DIR"), "not a file"),
            ("/x", "", "empty path"),
        ] {
            let error = Added::parse(&format!("{path}={file}")).expect_err(path);
            assert!(error.to_lowercase().contains(&complaint.to_lowercase()), "{path}={file}: {error}");
        }
        assert!(Added::parse("/boot/x").is_err());
    }

    #[test]
    fn tar_reads_what_we_write() {
        let entries = [
            Entry { path: "boot/web".into(), data: vec![7; 1000] },
            Entry { path: "etc/xen/auto/web.cfg".into(), data: b"name = \"web\"\n".to_vec() },
        ];
        let mut tar = Command::new("tar")
            .args(["-xO", "etc/xen/auto/web.cfg", "boot/web"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar");
        tar.stdin.take().expect("piped").write_all(&archive(&entries).expect("short paths")).expect("read");
        let out = tar.wait_with_output().expect("tar ends");
        assert!(out.status.success());
        assert_eq!(out.stdout, [&[7; 1000][..], b"name = \"web\"\n"].concat());
    }
}
