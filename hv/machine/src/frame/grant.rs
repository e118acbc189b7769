//! Entries that map a frame which another domain granted.
//!
//! The grant table has checked the grant and holds the reference; the entry takes it over. From then on
//! the entry is like any other: the reference goes when the entry does, also if the guest overwrites it or
//! lets the table go, behind the grant table's back. As on Xen, such a grant can't be unmapped any more by
//! hypercall (there is nothing to unmap), so [`FrameTable::unmap_grant`] refuses and must not be counted.

use super::FrameTable;
use super::direct::{Rights, Store};
use super::handle::{Frame, Held, State, Table, Writable};
use super::types::{EINVAL, Progress, Stop, Work};
use super::word::Type;
use core::sync::atomic::Ordering::{AcqRel, Acquire};
use shared_abi::{Mfn, pte};

/// How often a swap is tried: only the processor's accessed and dirty bits, or another vcpu, come between.
const ATTEMPTS: u32 = 4;

/// A reference that a grant's mapping can take over: `Frame<Held>` for a read-only one, `Frame<Writable>`.
pub trait Grantable: State {
    /// Whether the mapping is writable.
    const WRITABLE: bool = matches!(Self::TYPE, Some(Type::Writable));
}
impl Grantable for Held {}
impl Grantable for Writable {}

/// A mapping of another domain's frame is gone from the page tables, but perhaps not from TLBs. Before the
/// granting domain is told that the frame is its own again, flush those of the CPUs that run the mapping domain (or
/// all, by [`FrameTable::flush`]): one flush serves for all that went before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct FlushDue;

impl FrameTable {
    /// Flushes the TLBs that may hold a translation which went from the page tables before this call.
    pub fn flush(&self, _: FlushDue) {
        // (What was in use just now, every CPU may hold.)
        self.flush_all();
    }

    /// Makes entry `index` of the L1 `table` map `frame`, with these other `flags`, and gives back what
    /// the old entry held. The old raw entry.
    ///
    /// # Errors
    /// `EINVAL` if `table` is no L1 or `flags` are not those of a mapping; the reference is given back.
    #[inline]
    pub fn map_grant<S: Grantable>(
        &self,
        table: &Table<'_>,
        index: usize,
        flags: u64,
        frame: Frame<'_, S>,
        work: &mut Work<'_>,
    ) -> Progress<u64> {
        let permitted = pte::ACCESSED | pte::DIRTY | pte::NX | pte::AVAIL_LOW | pte::AVAIL_HIGH;
        if table.level() != 1 || index >= pte::ENTRIES {
            frame.release(work);
            return Err(EINVAL);
        }
        let write = if S::WRITABLE { pte::RW } else { 0 };
        let new = pte::entry(frame.mfn(), flags & permitted | pte::PRESENT | pte::USER | write);
        let old = self.ram().entry(table.number(), index).swap(new, AcqRel);
        frame.keep();
        if old & pte::PRESENT != 0 {
            self.put_l1_entry(old, work);
        }
        Ok(old)
    }

    /// Empties entry `index` of the L1 `table` if it still maps `frame`, writable or not as stated; gives
    /// back the reference it held.
    ///
    /// # Errors
    /// `EINVAL` if the entry maps something else; nothing is changed then.
    #[inline(always)]
    pub fn unmap_grant(
        &self,
        table: &Table<'_>,
        index: usize,
        frame: Mfn,
        writable: bool,
        work: &mut Work<'_>,
    ) -> Progress<FlushDue> {
        if table.level() != 1 || index >= pte::ENTRIES {
            return Err(EINVAL);
        }
        let slot = self.ram().entry(table.number(), index);
        for _ in 0..ATTEMPTS {
            let old = slot.load(Acquire);
            if !maps(old, frame, writable) {
                return Err(EINVAL);
            }
            if slot.compare_exchange(old, 0, AcqRel, Acquire).is_ok() {
                self.put_l1_entry(old, work);
                return Ok(FlushDue);
            }
        }
        Err(Stop::Again)
    }

    /// As [`FrameTable::unmap_grant`], with `new` in the entry's place.
    ///
    /// # Errors
    /// Also for `new`, which may map the domain's own memory (`GNTTABOP_unmap_and_replace`) or be 0, as
    /// [`FrameTable::update_entry`].
    #[allow(clippy::too_many_arguments)]
    pub fn replace_grant(
        &self,
        table: &Table<'_>,
        index: usize,
        frame: Mfn,
        writable: bool,
        new: u64,
        rights: &Rights<'_>,
        work: &mut Work<'_>,
    ) -> Progress<FlushDue> {
        // An entry for the same frame would keep the reference that this call is about.
        let keeps = new & pte::PRESENT != 0 && pte::mfn(new) == frame;
        if table.level() != 1 || index >= pte::ENTRIES || keeps {
            return Err(EINVAL);
        }
        let slot = self.ram().entry(table.number(), index);
        for _ in 0..ATTEMPTS {
            let old = slot.load(Acquire);
            if !maps(old, frame, writable) {
                return Err(EINVAL);
            }
            if self.update_entry(table, index, new, Store::IfIs(old), rights, work)? == old {
                return Ok(FlushDue);
            }
        }
        Err(Stop::Again)
    }
}

/// Whether `entry` maps `frame`, writable or not as stated.
#[inline]
fn maps(entry: u64, frame: Mfn, writable: bool) -> bool {
    entry & pte::PRESENT != 0 && pte::mfn(entry) == frame && (entry & pte::RW != 0) == writable
}
