//! The kernels that the distribution packages, with their modules.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{download, kept, take, unpacked};
use crate::{cmd, paths};

/// A kernel that the distribution packages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Linux {
    /// The usual one, packed with xz.
    Generic,
    /// The one for machines of a cloud, packed with LZ4; it is no dom0.
    Cloud,
}

impl Linux {
    /// The end of its packages' names.
    pub fn flavour(self) -> &'static str {
        match self {
            Linux::Generic => "amd64",
            Linux::Cloud => "cloud-amd64",
        }
    }

    /// Its bzImage.
    pub fn bzimage(self) -> Result<PathBuf> {
        kept(&format!("vmlinuz-{}", self.flavour()), |work| {
            let files = unpacked(&self.package()?, &["./boot/vmlinuz-*"], work)?;
            let file = std::fs::read_dir(files.join("boot"))?.flatten().next();
            cmd::read(&file.context("the kernel's package has no vmlinuz")?.path())
        })
    }

    /// Its modules of these names that are not part of the kernel itself, in this order: file name and content.
    pub fn modules(self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let flavour = self.flavour();
        // another list is another archive
        let archive = format!("modules-{flavour}-{:08x}.tar", crc32fast::hash(names.join(" ").as_bytes()));
        let archive = kept(&archive, |work| {
            let members: Vec<String> =
                names.iter().map(|name| format!("./lib/modules/*/{name}.ko")).collect();
            let mut members: Vec<&str> = members.iter().map(String::as_str).collect();
            members.push("./lib/modules/*/modules.builtin");
            let files = unpacked(&self.package()?, &members, work)?;
            let found = cmd::output(Command::new("find").arg(&files).args(["-name", "*.ko"]))?;
            let builtin = cmd::output(Command::new("find").arg(&files).args(["-name", "modules.builtin"]))?;
            let builtin = String::from_utf8_lossy(&cmd::read(Path::new(builtin.trim()))?).into_owned();
            let flat = work.join("flat");
            std::fs::create_dir_all(&flat)?;
            for name in names {
                let file = format!("/{name}.ko");
                if let Some(found) = found.lines().find(|path| path.ends_with(&file)) {
                    std::fs::copy(found, flat.join(&file[1..]))?;
                } else if !builtin.lines().any(|path| path.ends_with(&file)) {
                    bail!("the {flavour} kernel has no module {name}");
                }
            }
            let archive = work.join("flat.tar");
            cmd::run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&flat).arg("."))?;
            cmd::read(&archive)
        })?;
        let dir = paths::out().join(format!("modules-{flavour}"));
        cmd::fresh(&dir)?;
        cmd::run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&dir))?;
        let files = names.iter().map(|name| format!("{name}.ko")).filter(|name| dir.join(name).exists());
        files.map(|name| Ok((name.clone(), cmd::read(&dir.join(name))?))).collect()
    }

    /// Unpacks all its modules into the folder `into`, as in its package.
    pub fn all_modules(self, into: &Path) -> Result<()> {
        std::fs::create_dir_all(into)?;
        take(&self.package()?, &["./lib/modules/*"], into)
    }

    /// Its package's file.
    fn package(self) -> Result<PathBuf> {
        let meta = format!("linux-image-{}", self.flavour());
        kept(&format!("{meta}.deb"), |work| {
            let all = cmd::output(Command::new("apt-cache").args(["depends", &meta]))?;
            let name = all.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
            let name = name.with_context(|| format!("apt knows no {meta}: run `apt-get update`"))?;
            cmd::read(&download(&format!("linux-image-{name}"), work)?)
        })
    }
}
