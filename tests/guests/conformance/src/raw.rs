//! The raw hypercall and the memory lent to it.
//!
//! The library OS gives no raw call, as its arguments could break memory safety. Here wrong arguments
//! are the point: a call names [`BUFFER`], which nothing else uses, or memory that this guest does not
//! have, which the hypervisor must refuse.

use core::sync::atomic::{AtomicU64, Ordering};

/// The questions' memory: two pages, so that an argument may also straddle their border.
static BUFFER: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

/// The numbers of `__HYPERVISOR_*` in xen.h.
#[allow(missing_docs)]
pub mod nr {
    pub const SET_TRAP_TABLE: usize = 0;
    pub const MMU_UPDATE: usize = 1;
    pub const SET_GDT: usize = 2;
    pub const STACK_SWITCH: usize = 3;
    pub const SET_DEBUGREG: usize = 8;
    pub const GET_DEBUGREG: usize = 9;
    pub const UPDATE_DESCRIPTOR: usize = 10;
    pub const MEMORY_OP: usize = 12;
    pub const MULTICALL: usize = 13;
    pub const UPDATE_VA_MAPPING: usize = 14;
    pub const XEN_VERSION: usize = 17;
    pub const CONSOLE_IO: usize = 18;
    pub const GRANT_TABLE_OP: usize = 20;
    pub const VM_ASSIST: usize = 21;
    pub const UPDATE_VA_MAPPING_OTHERDOMAIN: usize = 22;
    pub const VCPU_OP: usize = 24;
    pub const SET_SEGMENT_BASE: usize = 25;
    pub const MMUEXT_OP: usize = 26;
    pub const NMI_OP: usize = 28;
    pub const SCHED_OP: usize = 29;
    pub const CALLBACK_OP: usize = 30;
    pub const EVENT_CHANNEL_OP: usize = 32;
    pub const PHYSDEV_OP: usize = 33;
    pub const SYSCTL: usize = 35;
    pub const DOMCTL: usize = 36;
}

/// The address of the buffer's word `index`.
pub fn buffer(index: usize) -> usize {
    BUFFER[index..].as_ptr().addr()
}

/// Puts `words` at the buffer's beginning, zeros behind them.
pub fn fill(words: &[u64]) {
    for (i, word) in BUFFER[..512].iter().enumerate() {
        word.store(words.get(i).copied().unwrap_or(0), Ordering::Relaxed);
    }
}

/// Puts `words` so that they straddle the border of two pages after the first `before` words, and gives
/// their address.
pub fn straddle(words: &[u64], before: usize) -> usize {
    let to_border = (4096 - buffer(0) % 4096) / 8;
    let first = to_border - before;
    for (at, word) in BUFFER[first..].iter().zip(words) {
        at.store(*word, Ordering::Relaxed);
    }
    buffer(first)
}

/// Sets the buffer's word `index`.
#[allow(dead_code, reason = "for those who fill word by word")]
pub fn set(index: usize, value: u64) {
    BUFFER[index].store(value, Ordering::Relaxed);
}

/// The buffer's word `index`.
pub fn word(index: usize) -> u64 {
    BUFFER[index].load(Ordering::Relaxed)
}

/// Issues hypercall `nr` and gives what it returned.
#[cfg(target_os = "none")]
pub fn call(nr: usize, args: [usize; 5]) -> i64 {
    unsafe extern "C" {
        static hypercall_page: [u8; 4096];
    }
    let result: i64;
    // SAFETY: the questions in this program name memory of `BUFFER` (atomics: the hypervisor may write
    // them) or none of this guest's, and no operation among them that succeeds changes a mapping, a
    // frame or the vcpu's state that Rust relies on. The stub clobbers only the registers named here.
    unsafe {
        core::arch::asm!(
            "call rax",
            inlateout("rax") hypercall_page.as_ptr().addr() + nr * 32 => result,
            inlateout("rdi") args[0] => _,
            inlateout("rsi") args[1] => _,
            inlateout("rdx") args[2] => _,
            inlateout("r10") args[3] => _,
            inlateout("r8") args[4] => _,
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

/// The machine frame of the L4 in use. Reading CR3 is a privileged instruction that the hypervisor
/// carries out for a guest's kernel.
#[cfg(target_os = "none")]
pub fn l4_frame() -> u64 {
    let cr3: u64;
    // SAFETY: reads a register; the hypervisor gives it as the guest wrote it.
    unsafe { core::arch::asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags)) };
    cr3 >> 12
}

/// On the host there is no page table.
#[cfg(not(target_os = "none"))]
pub fn l4_frame() -> u64 {
    0
}

/// The word at `address`, of a page that is mapped: this guest's tables, or one of the questions' own.
#[cfg(target_os = "none")]
pub fn peek(address: usize) -> u64 {
    // SAFETY: the callers name mapped, aligned words; they are read as what a processor may change meanwhile.
    unsafe { core::ptr::with_exposed_provenance::<u64>(address).read_volatile() }
}

/// Sets the word at `address`, of a page that only the questions use.
#[cfg(target_os = "none")]
pub fn poke(address: usize, value: u64) {
    // SAFETY: the callers name mapped, aligned words of pages that they own; nothing of Rust's is there.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(address).write_volatile(value) }
}

/// On the host nothing is mapped there.
#[cfg(not(target_os = "none"))]
pub fn poke(_address: usize, _value: u64) {}

/// On the host nothing is mapped there.
#[cfg(not(target_os = "none"))]
pub fn peek(_address: usize) -> u64 {
    0
}

/// Half of a register of PCI configuration space, by the ports.
#[cfg(target_os = "none")]
pub fn config(device: u8, register: u8) -> u16 {
    let value: u32;
    let port = 0xcfc + u16::from(register & 2);
    // SAFETY: reads what a device says of itself; the hypervisor carries it out for a guest with hardware.
    unsafe {
        core::arch::asm!(
            "out dx, eax", "mov edx, {port:e}", "in ax, dx",
            port = in(reg) u32::from(port), inout("eax") address(device, register) => value,
            inout("edx") 0xcf8 => _, options(nomem, nostack)
        )
    };
    value as u16
}

/// Sets it.
#[cfg(target_os = "none")]
pub fn set_config(device: u8, register: u8, value: u16) {
    let port = 0xcfc + u16::from(register & 2);
    // SAFETY: the callers name registers that turn a device's interrupts on and off.
    unsafe {
        core::arch::asm!(
            "out dx, eax", "mov edx, {port:e}", "mov eax, {value:e}", "out dx, ax",
            port = in(reg) u32::from(port), value = in(reg) u32::from(value),
            inout("eax") address(device, register) => _, inout("edx") 0xcf8 => _, options(nomem, nostack)
        )
    };
}

#[cfg(target_os = "none")]
fn address(device: u8, register: u8) -> u32 {
    1 << 31 | u32::from(device) << 11 | u32::from(register & 0xfc)
}

/// On the host there is no device.
#[cfg(not(target_os = "none"))]
pub fn config(_device: u8, _register: u8) -> u16 {
    0xffff
}

/// On the host there is no device.
#[cfg(not(target_os = "none"))]
pub fn set_config(_device: u8, _register: u8, _value: u16) {}
