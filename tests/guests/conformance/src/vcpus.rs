//! `vcpu_op` about other vcpus than the one that asks: contexts that can't be, what each operation says of a vcpu that
//! never was, waits, runs and is down, and what a vcpu finds when it begins. Needs many of them.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use guest_kernel::memory::Pages;
use guest_kernel::shared_abi::Errno;

use crate::answer;
use crate::context::*;
use crate::paging::pool::address_of;
use crate::raw::{buffer, call, fill, l4_frame, nr, peek, word};

const INITIALISE: usize = 0;
const UP: usize = 1;
const DOWN: usize = 2;
const IS_UP: usize = 3;
const RUNSTATE: usize = 4;
const REGISTER_RUNSTATE: usize = 5;
const SET_PERIODIC: usize = 6;
const STOP_PERIODIC: usize = 7;
const SET_SINGLESHOT: usize = 8;
const STOP_SINGLESHOT: usize = 9;
const REGISTER_INFO: usize = 10;
const SEND_NMI: usize = 11;
const GET_PHYSID: usize = 12;
const REGISTER_TIME: usize = 13;

const IN_KERNEL: u64 = 1 << 2;

/// The vcpu that every context is tried on that can't be.
const REFUSED: usize = 1;
const HYPERVISOR: u64 = 0xffff_8300_0000_0000;
const NO_ADDRESS: u64 = 1 << 47;

static CONTEXT: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// What a vcpu that runs says, and when it is to go down.
static SAID: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
static STACK: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];
/// Where runstates and clocks are registered.
static AREAS: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

const GO: usize = 1;
const FIRST: usize = 2;

// A vcpu begins with SAID in rdi. It notes what it finds, waits until it is to go, and goes down for ever.
global_asm!(
    ".text",
    "vcpus_user:",
    "syscall",
    "ud2",
    "vcpus_syscall:",
    "mov r8, [rsp + 24]", // cs
    "mov [rdi + 40*8], r8",
    "mov r8, [rsp + 32]", // rflags
    "mov [rdi + 41*8], r8",
    "mov r8, [rsp + 48]", // ss
    "mov [rdi + 42*8], r8",
    "jmp vcpus_start",
    // One mmuext_op, at r13, and nothing more that concerns page tables.
    "vcpus_table:",
    "mov r12, rdi",
    "mov eax, 26",
    "mov rdi, r13",
    "mov esi, 1",
    "xor edx, edx",
    "mov r10d, 0x7ff0",
    "syscall",
    "mov [r12 + 2*8], rax",
    "jmp vcpus_wait",
    "vcpus_start:",
    "mov [rdi + 2*8], r15",
    "mov [rdi + 3*8], rbx",
    "mov [rdi + 4*8], rsp",
    "pushfq",
    "pop qword ptr [rdi + 5*8]",
    "mov eax, cs",
    "mov [rdi + 6*8], rax",
    "mov eax, ss",
    "mov [rdi + 7*8], rax",
    "mov eax, ds",
    "mov [rdi + 8*8], rax",
    "mov eax, es",
    "mov [rdi + 9*8], rax",
    "mov eax, fs",
    "mov [rdi + 10*8], rax",
    "mov eax, gs",
    "mov [rdi + 11*8], rax",
    "mov rax, cr4",
    "mov [rdi + 12*8], rax",
    "mov rax, cr0",
    "mov [rdi + 13*8], rax",
    "mov ecx, 0xc0000100",
    "rdmsr",
    "mov [rdi + 14*8], eax",
    "mov ecx, 0xc0000101",
    "rdmsr",
    "mov [rdi + 15*8], eax",
    "mov ecx, 0xc0000102",
    "rdmsr",
    "mov [rdi + 16*8], eax",
    "mov r12, rdi",
    "xor ebx, ebx",
    "2:",
    "mov eax, 9", // get_debugreg
    "mov edi, ebx",
    "syscall",
    "mov [r12 + rbx*8 + 17*8], rax",
    "inc ebx",
    "cmp ebx, 8",
    "jb 2b",
    "vcpus_wait:",
    "mov qword ptr [r12], 1",
    "3:",
    "pause",
    "cmp qword ptr [r12 + 8], 0",
    "je 3b",
    "4:",
    "mov eax, 24",
    "mov edi, 2",
    "mov rsi, r14",
    "xor edx, edx",
    "syscall",
    "jmp 4b",
);

