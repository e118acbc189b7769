//! Ways into the kernel and back: the frame that each exception leaves, what privileged instructions do,
//! what `iret` accepts.
//!
//! Each question runs one instruction. If it traps, a handler notes the frame and goes on behind the
//! question, so that what the instruction did or didn't do is all there is to see.

/// Runs instructions, noting a trap. `rax`, `rcx`, `rdx` are theirs: given, and what they are after.
macro_rules! run {
    ($($line:literal),+ ; $rax:expr, $rcx:expr, $rdx:expr) => {{
        let (mut rax, mut rcx, mut rdx): (u64, u64, u64) = ($rax, $rcx, $rdx);
        $crate::traps::entry::reset();
        // SAFETY: the questions change no memory and no register but these (nor rbx, which is kept); a trap
        // ends at label 3 with the stack as it was. The red zone is not in use on this target.
        unsafe {
            core::arch::asm!(
                "lea r8, [rip + 3f]",
                "mov [rip + resume_at], r8",
                "mov [rip + resume_with], rsp",
                "mov r9, rbx",
                $($line,)+
                "3:",
                "mov r10, rbx",
                "mov rbx, r9",
                inout("rax") rax, inout("rcx") rcx, inout("rdx") rdx,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                out("rsi") _, out("rdi") _,
            );
        }
        (rax, rcx, rdx)
    }};
}

/// Runs instructions and tells of the trap.
macro_rules! ask {
    ($name:literal, $($line:literal),+) => { ask!($name, $($line),+ ; 0, 0, 0) };
    ($name:literal, $($line:literal),+ ; $rax:expr, $rcx:expr, $rdx:expr) => {{
        run!($($line),+ ; $rax, $rcx, $rdx);
        $crate::traps::tell(format_args!($name))
    }};
}

/// As `ask`, with the values of rax and rdx where nothing trapped.
macro_rules! ask_value {
    ($name:literal, $($line:literal),+ ; $rax:expr, $rcx:expr, $rdx:expr) => {{
        let (rax, _, rdx) = run!($($line),+ ; $rax, $rcx, $rdx);
        $crate::traps::tell(format_args!($name));
        if $crate::traps::trapped().is_none() {
            $crate::answer(format_args!("  rax"), rax.cast_signed());
            $crate::answer(format_args!("  rdx"), rdx.cast_signed());
        }
    }};
}

mod cpuid;
mod entry;
mod exceptions;
mod modes;
mod msr;
mod privileged;
mod segments;
mod stores;

use core::fmt::Arguments;

use crate::answer;
use crate::raw::{buffer, call, fill, nr};

/// Every question about traps.
pub fn ask() {
    install();
    exceptions::ask();
    privileged::ask();
    msr::ask();
    cpuid::ask();
    modes::ask();
    stores::ask();
    segments::ask();
}

/// Installs handlers that note.
fn install() {
    let mut table = [0; 46];
    for vector in 0..20 {
        table[vector * 2] = (vector as u64) | 0xe033 << 16;
        table[vector * 2 + 1] = entry::exception(vector as u64);
    }
    // A gate open to user mode and one that is not.
    for (i, vector) in [0x80 | 3 << 8, 0x81].into_iter().enumerate() {
        table[40 + i * 2] = vector | 0xe033 << 16;
        table[41 + i * 2] = entry::interrupt();
    }
    fill(&table);
    answer(format_args!("set_trap_table"), call(nr::SET_TRAP_TABLE, [buffer(0), 0, 0, 0, 0]));
    for (kind, entry) in [(1, entry::failsafe()), (2, entry::syscall())] {
        fill(&[kind, entry]);
        answer(format_args!("callback {kind}"), call(nr::CALLBACK_OP, [0, buffer(0), 0, 0, 0]));
    }
}

/// The way into the kernel that the last question took, if it did.
fn trapped() -> Option<u64> {
    Some(entry::note(0)).filter(|way| *way != u64::MAX)
}

/// What the last question did: the way in, or -1, and the frame.
fn tell(name: Arguments<'_>) {
    tell_but(name, 0);
}

/// `tell` without some bits of the error code.
fn tell_but(name: Arguments<'_>, hidden: u64) {
    const ARITHMETIC: u64 = 0x8d5;
    answer(format_args!("trap of {name}"), entry::note(0).cast_signed());
    if trapped().is_none() {
        return;
    }
    let show = |what: &str, value: u64| answer(format_args!("  {what}"), value.cast_signed());
    show("error code", entry::note(1) & !hidden);
    show("cs", entry::note(3));
    show("rflags", entry::note(4) & !ARITHMETIC);
    show("ss", entry::note(6));
}
