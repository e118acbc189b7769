//! In whose name page tables are changed, and whose frames they get; arguments of the calls that do it.

use super::pool::{DATA, Pool, READ_ONLY, UNMAPPED};
use super::{
    CLEAR_PAGE, COPY_PAGE, NEW_BASEPTR, NEW_USER_BASEPTR, UNPIN, extended_of, map, set, shown, update_of,
};
use crate::answer;
use crate::raw::{buffer, call, fill, l4_frame, nr, word};

const DOMAINS: [usize; 12] =
    [0, 1, 77, 0x7fef, 0x7ff0, 0x7ff1, 0x7ff2, 0x7ff3, 0x7ff4, 0x7ff5, 0x7fff, 0xffff];

/// Every question about them.
pub fn ask(pool: &Pool) {
    for domain in DOMAINS {
        entries(pool, domain);
        operations(pool, domain);
    }
    commands(pool);
    addresses(pool);
    lists(pool);
    flushes(pool);
}

fn entries(pool: &Pool, domain: usize) {
    let slot = (pool.table(1) << 12) | (9 * 8);
    for (name, frame) in [
        ("data", pool.frame(DATA)),
        ("frame 0", 0),
        ("VGA", 0xa0),
        ("local APIC", 0xfee00),
        ("PCI hole", 0xfe800),
    ] {
        for flags in [5, 7] {
            let result = update_of(domain, slot, (frame << 12) | flags);
            answer(format_args!("{domain:#x}: L1 entry of {name} {flags}"), result);
            set(pool.table(1), 9, 0);
        }
    }
    answer(format_args!("{domain:#x}: L1 entry emptied"), update_of(domain, slot, 0));
    answer(
        format_args!("{domain:#x}: L2 entry"),
        update_of(domain, (pool.table(2) << 12) | (9 * 8), pool.child(2)),
    );
    set(pool.table(2), 9, 0);
    answer(format_args!("{domain:#x}: a word of data"), update_of(domain, (pool.frame(DATA) << 12) | 8, 0));
    answer(format_args!("{domain:#x}: M2P"), update_of(domain, (pool.frame(UNMAPPED) << 12) | 1, 0x55));
    // The tables' owner, plus one, in the upper half.
    let owned = update_of((domain + 1) << 16 | 0x7ff0, slot, pool.child(1));
    answer(format_args!("{domain:#x}: L1 entry of its own"), owned);
    set(pool.table(1), 9, 0);
    let entry = (pool.frame(DATA) << 12) as usize | 5;
    let at = pool.address(UNMAPPED);
    answer(
        format_args!("{domain:#x}: at an address"),
        call(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, [at, entry, 2, domain, 0]),
    );
    map(at, 0);
    answer(
        format_args!("{domain:#x}: at an address, device"),
        call(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, [at, 0xfee0_0005, 2, domain, 0]),
    );
    map(at, 0);
}

fn operations(pool: &Pool, domain: usize) {
    let idle = pool.frame(READ_ONLY);
    let told = |name: &str, result: i64| answer(format_args!("{domain:#x}: {name}"), result);
    for level in 0..4 {
        let result = extended_of(domain, level, idle, 0);
        told(["pin L1", "pin L2", "pin L3", "pin L4"][level as usize], result);
        told(
            ["unpin L1", "unpin L2", "unpin L3", "unpin L4"][level as usize],
            extended_of(domain, UNPIN, idle, 0),
        );
        extended_of(super::DOMID_SELF, UNPIN, idle, 0);
        extended_of(super::DOMID_SELF, CLEAR_PAGE, idle, 0);
    }
    told("new_baseptr", extended_of(domain, NEW_BASEPTR, l4_frame(), 0));
    told("new_user_baseptr", extended_of(domain, NEW_USER_BASEPTR, 0, 0));
    told("flush TLB", extended_of(domain, 6, 0, 0));
    told("flush address", extended_of(domain, 7, 0x1000, 0));
    told("flush all", extended_of(domain, 10, 0, 0));
    told("flush cache", extended_of(domain, 12, 0, 0));
    told("set_ldt", extended_of(domain, 13, 0, 0));
    told("clear", extended_of(domain, CLEAR_PAGE, idle, 0));
    told("copy", extended_of(domain, COPY_PAGE, idle, pool.frame(DATA)));
    told("flush cache everywhere", extended_of(domain, 18, 0, 0));
    told("mark super", extended_of(domain, 19, idle, 0));
    told("unmark super", extended_of(domain, 20, idle, 0));
    told("no operation", extended_of(domain, 21, idle, 0));
    fill(&[]);
    told("no updates", call(nr::MMU_UPDATE, [buffer(0), 0, 0, domain, 0]));
    told("no operations", call(nr::MMUEXT_OP, [buffer(0), 0, 0, domain, 0]));
}

