//! The status codes of grant operations, with real grants of this domain's to itself.

use alloc::rc::Rc;

use guest_kernel::grants::{Access, Grant};
use guest_kernel::memory::Pages;
use guest_kernel::shared_abi::DomId;

use crate::answer;
use crate::grants::{op, status};
use crate::paging::pool::address_of;
use crate::raw::{buffer, call, fill, nr, word};

const HOST: u64 = 2;
const DEVICE: u64 = 1;
const READ_ONLY: u64 = 4;
const APPLICATION: u64 = 8;
const PTE: u64 = 16;

/// Every question about them.
pub fn ask() {
    let Ok(pages) = Pages::new(4).map(Rc::new) else { return };
    let granted = |page, access| Grant::offer(&pages, page, DomId(0), access);
    let (Ok(grant), Ok(read_only)) = (granted(0, Access::ReadWrite), granted(1, Access::ReadOnly)) else {
        return;
    };
    let Ok(other) = Grant::offer(&pages, 2, DomId(1), Access::ReadWrite) else { return };
    let Some(at) = address_of(pages.mfn(3).0).map(|at| at as u64) else { return };
    call(nr::UPDATE_VA_MAPPING, [at as usize, 0, 2, 0, 0]);
    let grants = [
        ("writable", u64::from(grant.reference().0)),
        ("read-only", u64::from(read_only.reference().0)),
        ("another's", u64::from(other.reference().0)),
    ];
    for (name, reference) in grants {
        for domain in [0x7ff0u64, 0, 1, 77, 0x7ff1] {
            maps(name, reference, domain, at);
        }
        copies(name, reference, pages.mfn(3).0);
    }
    unmaps(grants[0].1, at);
    queries();
    call(nr::UPDATE_VA_MAPPING, [at as usize, (pages.mfn(3).0 << 12 | 7) as usize, 2, 0, 0]);
}

fn maps(name: &str, reference: u64, domain: u64, at: u64) {
    for flags in [
        0,
        HOST,
        HOST | READ_ONLY,
        DEVICE,
        DEVICE | READ_ONLY,
        HOST | DEVICE,
        HOST | APPLICATION,
        HOST | READ_ONLY | APPLICATION,
        HOST | PTE,
        HOST | 1 << 16,
        HOST | 0x8000_0000,
        READ_ONLY,
    ] {
        // A page-table entry's address is of no table here.
        let to = if flags & PTE != 0 { 0 } else { at };
        let result = op(0, &[to, flags | reference << 32, domain]);
        answer(format_args!("map {name} of {domain:#x}, flags {flags:#x}"), result);
        let (done, handle) = (status(word(2), 16), word(2) >> 32);
        answer(format_args!("  status"), done);
        if done == 0 {
            let bus = if flags & DEVICE != 0 { word(3) } else { 0 };
            op(1, &[if flags & HOST != 0 { at } else { 0 }, bus, handle]);
            answer(format_args!("  unmapped"), status(word(2), 32));
        }
    }
    for (place, to) in [
        ("the hypervisor", 0xffff_8300_0000_0000),
        ("no address", 1 << 47),
        ("no table", 0x1000),
        ("in a page", at + 8),
    ] {
        let result = op(0, &[to, HOST | reference << 32, domain]);
        answer(format_args!("map {name} of {domain:#x} at {place}"), result);
        let (done, handle) = (status(word(2), 16), word(2) >> 32);
        answer(format_args!("  status"), done);
        if done == 0 {
            op(1, &[to, 0, handle]);
            answer(format_args!("  unmapped"), status(word(2), 32));
        }
    }
}

