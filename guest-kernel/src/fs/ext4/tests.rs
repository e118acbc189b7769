use super::*;
use crate::block::MemoryDisk;
use crate::fake::Rng;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::format;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

/// Runs a future that never waits, as those over a memory disk.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a memory disk does not wait"),
    }
}

/// A folder that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("oxen-ext4-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Files of every awkward size, a large directory, holes, and links.
fn plant(root: &Path, seed: u64) {
    let mut rng = Rng(seed);
    let mut file = |path: PathBuf, len: usize| {
        let bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes()).collect();
        std::fs::write(path, &bytes[..len]).expect("a file");
    };
    for len in [0, 1, 511, 512, 513, 1023, 1024, 4095, 4096, 4097, 70_000, 131_072, 1_500_001] {
        file(root.join(format!("f{len}")), len);
    }
    let many = root.join("many");
    std::fs::create_dir(&many).expect("a folder");
    for number in 0..700 {
        file(many.join(format!("{number}-{}", "x".repeat(number % 200))), number);
    }
    let deep = root.join("a/b/c/d");
    std::fs::create_dir_all(&deep).expect("folders");
    file(deep.join("leaf"), 10_000);
    let link = |target: &str, at: &str| {
        std::os::unix::fs::symlink(target, root.join(at)).expect("a link");
    };
    link("a/b/c/d/leaf", "short");
    link("/a/b/../b/c/d/leaf", "absolute");
    link(&format!("{}a/b/c/d/leaf", "./".repeat(60)), "long");
    link("../../f4097", "a/b/up");
    link("b", "a/again");
    link("loop2", "loop1");
    link("loop1", "loop2");
    link("nowhere", "dangling");
    // Data in islands, more of them than an inode has room for extents.
    let sparse = std::fs::File::create(root.join("sparse")).expect("a file");
    use std::os::unix::fs::FileExt;
    for island in 0..40u64 {
        sparse.write_all_at(&[island as u8 + 1; 5000], island * 100_000).expect("an island");
    }
    sparse.set_len(4_100_003).expect("a length");
}

fn image(source: &Path, file: &Path, block: u32) -> Vec<u8> {
    let made = Command::new("mke2fs")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-b", &format!("{block}"), "-d"])
        .args([source, file])
        .arg("24m")
        .output()
        .expect("mke2fs, from e2fsprogs");
    assert!(made.status.success(), "{made:?}");
    std::fs::read(file).expect("the image")
}

/// All files below `root`, by their path in it.
fn walk(root: &Path, at: &str, found: &mut BTreeMap<String, Kind>) {
    for entry in std::fs::read_dir(root.join(at)).expect("a folder") {
        let entry = entry.expect("an entry");
        let path = format!("{at}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            walk(root, &format!("{path}/"), found);
            found.insert(path, Kind::Directory);
        } else {
            found.insert(path, if kind.is_symlink() { Kind::Link } else { Kind::File });
        }
    }
}

