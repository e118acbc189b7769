//! Messages, and the texts in them.

use crate::hypercall::Errno;
use alloc::format;
use alloc::vec::Vec;
use shared_abi::DomId;
use shared_abi::io::xs_wire::{XENSTORE_PAYLOAD_MAX, XS_ERROR, XSD_ERRORS, XsdSockmsg};
use zerocopy::{FromBytes, IntoBytes};

/// A reply to `XS_DIRECTORY_PART`: what fits of a node's children, from an offset on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryPart<'a> {
    /// Changes with the node: parts of different generations do not belong together.
    pub generation: &'a [u8],
    /// Names, each ended by a zero. The next part's offset is this one's and their length.
    pub names: &'a [u8],
    /// There are no more.
    pub last: bool,
}

impl DirectoryPart<'_> {
    /// Takes a reply apart: the generation, the names, and an empty name behind the last one.
    pub fn parse(payload: &[u8]) -> Option<DirectoryPart<'_>> {
        let cut = payload.iter().position(|byte| *byte == 0)?;
        let (generation, rest) = (&payload[..cut], &payload[cut + 1..]);
        let (names, last) = match rest {
            [0] => (&rest[..0], true),
            [names @ .., 0, 0] => (&rest[..names.len() + 1], true),
            [.., 0] => (rest, false),
            _ => return None,
        };
        Some(DirectoryPart { generation, names, last })
    }
}

/// A request, a reply or a watch event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// `XS_*`.
    pub kind: u32,
    /// Chosen by the client; the reply has the request's.
    pub request: u32,
    /// The transaction, or 0.
    pub transaction: u32,
    /// At most [`XENSTORE_PAYLOAD_MAX`] bytes.
    pub payload: Vec<u8>,
}

impl Message {
    /// The bytes that go over a ring.
    pub fn encode(&self) -> Vec<u8> {
        let header = XsdSockmsg {
            r#type: self.kind,
            req_id: self.request,
            tx_id: self.transaction,
            len: self.payload.len() as u32,
        };
        let mut bytes = Vec::with_capacity(size_of::<XsdSockmsg>() + self.payload.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Takes the first message off `bytes`, if it is there whole. `EIO` if it claims to be longer
    /// than any may be.
    pub(super) fn take(bytes: &mut Vec<u8>) -> Result<Option<Message>, Errno> {
        let Ok((header, rest)) = XsdSockmsg::read_from_prefix(bytes) else { return Ok(None) };
        let len = header.len as usize;
        if len > XENSTORE_PAYLOAD_MAX {
            return Err(Errno::EIO);
        }
        if rest.len() < len {
            return Ok(None);
        }
        let payload = rest[..len].to_vec();
        bytes.drain(..size_of::<XsdSockmsg>() + len);
        Ok(Some(Message { kind: header.r#type, request: header.req_id, transaction: header.tx_id, payload }))
    }

    /// The payload, or the error that it names (`EIO` if there is no such error).
    pub(super) fn into_reply(self) -> Result<Vec<u8>, Errno> {
        if self.kind != XS_ERROR {
            return Ok(self.payload);
        }
        let name = strings(&self.payload).next().unwrap_or("");
        Err(XSD_ERRORS.iter().copied().find(|errno| errno.name() == name).unwrap_or(Errno::EIO))
    }
}

/// The zero-terminated strings of a payload; those that are not UTF-8 are left out.
pub(super) fn strings(payload: &[u8]) -> impl Iterator<Item = &str> {
    let payload = payload.strip_suffix(&[0]).unwrap_or(payload);
    let none = payload.is_empty();
    payload.split(|byte| *byte == 0).filter(move |_| !none).filter_map(|s| core::str::from_utf8(s).ok())
}

/// What a domain may do with a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permission {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Write.
    Write,
    /// Read and write.
    Both,
}

/// A node's owner and who else may do what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permissions {
    /// The owner, who may do everything.
    pub owner: DomId,
    /// What a domain may do that is not listed.
    pub others: Permission,
    /// What single domains may do.
    pub list: Vec<(DomId, Permission)>,
}

impl Permissions {
    /// Owned by `owner`, and readable by `reader`: what the halves of a device give each other.
    pub fn readable_by(owner: DomId, reader: DomId) -> Permissions {
        Permissions { owner, others: Permission::None, list: [(reader, Permission::Read)].into() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (domid, permission) in [(self.owner, self.others)].iter().chain(&self.list) {
            let letter = match permission {
                Permission::None => 'n',
                Permission::Read => 'r',
                Permission::Write => 'w',
                Permission::Both => 'b',
            };
            bytes.extend_from_slice(format!("{letter}{}\0", domid.0).as_bytes());
        }
        bytes
    }

    pub(super) fn parse(payload: &[u8]) -> Option<Permissions> {
        let mut entries = strings(payload).map(|entry| {
            let permission = match entry.as_bytes().first()? {
                b'n' => Permission::None,
                b'r' => Permission::Read,
                b'w' => Permission::Write,
                b'b' => Permission::Both,
                _ => return None,
            };
            Some((DomId(entry[1..].parse().ok()?), permission))
        });
        let (owner, others) = entries.next()??;
        Some(Permissions { owner, others, list: entries.collect::<Option<_>>()? })
    }
}
