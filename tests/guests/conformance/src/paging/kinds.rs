//! Every operation of frames of every kind.

use super::pool::{DATA, DESCRIPTORS, Pool, READ_ONLY, UNMAPPED, address_of};
use super::{
    ADDRESS, CLEAR_PAGE, COPY_PAGE, NEW_BASEPTR, NEW_USER_BASEPTR, PRESENT, USER, WRITE, extended, map, pin,
    set, shown, unpin, update,
};
use crate::answer;
use crate::raw::{buffer, call, fill, l4_frame, nr, peek, word};

/// Where the library OS maps it.
const SHARED_INFO: usize = 0xffff_ffff_0000_0000;

/// A frame to ask about.
struct Kind {
    name: &'static str,
    frame: u64,
    /// The level of the private table that it is.
    table: u64,
    /// The processor or the hypervisor works with its contents: no question that could change them.
    live: bool,
}

/// Every question about them.
pub fn ask(pool: &Pool) {
    descriptors(pool, pool.frame(DESCRIPTORS));
    let (l3, l2, l1) = live_tables();
    let plain = |name, frame| Kind { name, frame, table: 0, live: false };
    let live = |name, frame| Kind { name, frame, table: 0, live: true };
    let kinds = [
        plain("data", pool.frame(DATA)),
        plain("read-only data", pool.frame(READ_ONLY)),
        plain("unmapped", pool.frame(UNMAPPED)),
        plain("descriptors", pool.frame(DESCRIPTORS)),
        Kind { name: "L1", frame: pool.table(1), table: 1, live: false },
        Kind { name: "L2", frame: pool.table(2), table: 2, live: false },
        Kind { name: "L3", frame: pool.table(3), table: 3, live: false },
        Kind { name: "L4", frame: pool.table(4), table: 4, live: false },
        live("live L1", l1),
        live("live L2", l2),
        live("live L3", l3),
        live("root", l4_frame()),
        live("shared info", frame_at(SHARED_INFO)),
        live("grant table", grant_table()),
        live("M2P", m2p_frame()),
        live("hypervisor's L3", (peek(root_address() + 256 * 8) & ADDRESS) >> 12),
        live("first of all", 0),
        live("VGA", 0xa0),
        live("ROM", 0xf0),
        live("local APIC", 0xfee00),
        live("I/O APIC", 0xfec00),
        live("HPET", 0xfed00),
        live("PCI hole", 0xfe800),
        live("beyond memory", 1 << 28),
        live("beyond all", (1 << 40) - 1),
    ];
    for kind in &kinds {
        as_table(kind);
        mapped(pool, kind);
        written(pool, kind);
    }
    answer(format_args!("paging: no GDT again"), call(nr::SET_GDT, [buffer(0), 0, 0, 0, 0]));
}

fn descriptors(_pool: &Pool, frame: u64) {
    fill(&[frame]);
    answer(format_args!("paging: a GDT"), call(nr::SET_GDT, [buffer(0), 8, 0, 0, 0]));
}

fn root_address() -> usize {
    address_of(l4_frame()).unwrap_or(0)
}

/// The tables that translate the buffer's address: L3, L2, L1.
fn live_tables() -> (u64, u64, u64) {
    let at = buffer(0);
    let below = |table: u64, shift: u32| {
        let entry = peek(address_of(table).unwrap_or(0) + (at >> shift & 511) * 8);
        (entry & ADDRESS) >> 12
    };
    let l3 = below(l4_frame(), 39);
    let l2 = below(l3, 30);
    (l3, l2, below(l2, 21))
}

/// The frame behind an address.
fn frame_at(address: usize) -> u64 {
    let mut table = l4_frame();
    for shift in [39, 30, 21, 12] {
        let entry = peek(address_of(table).unwrap_or(0) + (address >> shift & 511) * 8);
        table = (entry & ADDRESS) >> 12;
    }
    table
}

/// The first frame of this guest's grant table.
fn grant_table() -> u64 {
    fill(&[DOMID_SELF | 1 << 32, 0, buffer(64) as u64]);
    call(nr::GRANT_TABLE_OP, [2, buffer(0), 1, 0, 0]);
    word(64)
}

