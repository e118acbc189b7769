//! Every bit of an entry, at every level: new, in place of another, and when a table is validated.

use super::pool::{Pool, READ_ONLY, UNMAPPED};
use super::{CLEAR_PAGE, WRITE, extended, map, pin, set, shown, unpin};
use crate::answer;

/// The bits to turn over: all flags, and those of the address that no memory has.
fn bits() -> impl Iterator<Item = u64> {
    (0..12).chain(40..64)
}

/// Every question about them.
pub fn ask(pool: &Pool) {
    for level in 1..=4 {
        fresh(pool, level);
        changed(pool, level);
        validated(pool, level);
    }
    addressed(pool);
}

fn told(pool: &Pool, level: u64, index: usize) {
    answer(format_args!("  stored"), shown(pool.entry(level, index)));
}

fn fresh(pool: &Pool, level: u64) {
    let (table, good) = (pool.table(level), pool.child(level));
    for bit in bits() {
        let result = set(table, 6, good ^ 1 << bit);
        answer(format_args!("L{level}: new entry, bit {bit}"), result);
        told(pool, level, 6);
        set(table, 6, 0);
        // Without P.
        let result = set(table, 6, (good ^ 1 << bit) & !1);
        answer(format_args!("L{level}: absent entry, bit {bit}"), result);
        told(pool, level, 6);
        set(table, 6, 0);
    }
}

/// The new entry differs in flags only, which needs no new references.
fn changed(pool: &Pool, level: u64) {
    let (table, good) = (pool.table(level), pool.child(level));
    for (before, write) in [("read-only", 0), ("writable", WRITE)] {
        for bit in bits() {
            set(table, 7, good | write);
            let result = set(table, 7, (good | write) ^ 1 << bit);
            answer(format_args!("L{level}: {before} entry changed, bit {bit}"), result);
            told(pool, level, 7);
            set(table, 7, 0);
        }
    }
    // With what the processor may have set kept.
    let accessed = 0x60;
    set(table, 7, good | accessed);
    answer(
        format_args!("L{level}: entry changed, A and D kept"),
        super::update((table << 12) | (7 * 8) | 2, good),
    );
    told(pool, level, 7);
    set(table, 7, 0);
}

/// The frame becomes a table with the entry in it.
fn validated(pool: &Pool, level: u64) {
    let (frame, good) = (pool.frame(READ_ONLY), pool.child(level));
    for bit in bits() {
        set(frame, 8, good ^ 1 << bit);
        let result = pin(level, frame);
        answer(format_args!("L{level}: pinned with an entry, bit {bit}"), result);
        answer(format_args!("  stored"), shown(pool.word(READ_ONLY, 8)));
        if result == 0 {
            unpin(frame);
        }
        extended(CLEAR_PAGE, frame, 0);
    }
}

fn addressed(pool: &Pool) {
    let address = pool.address(UNMAPPED);
    for bit in bits() {
        let result = map(address, pool.child(1) ^ 1 << bit);
        answer(format_args!("at an address: new entry, bit {bit}"), result);
        map(address, 0);
    }
}
