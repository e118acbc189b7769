//! Direct paging: what an entry of a guest's table may say, and how a new one takes an old one's place.
//!
//! The guest's tables are the processor's own, so an entry that stands in a checked table is in force.
//! Replacing one is: take references to what the new entry names, swap it in, give back the old one's.
//! No lock is held: the caller's [`Table`] keeps the table a table, and the swap yields each old entry to
//! exactly one CPU, which gives back its references exactly once.
//!
//! The hardest decision is the entry that only changes flags. Taking and giving a reference for it would
//! double the cost of the commonest updates; taking a shortcut is where Xen erred (XSA-148: a new
//! superpage bit passed unchecked; XSA-182: new write permission passed unchecked). Here every new entry
//! passes the same flag check, and the shortcut is only taken where the references that the entry holds
//! stay the same or become fewer.

use super::table::{FIRST_HV_SLOT, HV_SLOTS};
use super::types::{EINVAL, Progress, is_hv_slot};
use super::word::Type;
use super::{Frame, FrameTable, L4, Stop, Table, Work};
use core::sync::atomic::Ordering::{AcqRel, Acquire};
use shared_abi::{DomId, Mfn, errno::Errno, pte};

/// Bits that an entry of a higher table may not have: large pages, memory types, GLOBAL. (In an L1
/// entry GLOBAL and, on RAM, memory types are cleared instead.)
const UPPER_FORBIDDEN: u64 = pte::PWT | pte::PCD | pte::PSE | pte::GLOBAL;
const MEMORY_TYPE: u64 = pte::PWT | pte::PCD | pte::PAT;
/// Two entries that agree in these hold the same references, but for a write permission. (Device memory has
/// a type, which is chosen with the reference.)
const SAME_USE: u64 = pte::ADDR_MASK | MEMORY_TYPE;
/// The frame that an entry names whose address is all ones: Xen's word for "none".
const NO_FRAME: Mfn = pte::mfn(pte::ADDR_MASK);
/// How often a swap is tried again because the processor or another vcpu changed the entry.
const ATTEMPTS: u32 = 16;

/// What a domain may do with a frame that is no RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// Nothing.
    Refused,
    /// Map it; a writable mapping becomes a read-only one, silently, as with Xen's `mmio_ro_ranges`.
    ReadOnly,
    /// Map it.
    Granted,
}

/// In whose name page tables are changed.
#[derive(Clone, Copy)]
pub struct Rights<'a> {
    /// Whose tables.
    pub tables: DomId,
    /// Whose frames L1 entries may map: `tables` again, or a domain over which the caller was found to have
    /// power.
    pub frames: DomId,
    /// Which device memory `tables` may map.
    pub io: &'a dyn Fn(Mfn) -> Device,
    /// Whether `tables` has devices, and so may ask for memory types (which RAM ignores).
    pub memory_types: bool,
}

const EBUSY: Stop = Stop::Refused(Errno::EBUSY);

fn no_io(_: Mfn) -> Device {
    Device::Refused
}

impl<'a> Rights<'a> {
    /// Of a domain without devices, over its own frames.
    pub const fn plain(domain: DomId) -> Rights<'static> {
        Rights { tables: domain, frames: domain, io: &no_io, memory_types: false }
    }

    /// The same without power over other domains' frames.
    pub(super) const fn own(&self) -> Rights<'a> {
        Rights { frames: self.tables, ..*self }
    }
}

/// How a new entry is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Store {
    /// As it is (`MMU_NORMAL_PT_UPDATE`).
    Set,
    /// With the accessed and dirty bits of the old one as well (`MMU_PT_UPDATE_PRESERVE_AD`).
    PreserveAd,
    /// Only if the old entry is this one, as an emulated `cmpxchg` does.
    IfIs(u64),
}

/// What an entry refers to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Nothing,
    Ref(u32),
    Use(u32),
}

