//! Grant tables of version 2: what switching keeps, status frames, entries of each kind. The table's frames are
//! written by `mmu_update`, which writes a frame that is no page table as data, and read where they are mapped.

use alloc::rc::Rc;

use guest_kernel::memory::Pages;

use crate::answer;
use crate::grants::{op, status};
use crate::paging::pool::address_of;
use crate::raw::{buffer, call, fill, nr, peek, word};

const SELF: u64 = 0x7ff0;
const HOST: u64 = 2;
const READ_ONLY: u64 = 4;
const PERMIT: u64 = 1;
const TRANSITIVE: u64 = 3;
const SUB_PAGE: u64 = 1 << 8;

/// Frames that the hypervisor shares, and where one of them can be looked at.
struct Tables {
    shared: u64,
    status: u64,
    at: usize,
    /// What is there otherwise.
    page: u64,
}

/// Writes a word of one's own frame.
fn poke(frame: u64, offset: u64, value: u64) -> i64 {
    fill(&[(frame << 12) + offset, value]);
    call(nr::MMU_UPDATE, [buffer(0), 1, 0, SELF as usize, 0])
}

impl Tables {
    fn look(&self, frame: u64, offset: usize) -> u64 {
        call(nr::UPDATE_VA_MAPPING, [self.at, (frame << 12 | 5) as usize, 2, 0, 0]);
        let word = peek(self.at + offset);
        call(nr::UPDATE_VA_MAPPING, [self.at, (self.page << 12 | 7) as usize, 2, 0, 0]);
        word
    }

    /// Makes entry `reference` say this.
    fn grant(&self, reference: u64, flags: u64, domain: u64, middle: u64, body: u64) {
        poke(self.shared, reference * 16, 0);
        poke(self.shared, reference * 16 + 8, body);
        poke(self.shared, reference * 16, flags | domain << 16 | middle << 32);
    }

    /// The marks of entry `reference`.
    fn marks(&self, reference: usize) -> i64 {
        (self.look(self.status, reference / 4 * 8) >> (reference % 4 * 16)) as u16 as i64
    }
}

fn version() -> i64 {
    match op(10, &[SELF]) {
        0 => (word(0) >> 32).cast_signed(),
        error => error,
    }
}

fn set_version(version: u64) -> i64 {
    op(8, &[version])
}

/// `get_status_frames` of so many; its status, and the first frame is in word 64 then.
fn status_frames(count: u64, domain: u64) -> i64 {
    op(9, &[count | domain << 32, buffer(64) as u64]);
    status(word(0), 48)
}

