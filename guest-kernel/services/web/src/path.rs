//! From a request's target to a path on the volume.
//!
//! What leaves this file is a list of plain names joined by `/`: no `.`, `..`, empty name, NUL or
//! encoded slash. The filesystem never sees anything a client could climb with.

use alloc::string::String;
use alloc::vec::Vec;

/// A target that names nothing which could exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPath;

/// Where a target points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Starts with `/`; ends with `/` if the target did, so for a directory.
    pub name: String,
}

impl Path {
    /// Whether the target asks for a directory.
    pub fn is_directory(&self) -> bool {
        self.name.ends_with('/')
    }
}

/// Reads a target in origin form (`/a/b?query`) or absolute form (`http://host/a/b`), decodes `%xx`
/// and resolves dots.
pub fn parse(target: &str) -> Result<Path, BadPath> {
    let path = target.split(['?', '#']).next().unwrap_or("");
    let path = match path.split_once("://") {
        Some(("http" | "https", rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => path,
    };
    let encoded = path.strip_prefix('/').ok_or(BadPath)?;
    let mut names: Vec<String> = Vec::new();
    let mut directory = true;
    for part in encoded.split('/') {
        let name = decode(part)?;
        directory = matches!(name.as_str(), "" | "." | "..");
        match name.as_str() {
            "" | "." => {}
            ".." => {
                names.pop().ok_or(BadPath)?;
            }
            _ => names.push(name),
        }
    }
    let mut name = String::from("/");
    name.push_str(&names.join("/"));
    if directory && !names.is_empty() {
        name.push('/');
    }
    Ok(Path { name })
}

/// Decodes one name. An encoded slash or NUL would mean something else to the filesystem.
fn decode(part: &str) -> Result<String, BadPath> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let byte = match first {
            b'%' => {
                let (high, low) = (tail.first().ok_or(BadPath)?, tail.get(1).ok_or(BadPath)?);
                rest = &tail[2..];
                hex(*high)? << 4 | hex(*low)?
            }
            byte => byte,
        };
        if byte == b'/' || byte < 0x20 || byte == 0x7f {
            return Err(BadPath);
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| BadPath)
}

fn hex(digit: u8) -> Result<u8, BadPath> {
    char::from(digit).to_digit(16).map(|value| value as u8).ok_or(BadPath)
}

/// Writes a path so that it can stand in a `Location`.
pub fn encode(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for &byte in path.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~!$'()*+,;=:@&".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            for digit in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(u32::from(digit), 16).map(|c| c.to_ascii_uppercase()));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decodes_and_resolves() {
        for (target, name) in [
            ("/", "/"),
            ("/a/b.html?x=/../..", "/a/b.html"),
            ("/a%20b/%C3%A9", "/a b/é"),
            ("/a/./b/../c", "/a/c"),
            ("/a//b/", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/a/..", "/"),
            ("http://host:80/x", "/x"),
            ("http://host", "/"),
            ("/...", "/..."),
        ] {
            assert_eq!(parse(target).map(|path| path.name), Ok(name.into()), "{target}");
        }
        for bad in [
            "", "a", "*", "/..", "/a/../..", "/%2e%2e", "/a%2fb", "/%", "/%4", "/%zz", "/%00", "/%ff", "/%0a",
        ] {
            assert_eq!(parse(bad), Err(BadPath), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_target_climbs(target in "(/|\\.|%2e|%2E|%2f|a|%|\\\\|\\?|é){0,24}") {
            if let Ok(path) = parse(&target) {
                prop_assert!(path.name.starts_with('/'));
                let inner = path.name.trim_matches('/');
                prop_assert!(path.name == "/" || inner.split('/').all(|name| !matches!(name, "" | "." | "..")));
            }
        }

        #[test]
        fn an_encoded_path_is_read_back(names in prop::collection::vec("[^/\\x00-\\x1f\\x7f]{1,8}", 1..5)) {
            prop_assume!(names.iter().all(|name| name != "." && name != ".."));
            let name = std::format!("/{}", names.join("/"));
            prop_assert_eq!(parse(&encode(&name)), Ok(Path { name }));
        }
    }
}
