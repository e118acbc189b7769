//! Bits of an x86-64 page-table entry, as `mmu_update`, `update_va_mapping` and a PV guest's tables
//! carry them. No public header defines them (the processor does); they are part of the ABI because a
//! PV guest's tables are the processor's own.

/// The entry is in use.
pub const PRESENT: u64 = 1 << 0;
/// Writable.
pub const RW: u64 = 1 << 1;
/// Reachable from ring 3, where a PV guest's kernel runs too.
pub const USER: u64 = 1 << 2;
/// Page-level write-through.
pub const PWT: u64 = 1 << 3;
/// Page-level cache disable.
pub const PCD: u64 = 1 << 4;
/// Set by the processor on a use.
pub const ACCESSED: u64 = 1 << 5;
/// Set by the processor on a write (leaf entries).
pub const DIRTY: u64 = 1 << 6;
/// In an L1 entry: third bit of the memory type.
pub const PAT: u64 = 1 << 7;
/// In an L2 or L3 entry: the entry maps a large page.
pub const PSE: u64 = 1 << 7;
/// The translation survives a CR3 load.
pub const GLOBAL: u64 = 1 << 8;
/// First of the three low bits left to software.
pub const AVAIL0: u64 = 1 << 9;
/// Second of the three low bits left to software.
pub const AVAIL1: u64 = 1 << 10;
/// Third of the three low bits left to software.
pub const AVAIL2: u64 = 1 << 11;
/// The three low bits left to software.
pub const AVAIL_LOW: u64 = AVAIL0 | AVAIL1 | AVAIL2;
/// The eleven high bits left to software.
pub const AVAIL_HIGH: u64 = 0x7ff << 52;
/// In a large page's entry: third bit of the memory type.
pub const PSE_PAT: u64 = 1 << 12;
/// Not executable.
pub const NX: u64 = 1 << 63;
/// The bits of the frame's address.
pub const ADDR_MASK: u64 = 0x000f_ffff_ffff_f000;

/// Entries of a table of any level.
pub const ENTRIES: usize = 512;
/// log2 of the bytes one entry of level 1, 2, 3, 4 maps, at index level - 1.
pub const LEVEL_SHIFT: [u32; 4] = [12, 21, 30, 39];

/// The frame an entry names.
pub const fn mfn(entry: u64) -> crate::Mfn {
    crate::Mfn((entry & ADDR_MASK) >> crate::PAGE_SHIFT)
}

/// The entry that maps `mfn` with these flags. Bits of `mfn` beyond 40 are dropped.
pub const fn entry(mfn: crate::Mfn, flags: u64) -> u64 {
    ((mfn.0 << crate::PAGE_SHIFT) & ADDR_MASK) | (flags & !ADDR_MASK)
}

/// The index of `vaddr`'s entry in its table of `level`.
///
/// # Panics
/// If `level` is not 1 to 4.
pub const fn index(vaddr: u64, level: usize) -> usize {
    ((vaddr >> LEVEL_SHIFT[level - 1]) & 511) as usize
}
