//! The `Range` header (RFC 9110, section 14).

/// What part of a file to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it: no range was asked for, or one that is not understood, or several.
    Whole,
    /// The bytes from `first` to `last`, both included.
    Bytes {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: u64,
    },
    /// A range that has no byte in the file: 416.
    Unsatisfiable,
}

/// Reads the value of a `Range` header for a file of `size` bytes.
pub fn parse(value: &str, size: u64) -> Part {
    select(value, size).unwrap_or(Part::Whole)
}

/// `None` if the header is malformed, which means that it is ignored.
fn select(value: &str, size: u64) -> Option<Part> {
    let (unit, set) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    let part = match (first, last) {
        ("", suffix) => match number(suffix)?.min(size) {
            0 => Part::Unsatisfiable,
            length => Part::Bytes { first: size - length, last: size - 1 },
        },
        (first, last) => {
            let first = number(first)?;
            let last = if last.is_empty() { u64::MAX } else { number(last)? };
            if last < first {
                return None;
            }
            match first < size {
                true => Part::Bytes { first, last: last.min(size - 1) },
                false => Part::Unsatisfiable,
            }
        }
    };
    Some(part)
}

/// A number in digits alone; one that is too large stands for the largest.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;
    use std::vec::Vec;

    #[test]
    fn malformed_ranges_are_ignored() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=2-1",
            "lines=0-1",
            "bytes=0-1,3-4",
            "bytes=+1-2",
        ] {
            assert_eq!(parse(text, 10), Part::Whole, "{text}");
        }
        assert_eq!(parse("bytes=0-", 0), Part::Unsatisfiable);
        assert_eq!(parse("bytes=99999999999999999999-", 10), Part::Unsatisfiable);
        assert_eq!(
            parse("Bytes = 0-99999999999999999999".replace(" = ", "=").as_str(), 10),
            Part::Bytes { first: 0, last: 9 }
        );
    }

    proptest! {
        /// The oracle takes each byte of the file and asks whether the text means it.
        #[test]
        fn selects_the_bytes_that_are_meant(size in 0u64..40, a in 0u64..50, b in 0u64..50, form in 0..3) {
            let (text, meant): (_, Vec<u64>) = match form {
                0 => (format!("bytes={a}-{b}"), (0..size).filter(|n| (a..=b).contains(n)).collect()),
                1 => (format!("bytes={a}-"), (0..size).filter(|n| *n >= a).collect()),
                _ => (format!("bytes=-{a}"), (0..size).filter(|n| *n + a >= size).collect()),
            };
            match parse(&text, size) {
                Part::Whole => prop_assert!(form == 0 && b < a),
                Part::Unsatisfiable => prop_assert!(meant.is_empty()),
                Part::Bytes { first, last } => prop_assert_eq!((first..=last).collect::<Vec<_>>(), meant),
            }
        }

        #[test]
        fn any_text_is_read(text in "[bytes=0-9, ]{0,30}", size: u64) {
            if let Part::Bytes { first, last } = parse(&text, size) {
                prop_assert!(first <= last && last < size);
            }
        }
    }
}
