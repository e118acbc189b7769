//! Data segments that can't be loaded when a vcpu comes to a processor: the failsafe callback. Needs a second vcpu,
//! which begins with such selectors; without one nothing is asked.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::answer;
use crate::context::*;
use crate::raw::{call, l4_frame, nr};

const INITIALISE: usize = 0;
const UP: usize = 1;
const IS_UP: usize = 3;

static CONTEXT: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

// Both entries note what they find, and end with VCPUOP_down.
global_asm!(
    ".section .bss.second, \"aw\", @nobits",
    ".balign 16",
    ".skip 4096",
    "second_stack:",
    "second_said: .skip 128",
    ".text",
    "second_failsafe:",
    "mov rsi, rsp",
    "lea rdi, [rip + second_said + 16]",
    "mov ecx, 11",
    "rep movsq",
    "mov eax, ds",
    "mov [rdi], rax",
    "mov [rip + second_said + 8], rsp",
    "mov eax, 1",
    "jmp 2f",
    "second_start:",
    "mov eax, 2",
    "2:",
    "mov [rip + second_said], rax",
    "3:",
    "mov eax, 24",
    "mov edi, 2",
    "mov esi, 1",
    "xor edx, edx",
    "syscall",
    "jmp 3b",
);

unsafe extern "C" {
    static second_stack: u8;
    static second_said: [AtomicU64; 16];
    fn second_failsafe();
    fn second_start();
}

/// Starts the second vcpu with `selectors` in ES, DS, FS and GS, and tells how its kernel was entered.
fn lose(name: &str, selectors: [u64; 4], masks: bool) {
    let stack = (&raw const second_stack).addr() as u64;
    let words = [
        (FLAGS, 1 << 2 | u64::from(masks) << 3),
        (RIP, second_start as *const () as u64),
        (CS, 0xe033),
        (RFLAGS, 0x40_202),
        (RSP, stack - 24),
        (SS, 0xe02b),
        (KERNEL_SS, 0xe02b),
        (KERNEL_SP, stack),
        (CR + 3, l4_frame() << 12),
        (EVENT, second_start as *const () as u64),
        (FAILSAFE, second_failsafe as *const () as u64),
    ];
    for (at, value) in words.into_iter().chain((ES..).zip(selectors)) {
        CONTEXT[at].store(value, Ordering::Relaxed);
    }
    // SAFETY: the second vcpu writes it, by whole words.
    let said = unsafe { &second_said };
    said[0].store(0, Ordering::SeqCst);
    let context = CONTEXT.as_ptr().addr();
    answer(format_args!("{name}: initialise"), call(nr::VCPU_OP, [INITIALISE, 1, context, 0, 0]));
    answer(format_args!("{name}: up"), call(nr::VCPU_OP, [UP, 1, 0, 0, 0]));
    while said[0].load(Ordering::SeqCst) == 0 || call(nr::VCPU_OP, [IS_UP, 1, 0, 0, 0]) != 0 {
        core::hint::spin_loop();
    }
    let word = |n: usize| said[n].load(Ordering::Relaxed).cast_signed();
    answer(format_args!("{name}: enters"), word(0));
    if word(0) != 1 {
        return;
    }
    answer(format_args!("{name}: with its stack at"), word(1) - stack.cast_signed());
    for (n, what) in ["ds", "es", "fs", "gs"].into_iter().enumerate() {
        answer(format_args!("{name}: {what}"), word(4 + n));
    }
    answer(format_args!("{name}: rip"), word(8) - (second_start as *const ()).addr().cast_signed() as i64);
    answer(format_args!("{name}: cs"), word(9));
    answer(format_args!("{name}: rflags"), word(10));
    answer(format_args!("{name}: rsp"), word(11) - stack.cast_signed());
    answer(format_args!("{name}: ss"), word(12));
    answer(format_args!("{name}: ds now"), word(13));
}

/// Every question.
pub fn ask() {
    if call(nr::VCPU_OP, [IS_UP, 1, 0, 0, 0]) == 0 {
        lose("lost segments", [0x1237, 0x123f, 0, 0x1247], true);
    }
}
