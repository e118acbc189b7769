//! Redis's protocol, version 2: requests in, replies out.
//!
//! A request is an array of byte strings with their lengths, or a line of words as a person types.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{Display, Write};

/// The longest line of words, and the longest line with a length.
const LINE: usize = 64 << 10;
/// Most arguments of a request.
const ARGUMENTS: i64 = 1 << 20;

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// Not a whole request yet.
    Partial,
    /// A request of this many bytes; without arguments it is passed over.
    Request(Vec<Cow<'a, [u8]>>, usize),
    /// No request: Redis's words for it. The connection ends.
    Error(String),
}

/// Reads the request at the start of `bytes`. One of more than `limit` bytes is refused.
pub fn parse(bytes: &[u8], limit: usize) -> Parsed<'_> {
    let Some(&first) = bytes.first() else { return Parsed::Partial };
    let parsed = if first == b'*' { array(bytes, limit) } else { words(bytes) };
    match parsed {
        Ok(Some((arguments, length))) => Parsed::Request(arguments, length),
        Ok(None) if bytes.len() > limit => Parsed::Error(too_large(limit)),
        Ok(None) => Parsed::Partial,
        Err(what) => Parsed::Error(format!("ERR Protocol error: {what}")),
    }
}

fn too_large(limit: usize) -> String {
    format!("ERR Protocol error: request larger than {limit} bytes")
}

type Found<'a> = Result<Option<(Vec<Cow<'a, [u8]>>, usize)>, String>;

/// The line at `at` without its end, and where the next begins.
fn line(bytes: &[u8], at: usize, error: &str) -> Result<Option<(usize, usize)>, String> {
    let rest = &bytes[at..];
    let window = &rest[..rest.len().min(LINE)];
    match window.iter().position(|&byte| byte == b'\n') {
        Some(end) => {
            let text = end - usize::from(end > 0 && window[end - 1] == b'\r');
            Ok(Some((at + text, at + end + 1)))
        }
        None if rest.len() >= LINE => Err(error.into()),
        None => Ok(None),
    }
}

fn array(bytes: &[u8], limit: usize) -> Found<'_> {
    let Some((end, mut at)) = line(bytes, 0, "too big mbulk count string")? else { return Ok(None) };
    let count = integer(&bytes[1..end]).filter(|&count| count <= ARGUMENTS);
    let count = count.ok_or("invalid multibulk length")?;
    let mut arguments = Vec::with_capacity(count.clamp(0, 16) as usize);
    for _ in 0..count.max(0) {
        let Some(&kind) = bytes.get(at) else { return Ok(None) };
        if kind != b'$' {
            return Err(format!("expected '$', got '{}'", char::from(kind).escape_default()));
        }
        let Some((end, start)) = line(bytes, at, "too big bulk count string")? else { return Ok(None) };
        let length = integer(&bytes[at + 1..end]).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|&length| length <= limit).ok_or("invalid bulk length")?;
        let Some(argument) = bytes.get(start..start + length) else { return Ok(None) };
        at = start + length + 2;
        if at > bytes.len() {
            return Ok(None);
        }
        arguments.push(Cow::Borrowed(argument));
    }
    Ok(Some((arguments, at)))
}

fn words(bytes: &[u8]) -> Found<'_> {
    let Some((end, next)) = line(bytes, 0, "too big inline request")? else { return Ok(None) };
    let arguments = split(&bytes[..end]).ok_or("unbalanced quotes in request")?;
    Ok(Some((arguments.into_iter().map(Cow::Owned).collect(), next)))
}

/// Splits a line into words, which may be in quotes, with escapes in double ones.
fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut bytes = line.iter().copied().peekable();
    loop {
        while bytes.next_if(u8::is_ascii_whitespace).is_some() {}
        if bytes.peek().is_none() {
            return Some(words);
        }
        let mut word = Vec::new();
        while let Some(byte) = bytes.next_if(|byte| !byte.is_ascii_whitespace()) {
            if byte != b'"' && byte != b'\'' {
                word.push(byte);
                continue;
            }
            loop {
                match bytes.next()? {
                    end if end == byte => break,
                    b'\\' if byte == b'"' => word.push(match bytes.next()? {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'x' => {
                            let mut digit =
                                || char::from(bytes.next()?).to_digit(16).map(|digit| digit as u8);
                            digit()? << 4 | digit()?
                        }
                        other => other,
                    }),
                    b'\\' if bytes.next_if_eq(&b'\'').is_some() => word.push(b'\''),
                    other => word.push(other),
                }
            }
            if bytes.peek().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                return None;
            }
        }
        words.push(word);
    }
}

