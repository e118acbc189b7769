//! `physdev_op`: interrupts, ports and devices.

use crate::answer;
use crate::raw::{buffer, call, fill, nr, word};

/// Every question about them.
pub fn ask() {
    // Not the line 0, which is the hypervisor's timer's.
    for operation in (0..36).filter(|operation| *operation != 21) {
        answer(format_args!("physdev_op: {operation} of zeros"), op(operation, &[]));
    }
    interrupts();
    ports();
    devices();
}

fn op(operation: usize, words: &[u64]) -> i64 {
    fill(words);
    call(nr::PHYSDEV_OP, [operation, buffer(0), 0, 0, 0])
}

fn interrupts() {
    for irq in [0u64, 1, 23, 24, 4096, 0x7fff_ffff, 0xffff_ffff] {
        answer(format_args!("physdev_op: eoi {irq}"), op(12, &[irq]));
        answer(format_args!("physdev_op: status {irq}"), op(5, &[irq]));
        answer(format_args!("  flags"), (word(0) >> 32).cast_signed());
        answer(format_args!("physdev_op: vector of {irq}"), op(10, &[irq]));
        for domain in [0x7ff0u64, 77] {
            answer(format_args!("physdev_op: unmap {irq} of {domain:#x}"), op(14, &[domain | irq << 32]));
        }
        // setup_gsi: gsi, triggering, polarity.
        if irq >= 24 {
            answer(format_args!("physdev_op: setup of line {irq}"), op(21, &[irq]));
        }
    }
    // Lines that no device of the machine has, as PCI signals, as ISA does, and back.
    for line in [20u64, 10, 3] {
        for (n, (triggering, polarity)) in [(1u64, 1u64), (1, 1), (0, 0), (1, 0)].into_iter().enumerate() {
            let result = op(21, &[line | triggering << 32, polarity]);
            answer(format_args!("physdev_op: setup of line {line}, step {n}"), result);
        }
    }
    // map_pirq: domid, type; index, pirq; bus, devfn; entry_nr; table_base.
    for kind in 0..6u64 {
        for (name, domain) in [("self", 0x7ff0u64), ("nobody", 77)] {
            for (index, pirq) in [(9999u64, 9999u64), (0xffff_ffff, 0xffff_ffff), (5000, 0xffff_ffff)] {
                let result = op(13, &[domain | kind << 32, index | pirq << 32, 0xff | 0xff << 32, 1, 0]);
                answer(
                    format_args!("physdev_op: map of kind {kind}, {index:#x} to {pirq:#x}, {name}"),
                    result,
                );
            }
        }
    }
    // get_free_pirq: type, pirq.
    for kind in 0..5u64 {
        answer(format_args!("physdev_op: a free pirq of kind {kind}"), op(23, &[kind]));
    }
}

fn ports() {
    for level in [0u64, 1, 2, 3, 4, 0xffff_ffff] {
        answer(format_args!("physdev_op: iopl {level:#x}"), op(6, &[level]));
    }
    op(6, &[0]);
    // set_iobitmap: bitmap, nr_ports.
    let bitmap = buffer(64) as u64;
    for (name, at, ports) in [
        ("none", 0u64, 0u64),
        ("all", bitmap, 65536),
        ("more than all", bitmap, 65537),
        ("no address", 0xffff_8300_0000_0000, 65536),
        ("no address for none", 0xffff_8300_0000_0000, 0),
        ("unmapped", 0x10, 1),
    ] {
        answer(format_args!("physdev_op: ports in a bitmap, {name}"), op(7, &[at, ports]));
    }
    op(7, &[0, 0]);
}

fn devices() {
    // apic: physical base, register, value.
    for base in [0u64, 0xfec0_0000, 0xfee0_0000] {
        for register in [0u64, 1, 0x10, 0x3f] {
            answer(
                format_args!("physdev_op: apic {base:#x} register {register:#x}"),
                op(8, &[base, register]),
            );
        }
        answer(format_args!("physdev_op: apic {base:#x} written"), op(9, &[base, 0xff]));
    }
    // pci_device: segment, bus and devfn.
    for (name, word) in [("host bridge", 0u64), ("nobody", 0xff_00ff_0000), ("another segment's", 7)] {
        for operation in [15, 16, 19, 20, 25, 26, 27, 30, 31] {
            answer(format_args!("physdev_op: {operation} of {name}"), op(operation, &[word]));
        }
    }
    for operation in [17, 28] {
        for frame in [1u64 << 40, 0] {
            answer(format_args!("physdev_op: {operation} of frame {frame:#x}"), op(operation, &[frame]));
        }
    }
    // dbgp_op: op, bus.
    for operation in [0u64, 1, 2, 9] {
        answer(format_args!("physdev_op: debug port {operation}"), op(29, &[operation]));
    }
}
