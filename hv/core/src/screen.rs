//! A text screen: characters in a grid, on a frame buffer or on a text mode's memory.
//!
//! Nothing is ever read from the screen's memory, which is slow to write as well: the grid is kept here, with what is
//! shown of it, and what differs at the end of a text is drawn. So a text of a hundred empty lines is drawn once, not a
//! hundred times with the console's lock held. Of the control sequences that terminals know only those are understood that
//! dom0's shell edits lines with; the others leave no trace.

use alloc::vec::Vec;
use hv_machine::boot::Screen as Geometry;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const FONT: (FontWeight, RasterHeight) = (FontWeight::Regular, RasterHeight::Size16);
/// Pixels of a character.
const CELL: (usize, usize) = (get_raster_width(FONT.0, FONT.1), FONT.1.val());
/// Of a text mode's character: light grey on black.
const ATTRIBUTE: u8 = 7;
/// Most characters of a line and lines.
const MOST: (usize, usize) = (1024, 512);
const TAB: usize = 8;

/// Where a screen's bytes go.
pub trait Memory {
    /// Writes `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

#[cfg(target_os = "none")]
impl Memory for hv_machine::x86_64::screen::Memory {
    fn write(&self, offset: u64, data: &[u8]) {
        hv_machine::x86_64::screen::Memory::write(self, offset, data);
    }
}

/// How a character becomes bytes.
enum Format {
    /// Itself and its colours.
    Text,
    /// Pixels of so many bytes, in which red, green and blue have these positions and sizes.
    Pixels(usize, [(u8, u8); 3]),
}

/// What follows in a control sequence.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sequence {
    None,
    /// After ESC.
    Begun,
    /// After ESC and `[`.
    Control,
}

/// The screen.
pub struct Screen<M> {
    memory: M,
    format: Format,
    pitch: u64,
    columns: usize,
    rows: usize,
    /// What is to be shown.
    cells: Vec<u8>,
    /// What is shown; 0 where nothing was drawn yet. As long.
    shown: Vec<u8>,
    column: usize,
    row: usize,
    sequence: Sequence,
}

impl<M: Memory> Screen<M> {
    /// An empty screen of this geometry in `memory`, cleared. `None`: it is no screen, or there is no memory for
    /// its characters.
    pub fn new(of: &Geometry, memory: M) -> Option<Screen<M>> {
        let (width, height, pitch) = (of.width as usize, of.height as usize, of.pitch as usize);
        let (format, columns, rows, line) = match of.colours {
            None => (Format::Text, width, height, width * 2),
            Some([r, rs, g, gs, b, bs]) => {
                let colours = [(r, rs), (g, gs), (b, bs)];
                let bytes = usize::from(of.depth.div_ceil(8));
                let fits = |(at, size): &(u8, u8)| {
                    (1..=16).contains(size) && usize::from(*at) + usize::from(*size) <= bytes * 8
                };
                if !(2..=4).contains(&bytes) || !colours.iter().all(fits) {
                    return None;
                }
                (Format::Pixels(bytes, colours), width / CELL.0, height / CELL.1, width.checked_mul(bytes)?)
            }
        };
        let (columns, rows) = (columns.min(MOST.0), rows.min(MOST.1));
        if columns == 0 || rows == 0 || line > pitch {
            return None;
        }
        let (mut cells, mut shown) = (Vec::new(), Vec::new());
        for (grid, empty) in [(&mut cells, b' '), (&mut shown, 0)] {
            grid.try_reserve_exact(columns * rows).ok()?;
            grid.resize(columns * rows, empty);
        }
        let (pitch, sequence) = (of.pitch.into(), Sequence::None);
        let mut screen =
            Screen { memory, format, pitch, columns, rows, cells, shown, column: 0, row: 0, sequence };
        screen.refresh();
        Some(screen)
    }

