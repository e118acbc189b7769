//! Wild pointers, numbers out of range and operations that don't exist, to every hypercall.

use crate::answer;
use crate::raw::{buffer, call, fill, nr, straddle};

const DOMID_SELF: usize = 0x7ff0;
const NOBODY: usize = 77;

/// Addresses that are no guest's memory, by name: of the hypervisor, not canonical, not mapped, the
/// last byte of the address space.
const WILD: &[(&str, usize)] = &[
    ("hypervisor", 0xffff_8300_0000_0000),
    ("non-canonical", 0x0000_8000_0000_0000),
    ("unmapped", 0x10),
    ("top", usize::MAX),
];

/// Every question about wild arguments.
pub fn ask() {
    for &(name, p) in WILD {
        pointers(name, p);
    }
    numbers();
    unknown();
    borders();
}

/// One wild pointer where each operation wants an argument.
fn pointers(wild: &str, p: usize) {
    let ask = |name: &str, nr, args| answer(format_args!("{name} {wild}"), call(nr, args));
    ask("mmu_update", nr::MMU_UPDATE, [p, 1, 0, DOMID_SELF, 0]);
    ask("mmu_update done", nr::MMU_UPDATE, [buffer(0), 0, p, DOMID_SELF, 0]);
    ask("set_gdt", nr::SET_GDT, [p, 512, 0, 0, 0]);
    ask("multicall", nr::MULTICALL, [p, 1, 0, 0, 0]);
    ask("mmuext_op", nr::MMUEXT_OP, [p, 1, 0, DOMID_SELF, 0]);
    ask("console_io write", nr::CONSOLE_IO, [0, 8, p, 0, 0]);
    ask("sysctl", nr::SYSCTL, [p, 0, 0, 0, 0]);
    ask("domctl", nr::DOMCTL, [p, 0, 0, 0, 0]);
    ask("update_va_mapping", nr::UPDATE_VA_MAPPING, [p, 0, 0, 0, 0]);
    ask("update_descriptor", nr::UPDATE_DESCRIPTOR, [p, 0, 0, 0, 0]);
    for op in [1, 2, 3, 4, 5, 7, 8, 9] {
        answer(format_args!("xen_version {op} {wild}"), call(nr::XEN_VERSION, [op, p, 0, 0, 0]));
    }
    for op in [2, 3, 4, 5, 7, 8] {
        answer(format_args!("sched_op {op} {wild}"), call(nr::SCHED_OP, [op, p, 0, 0, 0]));
    }
    for op in 0..=9 {
        answer(format_args!("event_channel_op {op} {wild}"), call(nr::EVENT_CHANNEL_OP, [op, p, 0, 0, 0]));
    }
    for op in [0, 1, 2, 3, 5, 6, 8] {
        answer(format_args!("grant_table_op {op} {wild}"), call(nr::GRANT_TABLE_OP, [op, p, 1, 0, 0]));
    }
    for op in [0, 1, 3, 4, 5, 6, 7, 11] {
        answer(format_args!("memory_op {op} {wild}"), call(nr::MEMORY_OP, [op, p, 0, 0, 0]));
    }
    for op in [0, 4, 5, 7, 8, 13] {
        answer(format_args!("vcpu_op {op} {wild}"), call(nr::VCPU_OP, [op, 0, p, 0, 0]));
    }
    for op in [5, 6, 7, 9, 10, 12] {
        answer(format_args!("physdev_op {op} {wild}"), call(nr::PHYSDEV_OP, [op, p, 0, 0, 0]));
    }
    for op in [0, 1] {
        answer(format_args!("callback_op {op} {wild}"), call(nr::CALLBACK_OP, [op, p, 0, 0, 0]));
    }
    ask("nmi_op", nr::NMI_OP, [0, p, 0, 0, 0]);
}

