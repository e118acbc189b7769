//! Each CPU's own block and window.
//!
//! A CPU owns 2 MiB of address space (`layout::PERCPU` + number × 2 MiB) mapped by one L1 table:
//! its descriptor table (16 pages, as the PV ABI lays it out: 14 pages of the guest's, then ours),
//! the guest's LDT, its stacks with unmapped pages between them, and its block, which GS points at
//! while the CPU is in the hypervisor. The offsets of the first fields are known to asm/entry.s.

use super::{cpu, layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// CPUs at most.
pub const MAX_CPUS: usize = 32;

/// Pages of a CPU's window.
pub mod window {
    /// Descriptor table: pages 0–13 are the running guest's, 14 ours (`FIRST_RESERVED_GDT_PAGE`).
    pub const GDT: usize = 0;
    /// Our page of the descriptor table.
    pub const GDT_OWN: usize = 14;
    /// The running guest's LDT, 16 pages.
    pub const LDT: usize = 16;
    /// One-page stacks of NMI, double fault, machine check and debug trap.
    pub const IST: [usize; 4] = [50, 52, 54, 56];
    /// The block below.
    pub const BLOCK: usize = 60;
    /// The run loop's stack, unmapped pages on both sides.
    pub const STACK: usize = 64;
    /// Pages of the run loop's stack. Unoptimised code takes several times what release does (10 KiB at the deepest).
    pub const STACK_PAGES: usize = if cfg!(debug_assertions) { 32 } else { 8 };
}

/// Address of a page of a CPU's window.
pub const fn window_addr(cpu: usize, page: usize) -> u64 {
    layout::PERCPU + ((cpu as u64) << 21) + ((page as u64) << 12)
}

/// A CPU's block. Other CPUs touch only the atomics.
#[repr(C)]
pub struct PerCpu {
    self_ptr: u64,
    host_rsp: UnsafeCell<u64>,
    regs_end: UnsafeCell<u64>,
    scratch: UnsafeCell<u64>,
    pub(super) tss: UnsafeCell<[u8; 104]>,
    /// Number of this CPU, dense from 0 (the BSP).
    pub cpu: u32,
    /// Its local APIC's id.
    pub apic_id: u32,
    /// Physical address of the window's L1 table.
    pub window_l1: u64,
    /// Interrupt vectors taken in ring 0 and not yet handled.
    pub pending: [AtomicU64; 4],
    /// Physical address loaded in CR3 (what a flush reloads).
    pub root: AtomicU64,
    /// The run loop has something to look at before a guest is entered. Set and cleared on this CPU only.
    look: AtomicU32,
}

const _: () = {
    assert!(core::mem::offset_of!(PerCpu, host_rsp) == 8);
    assert!(core::mem::offset_of!(PerCpu, regs_end) == 16);
    assert!(core::mem::offset_of!(PerCpu, scratch) == 24);
    assert!(core::mem::offset_of!(PerCpu, tss) == 32);
    assert!(size_of::<PerCpu>() <= 4096);
};

/// Fills in the block of `cpu` (its window is mapped and zeroed).
/// # Safety
/// Once per CPU, before it runs there.
pub(super) unsafe fn init_block(cpu: usize, apic_id: u32, window_l1: u64) {
    let va = window_addr(cpu, window::BLOCK);
    let block = va as *mut PerCpu;
    // SAFETY: the page is mapped, zeroed and nobody else's yet (caller); zero is valid for the rest.
    unsafe {
        (*block).self_ptr = va;
        (*block).cpu = cpu as u32;
        (*block).apic_id = apic_id;
        (*block).window_l1 = window_l1;
        for page in window::IST {
            *((window_addr(cpu, page) + 4088) as *mut u64) = va;
        }
    }
}

/// Points GS at the block of `cpu`.
/// # Safety
/// `cpu` must be the CPU that this runs on, with its block filled in.
pub(super) unsafe fn load(cpu: usize) {
    // SAFETY: the block is mapped; nothing used GS before.
    unsafe {
        cpu::wrmsr(cpu::msr::GS_BASE, window_addr(cpu, window::BLOCK));
        cpu::wrmsr(cpu::msr::KERNEL_GS_BASE, 0);
    }
}

/// This CPU's block.
#[inline(always)]
pub fn this() -> &'static PerCpu {
    let p: u64;
    // SAFETY: GS points at the block whenever Rust code runs (set before the first use; entry.s keeps it);
    // the block lives for ever, and is shared only through atomics and fields that never change.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) p, options(nomem, nostack, preserves_flags, pure));
        &*(p as *const PerCpu)
    }
}

/// The number of the CPU that runs this.
#[inline(always)]
pub fn cpu_id() -> usize {
    let id: u32;
    // SAFETY: as for `this`; 136 is the offset of `cpu`, asserted below.
    unsafe {
        core::arch::asm!("mov {:e}, gs:[136]", out(reg) id, options(nomem, nostack, preserves_flags, pure))
    };
    id as usize
}
const _: () = assert!(core::mem::offset_of!(PerCpu, cpu) == 136);

/// Has this CPU's run loop look around before it enters a guest again.
#[inline]
pub fn look() {
    this().look.store(1, Relaxed);
}

/// Whether the run loop is to look around.
#[inline(always)]
pub fn is_to_look() -> bool {
    let look: u32;
    // SAFETY: as for `cpu_id`; 192 is the offset of `look`, asserted below. It changes, so this is not pure.
    unsafe {
        core::arch::asm!("mov {:e}, gs:[192]", out(reg) look, options(nostack, preserves_flags, readonly))
    };
    look != 0
}
const _: () = assert!(core::mem::offset_of!(PerCpu, look) == 192);

/// The same, and from now on not any more.
#[inline(always)]
pub fn take_look() -> bool {
    let look = is_to_look();
    if look {
        this().look.store(0, Relaxed);
    }
    look
}

impl PerCpu {
    /// Takes the lowest interrupt vector that came while in ring 0.
    pub fn take_pending(&self) -> Option<u8> {
        for (i, word) in self.pending.iter().enumerate() {
            let v = word.load(Relaxed);
            if v != 0 {
                let bit = v.trailing_zeros();
                word.fetch_and(!(1 << bit), Relaxed);
                return Some((i * 64) as u8 + bit as u8);
            }
        }
        None
    }
    /// Whether an interrupt came while in ring 0.
    pub fn any_pending(&self) -> bool {
        self.pending.iter().any(|word| word.load(Relaxed) != 0)
    }
    pub(super) fn note_pending(&self, vector: u8) {
        self.look.store(1, Relaxed);
        self.pending[usize::from(vector >> 6)].fetch_or(1 << (vector & 63), Relaxed);
    }
}

/// The block of another CPU that is up.
pub(super) fn of(cpu: usize) -> &'static PerCpu {
    // SAFETY: callers name CPUs that were brought up; as for `this`.
    unsafe { &*(window_addr(cpu, window::BLOCK) as *const PerCpu) }
}

/// The id of the local APIC of a CPU that is up.
pub fn apic_id(cpu: usize) -> u32 {
    of(cpu).apic_id
}
