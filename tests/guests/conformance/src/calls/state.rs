//! The vcpu's own state: descriptors, debug registers, segment bases, callbacks.

use guest_kernel::memory::Pages;

use crate::answer;
use crate::paging::pool::address_of;
use crate::raw::{buffer, call, fill, nr, peek};

/// Every question about them.
pub fn ask() {
    descriptors();
    debug();
    segments();
    callbacks();
}

/// Every type of descriptor, at every privilege, stored in a frame that is data and in one in use as a GDT.
fn descriptors() {
    let Ok(pages) = Pages::new(2) else { return };
    let (frame, table) = (pages.mfn(0).0, pages.mfn(1).0);
    let (Some(at), Some(table_at)) = (address_of(frame), address_of(table)) else { return };
    let map = |frame: u64, at: usize, flags: u64| {
        call(nr::UPDATE_VA_MAPPING, [at, (frame << 12 | flags) as usize, 2, 0, 0])
    };
    // Mapped writable a frame can't be descriptors.
    fill(&[table]);
    answer(format_args!("set_gdt of writable memory"), call(nr::SET_GDT, [buffer(0), 8, 0, 0, 0]));
    map(frame, at, 5);
    map(table, table_at, 5);
    fill(&[table]);
    answer(format_args!("set_gdt"), call(nr::SET_GDT, [buffer(0), 8, 0, 0, 0]));
    for count in [0usize, 1, 511, 512, 513, 7167, 7168, 7169, 8192, 1 << 32] {
        fill(&[table]);
        let result = call(nr::SET_GDT, [buffer(0), count, 0, 0, 0]);
        answer(format_args!("set_gdt of {count:#x}"), result);
    }
    fill(&[table]);
    call(nr::SET_GDT, [buffer(0), 8, 0, 0, 0]);
    let update = |frame: u64, offset: usize, value: u64| {
        call(nr::UPDATE_DESCRIPTOR, [(frame << 12) as usize + offset, value as usize, 0, 0, 0])
    };
    for access in 0..256u64 {
        let value = 0x00cf_0000_0000_ffff | access << 40;
        update(frame, 8, 0);
        update(table, 8, 0);
        answer(format_args!("descriptor {access:#x} in data"), update(frame, 8, value));
        answer(format_args!("  stored"), peek(at + 8).cast_signed());
        answer(format_args!("descriptor {access:#x} in a table"), update(table, 8, value));
        answer(format_args!("  stored"), peek(table_at + 8).cast_signed());
    }
    // The flags (granularity, size, long) and a base and limit of all kinds.
    for flags in 0..16u64 {
        let value = 0x120f_fb34_5678_ffff | flags << 52;
        answer(format_args!("code of flags {flags:#x}"), update(table, 8, value));
        answer(format_args!("  stored"), peek(table_at + 8).cast_signed());
    }
    for (name, offset) in [("odd", 9), ("the last", 4088), ("over the end", 4092)] {
        answer(format_args!("descriptor at {name}"), update(table, offset, 0));
    }
    // A table that is checked whole.
    for access in 0..256u64 {
        fill(&[]);
        call(nr::SET_GDT, [buffer(0), 0, 0, 0, 0]);
        map(frame, at, 5);
        // Stored as data.
        fill(&[(frame << 12) | 16, 0x00cf_0000_0000_ffff | access << 40]);
        call(nr::MMU_UPDATE, [buffer(0), 1, 0, 0x7ff0, 0]);
        fill(&[frame]);
        answer(
            format_args!("set_gdt with descriptor {access:#x}"),
            call(nr::SET_GDT, [buffer(0), 512, 0, 0, 0]),
        );
        answer(format_args!("  stored"), peek(at + 16).cast_signed());
    }
    call(nr::SET_GDT, [buffer(0), 0, 0, 0, 0]);
    map(frame, at, 7);
    map(table, table_at, 7);
    // set_ldt: address, entries.
    for (name, address, entries) in [
        ("none", 0u64, 0u64),
        ("of unmapped memory", 0x1000, 1),
        ("of writable memory", at as u64, 1),
        ("not at a page's beginning", at as u64 + 8, 1),
        ("too long", at as u64, 8193),
        ("of the hypervisor", 0xffff_8300_0000_0000, 1),
        ("of no address", 1 << 47, 1),
    ] {
        fill(&[13, address, entries]);
        answer(format_args!("set_ldt {name}"), call(nr::MMUEXT_OP, [buffer(0), 1, 0, 0x7ff0, 0]));
    }
    fill(&[13, 0, 0]);
    call(nr::MMUEXT_OP, [buffer(0), 1, 0, 0x7ff0, 0]);
}

