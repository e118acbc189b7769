//! Patterns of `KEYS` and `SCAN`: `*`, `?`, `[a-z]`, `[^a]` and `\` before any of them.

/// Whether all of `text` matches. The time is at most the product of the lengths.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut rest) = (pattern, text);
    // Where to go on when a match fails: behind the last `*`, with one more byte taken by it.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', tail)) = at.split_first() {
            at = tail;
            retry = Some((tail, rest));
            continue;
        }
        match (rest.split_first(), at.is_empty()) {
            (None, true) => return true,
            (Some((&byte, left)), false) => {
                if let Some(tail) = one(at, byte) {
                    (at, rest) = (tail, left);
                    continue;
                }
            }
            _ => {}
        }
        match retry {
            Some((tail, text)) if !text.is_empty() => {
                (at, rest) = (tail, &text[1..]);
                retry = Some((tail, rest));
            }
            _ => return false,
        }
    }
}

/// Matches one byte with the start of a pattern that is not `*`; the rest of the pattern.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', tail @ ..] => Some(tail),
        [b'\\', literal, tail @ ..] => (*literal == byte).then_some(tail),
        [b'[', class @ ..] => class_of(class, byte),
        [literal, tail @ ..] => (*literal == byte).then_some(tail),
        [] => None,
    }
}

/// Matches a class whose `[` has been read. One that does not end, ends with the pattern.
fn class_of(class: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut class) = match class {
        [b'^', tail @ ..] => (true, tail),
        _ => (false, class),
    };
    let mut found = false;
    loop {
        class = match class {
            [] => break,
            [b']', tail @ ..] => {
                class = tail;
                break;
            }
            [b'\\', literal, tail @ ..] => {
                found |= *literal == byte;
                tail
            }
            [first, b'-', last, tail @ ..] => {
                let (low, high) = (first.min(last), first.max(last));
                found |= (*low..=*high).contains(&byte);
                tail
            }
            [literal, tail @ ..] => {
                found |= *literal == byte;
                tail
            }
        };
    }
    (found != negated).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::matches;
    use proptest::prelude::*;

    #[test]
    fn matches_as_redis_does() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("h?llo", "hello", true),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hxllo", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("[", "a", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    /// The textbook recursion.
    fn oracle(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', tail @ ..], _) => oracle(tail, text) || (!text.is_empty() && oracle(pattern, &text[1..])),
            ([b'?', tail @ ..], [_, rest @ ..]) => oracle(tail, rest),
            ([a, tail @ ..], [b, rest @ ..]) => a == b && oracle(tail, rest),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_recursion(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), oracle(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_pattern_ends(pattern in prop::collection::vec(any::<u8>(), 0..40), text in prop::collection::vec(any::<u8>(), 0..40)) {
            matches(&pattern, &text);
        }
    }
}