unsafe extern "C" {
    fn vcpus_start();
    fn vcpus_table();
    fn vcpus_user();
    fn vcpus_syscall();
}

/// A context that can be, of vcpu `id`.
fn good(id: usize) {
    for word in &CONTEXT {
        word.store(0, SeqCst);
    }
    let start = vcpus_start as *const () as u64;
    let stack = STACK.as_ptr_range().end.addr() as u64;
    with(&[
        (FLAGS, IN_KERNEL),
        (R15, 0x1515_1515_1515_1515),
        (R15 + 1, id as u64),
        (RDI, SAID.as_ptr().addr() as u64),
        (RIP, start),
        (CS, 0xe033),
        (RFLAGS, 0x202),
        (RSP, stack - 1024),
        (SS, 0xe02b),
        (KERNEL_SS, 0xe02b),
        (KERNEL_SP, stack),
        (CR + 3, l4_frame() << 12),
        (EVENT, start),
        (FAILSAFE, start),
        (SYSCALL, vcpus_syscall as *const () as u64),
    ]);
}

fn with(words: &[(usize, u64)]) {
    for (at, value) in words {
        CONTEXT[*at].store(*value, SeqCst);
    }
}

fn initialise(id: usize) -> i64 {
    call(nr::VCPU_OP, [INITIALISE, id, CONTEXT.as_ptr().addr(), 0, 0])
}

fn plain(operation: usize, id: usize) -> i64 {
    call(nr::VCPU_OP, [operation, id, 0, 0, 0])
}

fn op(operation: usize, id: usize, words: &[u64]) -> i64 {
    fill(words);
    call(nr::VCPU_OP, [operation, id, buffer(0), 0, 0])
}

/// Every question about them.
pub fn ask() {
    // In dom0 of the comparison there are as many as shared_info has room for.
    if plain(IS_UP, 31) != 0 {
        return;
    }
    let Ok(pages) = Pages::new(4) else { return };
    refused(pages.mfn(0).0);
    every_operation("never there", 2);
    begins();
    places(&pages);
    table_of_another(&Pages::new(1));
    // They stay registered.
    core::mem::forget(pages);
}