/// The low bits of an update's address, for a table and for data.
fn commands(pool: &Pool) {
    for command in 0..8 {
        let result = update_of(super::DOMID_SELF, (pool.table(1) << 12) | 72 | command, pool.child(1));
        answer(format_args!("L1 entry, command {command}"), result);
        answer(format_args!("  stored"), shown(pool.entry(1, 9)));
        set(pool.table(1), 9, 0);
        let pfn = u64::from(command == 1) * 0x77;
        let result = update_of(super::DOMID_SELF, (pool.frame(READ_ONLY) << 12) | 72 | command, pfn);
        answer(format_args!("data, command {command}"), result);
    }
}

fn addresses(pool: &Pool) {
    let entry = (pool.frame(DATA) << 12) | 5;
    for (name, at) in [
        ("user", 0x1000),
        ("lower half's end", 0x7fff_ffff_f000),
        ("non-canonical", 0x8000_0000_0000),
        ("hypervisor", 0xffff_8000_0000_0000),
        ("hypervisor's end", 0xffff_87ff_ffff_f000),
        ("upper half", 0xffff_8800_0000_0000),
        ("top", 0xffff_ffff_ffff_f000),
        ("in a page", pool.address(UNMAPPED) + 0x123),
    ] {
        answer(format_args!("va_mapping at {name}"), map(at, entry));
    }
    let at = pool.address(UNMAPPED);
    map(at, 0);
    for flags in (0..8).chain([0x1000, 0x8000, 0xffff_8300_0000_0000]) {
        let result = call(nr::UPDATE_VA_MAPPING, [at, entry as usize, flags, 0, 0]);
        answer(format_args!("va_mapping with flags {flags:#x}"), result);
        map(at, 0);
    }
}

/// A list in which one fails: how far it went, and what was done.
fn lists(pool: &Pool) {
    let slot = |n: u64| (pool.table(1) << 12) + n * 8;
    let good = pool.child(1);
    for bad in 0..3u64 {
        let mut words = [slot(20), good, slot(21), good, slot(22), good];
        words[bad as usize * 2 + 1] = 1 << 51 | 5;
        fill(&words);
        crate::raw::set(64, 0x1234_5678);
        answer(
            format_args!("list, bad at {bad}"),
            call(nr::MMU_UPDATE, [buffer(0), 3, buffer(64), 0x7ff0, 0]),
        );
        answer(format_args!("  done"), (word(64) & 0xffff_ffff).cast_signed());
        for n in 20..23 {
            answer(format_args!("  entry {n}"), (pool.entry(1, n) & 1).cast_signed());
            set(pool.table(1), n as u64, 0);
        }
        let mut words = [7, 0x1000, 0, 7, 0x2000, 0, 7, 0x3000, 0];
        words[bad as usize * 3] = 99;
        fill(&words);
        crate::raw::set(64, 0x1234_5678);
        answer(
            format_args!("list of operations, bad at {bad}"),
            call(nr::MMUEXT_OP, [buffer(0), 3, buffer(64), 0x7ff0, 0]),
        );
        answer(format_args!("  done"), (word(64) & 0xffff_ffff).cast_signed());
    }
}

/// Flushes of several vcpus, named by a bitmap.
fn flushes(pool: &Pool) {
    const HYPERVISOR: usize = 0xffff_8300_0000_0000;
    let bitmap = buffer(64);
    let at = pool.address(UNMAPPED);
    let entry = (pool.frame(DATA) << 12) as usize | 5;
    let addresses = [
        ("data", pool.address(DATA) as u64),
        ("0", 0),
        ("no address", 1 << 47),
        ("hypervisor", HYPERVISOR as u64),
    ];
    for bits in [0u64, 1, 2, 3, u64::MAX] {
        for (what, address) in addresses {
            for command in 6..12 {
                fill(&[command, address, bitmap as u64]);
                crate::raw::set(64, bits);
                let result = call(nr::MMUEXT_OP, [buffer(0), 1, 0, 0x7ff0, 0]);
                answer(format_args!("flush {command} of {what} by {bits:#x}"), result);
            }
        }
        for kind in 1..4 {
            crate::raw::set(64, bits);
            let result = call(nr::UPDATE_VA_MAPPING, [at, entry, bitmap | kind, 0, 0]);
            answer(format_args!("va_mapping, flush {kind} by {bits:#x}"), result);
            map(at, 0);
        }
    }
    for (name, bitmap) in
        [("none", 0), ("unmapped", 0x1000), ("hypervisor", HYPERVISOR), ("no address", 1 << 47)]
    {
        for command in [8, 9] {
            fill(&[command, 0x1000, bitmap as u64]);
            let result = call(nr::MMUEXT_OP, [buffer(0), 1, 0, 0x7ff0, 0]);
            answer(format_args!("flush {command} by a bitmap: {name}"), result);
        }
        for kind in 1..4 {
            let result = call(nr::UPDATE_VA_MAPPING, [at, entry, bitmap | kind, 0, 0]);
            answer(format_args!("va_mapping, flush {kind} by a bitmap: {name}"), result);
            map(at, 0);
        }
    }
}
