//! Ways into the kernel and back: the frame that each exception leaves, what privileged instructions do,
//! what `iret` accepts.
//!
//! Each question runs one instruction. If it traps, a handler notes the frame and goes on behind the
//! question, so that what the instruction did or didn't do is all there is to see.

use crate::answer;
use crate::raw::{buffer, call, fill, l4_frame, nr};

#[cfg(target_os = "none")]
mod entries {
    use core::arch::global_asm;

    // On entry Xen's frame: rcx, r11, an error code if the exception has one, rip, cs, rflags, rsp, ss. `note`
    // finds a number for the way in, and an error code, on top of it.
    global_asm!(
        ".section .bss.noted, \"aw\", @nobits",
        ".balign 8",
        ".global noted, resume_at, user_stack",
        "noted: .skip 64",
        "resume_at: .skip 8",
        ".skip 4096",
        "user_stack:",
        ".text",
        "note:",
        "push rax",
        "mov rax, [rsp + 8]",
        "mov [rip + noted], rax",
        "mov rax, [rsp + 16]",
        "mov [rip + noted + 8], rax",
        "mov rax, [rsp + 24]",
        "mov [rip + noted + 16], rax",
        "mov rax, [rsp + 32]",
        "mov [rip + noted + 24], rax",
        "mov rax, [rsp + 40]",
        "mov [rip + noted + 32], rax",
        "mov rax, [rsp + 48]",
        "mov [rip + noted + 40], rax",
        "mov rax, [rsp + 56]",
        "mov [rip + noted + 48], rax",
        "mov rax, [rip + resume_at]",
        "mov [rsp + 24], rax",
        // The flat selectors, and no single step.
        "mov qword ptr [rsp + 32], 0xe033",
        "mov qword ptr [rsp + 56], 0xe02b",
        "and qword ptr [rsp + 40], -0x101",
        "pop rax",
        "add rsp, 16",
        "iretq",
        ".balign 16",
        ".global note_entries",
        "note_entries:",
        ".set noted_vector, 0",
        ".rept 20",
        ".balign 16",
        "pop rcx",
        "pop r11",
        ".if noted_vector == 8 || (noted_vector >= 10 && noted_vector <= 14) || noted_vector == 17",
        ".else",
        "push 0",
        ".endif",
        "push noted_vector",
        "jmp note",
        ".set noted_vector, noted_vector + 1",
        ".endr",
        ".balign 16",
        ".global note_128, note_failsafe, note_syscall",
        "note_128:",
        "pop rcx",
        "pop r11",
        "push 0",
        "push 128",
        "jmp note",
        "note_failsafe:",
        "add rsp, 48",
        "push 0",
        "push 256",
        "jmp note",
        "note_syscall:",
        "pop rcx",
        "pop r11",
        "push 0",
        "push 257",
        "jmp note",
    );

    unsafe extern "C" {
        pub static noted: [core::sync::atomic::AtomicU64; 7];
        pub static user_stack: u8;
        pub static note_entries: u8;
        pub static note_128: u8;
        pub static note_failsafe: u8;
        pub static note_syscall: u8;
    }
}

