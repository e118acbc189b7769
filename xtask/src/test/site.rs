//! A site of about a thousand files for the `web` guest: the sources of the crates that this build uses,
//! and generated files whose sizes lie around those of blocks and buffers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::image::{self, Content};
use crate::{cmd, paths};

use super::kit;

/// Files taken from the sources at most.
const SOURCES: usize = 1000;
/// A source's size at most, in bytes.
const LARGEST: u64 = 128 << 10;
/// Sizes of the generated files, in bytes.
const GENERATED: [usize; 12] =
    [0, 1, 1459, 1461, 4095, 4096, 4097, 65_535, 65_537, 300_001, (1 << 20) + 3, 2 << 20];

/// A folder and the paths of its files within it.
pub struct Site {
    /// The folder.
    pub dir: PathBuf,
    /// Paths from the folder, in the characters that a URL takes as they are.
    pub files: Vec<String>,
}

/// Makes the site, and a disk image whose `web` volume holds it.
pub fn with_image() -> Result<(Site, PathBuf)> {
    let dir = paths::out().join("site");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let mut site = Site { dir, files: Vec::new() };
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let sources = home.context("no home folder")?.join("registry/src");
    for registry in entries(&sources)? {
        site.take_sources(&registry, &registry)?;
    }
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for size in GENERATED {
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        })
        .take(size)
        .collect();
        site.add(format!("generated/{size}.bin"), &bytes)?;
    }
    if site.files.len() < 200 {
        bail!("{} holds only {} files", sources.display(), site.files.len());
    }
    let image = paths::out().join("test-web.img");
    let content = Content { site: Some(site.dir.clone()), ..Content::default() };
    image::write(&image, kit::built()?, &content, false)?;
    Ok((site, image))
}

impl Site {
    fn take_sources(&mut self, root: &Path, dir: &Path) -> Result<()> {
        for path in entries(dir)? {
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
            if !name.chars().all(plain) || name.contains("/.") || self.files.len() >= SOURCES {
                continue;
            }
            let metadata = std::fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                self.take_sources(root, &path)?;
            } else if metadata.is_file() && metadata.len() <= LARGEST {
                self.add(name, &cmd::read(&path)?)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String, data: &[u8]) -> Result<()> {
        let path = self.dir.join(&name);
        std::fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
        cmd::write(&path, data)?;
        self.files.push(name);
        Ok(())
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut paths: Vec<PathBuf> = read.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}
