//! What the scenarios boot: built when the first of them asks, once for all.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Result, anyhow};

use crate::build::ramdisk::{self, Entry};
use crate::build::{self, Built};
use crate::image::{self, Content};
use crate::services::crowd;
use crate::{cmd, paths, workspace};

/// The hypervisor, dom0, the services and the ramdisk.
pub fn built() -> Result<&'static Built> {
    static BUILT: OnceLock<Result<Built, String>> = OnceLock::new();
    once(&BUILT, || build::with(None, None, &[]))
}

/// A disk image of [`built`]. A machine that writes to it forgets what it wrote, or works on a copy.
pub fn image() -> Result<&'static Path> {
    static IMAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&IMAGE, || {
        let file = paths::out().join("test.img");
        image::write(&file, built()?, &Content::default(), false)?;
        Ok(file)
    })
    .map(PathBuf::as_path)
}

/// [`built`] with the tests' own files in the ramdisk: each `tests/configs/NAME.cfg` as
/// `/etc/xen/test/NAME.cfg`, a [`crowd`], each guest under `tests/guests/` as `/boot/NAME`, and `/boot/truncated`, a
/// kernel whose file ends early. No domain is started by itself.
pub fn with_test_files() -> Result<&'static Built> {
    static BUILT: OnceLock<Result<Built, String>> = OnceLock::new();
    once(&BUILT, || {
        let built = built()?;
        let packages = workspace::packages()?;
        let mut guests = built.guests.clone();
        for package in packages.iter().filter(|p| p.is_test_guest) {
            guests.push(build::kernel(&packages, &package.name)?);
        }
        let mut files = ramdisk::entries(&guests)?;
        files.retain(|entry| !entry.path.starts_with("etc/xen/auto/"));
        for entry in std::fs::read_dir(paths::root().join("tests/configs"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push(Entry { path: format!("etc/xen/test/{name}"), data: cmd::read(&entry.path())? });
        }
        files.extend(crowd::configs());
        let mut truncated = cmd::read(&paths::out().join("hello"))?;
        truncated.truncate(5000);
        files.push(Entry { path: "boot/truncated".into(), data: truncated });
        let ramdisk = paths::out().join("test.tar");
        cmd::write(&ramdisk, &ramdisk::archive(&files)?)?;
        Ok(Built { ramdisk, ..built.clone() })
    })
}

/// [`built`] with `files` as all that dom0's ramdisk holds, written to `target/oxen/NAME.tar`.
pub fn with_files(name: &str, files: &[Entry]) -> Result<Built> {
    let ramdisk = paths::out().join(format!("{name}.tar"));
    cmd::write(&ramdisk, &ramdisk::archive(files)?)?;
    Ok(Built { ramdisk, ..built()?.clone() })
}

/// [`built`] with the guest called `name` (a package under `tests/guests/`) as dom0.
pub fn with_dom0(built: &Built, name: &str) -> Result<Built> {
    let dom0 = build::kernel(&workspace::packages()?, name)?;
    Ok(Built { dom0, ..built.clone() })
}

/// `built` with a hypervisor that checks itself.
pub fn with_checked_hypervisor(built: &Built) -> Result<Built> {
    Ok(Built { hypervisor: build::checked_hypervisor()?, ..built.clone() })
}

/// [`built`] with a hypervisor that no Multiboot loader takes: PVH is left.
pub fn pvh_only(built: &Built) -> Result<Built> {
    const MAGIC: [u8; 4] = 0x1bad_b002u32.to_le_bytes();
    let mut file = cmd::read(&built.hypervisor)?;
    // Multiboot 1 is looked for in the first 8 KiB, at multiples of 4
    let at = file[..8192.min(file.len())].chunks_exact(4).position(|word| word == MAGIC);
    let at = at.ok_or_else(|| anyhow!("the hypervisor has no Multiboot 1 header"))? * 4;
    file[at..at + 4].fill(0);
    let hypervisor = paths::out().join("oxen-pvh");
    cmd::write(&hypervisor, &file)?;
    Ok(Built { hypervisor, ..built.clone() })
}

fn once<T>(
    cell: &'static OnceLock<Result<T, String>>,
    make: impl FnOnce() -> Result<T>,
) -> Result<&'static T> {
    let made = cell.get_or_init(|| make().map_err(|error| format!("{error:#}")));
    made.as_ref().map_err(|error| anyhow!("{error}"))
}