    /// Shows text.
    pub fn print(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.sequence = match (self.sequence, b) {
                (_, 0x1b) => Sequence::Begun,
                (Sequence::Begun, b'[') => Sequence::Control,
                (Sequence::Begun, _) => Sequence::None,
                (Sequence::Control, 0x40..=0x7e) => {
                    self.control(b);
                    Sequence::None
                }
                (Sequence::Control, _) => Sequence::Control,
                (Sequence::None, _) => {
                    self.put(b);
                    Sequence::None
                }
            };
        }
        self.refresh();
    }

    fn control(&mut self, command: u8) {
        match command {
            // to the end of the line, or of the screen: text behind the cursor is on its line
            b'K' | b'J' => self.clear(self.row, self.column),
            b'D' => self.column = self.column.saturating_sub(1),
            b'C' => self.column = (self.column + 1).min(self.columns - 1),
            _ => {}
        }
    }

    fn put(&mut self, b: u8) {
        match b {
            b'\n' => self.next_line(),
            b'\r' => self.column = 0,
            8 => self.column = self.column.saturating_sub(1),
            b'\t' => self.column = (self.column / TAB * TAB + TAB).min(self.columns - 1),
            b' '..=b'~' => self.show(b),
            // the first byte of a character that there is no picture of; the others add nothing
            0xc0.. => self.show(b'?'),
            _ => {}
        }
    }

    fn show(&mut self, b: u8) {
        if self.column == self.columns {
            self.next_line();
        }
        self.cells[self.row * self.columns + self.column] = b;
        self.column += 1;
    }

    fn next_line(&mut self) {
        self.column = 0;
        if self.row + 1 < self.rows {
            self.row += 1;
            return;
        }
        self.cells.copy_within(self.columns.., 0);
        self.clear(self.row, 0);
    }

    fn clear(&mut self, row: usize, from: usize) {
        self.cells[row * self.columns + from..(row + 1) * self.columns].fill(b' ');
    }

    /// Draws what is not shown yet.
    fn refresh(&mut self) {
        for row in 0..self.rows {
            let line = row * self.columns..(row + 1) * self.columns;
            if self.cells[line.clone()] == self.shown[line.clone()] {
                continue;
            }
            for (column, at) in line.enumerate() {
                let b = self.cells[at];
                if self.shown[at] != b {
                    self.shown[at] = b;
                    self.draw(row, column, b);
                }
            }
        }
    }

    fn draw(&self, row: usize, column: usize, b: u8) {
        let Format::Pixels(bytes, colours) = self.format else {
            let at = row as u64 * self.pitch + column as u64 * 2;
            return self.memory.write(at, &[b, ATTRIBUTE]);
        };
        let Some(picture) = get_raster(b.into(), FONT.0, FONT.1) else { return };
        for (y, pixels) in picture.rows().enumerate() {
            let mut line = [0; CELL.0 * 4];
            for (out, intensity) in line.chunks_exact_mut(bytes).zip(pixels) {
                let value =
                    colours.iter().fold(0, |value, &(at, size)| value | scaled(*intensity, size) << at);
                out.copy_from_slice(&value.to_le_bytes()[..bytes]);
            }
            let at = (row * CELL.1 + y) as u64 * self.pitch + (column * CELL.0 * bytes) as u64;
            self.memory.write(at, &line[..CELL.0 * bytes]);
        }
    }
}

