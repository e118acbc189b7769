//! The guests' volumes: what the partitions of an image hold at first.
//!
//! What a run kept is found by a volume's name: a guest's data goes on from one image to the next whatever else is in
//! the two, and no image that is to keep volumes leaves one out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::gpt::Place;
use super::{ALIGNMENT, Content, RESERVED};
use crate::{cmd, paths};

/// A guest's volume.
pub struct Volume {
    /// Its name, and its partition's.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// What it holds at first.
    pub source: Source,
}

/// What a volume holds at first.
pub enum Source {
    /// Nothing.
    Empty,
    /// A file system with the content of a folder, always as that is now.
    Folder(PathBuf),
    /// A file's content.
    File(PathBuf),
    /// What it holds in the image before.
    Kept(Place),
}

/// A volume that a user adds: `NAME=FILE` or `NAME=SIZE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The file with what it holds at first.
    pub file: Option<PathBuf>,
}

impl Added {
    /// Reads `NAME=FILE` or `NAME=SIZE` as it was typed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, what) = text.split_once('=').ok_or("write it like data=2G or root=FILE")?;
        // what an `xl.cfg` may say without quotes, and a partition table hold
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(good) {
            return Err(format!(
                "a volume's name has 1 to {NAME_MAX} letters, digits, dots, dashes and underscores"
            ));
        }
        let (size, file) = match size(what) {
            Some(size) => (size, None),
            None => {
                let file =
                    paths::file(what).map_err(|error| format!("{what}: {error}, and not a size like 2G"))?;
                let size = std::fs::metadata(&file).map_err(|error| format!("{what}: {error}"))?.len();
                (size, Some(file))
            }
        };
        if size == 0 || size > SIZE_MAX {
            return Err(format!("{what}: a volume has at least one byte and at most {} TiB", SIZE_MAX >> 40));
        }
        Ok(Self { name: name.into(), size: size.next_multiple_of(ALIGNMENT), file })
    }
}

/// A size in bytes like `512M`, `1.5G` or `1T`: without its unit it would be a file's name.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit: u64 = match unit {
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        "T" | "t" => 1 << 40,
        _ => return None,
    };
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    Some((number.parse::<f64>().ok()? * unit as f64) as u64)
}

const BLOCK: u64 = 4096;
const INODE: u64 = 256;
/// The longest name that a partition table holds.
const NAME_MAX: usize = 36;
/// The largest volume: more is a slip of the finger.
const SIZE_MAX: u64 = 8 << 40;

/// The volumes of an image with `content`.
pub fn all(content: &Content) -> Result<Vec<Volume>> {
    let site = content.site.clone().unwrap_or_else(|| paths::root().join("images/site"));
    let size = Usage::of(&site)?.volume_size();
    let mut volumes = vec![
        Volume { name: "web".into(), size, source: Source::Folder(site) },
        Volume { name: "kv".into(), size: 64 << 20, source: Source::Empty },
    ];
    for Added { name, size, file } in &content.volumes {
        if RESERVED.contains(&name.as_str()) || volumes.iter().any(|other| other.name == *name) {
            bail!("--volume {name}: the image has a volume of this name already");
        }
        let source = file.clone().map_or(Source::Empty, Source::File);
        volumes.push(Volume { name: name.clone(), size: *size, source });
    }
    Ok(volumes)
}

/// Lets `volumes` hold what those of the image before do, `old`, and adds those of it that are missing. One may grow.
pub fn keep(volumes: &mut Vec<Volume>, old: &[Place]) -> Result<()> {
    for place in old {
        let kept = Source::Kept(place.clone());
        match volumes.iter_mut().find(|volume| volume.name == place.name) {
            Some(Volume { source: Source::Folder(_), .. }) => {}
            Some(volume) if matches!(volume.source, Source::Empty) && volume.size < place.size => bail!(
                "the volume {} to keep has {} MiB, and does not fit into {} MiB",
                place.name,
                place.size >> 20,
                volume.size >> 20
            ),
            Some(volume) => {
                volume.size = volume.size.max(place.size);
                volume.source = kept;
            }
            None => volumes.push(Volume { name: place.name.clone(), size: place.size, source: kept }),
        }
    }
    Ok(())
}

