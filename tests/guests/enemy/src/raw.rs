//! The raw hypercall, and states no kernel should get into.

use core::sync::atomic::{AtomicU64, Ordering};

/// Memory for arguments, which nothing else uses: two pages, and two for what is written past their end.
#[repr(C, align(4096))]
pub struct Buffer(pub [AtomicU64; 2048]);

/// The arguments' memory.
pub static BUFFER: Buffer = Buffer([const { AtomicU64::new(0) }; 2048]);

/// The numbers of `__HYPERVISOR_*` in xen.h.
#[allow(missing_docs)]
pub mod nr {
    #[cfg(target_os = "none")]
    pub const SET_TRAP_TABLE: usize = 0;
    pub const MMU_UPDATE: usize = 1;
    pub const SET_CALLBACKS: usize = 4;
    pub const SCHED_OP_COMPAT: usize = 6;
    pub const PLATFORM_OP: usize = 7;
    pub const SET_DEBUGREG: usize = 8;
    pub const MEMORY_OP: usize = 12;
    pub const MULTICALL: usize = 13;
    pub const UPDATE_VA_MAPPING: usize = 14;
    pub const CONSOLE_IO: usize = 18;
    pub const GRANT_TABLE_OP: usize = 20;
    pub const UPDATE_VA_MAPPING_OTHERDOMAIN: usize = 22;
    pub const IRET: usize = 23;
    pub const VCPU_OP: usize = 24;
    pub const MMUEXT_OP: usize = 26;
    pub const NMI_OP: usize = 28;
    pub const SCHED_OP: usize = 29;
    pub const CALLBACK_OP: usize = 30;
    pub const EVENT_CHANNEL_OP: usize = 32;
    pub const SYSCTL: usize = 35;
    pub const DOMCTL: usize = 36;
}

/// The address of the buffer's word `index`.
pub fn buffer(index: usize) -> usize {
    BUFFER.0[index..].as_ptr().addr()
}

/// Puts `words` at the buffer's beginning.
pub fn fill(words: &[u64]) {
    for (at, word) in BUFFER.0.iter().zip(words) {
        at.store(*word, Ordering::Relaxed);
    }
}

/// The buffer's word `index`.
pub fn word(index: usize) -> u64 {
    BUFFER.0[index].load(Ordering::Relaxed)
}

/// Issues hypercall `nr` and gives what it returned.
#[cfg(target_os = "none")]
pub fn call(nr: usize, args: [usize; 5]) -> i64 {
    let result: i64;
    // SAFETY: this guest attacks, itself included: the callers see to it that arguments name `BUFFER`,
    // frames that only they use, or memory that is not this guest's. What remains is for the hypervisor to
    // refuse; that it does is what this program tests. `syscall` clobbers rcx and r11.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") nr => result,
            inlateout("rdi") args[0] => _,
            inlateout("rsi") args[1] => _,
            inlateout("rdx") args[2] => _,
            inlateout("r10") args[3] => _,
            inlateout("r8") args[4] => _,
            lateout("r9") _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// On the host there is no hypervisor.
#[cfg(not(target_os = "none"))]
pub fn call(_nr: usize, _args: [usize; 5]) -> i64 {
    -38
}

/// Sets the word at `address`, of a frame that is only attacked with.
#[cfg(target_os = "none")]
pub fn poke(address: usize, value: u64) {
    // SAFETY: the callers name mapped, aligned words of pages that they own; nothing of Rust's is there.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(address).write_volatile(value) }
}

/// The word there.
#[cfg(target_os = "none")]
pub fn peek(address: usize) -> u64 {
    // SAFETY: as for `poke`.
    unsafe { core::ptr::with_exposed_provenance::<u64>(address).read_volatile() }
}

/// On the host nothing is mapped there.
#[cfg(not(target_os = "none"))]
pub fn poke(_address: usize, _value: u64) {}

/// On the host nothing is mapped there.
#[cfg(not(target_os = "none"))]
pub fn peek(_address: usize) -> u64 {
    0
}

/// An exception with neither a handler nor a stack.
#[cfg(target_os = "none")]
pub fn triple_fault() {
    call(nr::SET_TRAP_TABLE, [0; 5]);
    // SAFETY: nothing of this guest runs after this.
    unsafe { core::arch::asm!("xor esp, esp", "ud2", options(noreturn)) }
}

/// As above.
#[cfg(not(target_os = "none"))]
pub fn triple_fault() {}

/// Runs for ever; upcalls are masked, as always in this kernel.
pub fn spin() {
    loop {
        core::hint::spin_loop();
    }
}
