//! Who may read and write a node.

use super::error::Error;
use alloc::vec::Vec;
use core::fmt::Write;
use shared_abi::DomId;

/// What a domain may do with a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// See its value and children.
    pub read: bool,
    /// Change its value, add children, remove it.
    pub write: bool,
    /// Change its permissions.
    pub owner: bool,
}

impl Rights {
    /// To read.
    pub const READ: Rights = Rights { read: true, write: false, owner: false };
    /// To write.
    pub const WRITE: Rights = Rights { read: false, write: true, owner: false };
    /// To change permissions.
    pub const CONTROL: Rights = Rights { read: false, write: true, owner: true };
    /// Everything.
    pub const ALL: Rights = Rights { read: true, write: true, owner: true };

    /// Whether these rights include all of `need`.
    pub fn cover(self, need: Rights) -> bool {
        (self.read || !need.read) && (self.write || !need.write) && (self.owner || !need.owner)
    }

    fn letter(self) -> char {
        match (self.read, self.write) {
            (false, false) => 'n',
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
        }
    }
}

/// Who is asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who {
    /// The domain of the connection.
    pub domain: DomId,
    /// The domain that it stands in for (a device model's guest), by SET_TARGET.
    pub target: Option<DomId>,
    /// Whether permissions and quotas do not bind it.
    pub privileged: bool,
}

impl Who {
    /// dom0 itself.
    pub const DOM0: Who = Who { domain: DomId(0), target: None, privileged: true };

    /// An ordinary domain.
    pub fn guest(domain: DomId) -> Who {
        Who { domain, target: None, privileged: false }
    }

    fn is(&self, domain: DomId) -> bool {
        self.domain == domain || self.target == Some(domain)
    }
}

/// A node's permission list. Its first entry is the owner, with what everybody else may do; the others name
/// what single domains may do. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Perms {
    owner: DomId,
    others: Rights,
    named: Vec<(DomId, Rights)>,
}

impl Perms {
    /// Owned by `owner`, with `others` for everybody else.
    pub fn new(owner: DomId, others: Rights) -> Perms {
        Perms { owner, others, named: Vec::new() }
    }

    /// With one more domain named.
    pub fn with(mut self, domain: DomId, rights: Rights) -> Perms {
        self.named.push((domain, rights));
        self
    }

    /// The owner.
    pub fn owner(&self) -> DomId {
        self.owner
    }

    /// The same list under another owner: what a node that `owner` creates inherits.
    pub fn owned_by(&self, owner: DomId) -> Perms {
        Perms { owner, ..self.clone() }
    }

    /// Number of entries, the owner's included.
    pub fn entries(&self) -> usize {
        1 + self.named.len()
    }

    /// What `who` may do.
    pub fn rights(&self, who: &Who) -> Rights {
        if who.privileged || who.is(self.owner) {
            return Rights::ALL;
        }
        self.named.iter().find(|(domain, _)| who.is(*domain)).map_or(self.others, |(_, rights)| *rights)
    }

    /// Whether `domain` is named (not as the owner).
    pub fn names(&self, domain: DomId) -> bool {
        self.named.iter().any(|(named, _)| *named == domain)
    }

    /// The domains that are named, a domain as often as it has entries.
    pub fn named(&self) -> impl Iterator<Item = DomId> {
        self.named.iter().map(|(domain, _)| *domain)
    }

    /// The list without `domain`, whose number may go to another domain now.
    pub fn without(&self, domain: DomId) -> Perms {
        let mut perms = self.clone();
        perms.named.retain(|(named, _)| *named != domain);
        perms
    }

    /// Reads the zero-terminated strings of GET_PERMS and SET_PERMS: a letter of `nrwb` and a domain number.
    pub fn parse(bytes: &[u8]) -> Result<Perms, Error> {
        let text = bytes.strip_suffix(b"\0").ok_or(Error::EINVAL)?;
        let mut entries = text.split(|byte| *byte == 0).map(parse_entry);
        let (owner, others) = entries.next().ok_or(Error::EINVAL)??;
        Ok(Perms { owner, others, named: entries.collect::<Result<_, _>>()? })
    }

    /// The list as GET_PERMS returns it.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut text = alloc::string::String::new();
        for (domain, rights) in core::iter::once(&(self.owner, self.others)).chain(&self.named) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{}\0", rights.letter(), domain.0);
        }
        text.into_bytes()
    }
}

fn parse_entry(entry: &[u8]) -> Result<(DomId, Rights), Error> {
    let (letter, number) = entry.split_first().ok_or(Error::EINVAL)?;
    let (read, write) = match letter {
        b'n' => (false, false),
        b'r' => (true, false),
        b'w' => (false, true),
        b'b' => (true, true),
        _ => return Err(Error::EINVAL),
    };
    let digits = core::str::from_utf8(number).map_err(|_| Error::EINVAL)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Error::EINVAL);
    }
    let domain = digits.parse().map_err(|_| Error::EINVAL)?;
    Ok((DomId(domain), Rights { read, write, owner: false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_is_owner_and_default() {
        let perms = Perms::parse(b"r1\0b2\0n3\0").unwrap();
        assert_eq!(perms.to_wire(), b"r1\0b2\0n3\0");
        let rights = |domain| perms.rights(&Who::guest(DomId(domain)));
        assert_eq!(rights(1), Rights::ALL);
        assert!(rights(2).cover(Rights { read: true, write: true, owner: false }));
        assert!(!rights(2).owner && !rights(3).read);
        assert!(rights(4).read && !rights(4).write);
        assert_eq!(perms.rights(&Who::DOM0), Rights::ALL);
        let stand_in = Who { target: Some(DomId(1)), ..Who::guest(DomId(9)) };
        assert_eq!(perms.rights(&stand_in), Rights::ALL);
    }

    #[test]
    fn malformed_lists_are_refused() {
        for bad in
            [&b""[..], b"\0", b"r", b"r1", b"x1\0", b"r\0", b"r1\0\0", b"r+1\0", b"r65536\0", b"r\xff\0"]
        {
            assert_eq!(Perms::parse(bad), Err(Error::EINVAL), "{bad:?}");
        }
    }
}