/// Contexts that can't be.
fn refused(data: u64) {
    let tell = |name: core::fmt::Arguments<'_>, words: &[(usize, u64)]| {
        good(REFUSED);
        with(words);
        let result = initialise(REFUSED);
        answer(format_args!("context: {name}"), result);
        if result != 0 {
            answer(format_args!("  up"), plain(UP, REFUSED));
        }
    };
    for (name, at) in [
        ("rip", RIP),
        ("rsp", RSP),
        ("kernel_sp", KERNEL_SP),
        ("event", EVENT),
        ("failsafe", FAILSAFE),
        ("syscall", SYSCALL),
        ("fs", FS_BASE),
        ("kernel's gs", GS_KERNEL),
        ("user's gs", GS_USER),
        ("trap 0", TRAPS + 1),
        ("trap 255", TRAPS + 511),
    ] {
        // What Xen takes is tried together with a table that it does not take.
        tell(format_args!("{name} no address, and no table"), &[(at, NO_ADDRESS), (CR + 3, 0)]);
    }
    for (name, at) in [("rip", RIP), ("kernel_sp", KERNEL_SP), ("fs", FS_BASE), ("trap 0", TRAPS + 1)] {
        tell(format_args!("{name} no address"), &[(at, NO_ADDRESS)]);
    }
    for (name, base, entries) in [
        ("odd", 8u64, 1u64),
        ("odd, of none", 8, 0),
        ("long", 0x1000, 8193),
        ("very long", 0x1000, 1 << 32),
        ("the hypervisor's", HYPERVISOR, 1),
        ("no address", NO_ADDRESS, 1),
    ] {
        tell(format_args!("LDT {name}, and no table"), &[(LDT, base), (LDT + 1, entries), (CR + 3, 0)]);
    }
    let l4 = l4_frame();
    let below = |table: u64, index: usize| {
        address_of(table).map_or(0, |at| peek(at + index * 8) >> 12 & 0xff_ffff_ffff)
    };
    let l3 = below(l4, 511);
    let l2 = below(l3, 510);
    let l1 = below(l2, 1);
    for (name, frame) in [
        ("none", 0u64),
        ("data", data),
        ("an L1", l1),
        ("an L2", l2),
        ("an L3", l3),
        ("VGA", 0xa0),
        ("local APIC", 0xfee00),
        ("no frame", 1 << 39),
    ] {
        tell(format_args!("CR3 {name}"), &[(CR + 3, frame << 12)]);
        tell(format_args!("CR1 {name}, in user mode"), &[(FLAGS, 0), (CR + 1, frame << 12)]);
        if frame != 0 {
            tell(format_args!("CR1 {name}"), &[(CR + 1, frame << 12)]);
            tell(format_args!("GDT {name}"), &[(GDT, frame), (GDT_ENTRIES, 1)]);
        }
    }
    for entries in [7169u64, 8192, 1 << 32, u64::MAX] {
        tell(format_args!("GDT of {entries:#x}"), &[(GDT_ENTRIES, entries), (CR + 3, 0)]);
    }
    good(REFUSED);
    for (name, at) in [("no address", HYPERVISOR as usize), ("unmapped", 0x1000)] {
        answer(format_args!("context at {name}"), call(nr::VCPU_OP, [INITIALISE, REFUSED, at, 0, 0]));
    }
    answer(format_args!("context of oneself"), initialise(0));
    answer(format_args!("context of nobody"), initialise(32));
}

/// The state of a vcpu as its runstate says: one that may run need not.
fn state(value: u64) -> i64 {
    match value & 0xffff_ffff {
        0 | 1 => 1,
        other => other.cast_signed(),
    }
}