/// Runs instructions, noting a trap. `rax`, `rcx`, `rdx` are theirs: given, and what they are after.
#[cfg(target_os = "none")]
macro_rules! run {
    ($($line:literal),+ ; $rax:expr, $rcx:expr, $rdx:expr) => {{
        let (mut rax, mut rcx, mut rdx): (u64, u64, u64) = ($rax, $rcx, $rdx);
        reset();
        // SAFETY: the questions change no memory and no register but these (nor rbx, which is kept); a trap
        // ends at label 3. The red zone is not in use on this target.
        unsafe {
            core::arch::asm!(
                "lea r8, [rip + 3f]",
                "mov [rip + resume_at], r8",
                "mov r9, rbx",
                $($line,)+
                "3:",
                "mov r10, rbx",
                "mov rbx, r9",
                inout("rax") rax, inout("rcx") rcx, inout("rdx") rdx,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        (rax, rcx, rdx)
    }};
}

#[cfg(target_os = "none")]
fn reset() {
    note(0, u64::MAX);
}

#[cfg(target_os = "none")]
fn note(index: usize, value: u64) {
    // SAFETY: an array of atomics.
    let all = unsafe { &entries::noted };
    all[index].store(value, core::sync::atomic::Ordering::Relaxed);
}

#[cfg(target_os = "none")]
fn noted(index: usize) -> u64 {
    // SAFETY: an array of atomics.
    let all = unsafe { &entries::noted };
    all[index].load(core::sync::atomic::Ordering::Relaxed)
}

/// What the last question did: the way in, or -1, and the frame.
#[cfg(target_os = "none")]
fn tell(name: &str) {
    const ARITHMETIC: u64 = 0x8d5;
    let way = noted(0).cast_signed();
    answer(format_args!("trap of {name}"), way);
    if way < 0 {
        return;
    }
    let show = |what: &str, value: u64| answer(format_args!("  {what}"), value.cast_signed());
    // Whether its own memory is mapped at this moment is the hypervisor's affair (Xen's differs with the
    // processor's flaws): no word of a fault's P bit there.
    let hidden = u64::from(name.contains("the hypervisor's memory"));
    show("error code", noted(1) & !hidden);
    show("cs", noted(3));
    show("rflags", noted(4) & !ARITHMETIC);
    show("ss", noted(6));
}

/// Installs handlers that note.
#[cfg(target_os = "none")]
fn install() {
    let stub = |p: *const u8| p.addr() as u64;
    let mut table = [0; 46];
    for vector in 0..20 {
        table[vector * 2] = (vector as u64) | 0xe033 << 16;
        table[vector * 2 + 1] = stub(&raw const entries::note_entries) + vector as u64 * 16;
    }
    // A gate open to user mode and one that is not.
    for (i, vector) in [0x80 | 3 << 8, 0x81].into_iter().enumerate() {
        table[40 + i * 2] = vector | 0xe033 << 16;
        table[41 + i * 2] = stub(&raw const entries::note_128);
    }
    fill(&table);
    answer(format_args!("set_trap_table"), call(nr::SET_TRAP_TABLE, [buffer(0), 0, 0, 0, 0]));
    for (kind, entry) in [(1, stub(&raw const entries::note_failsafe)), (2, stub(&raw const entries::note_syscall))] {
        fill(&[kind, entry]);
        answer(format_args!("callback {kind}"), call(nr::CALLBACK_OP, [0, buffer(0), 0, 0, 0]));
    }
}

/// Every question about traps.
#[cfg(target_os = "none")]
pub fn ask() {
    install();
    exceptions();
    faults();
    privileged();
    registers();
    cpuid();
    iret();
    user_mode();
}

/// On the host there is nothing to trap into.
#[cfg(not(target_os = "none"))]
pub fn ask() {
    let _ = (buffer as fn(usize) -> usize, call as fn(usize, [usize; 5]) -> i64, l4_frame as fn() -> u64);
    let _ = (fill as fn(&[u64]), nr::MMU_UPDATE, answer as fn(core::fmt::Arguments<'_>, i64));
}

#[cfg(target_os = "none")]
macro_rules! ask {
    ($name:literal, $($line:literal),+) => { ask!($name, $($line),+ ; 0, 0, 0) };
    ($name:literal, $($line:literal),+ ; $rax:expr, $rcx:expr, $rdx:expr) => {{
        run!($($line),+ ; $rax, $rcx, $rdx);
        tell($name)
    }};
}

/// As `ask`, with the value of rax where nothing trapped.
#[cfg(target_os = "none")]
macro_rules! ask_value {
    ($name:literal, $($line:literal),+ ; $rax:expr, $rcx:expr, $rdx:expr) => {{
        let (rax, _, rdx) = run!($($line),+ ; $rax, $rcx, $rdx);
        tell($name);
        if noted(0) == u64::MAX {
            answer(format_args!("  rax"), rax.cast_signed());
            answer(format_args!("  rdx"), rdx.cast_signed());
        }
    }};
}

#[cfg(target_os = "none")]
fn exceptions() {
    ask!("ud2", "ud2");
    ask!("int3", "int3");
    ask!("int 0x80", "int 0x80");
    ask!("int 0x81, a kernel's", "int 0x81");
    ask!("int 0x83, without a handler", "int 0x83");
    ask!("int 14", "int 14");
    ask!("icebp", ".byte 0xf1");
    ask!("division by zero", "div rcx");
    ask!("single step", "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop");
    ask_value!("dr6 after it", "mov rax, dr6" ; 0, 0, 0);
    ask!("hlt", "hlt");
    ask!("syscall of nothing", "mov eax, 63", "syscall");
    ask!("int 0x82", "int 0x82");
}

#[cfg(target_os = "none")]
fn faults() {
    for (name, address) in [
        ("unmapped memory", 0x10),
        ("the hypervisor's memory", 0xffff_8300_0000_0000),
        ("no address", 0x0000_8000_0000_0000),
        ("the last byte", u64::MAX),
    ] {
        let cr2 = || {
            let (cr2, _, _) = run!("mov rax, cr2" ; 0, 0, 0);
            cr2
        };
        run!("mov al, [rcx]" ; 0, address, 0);
        tell(name);
        answer(format_args!("  cr2"), cr2().cast_signed());
        run!("mov [rcx], al" ; 0, address, 0);
        tell(name);
        run!("sub rcx, rsp", "mov al, [rsp + rcx]" ; 0, address, 0);
        tell(name);
        run!("jmp rcx" ; 0, address, 0);
        tell(name);
    }
    for (name, selector) in [("null", 0), ("out of the table", 0xfff8), ("the hypervisor's", 0xe008), ("of no LDT", 0xc), ("code", 0xe033)] {
        run!("mov r10d, ds", "mov ds, ecx", "mov ds, r10d" ; 0, selector, 0);
        tell(name);
        run!("mov r10d, ss", "mov ss, ecx", "mov ss, r10d" ; 0, selector, 0);
        tell(name);
    }
}

#[cfg(target_os = "none")]
fn privileged() {
    ask!("cli", "cli");
    ask!("sti", "sti");
    ask!("clts", "clts");
    ask!("wbinvd", "wbinvd");
    ask!("invd", "invd");
    ask!("invlpg", "invlpg [rcx]");
    ask!("lgdt", "lgdt [rsp]");
    ask!("lldt", "lldt cx");
    ask!("ltr", "ltr cx");
    ask!("lmsw", "lmsw cx");
    ask!("swapgs", "swapgs");
    ask!("sysret", "sysretq");
    ask!("rdpmc", "rdpmc");
    ask!("monitor", "monitor");
    ask!("vmcall", "vmcall");
    ask!("vmmcall", "vmmcall");
    ask!("mov cr0, itself", "mov rax, cr0", "mov cr0, rax");
    ask!("mov cr0 without paging", "mov rax, cr0", "btr rax, 31", "mov cr0, rax");
    ask!("mov cr2", "mov cr2, rcx" ; 0, 0x1234, 0);
    ask_value!("cr2", "mov rax, cr2" ; 0, 0, 0);
    ask!("mov cr3, no table", "mov cr3, rcx" ; 0, 0x1000, 0);
    ask!("mov cr4, itself", "mov rax, cr4", "mov cr4, rax");
    ask!("mov cr4, all", "mov cr4, rcx" ; 0, u64::MAX, 0);
    ask_value!("cr4 then", "mov rax, cr4" ; 0, 0, 0);
    ask!("mov cr4, none", "mov cr4, rcx");
    ask_value!("cr4 then", "mov rax, cr4" ; 0, 0, 0);
    ask!("mov cr8", "mov cr8, rcx");
    ask!("from cr8", "mov rax, cr8");
    ask!("xgetbv", "xgetbv");
    ask!("xsetbv without OSXSAVE", "xsetbv" ; 3, 0, 0);
    ask!("mov cr4 with OSXSAVE", "mov rax, cr4", "bts rax, 18", "mov cr4, rax");
    ask_value!("xgetbv", "xgetbv" ; 0, 0, 0);
    ask!("xsetbv", "xsetbv" ; 3, 0, 0);
    ask!("xsetbv of nothing", "xsetbv" ; 0, 0, 0);
    ask!("xsetbv of another", "xsetbv" ; 3, 1, 0);
    ask!("xsetbv of all", "xsetbv" ; 0xffff_ffff, 0, 0xffff_ffff);
    ask_value!("in 0x20", "in al, 0x20" ; 0, 0, 0);
    ask_value!("in 0x3fd", "mov edx, 0x3fd", "in al, dx", "mov edx, 0" ; 0, 0, 0);
    ask_value!("in 0xcf8", "mov edx, 0xcf8", "in eax, dx", "mov edx, 0" ; 0, 0, 0);
    ask!("out 0x80", "out 0x80, al");
    ask!("out 0x20", "out 0x20, al");
    ask_value!("in 0x21", "in al, 0x21" ; 0, 0, 0);
    ask_value!("in 0x40", "in al, 0x40" ; 0, 0, 0);
}

#[cfg(target_os = "none")]
fn registers() {
    ask_value!("cr0", "mov rax, cr0" ; 0, 0, 0);
    ask!("mov dr0", "mov dr0, rcx" ; 0, 0x1000, 0);
    ask_value!("dr0", "mov rax, dr0" ; 0, 0, 0);
    ask!("mov dr0, the hypervisor's", "mov dr0, rcx" ; 0, 0xffff_8300_0000_0000, 0);
    ask_value!("dr4", "mov rax, dr4" ; 0, 0, 0);
    ask!("mov dr6", "mov dr6, rcx" ; 0, 0xffff_ffff, 0);
    ask_value!("dr6", "mov rax, dr6" ; 0, 0, 0);
    ask!("mov dr6, upper half", "mov dr6, rcx" ; 0, 1 << 32, 0);
    ask!("mov dr7, general detect", "mov dr7, rcx" ; 0, 0x2000, 0);
    ask!("mov dr7", "mov dr7, rcx" ; 0, 0x2, 0);
    ask_value!("dr7", "mov rax, dr7" ; 0, 0, 0);
    ask!("mov dr7, input and output", "mov dr7, rcx" ; 0, 0x2_0002, 0);
    ask!("mov dr7, none", "mov dr7, rcx");
    for msr in [
        0u64, 0x10, 0x17, 0x1b, 0x3a, 0x3b, 0x48, 0x49, 0x79, 0x8b, 0xce, 0xcf, 0xfe, 0x10a, 0x122, 0x140, 0x174, 0x175, 0x176, 0x179,
        0x17a, 0x17b, 0x186, 0x198, 0x199, 0x19a, 0x19c, 0x1a0, 0x1a2, 0x1b0, 0x1d9, 0x200, 0x250, 0x277, 0x2ff, 0x345, 0x38f, 0x400,
        0x480, 0x600, 0x60a, 0x6e0, 0x800, 0x802, 0xc80, 0xd90, 0xda0, 0x4000_0000, 0x4000_0001, 0xc000_0080, 0xc000_0081, 0xc000_0082,
        0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0102, 0xc000_0103, 0xc000_0104, 0xc001_0000, 0xc001_0010, 0xc001_0015,
        0xc001_001b, 0xc001_001f, 0xc001_0055, 0xc001_0058, 0xc001_0112, 0xc001_0140, 0xc001_102c, 0xdead_beef,
    ] {
        let (low, _, high) = run!("rdmsr" ; 0, msr, 0);
        answer(format_args!("rdmsr {msr:#x}"), noted(0).cast_signed());
        // What ticks, or is an address of the machine's.
        let differs = [0x10, 0x1b, 0x8b, 0x17, 0xfe, 0x802].contains(&msr);
        if noted(0) == u64::MAX && !differs {
            answer(format_args!("  says"), (high << 32 | low & 0xffff_ffff).cast_signed());
        }
        if !matches!(msr, 0xc000_0100 | 0xc000_0101 | 0xc000_0102 | 0x4000_0000) {
            run!("rdmsr", "wrmsr" ; 0, msr, 0);
            answer(format_args!("  written back"), noted(0).cast_signed());
            run!("wrmsr" ; 0xffff_ffff, msr, 0xffff_ffff);
            answer(format_args!("  all set"), noted(0).cast_signed());
        }
    }
}

#[cfg(target_os = "none")]
fn cpuid() {
    for leaf in (0..0x16u64).chain(0x4000_0000..0x4000_0007).chain([0x4000_0100, 0x4000_0200]).chain(0x8000_0000..0x8000_0009)
        .chain([0x8000_000a, 0x8000_001a, 0x8000_001b, 0x8000_001d, 0x8000_001e, 0x8000_001f, 0x8000_0021, 0x9000_0000]) {
        for subleaf in 0..3u64 {
            let of = |name: &str, value: u64| answer(format_args!("  {name}"), (value & 0xffff_ffff).cast_signed());
            let (eax, ecx, edx) = run!(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2" ; leaf, subleaf, 0);
            let (ebx, _, _) = run!(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2", "mov eax, ebx" ; leaf, subleaf, 0);
            answer(format_args!("cpuid {leaf:#x} {subleaf}"), noted(0).cast_signed());
            // Figures of time differ from run to run.
            let timing = leaf == 0x4000_0003;
            if !timing {
                of("eax", eax);
                of("ebx", ebx);
                of("ecx", ecx);
                of("edx", edx);
            }
        }
    }
}

/// The hypercall `iret` with a frame of these; it ends behind the question unless it traps.
#[cfg(target_os = "none")]
fn return_to(name: &str, cs: u64, ss: u64, rflags: u64, offset: u64) {
    reset();
    // SAFETY: the frame's stack is the one in use, its rip label 3 (plus an offset that makes it none); what is
    // refused comes back there by the failsafe callback.
    unsafe {
        core::arch::asm!(
            "lea r8, [rip + 3f]",
            "mov [rip + resume_at], r8",
            "add r8, r10",
            "mov r9, rsp",
            "push rdx",
            "push r9",
            "push rax",
            "push rcx",
            "push r8",
            "push 0",
            "push 0",
            "push 0",
            "push 0",
            "mov eax, 23",
            "syscall",
            "3:",
            in("rax") rflags, in("rcx") cs, in("rdx") ss, in("r10") offset,
            lateout("rax") _, lateout("rcx") _, out("r8") _, out("r9") _, out("r11") _,
        );
    }
    tell(name);
}

#[cfg(target_os = "none")]
fn iret() {
    return_to("iret", 0xe030, 0xe02b, 0x2, 0);
    return_to("iret, single step", 0xe030, 0xe02b, 0x102, 0);
    return_to("iret, IOPL 3", 0xe030, 0xe02b, 0x3002, 0);
    return_to("iret to an address that is none", 0xe030, 0xe02b, 0x2, 1 << 60);
    return_to("iret by a selector out of the table", 0xfff0, 0xe02b, 0x2, 0);
    return_to("iret by a selector of data", 0xe028, 0xe02b, 0x2, 0);
    return_to("iret by a null selector", 0, 0xe02b, 0x2, 0);
    return_to("iret with a stack out of the table", 0xe030, 0xfff3, 0x2, 0);
    return_to("iret with a stack in code", 0xe030, 0xe033, 0x2, 0);
}

#[cfg(target_os = "none")]
fn user_mode() {
    let stack = (&raw const entries::user_stack).addr();
    answer(format_args!("stack_switch"), call(nr::STACK_SWITCH, [0xe02b, stack, 0, 0, 0]));
    fill(&[15, l4_frame(), 0]);
    answer(format_args!("the kernel's table as the user's"), call(nr::MMUEXT_OP, [buffer(0), 1, 0, 0x7ff0, 0]));
    macro_rules! user {
        ($name:literal, $($line:literal),+) => {{
            reset();
            // SAFETY: as for `return_to`; user mode begins at label 2 and ends at the first trap, at label 3.
            unsafe {
                core::arch::asm!(
                    "lea r8, [rip + 3f]",
                    "mov [rip + resume_at], r8",
                    "lea r8, [rip + 2f]",
                    "mov r9, rsp",
                    "push 0xe02b",
                    "push r9",
                    "push 2",
                    "push 0xe033",
                    "push r8",
                    "push 0",
                    "push 0",
                    "push 0",
                    "push 0",
                    "mov eax, 23",
                    "syscall",
                    "2:",
                    $($line,)+
                    "ud2",
                    "3:",
                    out("rax") _, out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r11") _,
                );
            }
            tell($name);
        }};
    }
    user!("user: ud2", "ud2");
    user!("user: syscall", "mov eax, 17", "syscall");
    user!("user: int 0x80", "int 0x80");
    user!("user: int 0x81, a kernel's", "int 0x81");
    user!("user: hlt", "hlt");
    user!("user: cli", "cli");
    user!("user: mov from cr3", "mov rax, cr3");
    user!("user: in", "in al, 0x80");
    user!("user: rdmsr", "mov ecx, 0x10", "rdmsr");
    user!("user: unmapped memory", "mov al, [0x10]");
    user!("user: the hypervisor's memory", "movabs al, [0xffff830000000000]");
    user!("user: int3", "int3");
    // On Intel's; from a kernel it is the end, since the stack is not saved.
    user!("user: sysenter", "sysenter");
    fill(&[15, 0, 0]);
    answer(format_args!("no table for the user"), call(nr::MMUEXT_OP, [buffer(0), 1, 0, 0x7ff0, 0]));
}
