//! The handlers: each notes the frame it finds and goes on where the question wants, with the stack it had.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

// On entry Xen's frame: rcx, r11, an error code if the exception has one, rip, cs, rflags, rsp, ss. `note`
// finds a number for the way in, and an error code, on top of it.
global_asm!(
    ".section .bss.noted, \"aw\", @nobits",
    ".balign 8",
    ".global noted, resume_at, resume_with, user_stack",
    "noted: .skip 64",
    "resume_at: .skip 8",
    "resume_with: .skip 8",
    ".skip 4096",
    "user_stack:",
    ".text",
    "note:",
    "push rax",
    "pushfq",
    "pop qword ptr [rip + noted + 56]",
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
    // The stack as well: Xen saves none for sysenter. The flat selectors, no single step, no DF, NT and AC, and no RF,
    // which an emulated processor may keep longer than one instruction.
    "mov rax, [rip + resume_with]",
    "mov [rsp + 48], rax",
    "mov qword ptr [rsp + 32], 0xe033",
    "mov qword ptr [rsp + 56], 0xe02b",
    "and qword ptr [rsp + 40], -0x54501",
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
    /// The way in (a vector; 256: failsafe, 257: a user's syscall), error code, rip, cs, rflags, rsp, ss; the handler's
    /// own rflags.
    static noted: [AtomicU64; 8];
    static user_stack: u8;
    static note_entries: u8;
    static note_128: u8;
    static note_failsafe: u8;
    static note_syscall: u8;
}

/// Forgets the last trap.
pub fn reset() {
    // SAFETY: an array of atomics, filled by the assembly above as words.
    (unsafe { &noted })[0].store(u64::MAX, Ordering::Relaxed);
}

/// Word `index` of what was noted; the first is all ones where nothing trapped.
pub fn note(index: usize) -> u64 {
    // SAFETY: as above.
    (unsafe { &noted })[index].load(Ordering::Relaxed)
}

/// The handler of exception `vector` below 20.
pub fn exception(vector: u64) -> u64 {
    (&raw const note_entries).addr() as u64 + vector * 16
}

/// The handler of a software interrupt.
pub fn interrupt() -> u64 {
    (&raw const note_128).addr() as u64
}

/// The handler of an `iret` that failed.
pub fn failsafe() -> u64 {
    (&raw const note_failsafe).addr() as u64
}

/// The handler of a user's `syscall`.
pub fn syscall() -> u64 {
    (&raw const note_syscall).addr() as u64
}

/// The end of a stack for entries from user mode.
pub fn stack() -> usize {
    (&raw const user_stack).addr()
}