/// What each operation says of vcpu `id`, and leaves as it was.
fn every_operation(name: &str, id: usize) {
    let tell =
        |what: core::fmt::Arguments<'_>, result: i64| answer(format_args!("vcpu {name}: {what}"), result);
    tell(format_args!("is_up"), plain(IS_UP, id));
    tell(format_args!("runstate"), op(RUNSTATE, id, &[]));
    answer(format_args!("  state"), state(word(0)));
    for (what, at) in [("no address", HYPERVISOR as usize), ("unmapped", 0x1000)] {
        tell(format_args!("runstate at {what}"), call(nr::VCPU_OP, [RUNSTATE, id, at, 0, 0]));
    }
    for period in [0u64, 999_999, 1_000_000, 1 << 40, 1 << 62, u64::MAX] {
        tell(format_args!("periodic {period:#x}"), op(SET_PERIODIC, id, &[period]));
        answer(format_args!("  stopped"), plain(STOP_PERIODIC, id));
    }
    for time in [0u64, 1 << 50, u64::MAX] {
        for flags in 0..3 {
            tell(format_args!("singleshot {time:#x} {flags}"), op(SET_SINGLESHOT, id, &[time, flags]));
        }
    }
    tell(format_args!("singleshot stopped"), plain(STOP_SINGLESHOT, id));
    for operation in [SET_PERIODIC, SET_SINGLESHOT, REGISTER_RUNSTATE, REGISTER_TIME, REGISTER_INFO] {
        tell(format_args!("{operation} unmapped"), call(nr::VCPU_OP, [operation, id, 0x1000, 0, 0]));
    }
    let area = AREAS.as_ptr().addr() as u64 / 4096 * 4096 + 4096;
    for (what, at) in [
        ("none", 0u64),
        ("unmapped", 0x1000),
        ("hypervisor", HYPERVISOR),
        ("before the hypervisor", 0x7fff_ffff_ffe0),
        ("no address", NO_ADDRESS),
        ("odd", area + 9),
        ("over a page's end", area - 8),
        ("good", area),
    ] {
        for (which, operation) in [("runstate", REGISTER_RUNSTATE), ("clock", REGISTER_TIME)] {
            AREAS.iter().for_each(|word| word.store(0x5555_5555_5555_5555, SeqCst));
            tell(format_args!("{which} area {what}"), op(operation, id, &[at]));
            if what == "good" || what == "odd" {
                let low = (at as usize - AREAS.as_ptr().addr()) / 8;
                let bytes = |n: usize| {
                    let (low, high) = (AREAS[low + n].load(SeqCst), AREAS[low + n + 1].load(SeqCst));
                    if at % 8 == 0 { low } else { low >> 8 | high << 56 }
                };
                let written = (0..4).filter(|n| bytes(*n) != 0x5555_5555_5555_5555).count();
                answer(format_args!("  written"), written as i64);
                if which == "runstate" {
                    answer(format_args!("  state"), state(bytes(0)));
                    answer(format_args!("  updating"), (bytes(1) >> 63).cast_signed());
                } else {
                    answer(format_args!("  odd"), (bytes(0) & 1).cast_signed());
                }
            }
            op(operation, id, &[0]);
        }
    }
    for (what, frame, offset) in [
        ("odd", 0u64, 3u64),
        ("of four", 0, 4),
        ("over the end", 0, 4096 - 63),
        ("at the end", 0, 4096),
        ("far over", 0, 0xffff_fff8),
        ("no frame", 1 << 39, 0),
        ("frame 0", 0, 0),
        ("VGA", 0xa0, 0),
        ("a table", l4_frame(), 0),
    ] {
        tell(format_args!("info {what}"), op(REGISTER_INFO, id, &[frame, offset]));
    }
    tell(format_args!("NMI with an argument"), op(SEND_NMI, id, &[]));
    tell(format_args!("physical id"), op(GET_PHYSID, id, &[]));
    tell(format_args!("poll"), plain(14, id));
}

/// Waits for what the vcpu says, and says it.
fn show(name: &str) {
    while SAID[0].load(SeqCst) == 0 {
        core::hint::spin_loop();
    }
    let stack = STACK.as_ptr_range().end.addr() as u64;
    for (n, what) in [
        "r15",
        "rbx",
        "rsp",
        "rflags",
        "cs",
        "ss",
        "ds",
        "es",
        "fs",
        "gs",
        "cr4",
        "cr0",
        "fs base",
        "gs base",
        "other gs base",
        "dr0",
        "dr1",
        "dr2",
        "dr3",
        "dr4",
        "dr5",
        "dr6",
        "dr7",
    ]
    .into_iter()
    .enumerate()
    {
        let value = SAID[FIRST + n].load(SeqCst);
        let value = match what {
            "rsp" => value.wrapping_sub(stack),
            // Without the arithmetic.
            "rflags" => value & !0x8d5,
            _ => value,
        };
        answer(format_args!("begun {name}: {what}"), value.cast_signed());
    }
    if SAID[40].load(SeqCst) != 0 {
        for (n, what) in ["cs", "rflags", "ss"].into_iter().enumerate() {
            let value = SAID[40 + n].load(SeqCst) & !0x8d5;
            answer(format_args!("begun {name}: from {what}"), value.cast_signed());
        }
    }
}

/// Sends it down, and waits.
fn stop(id: usize) {
    SAID[GO].store(1, SeqCst);
    // It is down by its own word before its CPU has let go of it.
    const OFFLINE: i64 = 3;
    while plain(IS_UP, id) != 0 || op(RUNSTATE, id, &[]) != 0 || state(word(0)) != OFFLINE {
        core::hint::spin_loop();
    }
}

