//! Calls that kernels seldom make: machine checks, the numbers of before Xen 3.1, and what this processor, build or
//! kind of guest has not.

use core::sync::atomic::AtomicU64;

use crate::answer;
use crate::raw::{buffer, call, fill, nr, set, word};

const SET_CALLBACKS: usize = 4;
const FPU_TASKSWITCH: usize = 5;
const EVENT_CHANNEL_OP_COMPAT: usize = 16;
const PHYSDEV_OP_COMPAT: usize = 19;
const XSM_OP: usize = 27;
const KEXEC_OP: usize = 37;
const ARGO_OP: usize = 39;
const XENPMU_OP: usize = 40;
const DM_OP: usize = 41;
const HYPFS_OP: usize = 42;
const MCA: usize = 48;

/// Every question about them.
pub fn ask() {
    machine_checks();
    compat();
    absent();
    kernel_state();
    control();
}

/// xen_mc: cmd, interface_version; then what the command wants.
fn mca(version: u64, command: u64, words: &[u64]) -> i64 {
    fill(&[command | version << 32]);
    for (n, word) in words.iter().enumerate() {
        set(n + 1, *word);
    }
    call(MCA, [buffer(0), 0, 0, 0, 0])
}

const MCA_VERSION: u64 = 0x01ec_c003;
const OUT: usize = 64;

/// Where the kernel is entered from a user, once the questions about that have been asked.
static STACK: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];

fn machine_checks() {
    let out = buffer(OUT) as u64;
    for version in [0, MCA_VERSION - 1, MCA_VERSION + 1] {
        answer(format_args!("mca: version {version:#x}"), mca(version, 1, &[1, 0, out]));
    }
    answer(format_args!("mca: no address"), call(MCA, [0xffff_8300_0000_0000, 0, 0, 0, 0]));
    answer(format_args!("mca: unmapped"), call(MCA, [0x10, 0, 0, 0, 0]));
    // fetch: flags, fetch_id, data.
    for flags in 0..9u64 {
        for (name, data) in [("a place", out), ("none", 0), ("the hypervisor's", 0xffff_8300_0000_0000)] {
            let result = mca(MCA_VERSION, 1, &[flags, 7, data]);
            answer(format_args!("mca: fetch {flags:#x} to {name}"), result);
            answer(format_args!("  flags"), (word(1) & 0xffff_ffff).cast_signed());
            // What is acknowledged is named by a number.
            if flags & 4 == 0 {
                answer(format_args!("  number"), word(2).cast_signed());
            }
        }
    }
    for domain in [0u64, 0x7ff0, 77] {
        answer(format_args!("mca: notify {domain:#x}"), mca(MCA_VERSION, 2, &[domain]));
    }
    // physcpuinfo: ncpus, info.
    for (name, count, info) in [
        ("none", 0u64, out),
        ("how many", 0, 0),
        ("how many of nine", 9, 0),
        // (Xen writes of each processor, however many are asked for.)
        ("all", 9999, out),
        ("less than none", 0xffff_ffff, out),
        ("all, to the hypervisor", 9999, 0xffff_8300_0000_0000),
        ("all, to no memory", 9999, 0x10),
    ] {
        let result = mca(MCA_VERSION, 3, &[count, info]);
        answer(format_args!("mca: processors, {name}"), result);
        answer(format_args!("  count"), (word(1) & 0xffff_ffff).cast_signed());
        if name == "all" {
            // xen_mc_logical_cpu: 304 bytes, of two processors.
            // Not the features, which Xen gives without those that it keeps for itself.
            for n in (0..76).filter(|n| !(16..20).contains(&(n % 38))) {
                let word = word(OUT + n);
                answer(format_args!("  word {n}"), word.cast_signed());
            }
        }
    }
    // msrinject: cpunr, flags; count, domid; msrs. mceinject: cpunr. Only what is refused, or changes nothing.
    let none = 0xffff_ffffu64;
    for (name, cpu, flags, count) in [
        ("nothing", 0u64, 0u64, 0u64),
        ("nothing of nobody", 9999, 0, 0),
        ("nothing of none", none, 0, 0),
        ("too many", 0, 0, 9),
        ("register 0", 0, 0, 1),
        ("register 0, interposed", 0, 1, 1),
    ] {
        answer(format_args!("mca: inject {name}"), mca(MCA_VERSION, 4, &[cpu | flags << 32, count, 0, 0]));
    }
    for cpu in [9999, none] {
        answer(format_args!("mca: machine check of {cpu:#x}"), mca(MCA_VERSION, 5, &[cpu]));
    }
    // inject_v2: flags; cpumap.
    for (name, flags, bits) in [("nobody", 0u64, 0u64), ("of no kind", 7, 1), ("CMCI", 1, 0)] {
        let result = mca(MCA_VERSION, 6, &[flags, out, bits]);
        answer(format_args!("mca: inject {name}"), result);
    }
    for command in [0, 7, none] {
        answer(format_args!("mca: {command:#x}"), mca(MCA_VERSION, command, &[]));
    }
    for vcpu in [0u64, 1] {
        fill(&[16 | vcpu << 32]);
        answer(format_args!("mca: event at {vcpu}"), call(nr::EVENT_CHANNEL_OP, [1, buffer(0), 0, 0, 0]));
        let port = word(1) & 0xffff_ffff;
        fill(&[port]);
        answer(format_args!("  closed"), call(nr::EVENT_CHANNEL_OP, [3, buffer(0), 0, 0, 0]));
    }
}

