//! Registers of devices that the hypervisor touches now and then (MSI-X tables, HPET): pages mapped once and
//! remembered.

use super::{layout, paging};
use crate::lock::{Mutex, rank};
use alloc::vec::Vec;

/// Frames mapped so far, with where.
static MAPPED: Mutex<Vec<(u64, u64)>> = Mutex::new(rank::PORT, Vec::new());

/// Some registers, within one page.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    va: u64,
    len: u64,
}

/// Maps `len` bytes at a physical address that is no RAM. `None` when that crosses a page, is memory, or there is
/// no room.
pub fn map(phys: u64, len: u64) -> Option<Registers> {
    if phys & 0xfff > 0x1000 - len
        || !phys.is_multiple_of(4)
        || !crate::frame::frames().is_io(shared_abi::Mfn(phys >> 12))
    {
        return None;
    }
    let mut all = MAPPED.lock();
    let page = match all.iter().find(|(p, _)| *p == phys >> 12) {
        Some((_, va)) => *va,
        None => {
            all.try_reserve(1).ok()?;
            let va = paging::map_mmio(phys & !0xfff, 1)?;
            all.push((phys >> 12, va));
            va
        }
    };
    debug_assert!(page >= layout::MMIO);
    Some(Registers { va: page + (phys & 0xfff), len })
}

impl Registers {
    /// Writes a double word. Panics beyond the range or unaligned: offsets are the caller's constants.
    pub fn write_u32(self, offset: u64, v: u32) {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len);
        // SAFETY: within the mapped page (checked in `map` and above); device memory is no Rust object.
        unsafe { ((self.va + offset) as *mut u32).write_volatile(v) }
    }
    /// Reads a double word; as [`Registers::write_u32`].
    pub fn read_u32(self, offset: u64) -> u32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len);
        // SAFETY: as above.
        unsafe { ((self.va + offset) as *const u32).read_volatile() }
    }
}