/// Starts vcpu `id` with `words` in its context, tells what it found, and stops it.
fn begin(name: &str, id: usize, words: &[(usize, u64)]) {
    SAID.iter().for_each(|word| word.store(0, SeqCst));
    good(id);
    with(words);
    let result = initialise(id);
    answer(format_args!("begun {name}: initialised"), result);
    if result != 0 {
        return;
    }
    answer(format_args!("begun {name}: is up"), plain(IS_UP, id));
    answer(format_args!("begun {name}: up"), plain(UP, id));
    show(name);
    stop(id);
}

/// What contexts that can be lead to, however odd.
fn begins() {
    // One that is asked about in each of its states.
    SAID.iter().for_each(|word| word.store(0, SeqCst));
    let id = 3;
    good(id);
    answer(format_args!("vcpu 3: up too early"), plain(UP, id));
    answer(format_args!("vcpu 3: down before it was up"), plain(DOWN, id));
    answer(format_args!("vcpu 3: initialised"), initialise(id));
    answer(format_args!("vcpu 3: initialised again"), initialise(id));
    every_operation("waiting", id);
    answer(format_args!("vcpu 3: up"), plain(UP, id));
    answer(format_args!("vcpu 3: up again"), plain(UP, id));
    show("plain");
    answer(format_args!("vcpu 3: initialised while it runs"), initialise(id));
    every_operation("running", id);
    answer(format_args!("vcpu 3: down"), plain(DOWN, id));
    answer(format_args!("vcpu 3: is up"), plain(IS_UP, id));
    answer(format_args!("vcpu 3: up once more"), plain(UP, id));
    stop(id);
    every_operation("down again", id);
    answer(format_args!("vcpu 3: initialised for ever"), initialise(id));

    begin("with odd flags", 5, &[(FLAGS, IN_KERNEL | !0x3f)]);
    begin("with selectors of rings 0", 6, &[(CS, 0xe030), (SS, 0xe028), (KERNEL_SS, 0xe028)]);
    begin("without IF", 7, &[(RFLAGS, 2)]);
    begin("with IOPL 3", 8, &[(RFLAGS, 0x3202)]);
    begin("with AC and ID", 9, &[(RFLAGS, 0x24_0202)]);
    begin("with DF", 10, &[(RFLAGS, 0x602)]);
    begin("with NT and RF", 11, &[(RFLAGS, 0x1_4202)]);
    begin("with bases", 12, &[(FS_BASE, 0x1000), (GS_KERNEL, 0x2000), (GS_USER, 0x3000)]);
    begin(
        "with breakpoints",
        13,
        &[
            (DR, 0x1000),
            (DR + 1, HYPERVISOR),
            (DR + 2, NO_ADDRESS),
            (DR + 3, 0x4000),
            (DR + 6, 0xf),
            (DR + 7, 1),
        ],
    );
    begin("with bad control of breakpoints", 14, &[(DR, 0x1000), (DR + 7, 0x2_2001)]);
    begin("with good control of breakpoints", 15, &[(DR, 0x1000), (DR + 6, !0), (DR + 7, 0x1_0001)]);
    begin("with CR4.DE", 16, &[(CR + 4, 8)]);
    begin("with all of CR0 and CR4", 17, &[(CR, !8), (CR + 4, !8)]);
    begin("with CR0.TS", 18, &[(CR, 8)]);
    begin(
        "in user mode",
        19,
        &[
            (FLAGS, 0),
            (CR + 1, l4_frame() << 12),
            (RIP, vcpus_user as *const () as u64),
            (FS_BASE, 0x1000),
            (GS_KERNEL, 0x2000),
            (GS_USER, 0x3000),
        ],
    );
    begin("with a stack of the hypervisor's", 20, &[(KERNEL_SP, HYPERVISOR)]);
    begin("with callbacks of the hypervisor's", 21, &[(EVENT, HYPERVISOR), (FAILSAFE, HYPERVISOR)]);
    begin("with a trap in ring 0", 22, &[(TRAPS, 3 | 0xe030 << 16), (TRAPS + 1, 0x1000)]);
    begin("with an LDT of none", 23, &[(LDT, 0x1000)]);
    begin("with selectors", 24, &[(ES, 0xe02b), (ES + 1, 0xe02b), (ES + 2, 0), (ES + 3, 0)]);
}

