//! The form of the file: `key = value` (or `+=`) per line or separated by `;`, values being numbers, strings
//! in either quotes, or lists of values, which may span lines and end with a comma; `#` starts a comment.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Lists may be nested this deep.
const DEPTH_MAX: usize = 8;

/// A place in the file; both count from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct At {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// What is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Where.
    pub at: At,
    /// What.
    pub message: String,
}

impl ConfigError {
    /// An error at `at`.
    pub fn new(at: At, message: impl Into<String>) -> ConfigError {
        ConfigError { at, message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.at.line, self.at.column, self.message)
    }
}

/// A value with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// Where it starts.
    pub at: At,
    /// What it is.
    pub kind: Kind,
}

/// What a value is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A number, as it was written.
    Number(String),
    /// A string, without quotes and escapes.
    Text(String),
    /// A list.
    List(Vec<Value>),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Number(text) => f.write_str(text),
            Kind::Text(text) => {
                f.write_str("\"")?;
                for c in text.chars() {
                    match c {
                        '"' | '\\' => write!(f, "\\{c}")?,
                        '\n' => f.write_str("\\n")?,
                        '\t' => f.write_str("\\t")?,
                        '\r' => f.write_str("\\r")?,
                        c if c.is_ascii_control() => write!(f, "\\x{:02x}", c as u32)?,
                        c => write!(f, "{c}")?,
                    }
                }
                f.write_str("\"")
            }
            Kind::List(values) => {
                f.write_str("[ ")?;
                for value in values {
                    write!(f, "{}, ", value.kind)?;
                }
                f.write_str("]")
            }
        }
    }
}

/// One assignment. `+=` has been resolved by the parser.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Where the key stands.
    pub at: At,
    /// The key.
    pub key: String,
    /// The value.
    pub value: Value,
}

/// Reads a whole file. A key that is set again keeps its first place and takes the later value.
pub fn parse(text: &str) -> Result<Vec<Setting>, ConfigError> {
    let mut parser = Parser { rest: text.chars().peekable(), at: At { line: 1, column: 1 } };
    let mut settings: Vec<Setting> = Vec::new();
    loop {
        parser.skip(true);
        match parser.peek() {
            None => return Ok(settings),
            Some(';') => {
                parser.next();
            }
            Some(_) => {
                let (setting, append) = parser.setting()?;
                store(&mut settings, setting, append)?;
            }
        }
    }
}

fn store(settings: &mut Vec<Setting>, new: Setting, append: bool) -> Result<(), ConfigError> {
    let Some(old) = settings.iter_mut().find(|old| old.key == new.key) else {
        settings.push(new);
        return Ok(());
    };
    if !append {
        old.value = new.value;
        return Ok(());
    }
    match (&mut old.value.kind, new.value.kind) {
        (Kind::List(list), Kind::List(more)) => list.extend(more),
        (Kind::Text(text), Kind::Text(more)) => text.push_str(&more),
        _ => {
            let message = format!("\"{} +=\" needs a list after a list or a string after a string", new.key);
            return Err(ConfigError::new(new.value.at, message));
        }
    }
    Ok(())
}

