//! Grant tables: sizes, and references that were never granted.

use crate::answer;
use crate::raw::{buffer, call, fill, nr, word};

const DOMID_SELF: u64 = 0x7ff0;
const NOBODY: u64 = 77;

const MAP: usize = 0;
const UNMAP: usize = 1;
const SETUP_TABLE: usize = 2;
const TRANSFER: usize = 4;
const COPY: usize = 5;
const QUERY_SIZE: usize = 6;
const SET_VERSION: usize = 8;
const GET_VERSION: usize = 10;

/// One operation on the grant table, its arguments and results in the words.
pub fn op(operation: usize, words: &[u64]) -> i64 {
    fill(words);
    call(nr::GRANT_TABLE_OP, [operation, buffer(0), 1, 0, 0])
}

/// A status, 16 bits, as the signed number it is.
pub fn status(word: u64, shift: u32) -> i64 {
    ((word >> shift) as u16).cast_signed().into()
}

/// Every question about grants.
pub fn ask() {
    // gnttab_query_size: dom, nr_frames, max_nr_frames, status
    answer(format_args!("query_size"), op(QUERY_SIZE, &[DOMID_SELF]));
    answer(format_args!("  status"), status(word(1), 32));
    answer(format_args!("  frames"), (word(0) >> 32).cast_signed());
    answer(format_args!("query_size of nobody"), op(QUERY_SIZE, &[NOBODY]));
    answer(format_args!("  status"), status(word(1), 32));
    // gnttab_setup_table: dom, nr_frames, status, frame_list
    for (name, dom, frames) in
        [("nobody", NOBODY, 1), ("too many", DOMID_SELF, 100_000), ("none", DOMID_SELF, 0)]
    {
        answer(
            format_args!("setup_table {name}"),
            op(SETUP_TABLE, &[dom | (frames << 32), 0, buffer(64) as u64]),
        );
        answer(format_args!("  status"), status(word(1), 0));
    }
    // gnttab_map_grant_ref: host_addr, flags, ref, dom, status, handle, dev_bus_addr
    let here = buffer(0) as u64 & !0xfff;
    for (name, flags, reference, dom) in [
        ("never granted", 2u64, 8u64, DOMID_SELF),
        ("out of the table", 2, 0xffff_fff0, DOMID_SELF),
        ("of nobody", 2, 8, NOBODY),
        ("without flags", 0, 8, DOMID_SELF),
    ] {
        let words = [here, flags | (reference << 32), dom];
        answer(format_args!("map {name}"), op(MAP, &words));
        answer(format_args!("  status"), status(word(2), 16));
    }
    // gnttab_unmap_grant_ref: host_addr, dev_bus_addr, handle, status
    for handle in [0, 1, 0xffff_ffff] {
        answer(format_args!("unmap of handle {handle}"), op(UNMAP, &[here, 0, handle]));
        answer(format_args!("  status"), status(word(2), 32));
    }
    copies();
    answer(format_args!("transfer"), op(TRANSFER, &[0, 0, 0]));
    answer(format_args!("set_version 1"), op(SET_VERSION, &[1]));
    answer(format_args!("set_version 7"), op(SET_VERSION, &[7]));
    answer(format_args!("get_version"), op(GET_VERSION, &[DOMID_SELF]));
    answer(format_args!("  version"), (word(0) >> 32).cast_signed());
}

/// gnttab_copy: source (u, domid, offset), dest (u, domid, offset), len, flags, status.
fn copies() {
    let at = |domid: u64, offset: u64| domid | (offset << 16);
    for (name, flags, len, offset, dom) in [
        ("by a reference never granted", 1u64, 8u64, 0u64, DOMID_SELF),
        ("by a reference of nobody", 1, 8, 0, NOBODY),
        ("over the page's end", 1, 8, 4092, DOMID_SELF),
        ("longer than a page", 1, 5000, 0, DOMID_SELF),
    ] {
        let words = [8, at(dom, offset), 0, at(DOMID_SELF, 0), len | (flags << 16)];
        answer(format_args!("copy {name}"), op(COPY, &words));
        answer(format_args!("  status"), status(word(4), 32));
    }
}