/// What mke2fs has written is read back, byte for byte, in pieces of all kinds; the crate
/// `ext4-view` agrees about every name.
#[test]
fn reads_what_mke2fs_wrote() {
    for block in [1024, 4096] {
        let scratch = Scratch::new(&format!("read{block}"));
        let source = scratch.0.join("source");
        std::fs::create_dir(&source).expect("a folder");
        plant(&source, block.into());
        let bytes = image(&source, &scratch.0.join("image"), block);
        let oracle = ext4_view::Ext4::load(std::boxed::Box::new(bytes.clone())).expect("the oracle mounts");
        let fs = now(Ext4::mount(MemoryDisk::from_bytes(bytes).read_only())).expect("mounts");
        let mut paths = BTreeMap::new();
        walk(&source, "", &mut paths);
        assert!(paths.len() > 700);
        let mut rng = Rng(9);
        for (path, kind) in &paths {
            let full = format!("/{path}");
            let real = source.join(path);
            if *kind == Kind::Directory {
                let mut names: Vec<_> =
                    now(fs.read_dir(path)).expect("a directory").into_iter().map(|e| e.name).collect();
                let mut known: Vec<String> = std::fs::read_dir(&real)
                    .expect("a folder")
                    .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
                    .collect();
                names.sort();
                known.sort();
                assert_eq!(names, known);
                assert_eq!(now(fs.open(path)).err(), Some(FsError::NotAFile));
                continue;
            }
            let expected = match path.as_str() {
                "absolute" => std::fs::read(source.join("a/b/c/d/leaf")).ok(),
                _ => std::fs::read(&real).ok(),
            };
            let Some(expected) = expected else {
                let error = now(fs.open(path)).err();
                let why = match path.as_str() {
                    "a/again" => FsError::NotAFile,
                    "loop1" | "loop2" => FsError::TooManyLinks,
                    _ => FsError::NotFound,
                };
                assert_eq!(error, Some(why), "{path}");
                continue;
            };
            let file = now(fs.open(&full)).expect("a file");
            assert_eq!(file.metadata().size, expected.len() as u64, "{path}");
            let mut whole = vec![0xee; expected.len() + 7];
            assert_eq!(now(file.read_at(0, &mut whole)), Ok(expected.len()));
            assert!(whole[..expected.len()] == expected, "{path}");
            assert!(oracle.read(full.as_str()).expect("the oracle reads") == expected, "{path}");
            for _ in 0..6 {
                let offset = rng.below(expected.len() as u64 + 100);
                let mut part = vec![0; rng.below(20_000) as usize];
                let count = now(file.read_at(offset, &mut part)).expect("readable");
                let from = expected.len().min(offset as usize);
                assert_eq!(
                    part[..count],
                    expected[from..expected.len().min(from + part.len())],
                    "{path} {offset}"
                );
            }
        }
        assert_eq!(now(fs.open("a/again/c/d/leaf")).map(|f| f.metadata().size), Ok(10_000));
        assert_eq!(now(fs.open("f1/x")).err(), Some(FsError::NotADirectory));
        assert_eq!(now(fs.metadata("")).map(|m| m.kind), Ok(Kind::Directory));
        assert_eq!(now(fs.metadata("../../a")).map(|m| m.kind), Ok(Kind::Directory));
    }
}

#[test]
fn other_disks_are_refused() {
    let mount = |bytes: Vec<u8>| now(Ext4::mount(MemoryDisk::from_bytes(bytes))).err();
    assert_eq!(mount(vec![0; 8192]), Some(FsError::Corrupt));
    assert_eq!(mount(vec![0; 512]), Some(FsError::Disk(crate::block::BlockError::OutOfRange)));
    let mut small = SMALL.0.clone();
    // RECOVER: the journal holds blocks that this reader would miss.
    small[1024 + 0x60] |= 4;
    assert_eq!(mount(small), Some(FsError::Feature(4)));
}

/// A small image, and its names.
static SMALL: LazyLock<(Vec<u8>, Vec<String>)> = LazyLock::new(|| {
    let scratch = Scratch::new("small");
    let source = scratch.0.join("source");
    std::fs::create_dir(&source).expect("a folder");
    plant(&source, 1);
    let mut paths = BTreeMap::new();
    walk(&source, "", &mut paths);
    (image(&source, &scratch.0.join("image"), 1024), paths.into_keys().step_by(7).collect())
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A damaged image: wrong answers and errors, but no panic and no endless loop.
    #[test]
    fn damage_is_survived(seed: u64, hits in 1usize..400) {
        let (mut bytes, paths) = (SMALL.0.clone(), &SMALL.1);
        let mut rng = Rng(seed);
        // Where the metadata is: superblock, descriptors, the first inode tables and directories.
        for _ in 0..hits {
            let at = 1024 + rng.below(900_000) as usize;
            bytes[at] = if rng.below(2) == 0 { rng.next() as u8 } else { 0xff };
        }
        // Hit some in the superblock itself, away from the magic number.
        if seed % 2 == 0 { bytes[1024 + 4 + rng.below(40) as usize] ^= 1 << rng.below(8); }
        if let Ok(fs) = now(Ext4::mount(MemoryDisk::from_bytes(bytes))) {
            let mut buffer = vec![0; 5000];
            for path in paths {
                let _ = now(fs.read_dir(path));
                if let Ok(file) = now(fs.open(path)) {
                    for offset in [0, 4000, 1 << 20, u64::MAX - 3, file.metadata().size.saturating_sub(10)] {
                        let _ = now(file.read_at(offset, &mut buffer));
                    }
                }
            }
        }
    }
}
