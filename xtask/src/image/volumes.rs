//! The guests' volumes: what the partitions of an image hold at first.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{cmd, paths};

/// A guest's volume.
pub struct Volume {
    /// Its name, and its partition's.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: u64,
    content: Option<PathBuf>,
}

const BLOCK: u64 = 4096;
const INODE: u64 = 256;

/// The volumes of an image; `site` is the folder that `web` serves, `images/site` by default.
pub fn all(site: Option<&Path>) -> Result<Vec<Volume>> {
    let site = site.map_or_else(|| paths::root().join("images/site"), Path::to_path_buf);
    let usage = Usage::of(&site)?;
    Ok(vec![
        Volume { name: "web", size: usage.volume_size(), content: Some(site) },
        Volume { name: "kv", size: 64 << 20, content: None },
    ])
}

impl Volume {
    /// Makes the volume's first content as a file in `work`; none for an empty volume.
    pub fn make(&self, work: &Path) -> Result<Option<PathBuf>> {
        let Some(content) = &self.content else { return Ok(None) };
        let file = work.join(format!("{}.ext4", self.name));
        std::fs::File::create(&file)?.set_len(self.size)?;
        let inodes = Usage::of(content)?.inodes();
        let mut command = cmd::program("mke2fs");
        command
            .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-b"])
            .args([&BLOCK.to_string(), "-I", &INODE.to_string(), "-N", &inodes.to_string()])
            .args(["-E", "root_owner=0:0,lazy_itable_init=0,hash_seed=4f78656e-2064-4069-b36b-000000000000"])
            .args(["-U", "4f78656e-2064-4069-b36b-000000000001", "-L", self.name, "-d"])
            .args([content, &file]);
        cmd::run(&mut command)?;
        Ok(Some(file))
    }
}

/// What a folder's content takes on a file system.
#[derive(Default)]
struct Usage {
    blocks: u64,
    files: u64,
}

impl Usage {
    fn of(dir: &Path) -> Result<Self> {
        let mut usage = Self::default();
        usage.add(dir).with_context(|| format!("cannot read the folder {}", dir.display()))?;
        Ok(usage)
    }

    fn add(&mut self, dir: &Path) -> std::io::Result<()> {
        let mut names = 0;
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            names += 8 + entry.file_name().len() as u64 + 4;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                self.add(&entry.path())?;
            } else {
                self.files += 1;
                self.blocks += metadata.len().div_ceil(BLOCK) + 1;
            }
        }
        self.files += 1;
        self.blocks += 1 + names.div_ceil(BLOCK / 2);
        Ok(())
    }

    fn inodes(&self) -> u64 {
        self.files + self.files / 8 + 64
    }

    /// Room for the content, its inodes, the file system's own tables, and a quarter more.
    fn volume_size(&self) -> u64 {
        let needed = self.blocks * BLOCK + self.inodes() * INODE;
        (needed + needed / 4 + (8 << 20)).next_multiple_of(1 << 20)
    }
}
