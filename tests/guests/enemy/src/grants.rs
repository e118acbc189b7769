//! Grants at random, of this guest to itself: entries of every kind of both versions are scribbled into the table and
//! its status, mapped, copied and swapped, and the version changes all the time. The first entries, by which dom0 has
//! the console and xenstore, are left alone, so both must go on to the end.
//!
//! What the hypervisor answers is compared with what was written. A breach is reported as `enemy wins`.

use guest_kernel::memory::{Pages, m2p};
use guest_kernel::println;

use crate::random::Random;
use crate::raw::{buffer, call, fill, nr, word};

const VIRT_BASE: usize = 0xffff_ffff_8000_0000;
const SELF: u64 = 0x7ff0;
const FRAMES: usize = 4;
const SLOTS: usize = 6;
/// The references that are played with.
const FIRST: u64 = 8;
const REFERENCES: usize = 12;

/// What an entry says.
#[derive(Clone, Copy, Default)]
struct Entry {
    flags: u64,
    domain: u64,
    start: u64,
    len: u64,
}

/// A mapping of this entry at a slot.
#[derive(Clone, Copy)]
struct Mapping {
    reference: usize,
    handle: u64,
    whole: bool,
}

struct Table {
    me: u64,
    version: u64,
    shared: u64,
    entries: [Entry; REFERENCES],
}

/// One grant operation, and what it returned.
fn op(command: usize, words: &[u64]) -> i64 {
    fill(words);
    call(nr::GRANT_TABLE_OP, [command, buffer(0), 1, 0, 0])
}

fn status(index: usize, shift: u32) -> i16 {
    ((word(index) >> shift) as u16).cast_signed()
}

fn poke(frame: u64, offset: u64, value: u64) {
    fill(&[(frame << 12) + offset, value]);
    call(nr::MMU_UPDATE, [buffer(0), 1, 0, SELF as usize, 0]);
}

/// Copies of one's own frame from or to a reference of one's own table.
fn copy(reference: u64, own: u64, offset: u64, len: u64, write: bool) -> i16 {
    let (granted, own) = ((reference, SELF | offset << 16), (own, SELF | offset << 16));
    let (source, dest) = if write { (own, granted) } else { (granted, own) };
    op(5, &[source.0, source.1, dest.0, dest.1, len | if write { 2 } else { 1 } << 16]);
    status(4, 32)
}

impl Table {
    fn new() -> Option<Table> {
        op(2, &[SELF | 1 << 32, 0, buffer(64) as u64]);
        let shared = word(64);
        (status(1, 0) == 0).then_some(Table { me: 0, version: 1, shared, entries: Default::default() })
    }

    fn write(&mut self, n: usize, entry: Entry, frame: u64, second: u64) {
        let reference = FIRST + n as u64;
        let head = entry.flags | entry.domain << 16;
        if self.version == 1 {
            poke(self.shared, reference * 8, head | frame << 32);
        } else {
            poke(self.shared, reference * 16 + 8, second);
            poke(self.shared, reference * 16, head | entry.start << 32 | entry.len << 48);
        }
        self.entries[n] = entry;
    }

    /// This guest's number: that to which a grant is good.
    fn learn(&mut self, frame: u64) -> bool {
        for me in 1..4096 {
            self.write(0, Entry { flags: 1, domain: me, ..Entry::default() }, frame, frame);
            if copy(FIRST, frame, 0, 8, false) == 0 {
                self.me = me;
                return true;
            }
        }
        false
    }

    /// Whether the entry grants the whole frame, or these bytes of it.
    fn grants(&self, n: usize, write: bool, bytes: Option<(u64, u64)>) -> bool {
        let entry = self.entries[n];
        let part = entry.flags & 1 << 8 != 0 && (self.version == 2 || bytes.is_none());
        let within = match bytes {
            None => !part,
            Some((from, len)) => !part || from >= entry.start && from + len <= entry.start + entry.len,
        };
        entry.flags & 3 == 1 && entry.domain == self.me && !(write && entry.flags & 4 != 0) && within
    }
}

