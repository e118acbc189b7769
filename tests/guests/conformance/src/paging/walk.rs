//! Random steps with frames that become tables and data again: two hypervisors that start from the
//! same state and are told the same must end in the same.

use super::pool::address_of;
use super::{ADDRESS, CLEAR_PAGE, COPY_PAGE, PRESENT, USER, WRITE, extended, map, pin, set, shown, unpin};
use crate::raw::peek;
use guest_kernel::memory::Pages;
use guest_kernel::println;

const FRAMES: u64 = 10;
const LINES: u64 = 400;
const STEPS: usize = 16;

/// A generator of numbers that look random: xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

/// All steps; a line of answers has those of some, and the entries' flags after them.
pub fn ask() {
    let Ok(pages) = Pages::new(FRAMES as usize) else { return };
    let frame = |n: u64| pages.mfn(n as usize).0;
    let address = |n: u64| address_of(frame(n)).unwrap_or(0);
    for n in 0..FRAMES {
        map(address(n), (frame(n) << 12) | PRESENT | USER);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for line in 0..LINES {
        let mut results = [0; STEPS];
        for result in &mut results {
            *result = step(&mut random, &frame, &address);
        }
        println!("answer walk {line}: {results:?}");
    }
    for n in 0..FRAMES {
        // Which frame an entry names is a number among these.
        let mut sum = 0u64;
        for index in 0..8 {
            let entry = peek(address(n) + index * 8);
            let named = (0..FRAMES).find(|m| frame(*m) == (entry & ADDRESS) >> 12).unwrap_or(99);
            sum = sum.wrapping_mul(31).wrapping_add(shown(entry).cast_unsigned() ^ named << 12);
        }
        println!("answer walk's frame {n}: {sum:#x}");
    }
    for n in 0..FRAMES {
        unpin(frame(n));
        map(address(n), 0);
    }
    for n in 0..FRAMES {
        for index in 0..8 {
            set(frame(n), index, 0);
        }
    }
    for n in 0..FRAMES {
        println!("answer walk's end {n}: {}", map(address(n), (frame(n) << 12) | PRESENT | USER | WRITE));
    }
}

/// The level that frame `n` has as a table; the first may be data as well.
fn role(n: u64) -> u64 {
    [1, 1, 1, 1, 1, 2, 2, 2, 3, 3][n as usize]
}

/// One step. Some things are Xen's own and don't come about here: an entry that names a table of its own
/// level (linear page tables), and what remains in a frame that was an L4, or an L1 (whose entries Xen makes
/// global) and is to be something else.
fn step(random: &mut Random, frame: &impl Fn(u64) -> u64, address: &impl Fn(u64) -> usize) -> i64 {
    let (n, m) = (random.below(FRAMES), random.below(FRAMES));
    let (one, other) = (frame(n), frame(m));
    let flags =
        [0, 4, 5, 5, 5, 7, 7, 0x25, 0x27, 0x67, 0x107, 1 << 63 | 5, 1 << 9 | 5][random.below(13) as usize];
    match random.below(15) {
        0..=2 => pin(role(n), one),
        3 => unpin(one),
        4..=10 if role(n) > 1 && role(m) != role(n) - 1 => 0,
        4..=10 => set(one, random.below(8), (other << 12) | flags),
        11 => set(one, random.below(8), 0),
        12 => map(address(n), (one << 12) | PRESENT | USER | (random.below(2) * WRITE)),
        13 => extended(CLEAR_PAGE, one, 0),
        // What Xen adds to an L1's entries may not stand in a higher table's.
        14 if role(n) > 1 => 0,
        _ => extended(COPY_PAGE, one, other),
    }
}