const DOMID_SELF: u64 = 0x7ff0;

/// The first frame of the M2P, by `XENMEM_machphys_mfn_list`.
fn m2p_frame() -> u64 {
    fill(&[1, buffer(64) as u64]);
    call(nr::MEMORY_OP, [5, buffer(0), 0, 0, 0]);
    word(64)
}

fn as_table(kind: &Kind) {
    let Kind { name, frame, .. } = *kind;
    for level in 1..=4 {
        let result = pin(level, frame);
        answer(format_args!("{name}: pin as L{level}"), result);
        if result == 0 {
            answer(format_args!("  unpin"), unpin(frame));
            // What was an L4 has had entries of the hypervisor's.
            answer(format_args!("  clear"), extended(CLEAR_PAGE, frame, 0));
        }
    }
    if name != "root" && !name.starts_with("live") {
        let result = unpin(frame);
        answer(format_args!("{name}: unpin"), result);
        if result == 0 {
            answer(format_args!("  pin again"), pin(kind.table, frame));
        }
    }
    // What may become a root that maps nothing is not to go on with.
    if !["L4", "read-only data", "unmapped"].contains(&name) {
        answer(format_args!("{name}: new_baseptr"), extended(NEW_BASEPTR, frame, 0));
    }
    if frame != 0 {
        let result = extended(NEW_USER_BASEPTR, frame, 0);
        answer(format_args!("{name}: new_user_baseptr"), result);
        if result == 0 {
            answer(format_args!("  none again"), extended(NEW_USER_BASEPTR, 0, 0));
            if !kind.live && kind.table == 0 {
                answer(format_args!("  clear"), extended(CLEAR_PAGE, frame, 0));
            }
        }
    }
}

fn mapped(pool: &Pool, kind: &Kind) {
    let Kind { name, frame, .. } = *kind;
    for (how, flags) in [("read-only", PRESENT | USER), ("writable", PRESENT | USER | WRITE)] {
        for level in 1..=4 {
            let table = pool.table(level);
            let result = set(table, 5, (frame << 12) | flags);
            answer(format_args!("{name}: in L{level}, {how}"), result);
            if result == 0 {
                answer(format_args!("  stored"), shown(pool.entry(level, 5)));
                answer(format_args!("  removed"), set(table, 5, 0));
            }
        }
        let address = pool.address(UNMAPPED);
        let result = map(address, (frame << 12) | flags);
        answer(format_args!("{name}: at an address, {how}"), result);
        if result == 0 {
            answer(format_args!("  removed"), map(address, 0));
        }
    }
}

fn written(pool: &Pool, kind: &Kind) {
    let Kind { name, frame, .. } = *kind;
    if !name.starts_with("live") && name != "root" {
        for command in [0, 2, 3] {
            let result = update((frame << 12) | 4088 | command, 0);
            answer(format_args!("{name}: last word, command {command}"), result);
        }
        fill(&[0]);
        let result = call(nr::UPDATE_DESCRIPTOR, [(frame << 12) as usize | 4088, 0, 0, 0, 0]);
        answer(format_args!("{name}: last descriptor"), result);
    }
    if kind.live && (name == "shared info" || name == "grant table") {
        return;
    }
    answer(format_args!("{name}: clear"), extended(CLEAR_PAGE, frame, 0));
    answer(format_args!("{name}: copy to data"), extended(COPY_PAGE, pool.frame(READ_ONLY), frame));
    extended(CLEAR_PAGE, pool.frame(READ_ONLY), 0);
    answer(format_args!("{name}: copy from data"), extended(COPY_PAGE, frame, pool.frame(READ_ONLY)));
    if kind.frame == pool.frame(DESCRIPTORS) {
        return;
    }
    fill(&[frame]);
    let result = call(nr::SET_GDT, [buffer(0), 8, 0, 0, 0]);
    answer(format_args!("{name}: as GDT"), result);
    if result == 0 {
        descriptors_again(pool);
    }
}

fn descriptors_again(pool: &Pool) {
    fill(&[pool.frame(DESCRIPTORS)]);
    answer(format_args!("  descriptors again"), call(nr::SET_GDT, [buffer(0), 8, 0, 0, 0]));
}