/// The old numbers take the operation's number within the argument.
fn compat() {
    for operation in (0..10u64).chain([99]) {
        // A port that nobody has, and a domain.
        fill(&[operation, 0xffff_ffff, 0xffff_ffff]);
        let result = call(EVENT_CHANNEL_OP_COMPAT, [buffer(0), 0, 0, 0, 0]);
        answer(format_args!("event_channel_op_compat: {operation}"), result);
    }
    for operation in (0..13u64).chain([99]) {
        if operation == 6 || operation == 7 {
            continue;
        }
        fill(&[operation, 0xffff_ffff]);
        let result = call(PHYSDEV_OP_COMPAT, [buffer(0), 0, 0, 0, 0]);
        answer(format_args!("physdev_op_compat: {operation}"), result);
    }
    for (name, at) in [("no address", 0xffff_8300_0000_0000usize), ("unmapped", 0x10)] {
        answer(
            format_args!("event_channel_op_compat: {name}"),
            call(EVENT_CHANNEL_OP_COMPAT, [at, 0, 0, 0, 0]),
        );
        answer(format_args!("physdev_op_compat: {name}"), call(PHYSDEV_OP_COMPAT, [at, 0, 0, 0, 0]));
    }
    let no_address = 1 << 47;
    answer(format_args!("set_callbacks at no address"), call(SET_CALLBACKS, [no_address; 5]));
}

/// What there is not.
fn absent() {
    for operation in (0..9usize).chain([99]) {
        // version; val; vcpu.
        fill(&[0, 0, 0]);
        let result = call(XENPMU_OP, [operation, buffer(0), 0, 0, 0]);
        answer(format_args!("xenpmu_op: {operation}"), result);
    }
    answer(format_args!("xenpmu_op: no address"), call(XENPMU_OP, [0, 0x10, 0, 0, 0]));
    for operation in (0..8usize).chain([99]) {
        fill(&[]);
        let result = call(KEXEC_OP, [operation, buffer(0), 0, 0, 0]);
        answer(format_args!("kexec_op: {operation}"), result);
    }
    for operation in (0..8usize).chain([99]) {
        fill(&[]);
        answer(format_args!("argo_op: {operation}"), call(ARGO_OP, [operation, buffer(0), 0, 0, 0]));
        answer(format_args!("xsm_op: {operation}"), call(XSM_OP, [buffer(0), 0, 0, 0, 0]));
        answer(format_args!("hypfs_op: {operation}"), call(HYPFS_OP, [operation, 0, 0, 0, 0]));
    }
    for domain in [0x7ff0usize, 0, 77, 0x7ff1, 0x7ff2] {
        for (name, count, list) in [
            ("none", 0usize, buffer(0)),
            ("one", 1, buffer(0)),
            ("too many", 9, buffer(0)),
            ("unmapped", 1, 0x10),
        ] {
            fill(&[buffer(OUT) as u64, 64]);
            let result = call(DM_OP, [domain, count, list, 0, 0]);
            answer(format_args!("dm_op: {name} of {domain:#x}"), result);
        }
    }
}

/// The kernel's stack and the FPU's flag: this program has no user yet, and uses no FPU.
fn kernel_state() {
    for selector in [0usize, 0xe02b, 0xe033, 0xe02a, 0xfff8] {
        for stack in [0usize, 1 << 47, 0xffff_8300_0000_0000] {
            let result = call(nr::STACK_SWITCH, [selector, stack, 0, 0, 0]);
            answer(format_args!("stack_switch: {selector:#x} {stack:#x}"), result);
        }
    }
    // The questions about traps want one.
    call(nr::STACK_SWITCH, [0xe02b, STACK.as_ptr_range().end.addr(), 0, 0, 0]);
    for value in [2usize, 1 << 32, 0] {
        answer(format_args!("fpu_taskswitch: {value:#x}"), call(FPU_TASKSWITCH, [value, 0, 0, 0, 0]));
    }
    for domain in [0x7ff0usize, 0, 1, 77, 0x7ff1, 0x7ff2, 0x7ff4, 0x7fff] {
        for flags in [0usize, 1, 2, 3, 4, 5, 6, 8] {
            let result = call(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, [0x1000, 0, flags, domain, 0]);
            answer(format_args!("va mapping: flags {flags} of {domain:#x}"), result);
        }
    }
}

/// Counters, frequencies, pools of processors.
fn control() {
    for command in [5u64, 10, 18, 20, 21, 23] {
        fill(&[command | 0x15 << 32]);
        answer(format_args!("sysctl: {command} of zeros"), call(nr::SYSCTL, [buffer(0), 0, 0, 0, 0]));
    }
    // scheduler_op: pool, scheduler; cmd; credit2's rate limit.
    let scheduler = |scheduler: u64, command: u64, limit: u64| {
        fill(&[19 | 0x15 << 32, scheduler << 32, command, limit]);
        call(nr::SYSCTL, [buffer(0), 0, 0, 0, 0])
    };
    for limit in [0u64, 1, 99, 100, 5000, 500_000, 500_001, 0xffff_ffff, 1000] {
        answer(format_args!("sysctl: rate limit {limit}"), scheduler(6, 0, limit));
        answer(format_args!("  told"), (word(3) & 0xffff_ffff).cast_signed());
        answer(format_args!("  asked"), scheduler(6, 1, 0));
        if limit >= 100 {
            answer(format_args!("  it is"), (word(3) & 0xffff_ffff).cast_signed());
        }
    }
    scheduler(6, 0, 0);
    for (name, which, command) in [("another scheduler", 5u64, 1u64), ("no command", 6, 2)] {
        answer(format_args!("sysctl: {name}"), scheduler(which, command, 0));
    }
}