/// Every question about them. The table is of version 1 again afterwards.
pub fn ask() {
    let Ok(pages) = Pages::new(3).map(Rc::new) else { return };
    let Some(at) = address_of(pages.mfn(2).0) else { return };
    for count in [0usize, 2] {
        fill(&[SELF]);
        answer(
            format_args!("get_version, {count} of them"),
            call(nr::GRANT_TABLE_OP, [10, buffer(0), count, 0, 0]),
        );
        fill(&[1]);
        answer(
            format_args!("set_version, {count} of them"),
            call(nr::GRANT_TABLE_OP, [8, buffer(0), count, 0, 0]),
        );
    }
    answer(format_args!("a command with more bits"), call(nr::GRANT_TABLE_OP, [0x1006, buffer(0), 1, 0, 0]));
    for version in [0, 3, 0xffff_ffff] {
        answer(format_args!("set_version {version:#x}"), set_version(version));
    }
    answer(format_args!("v1: status frames, none"), status_frames(0, SELF));
    answer(format_args!("v1: status frames, one"), status_frames(1, SELF));
    resources("v1");
    op(2, &[SELF | 1 << 32, 0, buffer(64) as u64]);
    let shared = word(64);
    // An entry that is kept, and one that is not.
    poke(shared, 8, PERMIT | pages.mfn(1).0 << 32);
    poke(shared, 8 * 40, PERMIT | pages.mfn(0).0 << 32);
    answer(format_args!("set_version 2"), set_version(2));
    answer(format_args!("  version"), version());
    answer(format_args!("v2: status frames, none"), status_frames(0, SELF));
    answer(format_args!("v2: status frames, two"), status_frames(2, SELF));
    answer(format_args!("v2: status frames, of nobody"), status_frames(1, 77));
    answer(format_args!("v2: status frames, one"), status_frames(1, SELF));
    let tables = Tables { shared, status: word(64), at, page: pages.mfn(2).0 };
    let kept = tables.look(shared, 16) == PERMIT && tables.look(shared, 24) == pages.mfn(1).0;
    answer(format_args!("v2: an entry is kept"), kept.into());
    answer(format_args!("v2: another"), (tables.look(shared, 8 * 40) != 0).into());
    let map = |reference: u64, flags: u64| {
        // Anything is mapped where the page was.
        call(nr::UPDATE_VA_MAPPING, [at, 0, 2, 0, 0]);
        op(0, &[at as u64, flags | reference << 32, 0]);
        (status(word(2), 16), word(2) >> 32)
    };
    let unmap = |handle: u64| {
        op(1, &[at as u64, 0, handle]);
        let done = status(word(2), 32);
        call(nr::UPDATE_VA_MAPPING, [at, (pages.mfn(2).0 << 12 | 7) as usize, 2, 0, 0]);
        done
    };
    let frame = pages.mfn(0).0;
    for (name, flags, domain, middle, body) in [
        ("a page", PERMIT, 0, 0, frame),
        ("a page, read-only", PERMIT | 4, 0, 0, frame),
        ("a page with the marks of version 1", PERMIT | 0x18, 0, 0, frame),
        ("a page of another's", PERMIT, 1, 0, frame),
        ("nothing", 0, 0, 0, frame),
        ("a transfer", 2, 0, 0, frame),
        ("no frame", PERMIT, 0, 0, 1 << 40),
        ("no frame at all", PERMIT, 0, 0, !0),
        ("part of a page", PERMIT | SUB_PAGE, 0, 100 | 50 << 16, frame),
        ("part of a page, read-only", PERMIT | SUB_PAGE | 4, 0, 100 | 50 << 16, frame),
        ("a part beyond the page", PERMIT | SUB_PAGE, 0, 4000 | 0xffff << 16, frame),
        ("no part", PERMIT | SUB_PAGE, 0, 8, frame),
        ("what nobody granted", TRANSITIVE, 0, 77, 9),
        ("what it granted itself", TRANSITIVE, 0, 0, 1),
        ("what the caller granted", TRANSITIVE, 0, SELF, 1),
        ("a part of that", TRANSITIVE | SUB_PAGE, 0, 0, 1),
    ] {
        tables.grant(20, flags, domain, middle, body);
        for how in [HOST, HOST | READ_ONLY] {
            let (done, handle) = map(20, how);
            answer(format_args!("v2: map {name}, flags {how}"), done);
            let put_back = [at, (pages.mfn(2).0 << 12 | 7) as usize, 2, 0, 0];
            if done == 0 {
                answer(format_args!("  unmapped"), unmap(handle));
            } else {
                call(nr::UPDATE_VA_MAPPING, put_back);
            }
            answer(format_args!("  marks"), tables.marks(20));
        }
        for (direction, by_ref) in [("from", 1u64), ("to", 2)] {
            for (at, bytes) in [
                (100u64, 50u64),
                (99, 1),
                (100, 51),
                (150, 0),
                (151, 0),
                (149, 1),
                (0, 0),
                (4000, 96),
                (4000, 97),
                (0, 4096),
            ] {
                let granted = (20, at << 16);
                let own = (pages.mfn(1).0, SELF | at << 16);
                let (source, dest) = if by_ref == 1 { (granted, own) } else { (own, granted) };
                op(5, &[source.0, source.1, dest.0, dest.1, bytes | by_ref << 16]);
                answer(format_args!("v2: copy {bytes} at {at} {direction} {name}"), status(word(4), 32));
            }
        }
        answer(format_args!("v2: marks after copies, {name}"), tables.marks(20));
    }
    for (name, list) in
        [("unmapped", 0x10), ("the hypervisor's", 0xffff_8300_0000_0000), ("no address", 1 << 47)]
    {
        answer(format_args!("v2: setup_table to what is {name}"), op(2, &[SELF | 1 << 32, 0, list]));
        answer(format_args!("  status"), status(word(1), 0));
        answer(format_args!("v2: get_status_frames to what is {name}"), op(9, &[1 | SELF << 32, list]));
        answer(format_args!("  status"), status(word(0), 48));
    }
    in_use(&tables, frame, map, unmap);
    kept_entries(&tables, frame);
    answer(format_args!("set_version 1 at last"), set_version(1));
    answer(format_args!("  version"), version());
    answer(format_args!("v1: status frames afterwards"), status_frames(1, SELF));
    poke(shared, 8, 0);
    cache_flushes(pages.mfn(0).0);
}