/// `count` steps of the sequence `seed`.
pub fn attack(seed: u64, count: u64) {
    let (Ok(pool), Ok(holes)) = (Pages::new(FRAMES), Pages::new(SLOTS)) else { return };
    let Some(mut table) = Table::new() else { return };
    if !table.learn(pool.mfn(0).0) {
        return println!("enemy grants: what is my number?");
    }
    let mut random = Random::new(seed);
    let mut slots: [Option<Mapping>; SLOTS] = [None; SLOTS];
    let (mut done, mut refused, mut versions) = (0u64, 0u64, 0u64);
    for step in 0..count {
        let (n, any) = (random.below(REFERENCES), random.word());
        let reference = FIRST + n as u64;
        let in_use = |slots: &[Option<Mapping>; SLOTS], n| slots.iter().flatten().any(|m| m.reference == n);
        let slot = random.below(SLOTS);
        let at = m2p(holes.mfn(slot)).map_or(0, |pfn| VIRT_BASE + pfn * 4096);
        let result = match random.below(12) {
            0..4 => {
                // In use or not: what an entry in use says means nothing but for its next use.
                let flags = random.pick(&[1, 1, 1, 5, 0x101, 0x101, 0x105, 3, 0x103, 2, 0, 0x19, 0xffe1]);
                let domain = random.pick(&[table.me, table.me, table.me, table.me, 0, SELF, any & 0xffff]);
                let (start, len) =
                    (random.pick(&[0, 1, 100, 4095, table.me]), random.pick(&[0, 1, 64, 4096, 0xffff]));
                let own = pool.mfn(random.below(FRAMES)).0;
                let frame = random.pick(&[own, own, own, own, any >> 32]);
                let second = random.pick(&[frame, frame, frame, FIRST, any]);
                if !in_use(&slots, n) {
                    table.write(n, Entry { flags, domain, start, len }, frame & 0xffff_ffff, second);
                }
                0
            }
            4 | 5 => {
                let flags = random.pick(&[2u64, 6, 3, 1, 7]);
                let Some(free) = slots.iter().position(|s| s.is_none()) else { continue };
                let at = m2p(holes.mfn(free)).map_or(0, |pfn| VIRT_BASE + pfn * 4096);
                op(0, &[at as u64, flags | reference << 32, table.me]);
                let (done, handle) = (status(2, 16), word(2) >> 32);
                if done == 0 {
                    if !in_use(&slots, n) && !table.grants(n, flags & 4 == 0, None) {
                        println!("enemy wins: step {step}, what was not granted is mapped");
                    }
                    slots[free] = Some(Mapping { reference: n, handle, whole: flags & 1 == 0 });
                }
                done.into()
            }
            6 | 7 => {
                let Some(mapping) = slots[slot] else { continue };
                if mapping.whole {
                    op(1, &[at as u64, 0, mapping.handle]);
                    slots[slot] = slots[slot].filter(|_| status(2, 32) != 0);
                    status(2, 32).into()
                } else {
                    // Both parts, whichever it has.
                    let bus = pool.mfn(random.below(FRAMES)).0 << 12;
                    op(1, &[at as u64, bus, mapping.handle]);
                    let result = status(2, 32);
                    op(1, &[0, 0, mapping.handle]);
                    slots[slot] = slots[slot].filter(|_| status(2, 32) != -4);
                    result.into()
                }
            }
            8 | 9 => {
                let (from, len) =
                    (random.pick(&[0, 1, 100, 101, 4095]), random.pick(&[0, 1, 63, 64, 3996, 4096]));
                let write = random.below(2) == 1;
                let done = copy(reference, pool.mfn(random.below(FRAMES)).0, from, len, write);
                if done == 0 && !in_use(&slots, n) && !table.grants(n, write, Some((from, len))) {
                    println!("enemy wins: step {step}, {len} bytes at {from} were copied");
                }
                done.into()
            }
            10 => {
                let version = random.pick(&[1, 2, 2, 3 - table.version, any & 7]);
                let result = op(8, &[version]);
                if result == 0 && version != table.version {
                    if slots.iter().flatten().next().is_some() {
                        println!("enemy wins: step {step}, the version changed under a mapping");
                    }
                    table.version = version;
                    table.entries = Default::default();
                    versions += 1;
                }
                op(10, &[SELF]);
                if word(0) >> 32 != table.version {
                    println!("enemy wins: step {step}, the version is {}", word(0) >> 32);
                }
                result
            }
            _ => match random.below(4) {
                0 => {
                    let other = random.below(REFERENCES);
                    op(11, &[reference | (FIRST + other as u64) << 32]);
                    let done = status(1, 0);
                    if done == 0 {
                        table.entries.swap(n, other);
                        if n != other && (in_use(&slots, n) || in_use(&slots, other)) {
                            println!("enemy wins: step {step}, an entry in use was swapped");
                        }
                    }
                    done.into()
                }
                1 => {
                    // Its own status, scribbled over.
                    op(9, &[1 | SELF << 32, buffer(64) as u64]);
                    let (done, frame) = (status(0, 48), word(64));
                    if done == 0 && table.version == 2 && !slots.iter().flatten().any(|m| m.reference < 4) {
                        poke(frame, FIRST / 4 * 8, random.word());
                    }
                    done.into()
                }
                2 => op(12, &[pool.mfn(0).0 << 12, 64 << 16 | 1 << 32]),
                _ => op(random.below(16), &[random.word(), random.word(), random.word()]).min(0),
            },
        };
        if result == 0 { done += 1 } else { refused += 1 }
    }
    println!("enemy grants {count}: {versions} changes of the version, {done} done, {refused} refused");
    // What is mapped goes with this guest.
    core::mem::forget((pool, holes));
}