/// An intensity in a colour of `size` bits, of 16 at most.
fn scaled(intensity: u8, size: u8) -> u32 {
    u32::from((u16::from(intensity) * 257) >> (16 - size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec;

    struct Bytes(RefCell<Vec<u8>>);

    impl Memory for &Bytes {
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.borrow_mut()[offset as usize..][..data.len()].copy_from_slice(data);
        }
    }

    fn memory(of: &Geometry) -> Bytes {
        Bytes(RefCell::new(vec![0xee; (of.pitch * of.height) as usize]))
    }

    fn text(width: u32, height: u32) -> Geometry {
        Geometry { address: 0xb8000, pitch: width * 2, width, height, depth: 16, colours: None }
    }

    fn pixels(width: u32, height: u32, depth: u8, colours: [u8; 6]) -> Geometry {
        let pitch = width * u32::from(depth.div_ceil(8)) + 12;
        Geometry { address: 0xfd00_0000, pitch, width, height, depth, colours: Some(colours) }
    }

    fn lines(of: &Geometry, memory: &Bytes) -> Vec<String> {
        let bytes = memory.0.borrow();
        let line = |line: &[u8]| line.chunks(2).map(|c| c[0] as char).collect::<String>().trim_end().into();
        bytes.chunks(of.pitch as usize).map(line).collect()
    }

    fn shown(width: u32, height: u32, print: &[u8]) -> Vec<String> {
        let of = text(width, height);
        let memory = memory(&of);
        Screen::new(&of, &memory).unwrap().print(print);
        lines(&of, &memory)
    }

    #[test]
    fn lines_wrap_and_scroll() {
        assert_eq!(shown(5, 3, b"one\ntwo"), ["one", "two", ""]);
        assert_eq!(shown(5, 3, b"abcdefg\nh"), ["abcde", "fg", "h"]);
        assert_eq!(shown(5, 3, b"abcde\nh"), ["abcde", "h", ""]);
        assert_eq!(shown(5, 3, b"1\n2\n3\n4\n5"), ["3", "4", "5"]);
    }

    #[test]
    fn what_a_line_editor_sends_is_obeyed_and_colours_are_not_shown() {
        assert_eq!(shown(20, 1, b"\x1b[1;31mred\x1b[0m"), ["red"]);
        assert_eq!(shown(20, 1, b"oxen# abc\r\x1b[Koxen# x"), ["oxen# x"]);
        assert_eq!(shown(20, 1, b"abc\x08\x08x"), ["axc"]);
        assert_eq!(shown(20, 1, b"a\tb"), ["a       b"]);
        assert_eq!(shown(20, 1, "größe".as_bytes()), ["gr??e"]);
    }

    #[test]
    fn a_character_has_the_same_shape_in_every_format() {
        let formats = [
            (32, [16, 8, 8, 8, 0, 8]),
            (32, [0, 8, 8, 8, 16, 8]),
            (32, [20, 10, 10, 10, 0, 10]),
            (24, [16, 8, 8, 8, 0, 8]),
            (16, [11, 5, 5, 6, 0, 5]),
            (15, [10, 5, 5, 5, 0, 5]),
        ];
        for (depth, colours) in formats {
            let of = pixels(3 * CELL.0 as u32 + 1, 2 * CELL.1 as u32, depth, colours);
            let memory = memory(&of);
            Screen::new(&of, &memory).unwrap().print(b"\n A");
            let bytes = memory.0.borrow();
            let picture = get_raster('A', FONT.0, FONT.1).unwrap();
            let size = usize::from(depth.div_ceil(8));
            for (y, row) in picture.rows().enumerate() {
                for (x, intensity) in row.iter().enumerate() {
                    let at = (CELL.1 + y) * of.pitch as usize + (CELL.0 + x) * size;
                    let mut word = [0; 4];
                    word[..size].copy_from_slice(&bytes[at..][..size]);
                    for colour in colours.chunks(2) {
                        let all = (1u32 << colour[1]) - 1;
                        let value = u32::from_le_bytes(word) >> colour[0] & all;
                        let expected = f64::from(*intensity) / 255.0 * f64::from(all);
                        assert!((f64::from(value) - expected).abs() <= 1.0, "{depth} bits at {x},{y}");
                    }
                }
            }
        }
    }

    /// Each newline drew the whole screen anew.
    #[test]
    fn a_text_is_drawn_once_however_often_it_scrolls() {
        struct Counter<'a>(&'a core::cell::Cell<usize>);
        impl Memory for Counter<'_> {
            fn write(&self, _: u64, _: &[u8]) {
                self.0.set(self.0.get() + 1);
            }
        }
        let drawn = core::cell::Cell::new(0);
        let mut screen = Screen::new(&text(80, 25), Counter(&drawn)).unwrap();
        let mut full: Vec<u8> = (0..80 * 25).map(|n| b'a' + (n % 23) as u8).collect();
        screen.print(&full);
        full.extend([b'\n'; 1000]);
        drawn.set(0);
        screen.print(&full);
        assert!((1..=80 * 25).contains(&drawn.get()), "{}", drawn.get());
    }

    #[test]
    fn what_is_no_screen_is_none() {
        let good = pixels(640, 480, 32, [16, 8, 8, 8, 0, 8]);
        let memory = memory(&good);
        let is = |of: Geometry| Screen::new(&of, &memory).is_some();
        assert!(is(good.clone()));
        assert!(!is(Geometry { width: 0, ..good.clone() }));
        assert!(!is(Geometry { height: 15, ..good.clone() }));
        assert!(!is(Geometry { pitch: 640 * 4 - 1, ..good.clone() }));
        assert!(!is(Geometry { depth: 8, ..good.clone() }));
        assert!(!is(Geometry { colours: Some([16, 8, 8, 8, 30, 8]), ..good.clone() }));
        assert!(!is(Geometry { width: u32::MAX, ..good }));
    }

    proptest! {
        /// Whatever is printed: no panic, nothing outside the memory, and what is in memory is what the grid says.
        #[test]
        fn takes_any_bytes(width in 1u32..12, height in 1u32..6, bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(&b"ab\n\r\t\x08\x1b[KJDC"[..])], 0..300)
        ) {
            let of = text(width, height);
            let memory = memory(&of);
            let mut screen = Screen::new(&of, &memory).unwrap();
            screen.print(&bytes);
            let drawn: Vec<u8> = memory.0.borrow().chunks(2).map(|c| c[0]).collect();
            prop_assert_eq!(&drawn, &screen.cells);
            prop_assert_eq!(&drawn, &screen.shown);
        }
    }
}