/// Makes the file system `file` of `size` bytes with the content of `folder`.
pub fn make(name: &str, size: u64, folder: &Path, file: &Path) -> Result<()> {
    std::fs::File::create(file)?.set_len(size)?;
    let inodes = Usage::of(folder)?.inodes();
    let mut command = cmd::program("mke2fs");
    command
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-b"])
        .args([&BLOCK.to_string(), "-I", &INODE.to_string(), "-N", &inodes.to_string()])
        .args(["-E", "root_owner=0:0,lazy_itable_init=0,hash_seed=4f78656e-2064-4069-b36b-000000000000"])
        .args(["-U", "4f78656e-2064-4069-b36b-000000000001", "-L", name, "-d"])
        .args([folder, file]);
    cmd::run(&mut command)
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

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_volume_is_a_size_or_a_file_and_what_it_cannot_be_is_told() {
        let sizes =
            ["2G", "1.5g", "100M", "1t"].map(|size| Added::parse(&format!("data={size}")).map(|v| v.size));
        assert_eq!(sizes, [2048, 1536, 100, 1 << 20].map(|mib| Ok(mib * MIB)));
        let this = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let file = Added::parse(&format!("a.b-c_1={this}")).expect("a file");
        assert_eq!(file, Added { name: "a.b-c_1".into(), size: MIB, file: Some(this.into()) });
        for (text, complaint) in [
            ("data", "write it like"),
            ("=2G", "a volume's name"),
            ("a,b=2G", "a volume's name"),
            ("a b=2G", "a volume's name"),
            ("a/b=2G", "a volume's name"),
            ("0123456789012345678901234567890123456=2G", "a volume's name"),
            ("a=0M", "at least one byte"),
            ("a=9T", "at most 8 TiB"),
            ("a=1e99T", "at most 8 TiB"),
            ("a=2", "not a size"),
            ("a=-2G", "not a size"),
            ("a=nanG", "not a size"),
            ("a=infG", "not a size"),
            ("a=2GB", "not a size"),
            ("a=", "not a size"),
            ("a=/nowhere", "/nowhere: No such file"),
            ("a=/", "/: not a file"),
            ("a=ÄÖÜ", "not a size"),
        ] {
            let error = Added::parse(text).expect_err(text);
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }

    #[test]
    fn an_image_has_each_name_once() {
        let with = |names: &[&str]| {
            let added = |name: &&str| Added { name: (*name).into(), size: MIB, file: None };
            all(&Content { volumes: names.iter().map(added).collect(), ..Content::default() })
        };
        assert_eq!(with(&["data", "Data"]).expect("two").len(), 4);
        for names in [&["web"][..], &["kv"], &["efi"], &["bios"], &["data", "data"]] {
            let error = with(names).err().expect("a name too many").to_string();
            assert!(error.contains("of this name already"), "{error}");
        }
    }

    #[test]
    fn what_is_kept_grows_and_is_never_left_out() {
        let volume = |name: &str, mib: u64, source| Volume { name: name.into(), size: mib * MIB, source };
        let place = |name: &str, mib: u64| Place { name: name.into(), offset: 0, size: mib * MIB };
        let mut volumes = vec![
            volume("web", 9, Source::Folder("site".into())),
            volume("new", 1, Source::Empty),
            volume("grown", 20, Source::Empty),
            volume("root", 5, Source::File("root.ext4".into())),
        ];
        let old = [place("web", 8), place("grown", 10), place("root", 7), place("forgotten", 3)];
        keep(&mut volumes, &old).expect("all fits");
        let seen: Vec<_> = volumes
            .iter()
            .map(|v| (v.name.as_str(), v.size / MIB, matches!(v.source, Source::Kept(_))))
            .collect();
        let expected = [("web", 9, false), ("new", 1, false), ("grown", 20, true), ("root", 7, true)];
        assert_eq!(seen, [&expected[..], &[("forgotten", 3, true)]].concat());
        assert!(keep(&mut vec![volume("grown", 5, Source::Empty)], &old).is_err(), "it shrinks");
    }
}