fn in_use(tables: &Tables, frame: u64, map: impl Fn(u64, u64) -> (i64, u64), unmap: impl Fn(u64) -> i64) {
    tables.grant(20, PERMIT, 0, 0, frame);
    let (done, handle) = map(20, HOST);
    answer(format_args!("v2: map for a while"), done);
    answer(format_args!("v2: set_version 1 while mapped"), set_version(1));
    answer(format_args!("  version"), version());
    answer(format_args!("v2: swap while mapped"), op(11, &[20 | 21 << 32]));
    answer(format_args!("  status"), status(word(1), 0));
    answer(format_args!("  unmapped"), unmap(handle));
    op(6, &[SELF]);
    let entries = (word(0) >> 32) * 256;
    answer(format_args!("v2: map the last"), map(entries - 1, HOST).0);
    answer(format_args!("v2: map beyond"), map(entries, HOST).0);
    unmap(0xffff_ffff);
    for (name, a, b) in [("", 20, 21), (" with what is not", 20, entries), (" of what is not", entries, 20)] {
        op(11, &[a | b << 32]);
        answer(format_args!("v2: swap{name}"), status(word(1), 0));
    }
    answer(format_args!("v2: swapped"), (tables.look(tables.shared, 21 * 16 + 8) == frame).into());
    resources("v2");
    // Status frames that are mapped stay.
    call(nr::UPDATE_VA_MAPPING, [tables.at, (tables.status << 12 | 7) as usize, 2, 0, 0]);
    answer(format_args!("v2: set_version 1 while status is mapped"), set_version(1));
    answer(format_args!("  version"), version());
    call(nr::UPDATE_VA_MAPPING, [tables.at, (tables.status << 12 | 5) as usize, 2, 0, 0]);
    answer(format_args!("v2: set_version 1 while status is mapped to be read"), set_version(1));
    call(nr::UPDATE_VA_MAPPING, [tables.at, (tables.page << 12 | 7) as usize, 2, 0, 0]);
}

/// The first entries, which a switch keeps if the other version can say the same.
fn kept_entries(tables: &Tables, frame: u64) {
    for (name, flags, body) in
        [("a page beyond version 1", PERMIT, 1 << 32), ("another's grant", TRANSITIVE, 1)]
    {
        tables.grant(3, flags, 0, 77, body);
        answer(format_args!("v2: set_version 1 with {name}"), set_version(1));
        answer(format_args!("  version"), version());
    }
    for (name, flags, middle) in [
        ("a page", PERMIT | 4, 0),
        ("a transfer", 2, 0),
        ("part of a page", PERMIT | SUB_PAGE, 8 | 8 << 16),
        ("nothing with flags", 0x60, 0),
    ] {
        tables.grant(3, flags, 5, middle, frame);
        answer(format_args!("v2: set_version 1 and {name} is kept"), set_version(1));
        let entry = tables.look(tables.shared, 3 * 8);
        answer(format_args!("  flags and domain"), i64::from(entry as u32));
        answer(format_args!("  frame"), (entry >> 32 == frame).into());
        answer(format_args!("v2: set_version 2 after {name}"), set_version(2));
        answer(format_args!("  flags and domain"), (tables.look(tables.shared, 3 * 16) as u32).into());
        answer(format_args!("  frame"), (tables.look(tables.shared, 3 * 16 + 8) == frame).into());
    }
    tables.grant(3, 0, 0, 0, 0);
}

/// `XENMEM_acquire_resource`: domid and type, id, nr_frames and pad, frame, frame_list.
fn resources(version: &str) {
    for (domain, what) in [(SELF, "oneself"), (0, "oneself by number"), (77, "nobody")] {
        for (kind, id) in [(1u64, 0u64), (1, 1), (1, 2), (0, 0), (7, 0)] {
            fill(&[domain | kind << 16 | id << 32, 0, 0, 0]);
            let done = call(nr::MEMORY_OP, [28, buffer(0), 0, 0, 0]);
            answer(format_args!("{version}: resource {kind}, {id} of {what}: size"), done);
            answer(format_args!("  frames"), if done == 0 { word(1) as u32 as i64 } else { 0 });
        }
    }
}

/// gnttab_cache_flush: a machine address, offset, length, op.
fn cache_flushes(frame: u64) {
    for (name, address) in
        [("one's own", frame << 12), ("nobody's", 1 << 50), ("in a page", (frame << 12) + 8)]
    {
        for (offset, length, what) in [
            (0u64, 4096u64, 1u64),
            (0, 4096, 2),
            (0, 4096, 3),
            (64, 64, 3),
            (4095, 1, 1),
            (4096, 0, 1),
            (1, 4096, 1),
            (0, 0, 1),
            (0, 64, 0),
            (0, 64, 4),
            (0, 64, 0x8000_0001),
        ] {
            let result = op(12, &[address, offset | length << 16 | what << 32]);
            answer(format_args!("cache_flush {name}, {length} at {offset}, {what:#x}"), result);
        }
    }
    fill(&[frame << 12, 4096 << 16 | 1 << 32]);
    let result = call(nr::GRANT_TABLE_OP, [0x500c, buffer(0), 1, 0, 0]);
    answer(format_args!("cache_flush that goes on"), result);
    fill(&[frame << 12, 0]);
    let result = call(nr::GRANT_TABLE_OP, [0x500c, buffer(0), 1, 0, 0]);
    answer(format_args!("cache_flush of nothing that goes on"), result);
}