fn unmaps(reference: u64, at: u64) {
    op(0, &[at, HOST | reference << 32, 0x7ff0]);
    let handle = word(2) >> 32;
    for (name, to, bus, handle) in [
        ("of no handle", at, 0, 0xffff_ffff),
        ("of another handle", at, 0, handle + 1),
        ("elsewhere", at + 0x1000, 0, handle),
        ("at no address", 1 << 47, 0, handle),
        ("at the hypervisor", 0xffff_8300_0000_0000, 0, handle),
        ("by another bus address", at, 0x1000, handle),
        ("of nothing", 0, 0, handle),
    ] {
        answer(format_args!("unmap {name}"), op(1, &[to, bus, handle]));
        answer(format_args!("  status"), status(word(2), 32));
    }
    op(1, &[at, 0, handle]);
    answer(format_args!("unmap at last"), status(word(2), 32));
    answer(format_args!("unmap twice"), op(1, &[at, 0, handle]));
    answer(format_args!("  status"), status(word(2), 32));
    // unmap_and_replace: host_addr, new_addr, handle, status.
    for (name, new) in
        [("nothing", 0), ("itself", at), ("the hypervisor's", 0xffff_8300_0000_0000), ("no address", 1 << 47)]
    {
        op(0, &[at, HOST | reference << 32, 0x7ff0]);
        let handle = word(2) >> 32;
        answer(format_args!("unmap and replace by {name}"), op(7, &[at, new, handle]));
        let done = status(word(2), 32);
        answer(format_args!("  status"), done);
        if done != 0 {
            op(1, &[at, 0, handle]);
            answer(format_args!("  unmapped"), status(word(2), 32));
        }
    }
    // unmap_and_replace of what is not mapped.
    answer(format_args!("unmap and replace of no handle"), op(7, &[at, 0, 0xffff_ffff]));
    answer(format_args!("  status"), status(word(2), 32));
}

/// gnttab_copy: source (u, domid, offset), dest (u, domid, offset), len, flags, status.
fn copies(name: &str, reference: u64, frame: u64) {
    let at = |domain: u64, offset: u64| domain | offset << 16;
    for domain in [0x7ff0u64, 0, 1, 77] {
        for (what, flags, source, dest) in [
            ("from it", 1u64, (reference, at(domain, 0)), (frame, at(0x7ff0, 0))),
            ("to it", 2, (frame, at(0x7ff0, 0)), (reference, at(domain, 0))),
            ("from itself to it", 3, (reference, at(domain, 0)), (reference, at(domain, 64))),
            ("from it as a frame", 0, (reference | 1 << 40, at(domain, 0)), (frame, at(0x7ff0, 0))),
            ("with wrong flags", 0xfffd, (reference, at(domain, 0)), (frame, at(0x7ff0, 0))),
        ] {
            for (length, offset) in [
                (8u64, 0u64),
                (0, 0),
                (4096, 0),
                (4097, 0),
                (8, 4088),
                (8, 4089),
                (0, 4096),
                (0, 4097),
                (0xffff, 1),
            ] {
                let shift = offset << 16;
                let words = [source.0, source.1 + shift, dest.0, dest.1, length | flags << 16];
                let result = op(5, &words);
                answer(format_args!("copy {what}, {name} of {domain:#x}, {length} at {offset}"), result);
                answer(format_args!("  status"), status(word(4), 32));
            }
        }
    }
}

fn queries() {
    for domain in [0x7ff0u64, 0, 1, 77, 0x7ff1, 0x7ff2] {
        answer(format_args!("query_size of {domain:#x}"), op(6, &[domain]));
        answer(format_args!("  status"), status(word(1), 32));
        answer(format_args!("get_version of {domain:#x}"), op(10, &[domain]));
        answer(format_args!("setup_table of {domain:#x}"), op(2, &[domain | 1 << 32, 0, buffer(64) as u64]));
        answer(format_args!("  status"), status(word(1), 0));
        answer(
            format_args!("get_status_frames of {domain:#x}"),
            op(9, &[1 | domain << 32, buffer(64) as u64]),
        );
        answer(format_args!("  status"), status(word(0), 48));
    }
    // swap_grant_ref: two references, a status.
    for (a, b) in [(8u64, 9u64), (8, 8), (0xffff_ffff, 8), (8, 0xffff_ffff)] {
        answer(format_args!("swap {a} and {b}"), op(11, &[a | b << 32]));
        answer(format_args!("  status"), status(word(1), 0));
    }
    for count in [0usize, 2, 1 << 20] {
        fill(&[]);
        let result = call(nr::GRANT_TABLE_OP, [6, 0x10, count, 0, 0]);
        answer(format_args!("query_size of unmapped {count}"), result);
    }
}
