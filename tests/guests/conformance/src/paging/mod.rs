//! Page tables, asked systematically: every operation of frames of every kind, every flag at every level,
//! in whose name, and a walk of random steps.
//!
//! The tables here are a hierarchy of this program's own that no processor uses, so a question that
//! succeeds where it shouldn't breaks nothing but the comparison.

mod flags;
mod foreign;
mod kinds;
pub mod pool;
mod walk;

use pool::Pool;

use crate::raw::{buffer, call, fill, nr};

const DOMID_SELF: usize = 0x7ff0;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
/// The bits of an entry that are a frame's address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const UNPIN: u64 = 4;
const NEW_BASEPTR: u64 = 5;
const NEW_USER_BASEPTR: u64 = 15;
const CLEAR_PAGE: u64 = 16;
const COPY_PAGE: u64 = 17;

/// One operation of `mmuext_op`.
fn extended(command: u64, arg1: u64, arg2: u64) -> i64 {
    extended_of(DOMID_SELF, command, arg1, arg2)
}

/// `extended` for a domain.
fn extended_of(domain: usize, command: u64, arg1: u64, arg2: u64) -> i64 {
    fill(&[command, arg1, arg2]);
    call(nr::MMUEXT_OP, [buffer(0), 1, 0, domain, 0])
}

/// Pins `frame` as a table of `level`.
fn pin(level: u64, frame: u64) -> i64 {
    extended(level - 1, frame, 0)
}

fn unpin(frame: u64) -> i64 {
    extended(UNPIN, frame, 0)
}

/// One element of `mmu_update`; the low bits of `address` are its command.
fn update(address: u64, value: u64) -> i64 {
    update_of(DOMID_SELF, address, value)
}

/// `update` for a domain.
fn update_of(domain: usize, address: u64, value: u64) -> i64 {
    fill(&[address, value]);
    call(nr::MMU_UPDATE, [buffer(0), 1, buffer(8), domain, 0])
}

/// Sets entry `index` of the table that `frame` is.
fn set(frame: u64, index: u64, value: u64) -> i64 {
    update((frame << 12) | (index * 8), value)
}

/// The entry of `address`, by the hypervisor, with its translation dropped (`UVMF_INVLPG`).
fn map(address: usize, entry: u64) -> i64 {
    call(nr::UPDATE_VA_MAPPING, [address, entry as usize, 2, 0, 0])
}

/// An entry's flags as they are compared. Xen keeps two of an L1 entry for itself (GLOBAL on a user's page,
/// so that it survives a switch to the kernel's table, and bit 52 on a kernel's): not shown.
pub fn shown(entry: u64) -> i64 {
    const XENS: u64 = 1 << 8 | 1 << 52;
    (entry & !(ADDRESS | XENS)).cast_signed()
}

/// Every question about page tables.
pub fn ask() {
    let Some(pool) = Pool::new("paging") else { return };
    kinds::ask(&pool);
    flags::ask(&pool);
    foreign::ask(&pool);
    pool.end();
    walk::ask();
}
