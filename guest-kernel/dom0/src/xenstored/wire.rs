//! Messages as bytes: `struct xsd_sockmsg` of xen/io/xs_wire.h and its payload. The peer is hostile; the
//! decoder holds at most one message and stops for good at the first length that the protocol forbids.

use alloc::vec::Vec;
/// The longest payload either side may send.
pub use shared_abi::io::xs_wire::XENSTORE_PAYLOAD_MAX as PAYLOAD_MAX;

const HEADER: usize = 16;

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// One of `XS_READ` and so on of [`shared_abi::io::xs_wire`], or anything else that a peer makes up.
    pub kind: u32,
    /// The requester's number, echoed in the reply.
    pub request: u32,
    /// The transaction; 0 is none.
    pub transaction: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Message {
    /// Appends the message to `out`. A payload longer than the protocol allows is cut.
    pub fn encode(&self, out: &mut impl Extend<u8>) {
        let payload = &self.payload[..self.payload.len().min(PAYLOAD_MAX)];
        for word in [self.kind, self.request, self.transaction, payload.len() as u32] {
            out.extend(word.to_le_bytes());
        }
        out.extend(payload.iter().copied());
    }

    /// Bytes on the wire.
    pub fn encoded_len(&self) -> usize {
        HEADER + self.payload.len()
    }
}

/// The peer sent a length above [`PAYLOAD_MAX`]: where the next message starts is unknown from here on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong(
    /// The length it gave.
    pub u32,
);

/// Cuts a byte stream into messages.
#[derive(Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    broken: Option<TooLong>,
}

impl Decoder {
    /// How many bytes the current message still lacks: the most that [`push`](Self::push) should be given. 0
    /// while a whole message waits to be taken.
    pub fn wants(&self) -> usize {
        let need = self.length().map_or(HEADER, |length| HEADER + length.min(PAYLOAD_MAX));
        need.saturating_sub(self.bytes.len())
    }

    /// Adds bytes from the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The next whole message.
    pub fn take(&mut self) -> Result<Option<Message>, TooLong> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let Some(length) = self.length() else { return Ok(None) };
        if length > PAYLOAD_MAX {
            let broken = TooLong(length as u32);
            self.bytes = Vec::new();
            self.broken = Some(broken);
            return Err(broken);
        }
        if self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        let word = |index: usize| self.word(index).unwrap_or(0);
        let (kind, request, transaction) = (word(0), word(1), word(2));
        let payload = self.bytes[HEADER..HEADER + length].to_vec();
        self.bytes.drain(..HEADER + length);
        Ok(Some(Message { kind, request, transaction, payload }))
    }

    fn length(&self) -> Option<usize> {
        (self.bytes.len() >= HEADER).then(|| self.word(3)).flatten().map(|length| length as usize)
    }

    fn word(&self, index: usize) -> Option<u32> {
        let bytes = self.bytes.get(index * 4..index * 4 + 4)?;
        bytes.try_into().ok().map(u32::from_le_bytes)
    }
}

/// Splits a payload into `N` zero-terminated strings, of which the last one takes the rest; `None` if there
/// are fewer or it does not end with a zero. Names and numbers are text; values are not split with this.
pub fn strings<const N: usize>(payload: &[u8]) -> Option<[&str; N]> {
    let mut parts = payload.strip_suffix(b"\0")?.split(|byte| *byte == 0);
    let mut out = [""; N];
    for slot in &mut out {
        *slot = core::str::from_utf8(parts.next()?).ok()?;
    }
    parts.next().is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever arrives, in whatever pieces: no panic, never more held than one message, and what was
        /// encoded comes out.
        #[test]
        fn any_stream_decodes_or_breaks(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40)) {
            let mut decoder = Decoder::default();
            for piece in pieces {
                for byte in piece {
                    decoder.push(&[byte]);
                    if let Ok(Some(message)) = decoder.take() {
                        prop_assert!(message.payload.len() <= PAYLOAD_MAX);
                    }
                    prop_assert!(decoder.bytes.len() <= HEADER + PAYLOAD_MAX);
                }
            }
        }

        #[test]
        fn messages_survive_the_wire(
            messages in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..200)), 1..6),
        ) {
            let messages: Vec<Message> = messages
                .into_iter()
                .map(|(kind, request, transaction, payload)| Message { kind, request, transaction, payload })
                .collect();
            let mut bytes: Vec<u8> = Vec::new();
            messages.iter().for_each(|message| message.encode(&mut bytes));
            let (mut decoder, mut at, mut seen) = (Decoder::default(), 0, Vec::new());
            while at < bytes.len() {
                let count = decoder.wants().min(bytes.len() - at);
                prop_assert!(count > 0);
                decoder.push(&bytes[at..at + count]);
                at += count;
                seen.extend(decoder.take().unwrap());
            }
            prop_assert_eq!(seen, messages);
        }
    }

    #[test]
    fn a_length_above_the_limit_breaks_the_stream_for_good() {
        let mut decoder = Decoder::default();
        let mut bytes = [0u8; 16];
        bytes[12..].copy_from_slice(&4097u32.to_le_bytes());
        decoder.push(&bytes);
        assert_eq!(decoder.take(), Err(TooLong(4097)));
        decoder.push(&[0; 16]);
        assert_eq!(decoder.take(), Err(TooLong(4097)));
    }

    #[test]
    fn strings_need_their_zeros() {
        assert_eq!(strings::<2>(b"a\0b\0"), Some(["a", "b"]));
        assert_eq!(strings::<1>(b"a"), None);
        assert_eq!(strings::<1>(b"a\0b\0"), None);
        assert_eq!(strings::<2>(b"a\0"), None);
        assert_eq!(strings::<1>(b"\xff\0"), None);
    }
}
