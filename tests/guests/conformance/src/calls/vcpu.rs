//! `sched_op`, `vcpu_op`, `set_timer_op`, `multicall`: the vcpu and its time.

use crate::answer;
use crate::raw::{buffer, call, fill, nr, word};

/// Every question about them.
pub fn ask() {
    sched();
    vcpu();
    others();
}

fn op(number: usize, operation: usize, words: &[u64]) -> i64 {
    fill(words);
    call(number, [operation, buffer(0), 0, 0, 0])
}

fn sched() {
    let ask = |name: &str, operation, words: &[u64]| {
        answer(format_args!("sched_op: {name}"), op(nr::SCHED_OP, operation, words));
    };
    // sched_poll: ports, nr_ports, timeout. A timeout in the past ends the wait at once.
    let ports = buffer(64) as u64;
    ask("poll of none, over", 3, &[0, 0, 1]);
    ask("poll of a port, over", 3, &[ports, 1, 1]);
    ask("poll of no address, over", 3, &[0xffff_8300_0000_0000, 1, 1]);
    ask("poll of unmapped ports, over", 3, &[0x10, 1, 1]);
    ask("poll of 128, over", 3, &[ports, 128, 1]);
    ask("poll of 129, over", 3, &[ports, 129, 1]);
    ask("poll of too many, over", 3, &[ports, 0xffff_ffff, 1]);
    fill(&[ports, 1, 1]);
    for port in [0u64, 4095, 4096, 0xffff_ffff] {
        fill(&[ports, 1, 1]);
        crate::raw::set(64, port);
        let result = call(nr::SCHED_OP, [3, buffer(0), 0, 0, 0]);
        answer(format_args!("sched_op: poll of port {port}, over"), result);
    }
    fill(&[0x7ff0 | 0x7ff0 << 16]);
    call(nr::EVENT_CHANNEL_OP, [6, buffer(0), 0, 0, 0]);
    let port = word(0) >> 32;
    for state in ["open", "closed"] {
        fill(&[ports, 1, 1]);
        crate::raw::set(64, port);
        let result = call(nr::SCHED_OP, [3, buffer(0), 0, 0, 0]);
        answer(format_args!("sched_op: poll of an {state} port, over"), result);
        fill(&[port]);
        call(nr::EVENT_CHANNEL_OP, [3, buffer(0), 0, 0, 0]);
    }
    for (name, domain) in [("nobody", 77u64), ("self", 0x7ff0), ("Xen", 0x7ff2), ("idle", 0x7fff)] {
        answer(format_args!("sched_op: remote_shutdown of {name}"), op(nr::SCHED_OP, 4, &[domain]));
    }
    // Watchdogs: number, seconds.
    for (id, seconds) in [
        (1u64, 0u64),
        (2, 0),
        (3, 0),
        (3, 60),
        (1, 60),
        (0, 1000),
        (0, 1000),
        (0, 1000),
        (1, 1000),
        (1, 0),
        (2, 0),
        (1, 0),
        (9, 0),
    ] {
        let result = op(nr::SCHED_OP, 6, &[id | seconds << 32]);
        answer(format_args!("sched_op: watchdog {id} {seconds}, after {}", last()), result);
    }
    for cpu in [0u64, 0xffff_ffff, 1, 9999, 0x8000_0000] {
        answer(format_args!("sched_op: pin_override {cpu:#x}"), op(nr::SCHED_OP, 7, &[cpu]));
    }
    ask("pin_override none again", 7, &[0xffff_ffff]);
    for operation in 8..12 {
        answer(format_args!("sched_op: {operation}"), op(nr::SCHED_OP, operation, &[0]));
    }
    for operation in [0, 3, 4, 9] {
        answer(format_args!("sched_op_compat: {operation}"), call(6, [operation, 0, 0, 0, 0]));
    }
}

/// A number that makes the names of repeated questions differ.
fn last() -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering};
    static ASKED: AtomicU64 = AtomicU64::new(0);
    ASKED.fetch_add(1, Ordering::Relaxed)
}