/// Good memory, numbers out of range.
fn numbers() {
    fill(&[]);
    let ask = |name: &str, nr, args| answer(format_args!("{name}"), call(nr, args));
    ask("mmu_update of none", nr::MMU_UPDATE, [buffer(0), 0, 0, DOMID_SELF, 0]);
    ask("mmu_update of nobody", nr::MMU_UPDATE, [buffer(0), 1, 0, NOBODY, 0]);
    ask("mmuext_op of none", nr::MMUEXT_OP, [buffer(0), 0, 0, DOMID_SELF, 0]);
    ask("mmuext_op of nobody", nr::MMUEXT_OP, [buffer(0), 1, 0, NOBODY, 0]);
    ask("multicall of none", nr::MULTICALL, [buffer(0), 0, 0, 0, 0]);
    ask("set_gdt of too many", nr::SET_GDT, [buffer(0), 8193, 0, 0, 0]);
    ask("set_debugreg 4", nr::SET_DEBUGREG, [4, 0, 0, 0, 0]);
    ask("set_debugreg 9", nr::SET_DEBUGREG, [9, 0, 0, 0, 0]);
    ask("set_debugreg to the hypervisor", nr::SET_DEBUGREG, [0, 0xffff_8300_0000_0000, 0, 0, 0]);
    ask("get_debugreg 9", nr::GET_DEBUGREG, [9, 0, 0, 0, 0]);
    ask("vm_assist bad command", nr::VM_ASSIST, [2, 0, 0, 0, 0]);
    ask("vm_assist bad type", nr::VM_ASSIST, [0, 63, 0, 0, 0]);
    ask("set_segment_base bad", nr::SET_SEGMENT_BASE, [9, 0, 0, 0, 0]);
    ask("set_segment_base non-canonical", nr::SET_SEGMENT_BASE, [0, 0x0000_8000_0000_0000, 0, 0, 0]);
    ask("update_va_mapping bad flags", nr::UPDATE_VA_MAPPING, [0, 0, 3, 0, 0]);
    ask("va mapping of nobody", nr::UPDATE_VA_MAPPING_OTHERDOMAIN, [0, 0, 0, NOBODY, 0]);
    ask("vcpu_op of no vcpu", nr::VCPU_OP, [3, 9999, 0, 0, 0]);
    ask("vcpu is_up", nr::VCPU_OP, [3, 0, 0, 0, 0]);
    ask("sched yield", nr::SCHED_OP, [0, 0, 0, 0, 0]);
    ask("grants of too many", nr::GRANT_TABLE_OP, [0, buffer(0), usize::MAX, 0, 0]);
    ask("console_io too long", nr::CONSOLE_IO, [1, usize::MAX, buffer(0), 0, 0]);
    ask("xen_version", nr::XEN_VERSION, [0, 0, 0, 0, 0]);
    ask("pagesize", nr::XEN_VERSION, [7, 0, 0, 0, 0]);
    for sub in 0..4 {
        fill(&[sub]);
        answer(format_args!("get_features {sub}"), call(nr::XEN_VERSION, [6, buffer(0), 0, 0, 0]));
    }
    // the interface version stands first; what follows it is zero
    for version in [0, 0x14, 0x15, 0x16] {
        fill(&[version << 32]);
        answer(format_args!("sysctl 0 version {version}"), call(nr::SYSCTL, [buffer(0), 0, 0, 0, 0]));
        fill(&[(version << 32) | 9999]);
        answer(format_args!("domctl 9999 version {version}"), call(nr::DOMCTL, [buffer(0), 0, 0, 0, 0]));
    }
}

/// Operations that don't exist.
fn unknown() {
    fill(&[]);
    let with_operation = [
        ("memory_op", nr::MEMORY_OP),
        ("xen_version", nr::XEN_VERSION),
        ("console_io", nr::CONSOLE_IO),
        ("sched_op", nr::SCHED_OP),
        ("callback_op", nr::CALLBACK_OP),
        ("event_channel_op", nr::EVENT_CHANNEL_OP),
        ("physdev_op", nr::PHYSDEV_OP),
        ("nmi_op", nr::NMI_OP),
    ];
    for (name, nr) in with_operation {
        for operation in [63, 255] {
            let result = call(nr, [operation, buffer(0), buffer(0), 0, 0]);
            answer(format_args!("{name} {operation}"), result);
        }
    }
    answer(format_args!("vcpu_op 63"), call(nr::VCPU_OP, [63, 0, buffer(0), 0, 0]));
    answer(format_args!("grant_table_op 63"), call(nr::GRANT_TABLE_OP, [63, buffer(0), 1, 0, 0]));
    for nr in (43..48).chain(56..128) {
        answer(format_args!("hypercall {nr}"), call(nr, [0; 5]));
    }
}

/// Arguments over the border of two pages are as good as any.
fn borders() {
    // EVTCHNOP_send to a port that nobody has; version 0x15, no such operation
    let send = straddle(&[0x0000_0fff_0000_0000], 0);
    answer(format_args!("send at a border"), call(nr::EVENT_CHANNEL_OP, [4, send + 4, 0, 0, 0]));
    let domctl = straddle(&[(0x15 << 32) | 9999, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1);
    answer(format_args!("domctl over a border"), call(nr::DOMCTL, [domctl, 0, 0, 0, 0]));
}
