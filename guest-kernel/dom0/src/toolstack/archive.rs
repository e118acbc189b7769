//! The files dom0 has: kernels, ramdisks and `.cfg` files, from a tar archive that was loaded with it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// Files by path. A leading `/` or `./` makes no difference.
pub trait Files {
    /// The contents of a file.
    fn read(&self, path: &str) -> Option<&[u8]>;
    /// The paths of all files, in order, without a leading slash.
    fn list(&self) -> Vec<&str>;
}

/// A tar archive in memory: POSIX ustar with GNU's long names.
pub struct Archive<'a> {
    files: BTreeMap<String, &'a [u8]>,
}

const BLOCK: usize = 512;

fn clean(path: &str) -> &str {
    let mut path = path;
    while let Some(rest) = path.strip_prefix('/').or_else(|| path.strip_prefix("./")) {
        path = rest;
    }
    path
}

fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    core::str::from_utf8(&field[..end]).ok()
}

impl<'a> Archive<'a> {
    /// Indexes an archive. What follows the first damaged header is not seen; `Err` has what could be read
    /// and where the damage is.
    pub fn open(bytes: &'a [u8]) -> Result<Archive<'a>, (Archive<'a>, usize)> {
        let mut files = BTreeMap::new();
        let mut long_name: Option<String> = None;
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + BLOCK) {
            if header.iter().all(|byte| *byte == 0) {
                break;
            }
            let Some((name, size, kind)) = entry(header) else { return Err((Archive { files }, at)) };
            let Some(data) = bytes.get(at + BLOCK..).and_then(|rest| rest.get(..size)) else {
                return Err((Archive { files }, at));
            };
            match kind {
                b'L' => long_name = text(data).map(String::from),
                b'0' | 0 => {
                    let name = long_name.take().unwrap_or(name);
                    files.insert(clean(&name).into(), data);
                }
                _ => long_name = None,
            }
            // No overflow: `data` lies inside the archive.
            at += BLOCK + size.next_multiple_of(BLOCK);
        }
        Ok(Archive { files })
    }
}

/// Name, size and type of a header whose checksum is right.
fn entry(header: &[u8]) -> Option<(String, usize, u8)> {
    let octal = |field: &[u8]| usize::from_str_radix(text(field)?.trim(), 8).ok();
    let sum: usize = header
        .iter()
        .enumerate()
        .map(|(n, byte)| if (148..156).contains(&n) { 32 } else { usize::from(*byte) })
        .sum();
    if octal(&header[148..156])? != sum {
        return None;
    }
    let mut name = String::new();
    if &header[257..262] == b"ustar" {
        let prefix = text(&header[345..500])?;
        name.push_str(prefix);
        name.push_str(if prefix.is_empty() { "" } else { "/" });
    }
    name.push_str(text(&header[..100])?);
    Some((name, octal(&header[124..136])?, header[156]))
}

impl Files for Archive<'_> {
    fn read(&self, path: &str) -> Option<&[u8]> {
        self.files.get(clean(path)).copied()
    }

    fn list(&self) -> Vec<&str> {
        self.files.keys().map(String::as_str).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;
    use proptest::prelude::*;

    pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut add = |name: &str, kind: u8, data: &[u8]| {
            let mut header = vec![0u8; BLOCK];
            header[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
            header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
            header[156] = kind;
            header[257..265].copy_from_slice(b"ustar\x0000");
            header[148..156].fill(b' ');
            let sum: usize = header.iter().map(|byte| usize::from(*byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            out.extend(header);
            out.extend(data);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        };
        for (name, data) in files {
            if name.len() > 100 {
                add("././@LongLink", b'L', &[name.as_bytes(), b"\0"].concat());
            }
            add(name, b'0', data);
        }
        out.extend([0; 2 * BLOCK]);
        out
    }

    #[test]
    fn files_are_found_with_any_spelling_of_their_path() {
        let long = format!("dir/{}", "x".repeat(150));
        let bytes = tar(&[("./boot/web", b"kernel"), (&long, b"long"), ("empty", b"")]);
        let archive = Archive::open(&bytes).ok().unwrap();
        assert_eq!(archive.list(), ["boot/web", long.as_str(), "empty"]);
        assert_eq!(archive.read("/boot/web"), Some(&b"kernel"[..]));
        assert_eq!(archive.read(&long), Some(&b"long"[..]));
        assert_eq!(archive.read("./empty"), Some(&b""[..]));
        assert_eq!(archive.read("web"), None);
    }

    proptest! {
        #[test]
        fn damage_loses_only_what_follows_it(at in 0usize..4000, byte in any::<u8>(), len in 0usize..4000) {
            let mut bytes = tar(&[("a", b"first"), ("b", &[7; 700]), ("c", b"third")]);
            let whole = bytes.len();
            bytes[at % whole] = byte;
            bytes.truncate(whole.min(len));
            let archive = match Archive::open(&bytes) { Ok(archive) | Err((archive, _)) => archive };
            prop_assert!(archive.list().len() <= 3);
        }
    }
}
