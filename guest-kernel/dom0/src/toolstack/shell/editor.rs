//! The line editor: keys in, what the terminal is to show out. Pure: no console, no commands.
//!
//! A serial line does not tell the terminal's width. A line that is longer than the narrowest usual one is
//! shown in part, the part with the cursor: one that wraps could not be drawn again.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

const LINE_MAX: usize = 1024;
/// Columns used of the terminal: 80 are usual, and in the last one some terminals wrap.
const WIDTH: usize = 79;
const BELL: u8 = 7;
const HISTORY_MAX: usize = 200;

/// Something that the editor cannot settle itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A line was entered.
    Line(String),
    /// The word before the cursor is to be completed: call [`Editor::complete`]. Holds the line up to there.
    Complete(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Escape {
    None,
    Started,
    Bracket(u8),
}

/// One line being edited, and those before it.
#[derive(Debug)]
pub struct Editor {
    prompt: &'static str,
    line: Vec<u8>,
    cursor: usize,
    killed: Vec<u8>,
    history: VecDeque<String>,
    /// The place in the history that is shown; its length is the line that is new.
    shown: usize,
    /// The new line, while an older one is shown.
    draft: Vec<u8>,
    escape: Escape,
    after_return: bool,
}

impl Editor {
    /// An editor with an empty line. [`show`](Self::show) prints the prompt.
    pub fn new(prompt: &'static str) -> Editor {
        Editor {
            prompt,
            line: Vec::new(),
            cursor: 0,
            killed: Vec::new(),
            history: VecDeque::new(),
            shown: 0,
            draft: Vec::new(),
            escape: Escape::None,
            after_return: false,
        }
    }

    /// Draws prompt and line.
    pub fn show(&self, out: &mut Vec<u8>) {
        let (part, cursor) = self.visible();
        out.push(b'\r');
        out.extend(self.prompt.as_bytes());
        out.extend(part);
        out.extend(b"\x1b[K");
        for _ in cursor..part.len() {
            out.push(8);
        }
    }

    /// Columns for the line itself.
    fn room(&self) -> usize {
        WIDTH - self.prompt.len()
    }

    /// The part of the line that is shown, and the cursor's place in it.
    fn visible(&self) -> (&[u8], usize) {
        let start = self.cursor.saturating_sub(self.room());
        let end = self.line.len().min(start + self.room());
        (&self.line[start..end], self.cursor - start)
    }

    /// Takes one byte from the terminal.
    pub fn feed(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Event> {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        match (self.escape, byte) {
            (Escape::Started, b'[' | b'O') => {
                self.escape = Escape::Bracket(0);
                return None;
            }
            (Escape::Bracket(number), b'0'..=b'9' | b';') => {
                let digit = byte.wrapping_sub(b'0');
                self.escape =
                    Escape::Bracket(if digit > 9 { 0 } else { number.wrapping_mul(10).wrapping_add(digit) });
                return None;
            }
            (Escape::Bracket(number), key) => {
                self.escape = Escape::None;
                self.escaped(key, number);
                self.show(out);
                return None;
            }
            (Escape::Started, _) => self.escape = Escape::None,
            (Escape::None, _) => {}
        }
        match byte {
            0x1b => self.escape = Escape::Started,
            b'\n' if after_return => {}
            b'\r' | b'\n' => return self.enter(out),
            b'\t' => {
                return Some(Event::Complete(
                    String::from_utf8_lossy(&self.line[..self.cursor]).into_owned(),
                ));
            }
            b' '..=b'~' if self.line.len() < LINE_MAX => {
                self.line.insert(self.cursor, byte);
                self.cursor += 1;
                let fits = self.line.len() <= self.room();
                if fits && self.cursor == self.line.len() { out.push(byte) } else { self.show(out) }
            }
            b' '..=b'~' => out.push(BELL),
            _ => {
                if byte == 3 {
                    out.extend(b"^C\r\n");
                }
                self.control(byte);
                self.show(out);
            }
        }
        None
    }

    fn escaped(&mut self, key: u8, number: u8) {
        match (key, number) {
            (b'A', _) => self.recall(self.shown.wrapping_sub(1)),
            (b'B', _) => self.recall(self.shown + 1),
            (b'C', _) => self.control(6),
            (b'D', _) => self.control(2),
            (b'H', _) | (b'~', 1 | 7) => self.control(1),
            (b'F', _) | (b'~', 4 | 8) => self.control(5),
            (b'~', 3) => self.control(4),
            _ => {}
        }
    }

    /// The editing keys: control characters as in readline.
    fn control(&mut self, byte: u8) {
        match byte {
            1 => self.cursor = 0,
            2 => self.cursor = self.cursor.saturating_sub(1),
            3 => {
                self.line.clear();
                self.cursor = 0;
                self.shown = self.history.len();
            }
            4 if self.cursor < self.line.len() => {
                self.line.remove(self.cursor);
            }
            5 => self.cursor = self.line.len(),
            6 => self.cursor = (self.cursor + 1).min(self.line.len()),
            8 | 0x7f if self.cursor > 0 => {
                self.cursor -= 1;
                self.line.remove(self.cursor);
            }
            11 => self.killed = self.line.split_off(self.cursor),
            14 => self.recall(self.shown + 1),
            16 => self.recall(self.shown.wrapping_sub(1)),
            21 => self.kill_back(0),
            23 => {
                let before = &self.line[..self.cursor];
                let word_end = before.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
                self.kill_back(
                    before[..word_end].iter().rposition(|byte| *byte == b' ').map_or(0, |at| at + 1),
                );
            }
            25 => {
                let room = LINE_MAX - self.line.len();
                let text = self.killed[..self.killed.len().min(room)].to_vec();
                self.line.splice(self.cursor..self.cursor, text.iter().copied());
                self.cursor += text.len();
            }
            _ => {}
        }
    }

    fn kill_back(&mut self, from: usize) {
        self.killed = self.line.drain(from..self.cursor).collect();
        self.cursor = from;
    }

    fn recall(&mut self, index: usize) {
        if index > self.history.len() {
            return;
        }
        if self.shown == self.history.len() {
            self.draft = core::mem::take(&mut self.line);
        }
        self.shown = index;
        self.line = self
            .history
            .get(index)
            .map_or_else(|| core::mem::take(&mut self.draft), |line| line.as_bytes().to_vec());
        self.cursor = self.line.len();
    }

    fn enter(&mut self, out: &mut Vec<u8>) -> Option<Event> {
        out.extend(b"\r\n");
        let line: String = String::from_utf8_lossy(&self.line).trim().into();
        self.line.clear();
        self.cursor = 0;
        if !line.is_empty() && self.history.back() != Some(&line) {
            self.history.push_back(line.clone());
            if self.history.len() > HISTORY_MAX {
                self.history.pop_front();
            }
        }
        self.shown = self.history.len();
        Some(Event::Line(line))
    }

    /// Completes the word before the cursor by what all `candidates` have in common; shows them if that is
    /// nothing more than there is.
    pub fn complete(&mut self, candidates: &[String], out: &mut Vec<u8>) {
        let start = self.line[..self.cursor].iter().rposition(|byte| *byte == b' ').map_or(0, |at| at + 1);
        let word = self.line[start..self.cursor].to_vec();
        let mut fitting =
            candidates.iter().map(String::as_bytes).filter(|candidate| candidate.starts_with(&word));
        let Some(first) = fitting.next() else { return };
        let mut common = first.to_vec();
        let mut only = true;
        for candidate in fitting {
            let same = common.iter().zip(candidate).take_while(|(a, b)| a == b).count();
            common.truncate(same);
            only = false;
        }
        if only {
            common.push(b' ');
        } else if common.len() == word.len() {
            out.extend(b"\r\n");
            for candidate in candidates.iter().filter(|candidate| candidate.as_bytes().starts_with(&word)) {
                out.extend(candidate.as_bytes());
                out.extend(b"  ");
            }
            out.extend(b"\r\n");
        }
        for byte in &common[word.len()..] {
            if self.line.len() < LINE_MAX {
                self.line.insert(self.cursor, *byte);
                self.cursor += 1;
            }
        }
        self.show(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    fn lines(keys: &[u8]) -> Vec<String> {
        let (mut editor, mut out) = (Editor::new("> "), Vec::new());
        let mut lines = Vec::new();
        for key in keys {
            match editor.feed(*key, &mut out) {
                Some(Event::Line(line)) => lines.push(line),
                Some(Event::Complete(_)) => {
                    editor.complete(&["list".into(), "info".into(), "input".into()], &mut out)
                }
                None => {}
            }
        }
        lines
    }

    #[test]
    fn keys_edit_as_in_readline() {
        for (keys, line) in [
            (&b"abc\x02\x02X\r"[..], "aXbc"),
            (b"abc\x01X\x05Y\r", "XabcY"),
            (b"abc\x1b[D\x1b[DX\x1b[CY\r", "aXbYc"),
            (b"abc\x7f\x7f\r", "a"),
            (b"one two three\x17X\r", "one two X"),
            (b"one two  \x17X\r", "one X"),
            (b"abc\x02\x0bX\x19\r", "abXc"),
            (b"abc\x15x\r", "x"),
            (b"abc\x03x\r", "x"),
            (b"abc\x1b[H\x1b[3~\x1b[F!\r", "bc!"),
            (b"\x1b[5~a\x1bb\r", "ab"),
            (b"li\t\r", "list"),
            (b"in\tf\t\r", "info"),
        ] {
            assert_eq!(lines(keys), [line.to_string()], "{keys:?}");
        }
    }

    #[test]
    fn history_is_walked_both_ways_and_keeps_the_draft() {
        assert_eq!(lines(b"one\rtwo\r\x1b[A\r"), ["one", "two", "two"]);
        assert_eq!(lines(b"one\rtwo\r\x10\x10\x10\r"), ["one", "two", "one"]);
        assert_eq!(lines(b"one\rdra\x1b[A\x1b[Bft\r"), ["one", "draft"]);
        assert_eq!(lines(b"one\r\none\r\n"), ["one", "one"]);
    }

    proptest! {
        /// Any bytes: no panic, and what a terminal shows last is the line, the cursor where it belongs.
        #[test]
        fn the_screen_shows_the_line(keys in prop::collection::vec(prop_oneof![any::<u8>(), Just(0x1b), Just(b'['), 0u8..32, b'a'..=b'z'], 0..400)) {
            let (mut editor, mut out) = (Editor::new("> "), Vec::new());
            for key in keys {
                if let Some(Event::Complete(_)) = editor.feed(key, &mut out) {
                    editor.complete(&["list".into(), "info".into()], &mut out);
                }
                prop_assert!(editor.cursor <= editor.line.len() && editor.shown <= editor.history.len());
            }
            out.clear();
            editor.show(&mut out);
            let (mut screen, mut column) = (Vec::new(), 0usize);
            let mut bytes = out.iter().copied().peekable();
            while let Some(byte) = bytes.next() {
                match byte {
                    b'\r' => column = 0,
                    8 => column -= 1,
                    0x1b => { bytes.next(); bytes.next(); screen.truncate(column); }
                    byte => { screen.resize(screen.len().max(column + 1), 0); screen[column] = byte; column += 1; }
                }
            }
            let start = editor.cursor.saturating_sub(WIDTH - 2);
            let end = editor.line.len().min(start + WIDTH - 2);
            prop_assert_eq!(&screen[2..], &editor.line[start..end]);
            prop_assert_eq!(column, 2 + editor.cursor - start);
            prop_assert!(screen.len() <= WIDTH);
        }
    }
}