/// A page table that another vcpu unpins is memory again when that was done, whatever that vcpu does next.
fn table_of_another(page: &Result<Pages, Errno>) {
    let Ok(page) = page else { return };
    let frame = page.mfn(0).0;
    let at = address_of(frame).unwrap_or(0);
    let map = |flags: u64| call(nr::UPDATE_VA_MAPPING, [at, (frame << 12 | flags) as usize, 2, 0, 0]);
    answer(format_args!("table of another: read-only"), map(5));
    fill(&[0, frame, 0]);
    answer(format_args!("table of another: pinned"), call(nr::MMUEXT_OP, [buffer(0), 1, 0, 0x7ff0, 0]));
    fill(&[4, frame, 0]);
    let id = 4;
    SAID.iter().for_each(|word| word.store(0, SeqCst));
    good(id);
    with(&[(RIP, vcpus_table as *const () as u64), (R15 + 2, buffer(0) as u64)]);
    answer(format_args!("table of another: initialised"), initialise(id));
    answer(format_args!("table of another: up"), plain(UP, id));
    while SAID[0].load(SeqCst) == 0 {
        core::hint::spin_loop();
    }
    answer(format_args!("table of another: unpinned"), SAID[FIRST].load(SeqCst).cast_signed());
    answer(format_args!("table of another: writable"), map(7));
    stop(id);
}

/// `VCPUOP_register_vcpu_info` of those that never were, and of one that runs.
fn places(pages: &Pages) {
    let register = |id: usize, frame: u64, offset: u64| op(REGISTER_INFO, id, &[frame, offset]);
    for (name, id, frame, offset) in [
        ("at the beginning", 25, pages.mfn(1).0, 0u64),
        ("of the same page", 26, pages.mfn(1).0, 64),
        ("in the same place", 27, pages.mfn(1).0, 64),
        ("between two", 28, pages.mfn(1).0, 136),
        ("at the end", 29, pages.mfn(1).0, 4096 - 64),
    ] {
        answer(format_args!("info {name}"), register(id, frame, offset));
        let at = address_of(frame).unwrap_or(0) + offset as usize;
        answer(format_args!("  pending, mask"), (peek(at) & 0xffff).cast_signed());
        answer(format_args!("  selector"), peek(at + 8).cast_signed());
        answer(format_args!("  version odd"), (peek(at + 32) & 1).cast_signed());
        answer(format_args!("info {name}, again"), register(id, frame, offset));
        answer(format_args!("info {name}, elsewhere"), register(id, pages.mfn(2).0, 0));
        answer(format_args!("info {name}, nowhere"), register(id, 1 << 39, 0));
    }
    // Mapped read-only and not used as anything.
    let at = address_of(pages.mfn(3).0).unwrap_or(0);
    let entry = (pages.mfn(3).0 << 12) as usize;
    call(nr::UPDATE_VA_MAPPING, [at, entry | 5, 2, 0, 0]);
    answer(format_args!("info in read-only memory"), register(30, pages.mfn(3).0, 0));
    answer(format_args!("  as a table"), {
        fill(&[0, pages.mfn(3).0]);
        call(nr::MMUEXT_OP, [buffer(0), 1, 0, 0x7ff0, 0])
    });
    answer(format_args!("NMI of one that never was"), plain(SEND_NMI, 31));
    answer(format_args!("NMI again"), plain(SEND_NMI, 31));
}
