//! Firmware's tables in physical memory, to be read at boot.

use super::layout;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// End of what the direct map covers.
static MAPPED: AtomicU64 = AtomicU64::new(0);

pub(super) fn set_mapped(end: u64) {
    MAPPED.store(end, Relaxed);
}

/// Copies bytes from a physical address; false beyond the direct map. Meant for memory that firmware describes as
/// its own: what is read of RAM in use is whatever stands there.
pub fn read(at: u64, out: &mut [u8]) -> bool {
    let Some(end) = at.checked_add(out.len() as u64) else { return false };
    if end > MAPPED.load(Relaxed) {
        return false;
    }
    for (i, b) in out.iter_mut().enumerate() {
        // SAFETY: mapped by the direct map (checked); a volatile read of a byte that nobody's Rust object is
        // changed through: guests don't run yet.
        *b = unsafe { ((layout::DIRECT + at + i as u64) as *const u8).read_volatile() };
    }
    true
}
