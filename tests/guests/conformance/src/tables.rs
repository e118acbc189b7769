//! Page tables: what a guest may not put into one, and what it may not make one.
//!
//! The tables here are never in use by the processor: a data frame and a frame that is pinned and
//! unpinned, changed only by the hypervisor.

use guest_kernel::memory::{Pages, m2p};

use crate::answer;
use crate::raw::{buffer, call, fill, l4_frame, nr, word};

const DOMID_SELF: usize = 0x7ff0;

/// Where a guest's frames are mapped (images/guest.ld).
const VIRT_BASE: usize = 0xffff_ffff_8000_0000;

const PIN_L1: u64 = 0;
const UNPIN: u64 = 4;
const NEW_BASEPTR: u64 = 5;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;

fn extended(command: u64, arg1: u64, arg2: u64) -> i64 {
    fill(&[command, arg1, arg2]);
    call(nr::MMUEXT_OP, [buffer(0), 1, 0, DOMID_SELF, 0])
}

fn update(address: u64, value: u64) -> i64 {
    fill(&[address, value]);
    call(nr::MMU_UPDATE, [buffer(0), 1, buffer(8), DOMID_SELF, 0])
}

fn map(address: usize, entry: u64) -> i64 {
    // UVMF_INVLPG
    call(nr::UPDATE_VA_MAPPING, [address, entry as usize, 2, 0, 0])
}

/// Every question about page tables.
pub fn ask() {
    let Ok(pages) = Pages::new(2) else { return };
    let (table, data) = (pages.mfn(0).0, pages.mfn(1).0);
    let Some(pfn) = m2p(pages.mfn(0)) else { return };
    let address = VIRT_BASE + pfn * 4096;
    not_a_table(table);
    forged(data, l4_frame());
    pinned(address, table, data);
    flushes();
    answer(format_args!("mmu_update counts what it did"), {
        fill(&[data << 12, 0, (data << 12) | 3, 0]);
        call(nr::MMU_UPDATE, [buffer(0), 2, buffer(8), DOMID_SELF, 0])
    });
    answer(format_args!("  done"), (word(8) & 0xffff_ffff).cast_signed());
}

/// A frame that is mapped writable can't become a page table.
fn not_a_table(frame: u64) {
    for level in 0..4 {
        answer(format_args!("pin a writable frame as L{}", level + 1), extended(PIN_L1 + level, frame, 0));
    }
    answer(format_args!("unpin what is not pinned"), extended(UNPIN, frame, 0));
    answer(format_args!("load a writable frame"), extended(NEW_BASEPTR, frame, 0));
    answer(format_args!("pin no frame"), extended(PIN_L1, 1 << 40, 0));
    answer(format_args!("pin a frame of the machine's"), extended(PIN_L1, 0, 0));
    answer(format_args!("clear a frame of the machine's"), extended(16, 0, 0));
    answer(format_args!("copy from a frame of the machine's"), extended(17, frame, 0));
    answer(format_args!("set_ldt of too many"), extended(13, 0, 9000));
    answer(format_args!("set_ldt not at a page"), extended(13, 8, 1));
}

/// Entries of the L4 in use, and by frames that are no table.
fn forged(data: u64, l4: u64) {
    let slot = |n: u64| (l4 << 12) + n * 8;
    answer(format_args!("L4: a data frame as L3"), update(slot(1), (data << 12) | PRESENT | WRITE | USER));
    answer(format_args!("L4: a hypervisor's slot"), update(slot(256), (data << 12) | PRESENT));
    answer(format_args!("L4: a hypervisor's slot emptied"), update(slot(256), 0));
    answer(format_args!("L4: itself, writable"), update(slot(1), (l4 << 12) | PRESENT | WRITE | USER));
    answer(format_args!("L4: no frame"), update(slot(1), (1 << 51) | PRESENT | USER));
    answer(format_args!("L4: an empty slot emptied"), update(slot(1), 0));
    answer(format_args!("update of a data frame"), update(data << 12, 0x1234));
    answer(format_args!("update of no frame"), update(1 << 51, 0));
    answer(format_args!("update of a frame of the machine's"), update(0, 0));
    answer(format_args!("update not at an entry"), update((data << 12) | 4, 0));
    answer(format_args!("m2p of a frame of the machine's"), update(1, 5));
    answer(format_args!("m2p of no frame"), update((1 << 51) | 1, 5));
}

/// An L1 that is pinned: no writable mapping of it, entries checked, and its frame free again after.
fn pinned(address: usize, table: u64, data: u64) {
    answer(format_args!("make the table read-only"), map(address, (table << 12) | PRESENT | USER));
    answer(format_args!("pin it"), extended(PIN_L1, table, 0));
    answer(format_args!("pin it again"), extended(PIN_L1, table, 0));
    answer(format_args!("pin it as another level"), extended(PIN_L1 + 1, table, 0));
    answer(format_args!("map it writable"), map(address, (table << 12) | PRESENT | WRITE | USER));
    let entry = |n: u64| (table << 12) + n * 8;
    answer(format_args!("L1: a data frame"), update(entry(0), (data << 12) | PRESENT | WRITE | USER));
    answer(format_args!("L1: itself, writable"), update(entry(1), (table << 12) | PRESENT | WRITE | USER));
    answer(format_args!("L1: itself, read-only"), update(entry(1), (table << 12) | PRESENT | USER));
    answer(format_args!("L1: no frame"), update(entry(2), (1 << 51) | PRESENT | USER));
    answer(format_args!("L1: a global entry"), update(entry(3), (data << 12) | PRESENT | USER | 0x100));
    answer(format_args!("L1: not present, anything else"), update(entry(4), 0xdead_beef_0000_0ff0));
    answer(format_args!("L1: with its bits kept"), update(entry(0) | 2, (data << 12) | PRESENT | USER));
    answer(format_args!("unpin it"), extended(UNPIN, table, 0));
    answer(format_args!("unpin it again"), extended(UNPIN, table, 0));
    answer(format_args!("make the table writable"), map(address, (table << 12) | PRESENT | WRITE | USER));
    answer(format_args!("map the hypervisor's range"), map(0xffff_8300_0000_0000, (data << 12) | PRESENT));
    answer(format_args!("map no frame"), map(address, (1 << 51) | PRESENT | USER));
}

fn flushes() {
    answer(format_args!("flush own TLB"), extended(6, 0, 0));
    answer(format_args!("flush one address"), extended(7, 0x1000, 0));
    answer(format_args!("flush of a hypervisor's address"), extended(7, 0xffff_8300_0000_0000, 0));
    answer(format_args!("flush all"), extended(10, 0, 0));
    answer(format_args!("flush with a wild vcpu mask"), extended(8, 0, 0xffff_8300_0000_0000));
    answer(format_args!("no such operation"), extended(99, 0, 0));
}