struct Parser<'a> {
    rest: core::iter::Peekable<core::str::Chars<'a>>,
    at: At,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.at = At { line: self.at.line + 1, column: 1 };
        } else {
            self.at.column += 1;
        }
        Some(c)
    }

    /// Skips blanks and comments, and ends of lines if `lines`.
    fn skip(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.next();
                    }
                }
                '\n' if !lines => return,
                c if c.is_whitespace() => {
                    self.next();
                }
                _ => return,
            }
        }
    }

    fn expected(&mut self, what: &str) -> ConfigError {
        let found = match self.peek() {
            None => "the end of the file".to_owned(),
            Some('\n') => "the end of the line".to_owned(),
            Some(c @ ('"' | '\'')) => format!("{c}"),
            Some(c) => format!("'{}'", c.escape_debug()),
        };
        ConfigError::new(self.at, format!("expected {what}, found {found}"))
    }

    fn setting(&mut self) -> Result<(Setting, bool), ConfigError> {
        let at = self.at;
        let key = self.word(|c| c.is_ascii_alphanumeric() || c == '_');
        if key.is_empty() || key.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.expected("a key"));
        }
        self.skip(false);
        let append = self.peek() == Some('+');
        if append {
            self.next();
        }
        if self.peek() != Some('=') {
            return Err(self.expected(&format!("'=' after \"{key}\"")));
        }
        self.next();
        self.skip(false);
        let value = self.value(0)?;
        self.skip(false);
        match self.peek() {
            None | Some('\n' | ';') => Ok((Setting { at, key, value }, append)),
            Some(_) => Err(self.expected("the end of the line")),
        }
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek().filter(|c| belongs(*c)) {
            word.push(c);
            self.next();
        }
        word
    }

    fn value(&mut self, depth: usize) -> Result<Value, ConfigError> {
        let at = self.at;
        let kind = match self.peek() {
            Some(quote @ ('"' | '\'')) => Kind::Text(self.text(quote)?),
            Some('[') if depth == DEPTH_MAX => return Err(ConfigError::new(at, "lists are nested too deep")),
            Some('[') => Kind::List(self.list(depth)?),
            Some(c) if c.is_ascii_digit() || c == '-' => Kind::Number(self.number()?),
            _ => return Err(self.expected("a number, a quoted string or a list")),
        };
        Ok(Value { at, kind })
    }

    fn number(&mut self) -> Result<String, ConfigError> {
        let at = self.at;
        let text = self.word(|c| c.is_ascii_alphanumeric() || c == '-');
        if integer(&text).is_none() {
            return Err(ConfigError::new(at, format!("\"{text}\" is no number; a string needs quotes")));
        }
        Ok(text)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>, ConfigError> {
        let mut values = Vec::new();
        self.next();
        loop {
            self.skip(true);
            if self.peek() == Some(']') {
                self.next();
                return Ok(values);
            }
            values.push(self.value(depth + 1)?);
            self.skip(true);
            match self.peek() {
                Some(',') => {
                    self.next();
                }
                Some(']') => {}
                _ => return Err(self.expected("',' or ']'")),
            }
        }
    }

    fn text(&mut self, quote: char) -> Result<String, ConfigError> {
        let start = self.at;
        self.next();
        let mut text = String::new();
        loop {
            let at = self.at;
            match self.next() {
                Some(c) if c == quote => return Ok(text),
                Some('\\') => text.push(self.escape(at)?),
                None | Some('\n') => {
                    return Err(ConfigError::new(
                        start,
                        format!("expected {quote} before the end of the line"),
                    ));
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self, at: At) -> Result<char, ConfigError> {
        let bad = |what: &str| ConfigError::new(at, format!("{what} in a string"));
        Ok(match self.next().ok_or_else(|| bad("a lone \\"))? {
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            'x' => {
                let mut code = 0;
                for _ in 0..2 {
                    let digit = self.next().and_then(|c| c.to_digit(16));
                    code = code * 16 + digit.ok_or_else(|| bad("\\x without two hexadecimal digits"))?;
                }
                char::from_u32(code).ok_or_else(|| bad("an impossible character"))?
            }
            c if c.is_ascii_punctuation() => c,
            c => return Err(bad(&format!("the unknown escape \\{}", c.escape_debug()))),
        })
    }
}

/// The integer that `text` writes as C does: decimal, `0x` hexadecimal, or octal with a leading 0.
pub fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => (16, hex),
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind() -> impl Strategy<Value = Kind> {
        let leaf = prop_oneof![
            any::<u32>().prop_map(|n| Kind::Number(format!("{n}"))),
            any::<u32>().prop_map(|n| Kind::Number(format!("{n:#x}"))),
            any::<String>().prop_map(Kind::Text),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            prop::collection::vec(inner, 0..5).prop_map(|kinds| {
                Kind::List(kinds.into_iter().map(|kind| Value { at: At::default(), kind }).collect())
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(kinds in prop::collection::vec(kind(), 0..6)) {
            let mut text = String::from("# comment\n\n");
            for (n, kind) in kinds.iter().enumerate() {
                text += &format!("key{n} = {kind} # and why\n");
            }
            let settings = parse(&text).unwrap();
            let printed: Vec<String> = settings.iter().map(|setting| format!("{}", setting.value.kind)).collect();
            prop_assert_eq!(printed, kinds.iter().map(|kind| format!("{kind}")).collect::<Vec<_>>());
        }

        #[test]
        fn no_text_panics(text in "[\\[\\]a-z0-9=+\"'\\\\,#\n \u{e4}x-]{0,80}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.at.line as usize <= text.split('\n').count());
            }
        }
    }

    fn error(text: &str) -> String {
        format!("{}", parse(text).unwrap_err())
    }

    #[test]
    fn errors_say_where_and_what() {
        assert_eq!(error("name \"x\""), "line 1, column 6: expected '=' after \"name\", found \"");
        assert_eq!(
            error("\nname = x"),
            "line 2, column 8: expected a number, a quoted string or a list, found 'x'"
        );
        assert_eq!(error("a = 'x"), "line 1, column 5: expected ' before the end of the line");
        assert_eq!(error("a = [1 2]"), "line 1, column 8: expected ',' or ']', found '2'");
        assert_eq!(error("a = [1,\n 2"), "line 2, column 3: expected ',' or ']', found the end of the file");
        assert_eq!(error("a = 1 b = 2"), "line 1, column 7: expected the end of the line, found 'b'");
        assert_eq!(error("a = 12k"), "line 1, column 5: \"12k\" is no number; a string needs quotes");
        assert_eq!(error("= 3"), "line 1, column 1: expected a key, found '='");
        assert_eq!(error("a = \"\\q\""), "line 1, column 6: the unknown escape \\q in a string");
        assert!(error(&format!("a = {}", "[".repeat(100_000))).contains("too deep"));
    }

    #[test]
    fn later_settings_win_and_plus_appends() {
        let settings = parse("a=1;b=['x'\n,]\na = 0x10 ; b += [ \"y\" ]\nc='p'\nc+='q'").unwrap();
        let shown: Vec<String> = settings.iter().map(|s| format!("{}={}", s.key, s.value.kind)).collect();
        assert_eq!(shown, ["a=0x10", "b=[ \"x\", \"y\", ]", "c=\"pq\""]);
    }

    #[test]
    fn integers_are_read_as_c_reads_them() {
        assert_eq!(
            ["512", "0x200", "010", "0", "-3"].map(integer),
            [Some(512), Some(512), Some(8), Some(0), Some(-3)]
        );
        assert_eq!(["", "-", "0x", "08", "1k", "--1", "99999999999999999999"].map(integer), [None; 7]);
    }
}