fn debug() {
    for register in 0..10usize {
        for value in [
            0usize,
            0x1000,
            0xffff_8300_0000_0000,
            1 << 47,
            usize::MAX,
            0xffff_0ff0,
            0x400,
            0x2000,
            0x2_0002,
            0x7_0002,
            0x4_0002,
        ] {
            let result = call(nr::SET_DEBUGREG, [register, value, 0, 0, 0]);
            answer(format_args!("set_debugreg {register} {value:#x}"), result);
            answer(format_args!("  read"), call(nr::GET_DEBUGREG, [register, 0, 0, 0, 0]));
            // No breakpoint stays.
            call(nr::SET_DEBUGREG, [7, 0, 0, 0, 0]);
        }
        call(nr::SET_DEBUGREG, [register, 0, 0, 0, 0]);
    }
}

fn segments() {
    for which in [0usize, 1, 3, 4, 1 << 32] {
        for base in [0usize, 0x1000, 0x7fff_ffff_ffff, 0x8000_0000_0000, usize::MAX] {
            let result = call(nr::SET_SEGMENT_BASE, [which, base, 0, 0, 0]);
            answer(format_args!("set_segment_base {which:#x} {base:#x}"), result);
        }
        call(nr::SET_SEGMENT_BASE, [which, 0, 0, 0, 0]);
    }
    for selector in [0usize, 3, 0xe008, 0xe02b, 0xe033, 0xfff8, 0xc] {
        let result = call(nr::SET_SEGMENT_BASE, [3, selector, 0, 0, 0]);
        answer(format_args!("the user's gs {selector:#x}"), result);
    }
    call(nr::SET_SEGMENT_BASE, [3, 0, 0, 0, 0]);
    answer(format_args!("fpu_taskswitch"), call(5, [1, 0, 0, 0, 0]));
    answer(format_args!("fpu_taskswitch back"), call(5, [0, 0, 0, 0, 0]));
}

/// Kinds that this program does not live on: not the event callback with an address that is one.
fn callbacks() {
    let good = 0xffff_ffff_8010_0000u64;
    for kind in 0..10u64 {
        for flags in [0u64, 1, 2, 0xffff] {
            if kind != 0 {
                fill(&[kind | flags << 16, good]);
                answer(
                    format_args!("callback {kind} flags {flags:#x}"),
                    call(nr::CALLBACK_OP, [0, buffer(0), 0, 0, 0]),
                );
            }
            fill(&[kind | flags << 16, 1 << 47]);
            let result = call(nr::CALLBACK_OP, [0, buffer(0), 0, 0, 0]);
            answer(format_args!("callback {kind} at no address, flags {flags:#x}"), result);
        }
        if kind != 0 {
            fill(&[kind]);
            answer(
                format_args!("callback {kind} unregistered"),
                call(nr::CALLBACK_OP, [1, buffer(0), 0, 0, 0]),
            );
        }
    }
    // The questions about users want no entry for these.
    for kind in [5, 7] {
        fill(&[kind, 0]);
        answer(format_args!("callback {kind} at 0"), call(nr::CALLBACK_OP, [0, buffer(0), 0, 0, 0]));
    }
    for (name, table) in [
        ("no address", [0xe033 << 16, 1u64 << 47]),
        ("the hypervisor's", [0xe033 << 16, 0xffff_8300_0000_0000]),
    ] {
        fill(&table);
        answer(format_args!("set_trap_table to {name}"), call(nr::SET_TRAP_TABLE, [buffer(0), 0, 0, 0, 0]));
    }
    for operation in 0..3 {
        fill(&[1 << 47]);
        answer(
            format_args!("nmi_op {operation} at no address"),
            call(nr::NMI_OP, [operation, buffer(0), 0, 0, 0]),
        );
    }
    answer(format_args!("nmi_op unregister"), call(nr::NMI_OP, [1, 0, 0, 0, 0]));
}
