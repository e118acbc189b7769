//! `memory_op`, `console_io`, `vm_assist`.

use crate::answer;
use crate::raw::{buffer, call, fill, nr, set};

/// Every question about them.
pub fn ask() {
    reservations();
    claims();
    places();
    // Not those of shared, paged-out and populate-on-demand memory, which HVM guests have.
    for operation in (0..32).filter(|operation| !(16..=21).contains(operation)) {
        for domain in [77u64, 0x7ff1, 0x7ff2] {
            // The domain is where most operations have it: first.
            fill(&[domain]);
            let result = call(nr::MEMORY_OP, [operation, buffer(0), 0, 0, 0]);
            answer(format_args!("memory_op: {operation} of domain {domain:#x} first"), result);
        }
    }
    console();
    assists();
}

const OUT: usize = 64;

/// `XENMEM_claim_pages` of the control domain itself, which has some of the machine's memory.
fn claims() {
    let claim = |pages: u64, order: u64, flags: u64, list: u64| {
        fill(&[list, pages, order | flags << 32, 0]);
        call(nr::MEMORY_OP, [24, buffer(0), 0, 0, 0])
    };
    let has = {
        fill(&[0]);
        call(nr::MEMORY_OP, [3, buffer(0), 0, 0, 0]).cast_unsigned()
    };
    for (name, pages, order, flags, list) in [
        ("none", 0u64, 0u64, 0u64, 0u64),
        ("with an order", 1, 1, 0, 0),
        ("with flags", 1, 0, 1, 0),
        ("with a list", 1, 0, 0, buffer(OUT) as u64),
        ("fewer than there are", has - 1, 0, 0, 0),
        ("as many as there are", has, 0, 0, 0),
        ("more than the machine has", 1 << 30, 0, 0, 0),
        ("more than a domain may have", 1 << 32, 0, 0, 0),
        ("one more", has + 1, 0, 0, 0),
        ("another", has + 2, 0, 0, 0),
        ("given up", 0, 0, 0, 0),
        ("two more", has + 2, 0, 0, 0),
        ("given up again", 0, 0, 0, 0),
    ] {
        answer(format_args!("memory_op: claim, {name}"), claim(pages, order, flags, list));
    }
}

/// xen_memory_reservation: extent_start, nr_extents, extent_order, mem_flags, domid.
fn reservations() {
    let list = buffer(OUT) as u64;
    for operation in [0usize, 1, 6] {
        for (name, start, count, order, domain) in [
            ("none", list, 0u64, 0u64, 0x7ff0u64),
            ("none, no list", 0, 0, 0, 0x7ff0),
            ("one, no list", 0, 1, 0, 0x7ff0),
            ("one, no address", 0xffff_8300_0000_0000, 1, 0, 0x7ff0),
            ("too many", list, u64::MAX, 0, 0x7ff0),
            ("more than an argument has", list, 1 << 58, 0, 0x7ff0),
            ("of nobody", list, 1, 0, 77),
            ("of the devices", list, 1, 0, 0x7ff1),
            ("of Xen", list, 1, 0, 0x7ff2),
            ("of order 21", list, 1, 21, 0x7ff0),
            ("of order 64", list, 1, 64, 0x7ff0),
            ("none of order 64", list, 0, 64, 0x7ff0),
        ] {
            fill(&[start, count, order, domain]);
            // No frame of this guest's.
            set(OUT, 1 << 40);
            let result = call(nr::MEMORY_OP, [operation, buffer(0), 0, 0, 0]);
            answer(format_args!("memory_op: {operation} {name}"), result);
        }
    }
    for frame in [0u64, 0xa0, 0xfee00, u64::MAX] {
        fill(&[list, 1, 0, 0x7ff0]);
        set(OUT, frame);
        answer(
            format_args!("memory_op: decrease by frame {frame:#x}"),
            call(nr::MEMORY_OP, [1, buffer(0), 0, 0, 0]),
        );
    }
    // xen_memory_exchange: two reservations, nr_exchanged.
    for (name, count_in, order_in, count_out, order_out, done) in [
        ("none", 0u64, 0u64, 0u64, 0u64, 0u64),
        ("unequal", 2, 0, 1, 0, 0),
        ("of order 64", 1, 64, 1, 64, 0),
        ("more done than asked", 1, 0, 1, 0, 2),
        ("of no frame", 1, 0, 1, 0, 0),
        ("of overflowing many", 1 << 60, 9, 1 << 60, 9, 0),
    ] {
        fill(&[list, count_in, order_in, 0x7ff0, list, count_out, order_out, 0x7ff0, done]);
        set(OUT, 1 << 40);
        answer(format_args!("memory_op: exchange {name}"), call(nr::MEMORY_OP, [11, buffer(0), 0, 0, 0]));
    }
}

fn places() {
    // add_to_physmap: domid, size, space; idx; gpfn. Only translated guests have a physmap.
    for space in 0..7u64 {
        fill(&[0x7ff0 | space << 32, 0, 0x1000]);
        answer(
            format_args!("memory_op: add_to_physmap space {space}"),
            call(nr::MEMORY_OP, [7, buffer(0), 0, 0, 0]),
        );
        fill(&[0x7ff0 | space << 16, 0]);
        answer(
            format_args!("memory_op: add_to_physmap_batch space {space}"),
            call(nr::MEMORY_OP, [23, buffer(0), 0, 0, 0]),
        );
    }
    fill(&[0x7ff0, 0x1000]);
    answer(format_args!("memory_op: remove_from_physmap"), call(nr::MEMORY_OP, [15, buffer(0), 0, 0, 0]));
    // memory_map: nr_entries, buffer; machphys_mfn_list: max_extents, list.
    for entries in [0u64, 1, 0xffff_ffff] {
        for (name, at) in [("good", buffer(OUT) as u64), ("none", 0), ("hypervisor", 0xffff_8300_0000_0000)] {
            if name == "good" && entries > 1 {
                continue;
            }
            for operation in [5, 9, 10] {
                fill(&[entries, at]);
                let result = call(nr::MEMORY_OP, [operation, buffer(0), 0, 0, 0]);
                answer(format_args!("memory_op: {operation} of {entries} at {name}"), result);
            }
        }
    }
    // claim_pages: a reservation.
    for (name, start, count, order, domain) in [
        ("none", 0u64, 0u64, 0u64, 0x7ff0u64),
        ("a list", 8, 1, 0, 0x7ff0),
        ("of an order", 0, 1, 1, 0x7ff0),
        ("of nobody", 0, 1, 0, 77),
    ] {
        fill(&[start, count, order, domain]);
        answer(format_args!("memory_op: claim {name}"), call(nr::MEMORY_OP, [24, buffer(0), 0, 0, 0]));
    }
}

fn console() {
    for (name, operation, count) in [
        ("write nothing", 0usize, 0usize),
        ("read nothing", 1, 0),
        ("read 4 GiB and nothing", 1, 1 << 32),
        ("another", 2, 0),
        ("a large one", usize::MAX, 0),
    ] {
        answer(format_args!("console_io: {name}"), call(nr::CONSOLE_IO, [operation, count, buffer(0), 0, 0]));
    }
}

/// Each is enabled and disabled again.
fn assists() {
    for kind in (0..10usize).chain([31, 32, 33, 34, 62, 63, 64, 1 << 32]) {
        for command in [0usize, 1, 2, 1 << 32] {
            let result = call(nr::VM_ASSIST, [command, kind, 0, 0, 0]);
            answer(format_args!("vm_assist: {command:#x} {kind:#x}"), result);
        }
        call(nr::VM_ASSIST, [1, kind, 0, 0, 0]);
    }
}
