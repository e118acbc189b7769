//! Node names: absolute, canonical, and cheap to share.

use super::error::Error;
use super::quota::Quota;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::borrow::Borrow;
use core::cmp::Ordering;
use core::fmt;
use shared_abi::DomId;
/// The longest path that anybody may name.
pub use shared_abi::io::xs_wire::XENSTORE_ABS_PATH_MAX as ABS_PATH_MAX;

/// An absolute path (`/local/domain/1/name`) or a special one (`@releaseDomain`), known to be well formed:
/// no empty component, no trailing slash, only letters, digits and `-/_@`.
///
/// Paths are ordered by a digest of theirs first: most begin alike, and a map of thousands would compare those
/// beginnings a dozen times for each look. Equal digests cost a comparison and no more, whoever contrives them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    digest: u64,
    text: Rc<str>,
}

/// A path, or the beginning of one, which is looked up without becoming a [`Path`].
#[derive(Clone, Copy)]
pub struct Prefix<'a> {
    digest: u64,
    text: &'a str,
}

/// What maps by [`Path`] are searched for: in the order of paths.
pub trait Key {
    /// The digest of the text.
    fn digest(&self) -> u64;
    /// The path as text.
    fn text(&self) -> &str;
}

impl Key for Path {
    fn digest(&self) -> u64 {
        self.digest
    }

    fn text(&self) -> &str {
        &self.text
    }
}

impl Key for Prefix<'_> {
    fn digest(&self) -> u64 {
        self.digest
    }

    fn text(&self) -> &str {
        self.text
    }
}

impl<'a> Borrow<dyn Key + 'a> for Path {
    fn borrow(&self) -> &(dyn Key + 'a) {
        self
    }
}

impl PartialEq for dyn Key + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn Key + '_ {}

impl PartialOrd for dyn Key + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Key + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.digest().cmp(&other.digest()).then_with(|| self.text().cmp(other.text()))
    }
}

/// The digest of a text that is one byte longer: so that of a path passes those of all nodes above it.
fn digest(before: u64, byte: u8) -> u64 {
    // FNV-1a.
    (before ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
}

const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

impl Path {
    fn new(text: impl Into<Rc<str>>) -> Path {
        let text = text.into();
        Path { digest: text.bytes().fold(EMPTY, digest), text }
    }

    /// The root, `/`.
    pub fn root() -> Path {
        Path::new("/")
    }

    /// The home of a domain, `/local/domain/N`.
    pub fn home(domain: DomId) -> Path {
        Path::new(format!("/local/domain/{}", domain.0))
    }

    /// Takes an absolute or special path as it is.
    pub fn absolute(name: &str) -> Result<Path, Error> {
        let digest = well_formed(name).filter(|_| name.len() <= ABS_PATH_MAX).ok_or(Error::EINVAL)?;
        Ok(Path { digest, text: name.into() })
    }

    /// Completes `name` as `domain` means it: a relative name counts from the domain's home. `max` bounds what
    /// follows `/local/domain/N/` (any N), so that a limit does not depend on the number of digits.
    pub fn of(domain: DomId, name: &str, max: usize) -> Result<Path, Error> {
        let path = if name.starts_with(['/', '@']) {
            Path::absolute(name)?
        } else {
            Path::absolute(&format!("/local/domain/{}/{name}", domain.0))?
        };
        if path.text.len() > max && path.counted_len() > max {
            Err(Error::Quota(Quota::PathLength))
        } else {
            Ok(path)
        }
    }

    fn counted_len(&self) -> usize {
        let counted = self
            .text
            .strip_prefix("/local/domain/")
            .and_then(|rest| rest.split_once('/'))
            .filter(|(id, _)| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
            .map_or(&*self.text, |(_, local)| local);
        counted.len()
    }

    /// Whether this names an event and no place in the tree.
    pub fn is_special(&self) -> bool {
        self.text.starts_with('@')
    }

    /// The node above; the root and special names have none.
    pub fn parent(&self) -> Option<Path> {
        self.above().map(|above| Path { digest: above.digest, text: above.text.into() })
    }

    /// The node above, to be looked up.
    pub fn above(&self) -> Option<Prefix<'_>> {
        if self.is_special() || self.text.len() == 1 {
            return None;
        }
        let text = &self.text[..self.slash().max(1)];
        Some(Prefix { digest: text.bytes().fold(EMPTY, digest), text })
    }

    /// The nodes on the way from the root to this one, both included; a special name is alone.
    pub fn way(&self) -> Way<'_> {
        Way { text: &self.text, end: 0, digest: EMPTY }
    }

    /// Where the last component's slash is; 0 in a special name.
    fn slash(&self) -> usize {
        self.text.bytes().rposition(|byte| byte == b'/').unwrap_or(0)
    }

    /// The last component.
    pub fn leaf(&self) -> &str {
        match self.text.bytes().rposition(|byte| byte == b'/') {
            Some(slash) => &self.text[slash + 1..],
            None => &self.text,
        }
    }

    /// The node `name` below this one; `name` is one component of a well-formed path.
    pub fn child(&self, name: &str) -> Path {
        let above = if self.text.len() == 1 { "" } else { &*self.text };
        Path::new([above, "/", name].concat())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What remains of this path below `home`, for a watch that was registered with a relative name.
    pub fn relative_to(&self, home: &Path) -> &str {
        self.text.strip_prefix(home.as_str()).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&self.text)
    }
}