impl FrameTable {
    /// Replaces entry `index` of `table` by `new`; the entry that was there, raw. With [`Store::IfIs`] the
    /// replacement has happened if and only if that is the expected one.
    ///
    /// The guest's TLBs are the guest's business, as on Xen; the frame table sees to it that no stale
    /// translation outlives the use it was made for.
    ///
    /// # Errors
    /// As Xen's. `EINVAL` for a malformed entry, and where an entry of a higher table names what is not and
    /// can't become a table of the level below; `EBUSY` where one of an L1 names another's frame or one in use
    /// as something else; `EPERM` for device memory without permission. What a new table below has in it can
    /// be refused with any of these. The table is unchanged then.
    #[inline(always)]
    pub fn update_entry(
        &self,
        table: &Table<'_>,
        index: usize,
        new: u64,
        store: Store,
        rights: &Rights<'_>,
        work: &mut Work<'_>,
    ) -> Progress<u64> {
        self.update(table.number(), table.level(), index, new, store, rights, work)
    }

    /// As `update_entry`, of a table whose use the caller holds.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn update(
        &self,
        table: u32,
        level: u32,
        index: usize,
        new: u64,
        store: Store,
        rights: &Rights<'_>,
        work: &mut Work<'_>,
    ) -> Progress<u64> {
        if level == 1
            && index < pte::ENTRIES
            && let Some(old) = self.update_l1_quickly(table, index, new, store, rights, work)
        {
            return Ok(old);
        }
        self.update_slowly(table, level, index, new, store, rights, work)
    }

    /// The commonest updates, in a straight line: of an L1 table, nothing to wait for or check beyond the
    /// frame's word. `None`, and nothing has happened, where more is needed.
    #[inline(always)]
    fn update_l1_quickly(
        &self,
        table: u32,
        index: usize,
        new: u64,
        store: Store,
        rights: &Rights<'_>,
        work: &mut Work<'_>,
    ) -> Option<u64> {
        let slot = self.ram().entry(table, index);
        let old = slot.load(Acquire);
        if let Store::IfIs(expected) = store
            && old != expected
        {
            return Some(old);
        }
        let both = old & new & pte::PRESENT != 0;
        let keep = if store == Store::PreserveAd { old & (pte::ACCESSED | pte::DIRTY) } else { 0 };
        if new & pte::PRESENT == 0 {
            slot.compare_exchange(old, new | keep, AcqRel, Acquire).ok()?;
        } else {
            if new & MEMORY_TYPE != 0 {
                return None;
            }
            let checked = (new | pte::USER) & !pte::GLOBAL;
            if both && (old ^ new) & SAME_USE == 0 && new & !old & pte::RW == 0 {
                slot.compare_exchange(old, checked | keep, AcqRel, Acquire).ok()?;
                if old & !new & pte::RW != 0 {
                    self.put_write(old);
                }
                return Some(old);
            }
            let entry = self.named(pte::mfn(new))?;
            let taken = if new & pte::RW != 0 {
                entry.acquire_ready(rights.frames, Type::Writable)
            } else {
                entry.get_ref(rights.frames).is_ok()
            };
            if !taken {
                return None;
            }
            if slot.compare_exchange(old, checked | keep, AcqRel, Acquire).is_err() {
                self.put_entry(1, checked, work);
                return None;
            }
        }
        if old & pte::PRESENT != 0 {
            self.put_l1_entry(old, work);
        }
        Some(old)
    }

    /// [`FrameTable::put_entry`] of an L1 table, in a straight line while the frame has other uses.
    #[inline]
    pub(super) fn put_l1_entry(&self, value: u64, work: &mut Work<'_>) {
        let many = self.named(pte::mfn(value)).is_some_and(|entry| {
            if value & pte::RW != 0 { entry.put_type_of_many() } else { entry.put_ref_of_many() }
        });
        if !many {
            self.put_entry(1, value, work);
        }
    }

    #[inline(never)]
    #[allow(clippy::too_many_arguments)]
    fn update_slowly(
        &self,
        table: u32,
        level: u32,
        index: usize,
        new: u64,
        store: Store,
        rights: &Rights<'_>,
        work: &mut Work<'_>,
    ) -> Progress<u64> {
        if index >= pte::ENTRIES || is_hv_slot(level, index) {
            return Err(EINVAL);
        }
        // Another's frames are for L1 entries only.
        if level > 1 && rights.frames != rights.tables {
            return Err(EINVAL);
        }
        let slot = self.ram().entry(table, index);
        let mut old = slot.load(Acquire);
        // The entry to store, once references to what it names are taken.
        let mut taken = None;
        for _ in 0..ATTEMPTS {
            if let Store::IfIs(expected) = store
                && old != expected
            {
                break;
            }
            let both = old & new & pte::PRESENT != 0;
            let shortcut = both && taken.is_none() && (old ^ new) & SAME_USE == 0;
            let checked = match taken {
                Some(checked) => checked,
                None if new & pte::PRESENT == 0 => new,
                None if shortcut && !(level == 1 && new & !old & pte::RW != 0) => {
                    self.check_flags(level, new, rights)?
                }
                None => {
                    let checked = self.take_entry(level, new, rights, work)?;
                    taken = Some(checked);
                    checked
                }
            };
            let preserved = if store == Store::PreserveAd { old & (pte::ACCESSED | pte::DIRTY) } else { 0 };
            match slot.compare_exchange(old, checked | preserved, AcqRel, Acquire) {
                Ok(_) if shortcut && taken.is_none() => {
                    if level == 1 && old & !new & pte::RW != 0 {
                        self.put_write(old);
                    }
                    return Ok(old);
                }
                Ok(_) => {
                    if old & pte::PRESENT != 0 {
                        self.put_entry(level, old, work);
                    }
                    return Ok(old);
                }
                Err(found) => old = found,
            }
        }
        if let Some(checked) = taken {
            self.put_entry(level, checked, work);
        }
        match store {
            Store::IfIs(expected) if old != expected => Ok(old),
            _ => Err(Stop::Again),
        }
    }

    /// `mmu_update` of one entry or word: `MMU_NORMAL_PT_UPDATE`, `MMU_PT_UPDATE_PRESERVE_AD`. `offset` is
    /// the byte within the frame, a multiple of 8. A frame that is no page table is written as data.
    ///
    /// `held` is the table of `rights.tables` that was updated before, and this one's afterwards: most updates of a list
    /// are of one table. The caller releases it at the end.
    #[inline]
    #[allow(clippy::too_many_arguments)]
    pub fn mmu_update<'t>(
        &'t self,
        mfn: Mfn,
        offset: usize,
        value: u64,
        store: Store,
        rights: &Rights<'_>,
        held: &mut Option<Table<'t>>,
        work: &mut Work<'_>,
    ) -> Progress<()> {
        if offset >= 4096 || !offset.is_multiple_of(8) {
            return Err(EINVAL);
        }
        let table = match held {
            Some(table) if u64::from(table.number()) == mfn.0 => table,
            _ => {
                if let Some(before) = held.take() {
                    before.release(work);
                }
                let level = self.named(mfn).ok_or(EINVAL)?.acquire_table(rights.tables);
                if level == 0 {
                    return self.write_data(mfn, offset, value, rights, work);
                }
                held.insert(Table::adopt(self, mfn.0 as u32, level))
            }
        };
        self.update(table.number(), table.level(), offset / 8, value, store, rights, work).map(drop)
    }

    #[inline(never)]
    fn write_data(
        &self,
        mfn: Mfn,
        offset: usize,
        value: u64,
        rights: &Rights<'_>,
        work: &mut Work<'_>,
    ) -> Progress<()> {
        // Whatever else it is: no table, and no data that may be written.
        let frame = self.get_writable(mfn, rights.tables, work).map_err(|stop| match stop {
            Stop::Again => stop,
            Stop::Refused(_) => EINVAL,
        })?;
        frame.page().store_u64(offset, value);
        frame.release(work);
        Ok(())
    }

    /// The L1 table and index that translate `address` under `root`, found in checked tables of the same
    /// domain. `None` where a level is missing, or the address is the hypervisor's or not canonical.
    #[inline(always)]
    pub fn find_l1(&self, root: &Frame<'_, L4>, owner: DomId, address: u64) -> Option<(Table<'_>, usize)> {
        // From the hypervisor's end up to the space's, and on up to where addresses are no longer canonical.
        const END: u64 = 0xffff_0000_0000_0000 | ((FIRST_HV_SLOT + HV_SLOTS) as u64) << 39;
        if address.wrapping_sub(END) >= END.wrapping_neg() + (1 << 47) {
            return None;
        }
        let next = |table: u32, level| {
            let value = self.ram().entry(table, pte::index(address, level)).load(Acquire);
            (value & pte::PRESENT != 0).then(|| pte::mfn(value))
        };
        // The root stays a table, so what it names is RAM. Of the next one that is not certain: another vcpu may
        // take it apart, and fill it with anything, before it is read.
        let level_3 = next(root.number(), 4)?;
        let (level_2, _) = self.find(next(level_3.0 as u32, 3)?)?;
        let level_1 = next(level_2, 2)?;
        // What counts is what the last frame is.
        self.named(level_1)?
            .acquire_ready(owner, Type::L1)
            .then(|| (Table::adopt(self, level_1.0 as u32, 1), pte::index(address, 1)))
    }

    /// The flags' part of checking a present entry; the entry as it may stand.
    #[inline]
    fn check_flags(&self, level: u32, value: u64, rights: &Rights<'_>) -> Progress<u64> {
        if level > 1 {
            // An L4's entries are told as used, for the processor may use a copy of them.
            let set = if level == 4 { pte::USER | pte::ACCESSED } else { pte::USER };
            return if value & UPPER_FORBIDDEN == 0 { Ok(value | set) } else { Err(EINVAL) };
        }
        let mut value = (value | pte::USER) & !pte::GLOBAL;
        // (Who may map a device may choose.)
        if value & MEMORY_TYPE != 0 && self.find(pte::mfn(value)).is_some() {
            if !rights.memory_types {
                return Err(EINVAL);
            }
            value &= !MEMORY_TYPE;
        }
        Ok(value)
    }

    /// Takes the references that the present entry `value` of a table of `level` needs; the entry as it
    /// may stand.
    #[inline]
    pub(super) fn take_entry(
        &self,
        level: u32,
        value: u64,
        rights: &Rights<'_>,
        work: &mut Work<'_>,
    ) -> Progress<u64> {
        let checked = self.check_flags(level, value, rights)?;
        let mfn = pte::mfn(value);
        let Some((number, entry)) = self.find(mfn) else {
            return if level == 1 { self.take_io(checked, mfn, rights) } else { Err(EINVAL) };
        };
        if level > 1 {
            let child = Type::table(level - 1).ok_or(EINVAL)?;
            self.take(number, rights.tables, child, rights, work)?;
        } else if value & pte::RW != 0 {
            self.take(number, rights.frames, Type::Writable, rights, work).map_err(|stop| match stop {
                Stop::Again => stop,
                Stop::Refused(_) => EBUSY,
            })?;
        } else {
            entry.get_ref(rights.frames).map_err(|_| EBUSY)?;
        }
        Ok(checked)
    }

    #[inline(never)]
    fn take_io(&self, checked: u64, mfn: Mfn, rights: &Rights<'_>) -> Progress<u64> {
        let checked = match (rights.io)(mfn) {
            Device::Refused if mfn == NO_FRAME => return Err(EINVAL),
            Device::Refused => return Err(Stop::Refused(Errno::EPERM)),
            Device::ReadOnly => checked & !pte::RW,
            Device::Granted => checked,
        };
        // Write-back is no type for a device: uncached then.
        Ok(if checked & MEMORY_TYPE == 0 { checked | pte::PWT | pte::PCD } else { checked })
    }

    /// What a present entry of a checked table holds.
    #[inline]
    fn holds(&self, level: u32, value: u64) -> Holds {
        match self.find(pte::mfn(value)) {
            None => Holds::Nothing,
            Some((mfn, _)) if level > 1 || value & pte::RW != 0 => Holds::Use(mfn),
            Some((mfn, _)) => Holds::Ref(mfn),
        }
    }

    /// Gives back the use that an L1 entry held for being writable; it keeps its reference.
    fn put_write(&self, value: u64) {
        if let Holds::Use(mfn) = self.holds(1, value) {
            self.put_type_only(mfn);
        }
    }

    /// Gives back what a present entry held that stands no more.
    pub(super) fn put_entry(&self, level: u32, value: u64, work: &mut Work<'_>) {
        match self.holds(level, value) {
            Holds::Nothing => {}
            Holds::Ref(mfn) => self.put_ref(mfn),
            Holds::Use(mfn) => self.put_type(mfn, work),
        }
    }
}
