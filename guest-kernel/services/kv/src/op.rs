//! What the log holds: changes of the store, by their results.
//!
//! `INCR` is logged as the value it led to and a time to live as the moment it ends, so replaying
//! needs no clock and no command, and replaying a change twice is replaying it once.
//!
//! On disk, little-endian: kind (u8), then for `Set` the expiry in ms since 1970 (u64, 0 for never),
//! key and value; for `Delete` the key. Byte strings have their length (u32) before them.

use alloc::vec::Vec;

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// `key` has this value, until this moment (ms since 1970).
    Set {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// When it ends.
        expires: Option<u64>,
    },
    /// `key` is gone.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Every key is gone.
    Clear,
}

const SET: u8 = 1;
const DELETE: u8 = 2;
const CLEAR: u8 = 3;

/// Bytes of a [`Op::Set`] besides its key and value.
pub const SET_OVERHEAD: usize = 1 + 8 + 4 + 4;

impl<'a> Op<'a> {
    /// Appends the change's bytes to `to`.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let string = |to: &mut Vec<u8>, bytes: &[u8]| {
            to.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            to.extend_from_slice(bytes);
        };
        match self {
            Op::Set { key, value, expires } => {
                to.push(SET);
                to.extend_from_slice(&expires.unwrap_or(0).to_le_bytes());
                string(to, key);
                string(to, value);
            }
            Op::Delete { key } => {
                to.push(DELETE);
                string(to, key);
            }
            Op::Clear => to.push(CLEAR),
        }
    }

    /// Takes the change at the start of `from`; `None` if there is none.
    pub fn decode(from: &mut &'a [u8]) -> Option<Self> {
        let (&kind, rest) = from.split_first()?;
        *from = rest;
        match kind {
            SET => {
                let (expires, rest) = from.split_first_chunk()?;
                *from = rest;
                let expires = Some(u64::from_le_bytes(*expires)).filter(|&at| at != 0);
                Some(Op::Set { key: string(from)?, value: string(from)?, expires })
            }
            DELETE => Some(Op::Delete { key: string(from)? }),
            CLEAR => Some(Op::Clear),
            _ => None,
        }
    }
}

fn string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk()?;
    let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *from = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_it_writes(key: Vec<u8>, value: Vec<u8>, expires: u64) {
            let mut bytes = Vec::new();
            let ops = [
                Op::Set { key: &key, value: &value, expires: Some(expires).filter(|&at| at != 0) },
                Op::Delete { key: &key },
                Op::Clear,
            ];
            for op in ops {
                op.encode(&mut bytes);
            }
            let mut from = &bytes[..];
            for op in ops {
                prop_assert_eq!(Op::decode(&mut from), Some(op));
            }
            prop_assert!(from.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut from = &bytes[..];
            while Op::decode(&mut from).is_some() {}
        }
    }
}