/// A decimal number as Redis takes it: no spaces, no plus, no leading zeroes, no minus zero.
pub fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first() != Some(&b'0'));
    if !plain || text == b"-0" {
        return None;
    }
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// Replies under way.
#[derive(Default)]
pub struct Replies(pub Vec<u8>);

impl Replies {
    fn line(&mut self, kind: char, text: impl Display) {
        let mut line = String::new();
        // Writing to a string does not fail.
        let _ = write!(line, "{kind}{text}\r\n");
        self.0.extend_from_slice(line.as_bytes());
    }

    /// A word such as `OK`.
    pub fn simple(&mut self, text: &str) {
        self.line('+', text);
    }

    /// An error; its first word is its kind.
    pub fn error(&mut self, text: impl Display) {
        // A line's end in it would begin another reply.
        self.line('-', format!("{text}").replace(['\r', '\n'], " "));
    }

    /// A number.
    pub fn integer(&mut self, number: i64) {
        self.line(':', number);
    }

    /// A byte string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.line('$', bytes.len());
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(b"\r\n");
    }

    /// No value.
    pub fn nil(&mut self) {
        self.0.extend_from_slice(b"$-1\r\n");
    }

    /// A byte string, or none.
    pub fn bulk_or_nil(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.nil(),
        }
    }

    /// The beginning of an array of `count` replies.
    pub fn array(&mut self, count: usize) {
        self.line('*', count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn encode(arguments: &[Vec<u8>]) -> Vec<u8> {
        let mut replies = Replies::default();
        replies.array(arguments.len());
        arguments.iter().for_each(|argument| replies.bulk(argument));
        replies.0
    }

    #[test]
    fn words_are_split_as_redis_does() {
        for (line, meant) in [
            ("SET a b", Some(vec!["SET", "a", "b"])),
            ("  SET  \"a b\\n\\x41\"  'it\\'s' ", Some(vec!["SET", "a b\nA", "it's"])),
            ("", Some(vec![])),
            ("\"open", None),
            ("\"a\"b", None),
        ] {
            let bytes = format!("{line}\r\nrest");
            match (parse(bytes.as_bytes(), 1000), meant) {
                (Parsed::Request(words, length), Some(meant)) => {
                    assert_eq!(words, meant.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
                    assert_eq!(&bytes[length..], "rest");
                }
                (Parsed::Error(text), None) => {
                    assert_eq!(text, "ERR Protocol error: unbalanced quotes in request")
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn errors_have_redis_words() {
        for (bytes, text) in [
            ("*x\r\n", "invalid multibulk length"),
            ("*9999999\r\n", "invalid multibulk length"),
            ("*1\r\n:3\r\n", "expected '$', got ':'"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n$1001\r\n", "invalid bulk length"),
        ] {
            assert_eq!(
                parse(bytes.as_bytes(), 1000),
                Parsed::Error(format!("ERR Protocol error: {text}")),
                "{bytes}"
            );
        }
        assert_eq!(
            parse(&[b'a'; LINE], 1 << 20),
            Parsed::Error("ERR Protocol error: too big inline request".into())
        );
        let many = format!("*2\r\n$900\r\n{}\r\n$200\r\n{}", "x".repeat(900), "x".repeat(150));
        assert_eq!(parse(many.as_bytes(), 1000), Parsed::Error(too_large(1000)));
        assert_eq!(parse(b"*-1\r\nPING\r\n", 10), Parsed::Request(vec![], 5));
    }

    proptest! {
        #[test]
        fn reads_what_clients_write(arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..6), cut: usize) {
            let bytes = encode(&arguments);
            let Parsed::Request(read, length) = parse(&bytes, 10_000) else { panic!("not read") };
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!(read, arguments);
            prop_assert_eq!(parse(&bytes[..cut % bytes.len()], 10_000), Parsed::Partial);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'$'), Just(b'*'), Just(b'1')], 0..60)) {
            parse(&bytes, 40);
        }

        #[test]
        fn integers_are_what_they_print(number: i64) {
            prop_assert_eq!(integer(format!("{number}").as_bytes()), Some(number));
        }
    }
}
