//! Words of arch-x86/xen.h `vcpu_guest_context` and their places.

/// How many there are.
pub const WORDS: usize = 646;
pub const FLAGS: usize = 64;
pub const R15: usize = 65;
pub const RDI: usize = 79;
pub const RIP: usize = 81;
pub const CS: usize = 82;
pub const RFLAGS: usize = 83;
pub const RSP: usize = 84;
pub const SS: usize = 85;
pub const ES: usize = 86;
pub const TRAPS: usize = 90;
pub const LDT: usize = 602;
pub const GDT: usize = 604;
pub const GDT_ENTRIES: usize = 620;
pub const KERNEL_SS: usize = 621;
pub const KERNEL_SP: usize = 622;
pub const CR: usize = 623;
pub const DR: usize = 631;
pub const EVENT: usize = 639;
pub const FAILSAFE: usize = 640;
pub const SYSCALL: usize = 641;
pub const FS_BASE: usize = 643;
pub const GS_KERNEL: usize = 644;
pub const GS_USER: usize = 645;
