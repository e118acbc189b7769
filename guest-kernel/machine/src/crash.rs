//! The end of a broken guest: the report on the console, then SHUTDOWN_crash.
//!
//! Nothing here allocates or takes a `Local`: whatever was borrowed when the guest broke stays
//! out of the way. A backtrace without frame pointers or unwind tables is the list of stack
//! words that point into the text, newest first: a few false entries, no machinery.

use crate::emergency::print;
use crate::hypercall::{Shutdown, call, shutdown};
use crate::local::Local;
use shared_abi::arch_x86::{FLAT_KERNEL_CS, TrapInfo};
use shared_abi::xen::hypercall as nr;

/// Registers as `trap_common` pushed them, above them what Xen pushed.
#[repr(C)]
pub(crate) struct TrapFrame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

const NAMES: [&str; 20] = [
    "divide error",
    "debug",
    "NMI",
    "breakpoint",
    "overflow",
    "bound",
    "invalid opcode",
    "no device",
    "double fault",
    "coprocessor overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "spurious",
    "x87 error",
    "alignment",
    "machine check",
    "SIMD error",
];

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __stack_guard: u8;
    static __stack_top: u8;
    static trap_entries: u8;
    static event_upcall: u8;
    static failsafe_upcall: u8;
}

/// Installs the trap table and the event callbacks.
pub(crate) fn init() {
    // Not on the stack, where backtraces would find its addresses.
    static TABLE: Local<[TrapInfo; 21]> = Local::new(|| [TrapInfo::default(); 21]);
    let traps = TABLE.with(set_trap_table);
    let callbacks = [(&raw const event_upcall).addr(), (&raw const failsafe_upcall).addr()];
    // SAFETY: set_callbacks takes the event, failsafe and syscall entries; no user mode
    // exists, so the last is never used.
    let callbacks = unsafe { call(nr::SET_CALLBACKS, [callbacks[0], callbacks[1], 0, 0, 0]) };
    if (traps, callbacks) != (0, 0) {
        print(format_args!("trap table: {traps}, callbacks: {callbacks}\n"));
    }
}

/// Fills the table with the entry points, ended by an entry of address zero, and registers it.
fn set_trap_table(table: &mut [TrapInfo; 21]) -> i64 {
    for (vector, entry) in table.iter_mut().take(20).enumerate() {
        *entry = TrapInfo {
            vector: vector as u8,
            flags: 0,
            cs: FLAT_KERNEL_CS,
            _pad: 0,
            address: (&raw const trap_entries).addr() as u64 + vector as u64 * 16,
        };
    }
    // SAFETY: the table names entry points in `asm`; Xen copies it.
    unsafe { call(nr::SET_TRAP_TABLE, [table.as_ptr().addr(), 0, 0, 0, 0]) }
}

/// Prints the words of the stack from `sp` up that are addresses in the text.
fn backtrace(sp: usize) {
    let text = (&raw const __text_start).addr()..(&raw const __text_end).addr();
    let stack = (&raw const __stack_guard).addr() + 4096..(&raw const __stack_top).addr();
    print(format_args!("text addresses on the stack:"));
    let (mut at, mut shown) = (sp.next_multiple_of(8), 0);
    while stack.contains(&at) && shown < 24 {
        // SAFETY: the address is aligned and inside the stack.
        let word = unsafe { core::ptr::with_exposed_provenance::<usize>(at).read_volatile() };
        if text.contains(&word) {
            print(format_args!(" {word:#x}"));
            shown += 1;
        }
        at += 8;
    }
    print(format_args!("\n"));
}

/// Reports a trap and crashes the domain. There is no trap this kernel recovers from.
pub(crate) extern "C" fn trap(frame: &TrapFrame) -> ! {
    let name = NAMES.get(frame.vector as usize).unwrap_or(&"failsafe callback");
    print(format_args!("\nTRAP {} ({name}), error {:#x}\n", frame.vector, frame.error));
    print(format_args!(
        "rip {:016x} cs {:04x} rflags {:08x} rsp {:016x} ss {:04x}\n\
         rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}\n\
         rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}\n\
         r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}\n\
         r13 {:016x} r14 {:016x} r15 {:016x}\n",
        frame.rip,
        frame.cs as u16,
        frame.rflags,
        frame.rsp,
        frame.ss,
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx,
        frame.rsi,
        frame.rdi,
        frame.rbp,
        frame.r8,
        frame.r9,
        frame.r10,
        frame.r11,
        frame.r12,
        frame.r13,
        frame.r14,
        frame.r15,
    ));
    backtrace(frame.rsp as usize);
    shutdown(Shutdown::Crash)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    print(format_args!("\nPANIC {info}\n"));
    let here = 0usize;
    backtrace(core::ptr::from_ref(&here).addr());
    shutdown(Shutdown::Crash)
}
