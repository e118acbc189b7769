//! The one machine Oxen runs on. Each file is one device or one mechanism of it; the assembly under
//! `asm/` is what no compiler can emit (entry points, faulting accesses, mode changes).

pub mod apic;
pub mod clock;
pub mod cpu;
pub mod desc;
pub mod firmware;
pub mod fpu;
pub mod ioapic;
pub mod mmio;
pub mod paging;
pub mod percpu;
pub mod port;
pub mod screen;
pub mod smp;
pub mod speculation;
pub mod start;
pub mod tlb;
pub mod traps;
pub mod uart;

// Bytes of the stack that boot begins on. The loader's account is moved about on it: 72 KiB were seen in use, and
// unoptimised code moves it more.
#[cfg(debug_assertions)]
macro_rules! bsp_stack {
    () => {
        ".set BSP_STACK, 524288"
    };
}
#[cfg(not(debug_assertions))]
macro_rules! bsp_stack {
    () => {
        ".set BSP_STACK, 131072"
    };
}

core::arch::global_asm!(
    bsp_stack!(),
    include_str!("asm/boot.s"),
    include_str!("asm/entry.s"),
    include_str!("asm/syscall.s"),
    include_str!("asm/usercopy.s"),
    options(raw),
);
// The clock of TLB flushes, for asm/syscall.s.
core::arch::global_asm!(".global tlb_clock", ".set tlb_clock, {}", sym crate::frame::CLOCK);

/// Where the hypervisor's own things are mapped, in every address space (L4 slots 256 to 271 are
/// the hypervisor's by the ABI: xen-x86_64.h `HYPERVISOR_VIRT_START`).
pub mod layout {
    /// The machine-to-physical table, readable by guests (`MACH2PHYS_VIRT_START`).
    pub const M2P: u64 = 0xffff_8000_0000_0000;
    /// Memory-mapped devices of the hypervisor: LAPIC, IOAPICs, HPET, MMCONFIG.
    pub const MMIO: u64 = 0xffff_8180_0000_0000;
    /// The screen's memory.
    pub const SCREEN: u64 = 0xffff_8190_0000_0000;
    /// End of what it may take.
    pub const SCREEN_END: u64 = SCREEN + (1 << 30);
    /// Per-CPU windows, 2 MiB apart.
    pub const PERCPU: u64 = 0xffff_8200_0000_0000;
    /// The image (images/hv.ld `VIRT`): link address = physical address + this.
    pub const IMAGE: u64 = 0xffff_82d0_4000_0000;
    /// All RAM, linearly.
    pub const DIRECT: u64 = 0xffff_8300_0000_0000;
    /// First address above the hypervisor's range.
    pub const END: u64 = 0xffff_8800_0000_0000;
}
