//! Node names: absolute, canonical, and cheap to share.

use super::error::Error;
use super::quota::Quota;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
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

fn digest(text: &str) -> u64 {
    let step = |digest: u64, word: u64| (digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let words = text.as_bytes().chunks_exact(8);
    let rest = words.remainder().iter().fold(text.len() as u64, |word, byte| word << 8 | u64::from(*byte));
    let words = words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
    step(words.fold(0, step), rest)
}

impl Path {
    fn new(text: impl Into<Rc<str>>) -> Path {
        let text = text.into();
        Path { digest: digest(&text), text }
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
        if well_formed(name) && name.len() <= ABS_PATH_MAX { Ok(Path::new(name)) } else { Err(Error::EINVAL) }
    }

    /// Completes `name` as `domain` means it: a relative name counts from the domain's home. `max` bounds what
    /// follows `/local/domain/N/` (any N), so that a limit does not depend on the number of digits.
    pub fn of(domain: DomId, name: &str, max: usize) -> Result<Path, Error> {
        let path = if name.starts_with(['/', '@']) {
            Path::absolute(name)?
        } else {
            Path::absolute(&format!("/local/domain/{}/{name}", domain.0))?
        };
        if path.counted_len() > max { Err(Error::Quota(Quota::PathLength)) } else { Ok(path) }
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
        if self.is_special() || &*self.text == "/" {
            return None;
        }
        match self.text.rfind('/') {
            Some(0) => Some(Path::root()),
            Some(at) => Some(Path::new(&self.text[..at])),
            None => None,
        }
    }

    /// The last component.
    pub fn leaf(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or("")
    }

    /// The node `name` below this one; `name` is one component of a well-formed path.
    pub fn child(&self, name: &str) -> Path {
        if &*self.text == "/" {
            Path::new(format!("/{name}"))
        } else {
            Path::new(format!("{}/{name}", self.text))
        }
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

fn well_formed(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
    name.bytes().all(legal)
        && (name == "/"
            || name.starts_with('@')
            || (name.starts_with('/') && !name.ends_with('/') && !name.contains("//")))
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