/// The nodes that [`Path::way`] passes.
pub struct Way<'a> {
    text: &'a str,
    end: usize,
    digest: u64,
}

impl<'a> Iterator for Way<'a> {
    type Item = Prefix<'a>;

    fn next(&mut self) -> Option<Prefix<'a>> {
        let special = self.text.starts_with('@');
        let rest = self.text.as_bytes().get(self.end..).filter(|rest| !rest.is_empty())?;
        for (at, byte) in rest.iter().enumerate() {
            // The root is its own slash; any other node ends before the next one.
            if *byte == b'/' && at > 0 && !special {
                break;
            }
            self.digest = digest(self.digest, *byte);
            self.end += 1;
            if self.end == 1 && !special {
                break;
            }
        }
        Some(Prefix { digest: self.digest, text: &self.text[..self.end] })
    }
}

/// The digest of a name that is well formed.
fn well_formed(name: &str) -> Option<u64> {
    let special = name.starts_with('@');
    if !special && (!name.starts_with('/') || (name.len() > 1 && name.ends_with('/'))) {
        return None;
    }
    let (mut all, mut last) = (EMPTY, 0);
    for byte in name.bytes() {
        let legal = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'@' | b'/');
        if !legal || (byte == b'/' && last == b'/' && !special) {
            return None;
        }
        all = digest(all, byte);
        last = byte;
    }
    Some(all)
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

impl From<Path> for String {
    fn from(path: Path) -> String {
        String::from(&*path.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn only_well_formed_names_pass() {
        for good in ["/", "/a", "/a/b-c_d@e", "@releaseDomain", "@"] {
            assert!(Path::absolute(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "/a/", "//", "/a//b", "/a b", "/a.b", "/ä", "/a\0"] {
            assert!(Path::absolute(bad).is_err(), "{bad:?}");
        }
        assert!(Path::absolute(&format!("/{}", "a".repeat(ABS_PATH_MAX - 1))).is_ok());
        assert!(Path::absolute(&format!("/{}", "a".repeat(ABS_PATH_MAX))).is_err());
    }

    #[test]
    fn the_way_to_a_node_passes_the_nodes_above_it() {
        let way = |name: &str| -> Vec<String> {
            let path = Path::absolute(name).unwrap();
            for prefix in path.way() {
                let own = Path::absolute(prefix.text).unwrap();
                assert_eq!((own.digest, &*own.text), (prefix.digest, prefix.text));
                let (own, prefix): (&dyn Key, &dyn Key) = (&own, &prefix);
                assert!(own == prefix);
            }
            let mut above: Vec<Path> = core::iter::successors(Some(path.clone()), Path::parent).collect();
            above.reverse();
            let texts: Vec<String> = path.way().map(|prefix| prefix.text.into()).collect();
            assert_eq!(texts, above.iter().map(|path| path.as_str()).collect::<Vec<_>>());
            texts
        };
        assert_eq!(way("/"), ["/"]);
        assert_eq!(way("/a"), ["/", "/a"]);
        assert_eq!(way("/local/domain/1"), ["/", "/local", "/local/domain", "/local/domain/1"]);
        assert_eq!(way("@a/b"), ["@a/b"]);
    }

    #[test]
    fn children_and_leaves() {
        let path = Path::absolute("/a/b").unwrap();
        assert_eq!((path.leaf(), path.child("c").as_str()), ("b", "/a/b/c"));
        assert_eq!((Path::root().leaf(), Path::root().child("c").as_str()), ("", "/c"));
        assert_eq!(path.child("c"), Path::absolute("/a/b/c").unwrap());
    }

    #[test]
    fn relative_names_count_from_home_and_are_limited_by_their_own_length() {
        let path = Path::of(DomId(7), "device/vif/0", 100).unwrap();
        assert_eq!(path.as_str(), "/local/domain/7/device/vif/0");
        assert_eq!(path.relative_to(&Path::home(DomId(7))), "device/vif/0");
        assert_eq!(path.parent().unwrap().leaf(), "vif");
        assert!(Path::of(DomId(7), "abcd", 4).is_ok());
        assert!(Path::of(DomId(30000), "/local/domain/12345/abcd", 4).is_ok());
        assert_eq!(Path::of(DomId(7), "abcde", 4), Err(Error::Quota(Quota::PathLength)));
        assert_eq!(Path::of(DomId(7), "", 4), Err(Error::EINVAL));
    }
}
