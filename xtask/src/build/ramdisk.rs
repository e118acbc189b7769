//! dom0's ramdisk: a ustar archive with the guests' kernels and `xl.cfg` files.
//!
//! `boot/NAME` is the kernel of service NAME, `etc/xen/NAME.cfg` its configuration, and the
//! configurations under `etc/xen/auto/` are those which dom0 starts by itself. The archive is the same
//! byte for byte when its content is: no times, no owners.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{cmd, paths};

/// A file in the archive.
pub struct Entry {
    /// Its path, without a leading slash; at most 100 bytes.
    pub path: String,
    /// Its content.
    pub data: Vec<u8>,
}

/// Writes `target/oxen/dom0.tar` from the kernels `guests` and the configurations in `images/`.
pub fn write(guests: &[PathBuf]) -> Result<PathBuf> {
    let file = paths::out().join("dom0.tar");
    cmd::write(&file, &archive(&entries(guests)?)?)?;
    Ok(file)
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
    if entry.path.len() > 100 {
        bail!("{}: a path in the ramdisk has at most 100 bytes", entry.path);
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