fn vcpu() {
    let ask = |operation: usize, id: usize, name: &str, words: &[u64]| {
        fill(words);
        let result = call(nr::VCPU_OP, [operation, id, buffer(0), 0, 0]);
        answer(format_args!("vcpu_op: {operation} {name} of {id}"), result);
    };
    for id in [1, 31, 9999, 0xffff_ffff, usize::MAX] {
        for operation in 0..17 {
            ask(operation, id, "", &[]);
        }
    }
    ask(0, 0, "as it is", &[]);
    ask(1, 0, "as it is", &[]);
    ask(3, 0, "is_up", &[]);
    // The time, period or address in the first word.
    for value in [0u64, 1, 999_999, 1_000_000, 1 << 62, u64::MAX] {
        fill(&[value]);
        let result = call(nr::VCPU_OP, [6, 0, buffer(0), 0, 0]);
        answer(format_args!("vcpu_op: periodic {value:#x}"), result);
        answer(format_args!("  stopped"), call(nr::VCPU_OP, [7, 0, 0, 0, 0]));
        for flags in 0..4u64 {
            fill(&[value, flags]);
            let result = call(nr::VCPU_OP, [8, 0, buffer(0), 0, 0]);
            answer(format_args!("vcpu_op: singleshot {value:#x}, flags {flags}"), result);
            answer(format_args!("  stopped"), call(nr::VCPU_OP, [9, 0, 0, 0, 0]));
        }
    }
    for (name, address) in [
        ("none", 0u64),
        ("unmapped", 0x1000),
        ("hypervisor", 0xffff_8300_0000_0000),
        ("non-canonical", 1 << 47),
    ] {
        ask(5, 0, name, &[address]);
        ask(13, 0, name, &[address]);
    }
    ask(5, 0, "no more", &[0]);
    // vcpu_register_vcpu_info: mfn, offset.
    for (name, frame, offset) in [
        ("no frame", 1u64 << 40, 0u64),
        ("frame 0", 0, 0),
        ("an odd place", 0, 3),
        ("over the end", 0, 4096 - 63),
        ("far over", 0, 0xffff_fff8),
    ] {
        ask(10, 0, name, &[frame, offset]);
    }
    for argument in [1usize, buffer(0)] {
        answer(
            format_args!("vcpu_op: NMI with an argument {}", argument == 1),
            call(nr::VCPU_OP, [11, 0, argument, 0, 0]),
        );
    }
    ask(14, 0, "", &[]);
}

fn others() {
    for time in [0usize, 1, 1 << 40, usize::MAX >> 1] {
        answer(format_args!("set_timer_op {time:#x}"), call(15, [time, 0, 0, 0, 0]));
    }
    call(15, [0; 5]);
    // multicall_entry: op, result, args[6].
    let mut calls = [0; 32];
    calls[0] = 17;
    calls[8] = 200;
    calls[16] = 13;
    calls[18] = buffer(0) as u64;
    calls[19] = 1;
    calls[24] = 29;
    calls[26] = 99;
    fill(&calls);
    answer(format_args!("multicall of four"), call(nr::MULTICALL, [buffer(0), 4, 0, 0, 0]));
    for n in 0..4 {
        answer(format_args!("  result {n}"), word(n * 8 + 1).cast_signed());
    }
    for (name, list, count) in [
        ("no call", buffer(0), 0usize),
        ("no call, no address", 0xffff_8300_0000_0000, 0),
        ("one, no address", 0xffff_8300_0000_0000, 1),
        ("one, non-canonical", 1 << 47, 1),
        ("one, unmapped", 0x1000, 1),
        ("as many as there are", 0x1000, 0xffff_ffff),
        ("2^32", 0x1000, 1 << 32),
        ("one that is odd", buffer(0) + 1, 1),
    ] {
        fill(&[]);
        answer(format_args!("multicall of {name}"), call(nr::MULTICALL, [list, count, 0, 0, 0]));
    }
    // One within another, and what stands behind it.
    let mut calls = [0; 24];
    (calls[0], calls[2], calls[3]) = (13, buffer(64) as u64, 1);
    calls[8] = 17;
    calls[16] = u64::MAX;
    fill(&calls);
    crate::raw::set(64, 17);
    answer(format_args!("multicall in a multicall"), call(nr::MULTICALL, [buffer(0), 3, 0, 0, 0]));
    for n in 0..3 {
        answer(format_args!("  result {n}"), word(n * 8 + 1).cast_signed());
    }
    answer(format_args!("  result within"), word(65).cast_signed());
    // What exists on neither.
    for number in [11usize, 27, 34, 38, 39, 50, 51, 52, 53, 54, 55] {
        answer(format_args!("hypercall {number} of nothing"), call(number, [0xffff, 0, 0, 0, 0]));
    }
    for (version, command) in [(0u64, 17u64), (0x0300_0000, 17), (0x0300_0000, 999), (0x0300_0000, 0)] {
        fill(&[command | version << 32]);
        answer(format_args!("platform_op {command} version {version:#x}"), call(7, [buffer(0), 0, 0, 0, 0]));
    }
}
