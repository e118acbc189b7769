//! The guest's address space: Xen's boot mapping, extended to all frames and to foreign ones.
//!
//! Page tables of a PV guest are its own frames holding machine frame numbers; Xen allows them to
//! be read but every change goes through it. Three regions exist. The linear map holds every
//! frame of the domain at VIRT_BASE + pfn * 4096. The window below it holds what belongs to
//! others: foreign frames, grants, device memory. One fixed page is shared_info. The decision
//! that keeps this file short: the tables are found through the linear map, so no recursive or
//! temporary mapping is needed, and page-table frames stay mapped read-only where they are.

use crate::hypercall::{Result, call, check};
use crate::local::Local;
use crate::{frames, reserve, start};
use shared_abi::memory::{MachphysMapping, XENMEM_MACHPHYS_MAPPING};
use shared_abi::xen::{MMUEXT_TLB_FLUSH_LOCAL, MmuUpdate, MmuextOp, UVMF_INVLPG, hypercall as nr};
use shared_abi::{DomId, Errno, Mfn, pte};

/// Where shared_info is mapped: the window's first page.
pub(crate) const SHARED_INFO: usize = WINDOW;
/// Where the window starts.
pub(crate) const WINDOW: usize = 0xffff_ffff_0000_0000;

/// Rights of an ordinary page of ours.
pub(crate) const PAGE_RW: u64 = pte::PRESENT | pte::RW | pte::USER | pte::ACCESSED | pte::DIRTY;
/// Rights of a page that is only read, as page tables must be.
pub(crate) const PAGE_RO: u64 = pte::PRESENT | pte::USER | pte::ACCESSED;
const TABLE: u64 = pte::PRESENT | pte::RW | pte::USER | pte::ACCESSED;

/// No frame: the p2m entry of a pfn that the balloon holds.
pub const INVALID: Mfn = Mfn(!0);

/// What paging knows of the domain.
pub(crate) struct AddressSpace {
    /// The frame of the L4 table.
    root: usize,
    /// Machine frame of each pfn.
    p2m: &'static mut [u64],
    /// The largest machine frame that the machine-to-physical table covers.
    max_mfn: u64,
    m2p: usize,
}

pub(crate) static SPACE: Local<AddressSpace> =
    Local::new(|| AddressSpace { root: 0, p2m: &mut [], max_mfn: 0, m2p: 0 });

/// The machine frame of one of our pfns ([`INVALID`] for one that the balloon holds).
pub fn p2m(pfn: usize) -> Mfn {
    SPACE.with(|s| s.p2m.get(pfn).map_or(INVALID, |m| Mfn(*m)))
}

/// How many of the pfns from `from` to `to` have a frame.
pub(crate) fn frames_between(from: usize, to: usize) -> usize {
    SPACE.with(|s| s.p2m[from..to].iter().filter(|mfn| **mfn != INVALID.0).count())
}

/// How many pfns exist, with or without a frame.
pub(crate) fn pfn_limit() -> usize {
    SPACE.with(|s| s.p2m.len())
}

/// Records that `pfn` now has `mfn` ([`INVALID`]: no frame).
pub(crate) fn set_p2m(pfn: usize, mfn: Mfn) {
    SPACE.with(|s| s.p2m[pfn] = mfn.0);
}

/// The pfn of a machine frame of ours; `None` for a frame of somebody else.
pub fn m2p(mfn: Mfn) -> Option<usize> {
    SPACE.with(|s| {
        // Before boot has set the table's place there is none.
        if s.m2p == 0 || mfn.0 > s.max_mfn {
            return None;
        }
        let entry = core::ptr::with_exposed_provenance::<u64>(s.m2p).wrapping_add(mfn.0 as usize);
        // SAFETY: Xen maps the table read-only up to the entry of max_mfn.
        let pfn = unsafe { entry.read_volatile() } as usize;
        (s.p2m.get(pfn) == Some(&mfn.0)).then_some(pfn)
    })
}

/// Applies page-table updates (of `domid`'s frames or our own) in order.
///
/// # Safety
/// The updates don't take away or alter memory that Rust code uses.
pub(crate) unsafe fn mmu_update(updates: &[MmuUpdate], domid: DomId) -> Result<()> {
    let mut done = 0u32;
    while (done as usize) < updates.len() {
        let rest = &updates[done as usize..];
        let mut now = 0u32;
        let args = [
            rest.as_ptr().expose_provenance(),
            rest.len(),
            (&raw mut now).expose_provenance(),
            domid.0 as usize,
            0,
        ];
        // SAFETY: the caller's promise; Xen reads `rest` and writes `now`.
        check(unsafe { call(nr::MMU_UPDATE, args) })?;
        if now == 0 || now as usize > rest.len() {
            return Err(Errno::EIO);
        }
        done += now;
    }
    Ok(())
}

/// Sets the L1 entry of an address whose tables exist.
///
/// # Safety
/// As [`mmu_update`].
pub(crate) unsafe fn set_page(address: usize, entry: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { call(nr::UPDATE_VA_MAPPING, [address, entry as usize, UVMF_INVLPG as usize, 0, 0]) })
        .map(drop)
}

/// The machine address of the entry for `address` in its table of `level`, and its value. Makes
/// the tables above it where they are missing.
fn entry(address: usize, level: usize, create: bool) -> Result<(u64, u64)> {
    let mut table = SPACE.with(|s| s.root);
    for above in (level + 1..=4).rev() {
        let (place, value) = read_entry(table, address, above);
        let value = if value & pte::PRESENT != 0 {
            value
        } else if create {
            let new = new_table(|_| 0)?;
            // SAFETY: hooks an empty table into an entry that mapped nothing.
            unsafe { mmu_update(&[MmuUpdate { ptr: place, val: new }], DomId::SELF)? };
            new
        } else {
            return Err(Errno::ENOENT);
        };
        table = m2p(pte::mfn(value)).ok_or(Errno::EFAULT)?;
    }
    Ok(read_entry(table, address, level))
}

fn read_entry(table: usize, address: usize, level: usize) -> (u64, u64) {
    let index = pte::index(address as u64, level);
    // SAFETY: `table` is one of our frames that is in use as a page table; the linear map shows
    // it read-only, and only Xen and the processor write to it.
    let value = unsafe { start::linear(table).cast::<u64>().add(index).read_volatile() };
    ((p2m(table).0 << 12) + index as u64 * 8, value)
}

/// Makes a table from a free frame, filled by `fill`, and returns an entry that points to it.
fn new_table(fill: impl Fn(usize) -> u64) -> Result<u64> {
    let pfn = reserve::table_frame().ok_or(Errno::ENOMEM)?;
    let words = start::linear(pfn).cast::<u64>();
    for index in 0..pte::ENTRIES {
        // SAFETY: the frame was free: mapped writable and used by nobody else.
        unsafe { words.add(index).write(fill(index)) };
    }
    let mfn = p2m(pfn);
    // SAFETY: the frame is ours alone; from here on it is only read.
    unsafe { set_page(words.addr(), pte::entry(mfn, PAGE_RO))? };
    Ok(pte::entry(mfn, TABLE))
}

/// Makes sure that every page of `count` from `address` on has an L1 table.
pub(crate) fn ensure_tables(address: usize, count: usize) -> Result<()> {
    let mut at = address & !((2 << 20) - 1);
    while at < address + count * 4096 {
        entry(at, 1, true)?;
        at += 2 << 20;
    }
    Ok(())
}

/// The machine address of the L1 entry of `address`, whose tables exist.
pub(crate) fn l1_entry(address: usize) -> Result<u64> {
    entry(address, 1, false).map(|(place, _)| place)
}

/// The L1 entries of a run of pages, found once per table: calls `each` with the page's index and
/// its entry's machine address.
pub(crate) fn for_each_l1(
    address: usize,
    count: usize,
    mut each: impl FnMut(usize, u64) -> Result<()>,
) -> Result<()> {
    let mut place = 0;
    for index in 0..count {
        let at = address + index * 4096;
        place = if index == 0 || pte::index(at as u64, 1) == 0 { l1_entry(at)? } else { place + 8 };
        each(index, place)?;
    }
    Ok(())
}

/// Page-table updates collected to be sent a few dozen at a time.
pub(crate) struct Batch {
    updates: [MmuUpdate; 64],
    used: usize,
    domid: DomId,
}

impl Batch {
    /// An empty batch; `domid` owns the frames that the entries will name.
    pub fn new(domid: DomId) -> Batch {
        Batch { updates: [MmuUpdate { ptr: 0, val: 0 }; 64], used: 0, domid }
    }

    /// Adds an update, sending what was collected when there is no more room.
    ///
    /// # Safety
    /// As [`mmu_update`].
    pub unsafe fn push(&mut self, ptr: u64, val: u64) -> Result<()> {
        if self.used == self.updates.len() {
            // SAFETY: the caller's promise for each of them.
            unsafe { self.flush()? };
        }
        self.updates[self.used] = MmuUpdate { ptr, val };
        self.used += 1;
        Ok(())
    }

    /// Sends what was collected.
    ///
    /// # Safety
    /// As [`mmu_update`].
    pub unsafe fn flush(&mut self) -> Result<()> {
        let used = core::mem::take(&mut self.used);
        // SAFETY: the caller's promise.
        unsafe { mmu_update(&self.updates[..used], self.domid) }
    }
}

/// Starts the module: finds the tables, the p2m and the m2p as Xen left them.
#[cfg(target_os = "none")]
pub(crate) fn init(root: usize, p2m: &'static mut [u64]) {
    let mut m2p = MachphysMapping { v_start: 0, v_end: 0, max_mfn: 0 };
    let args = [XENMEM_MACHPHYS_MAPPING as usize, (&raw mut m2p).expose_provenance(), 0, 0, 0];
    // SAFETY: the command fills its structure.
    let _ = check(unsafe { call(nr::MEMORY_OP, args) });
    SPACE.with(|s| *s = AddressSpace { root, p2m, max_mfn: m2p.max_mfn, m2p: m2p.v_start as usize });
}

/// Maps the pfns from `from` to `to`, which lie in one table's 2 MiB, in the linear map and gives
/// those with a frame to the allocator. How many it was.
pub(crate) fn map_linear(from: usize, to: usize) -> Result<usize> {
    let address = start::linear(from).addr();
    let page = |pfn: usize| match p2m(pfn) {
        INVALID => 0,
        mfn => pte::entry(mfn, PAGE_RW),
    };
    let (place, value) = entry(address, 2, true)?;
    if value & pte::PRESENT == 0 {
        let table = new_table(|index| {
            let pfn = from / 512 * 512 + index;
            if (from..to).contains(&pfn) { page(pfn) } else { 0 }
        })?;
        // SAFETY: nothing was mapped there; the frames are ours and not yet in use.
        unsafe { mmu_update(&[MmuUpdate { ptr: place, val: table }], DomId::SELF)? };
    } else {
        let mut batch = Batch::new(DomId::SELF);
        for_each_l1(address, to - from, |index, place| {
            // SAFETY: as above.
            unsafe { batch.push(place, page(from + index)) }
        })?;
        // SAFETY: as above.
        unsafe { batch.flush()? };
    }
    let held = |pfn: &usize| p2m(*pfn) != INVALID;
    frames::FRAMES.with(|f| (from..to).filter(held).for_each(|pfn| f.release(pfn, 1)));
    Ok((from..to).filter(held).count())
}

/// Flushes this vcpu's TLB: after entries were cleared by [`mmu_update`], which does not.
pub(crate) fn flush_tlb() {
    let op = MmuextOp { cmd: MMUEXT_TLB_FLUSH_LOCAL, ..Default::default() };
    // SAFETY: Xen reads one operation, which has no other effect.
    unsafe { call(nr::MMUEXT_OP, [(&raw const op).expose_provenance(), 1, 0, DomId::SELF.0 as usize, 0]) };
}

/// Moves the p2m to a place with room for more pfns, which have no frame yet.
#[cfg(target_os = "none")]
pub(crate) fn move_p2m(room: &'static mut [u64]) {
    SPACE.with(|s| {
        let (old, new) = room.split_at_mut(s.p2m.len());
        old.copy_from_slice(s.p2m);
        new.fill(INVALID.0);
        s.p2m = room;
    });
}

/// The first pfn from `from` on, up to `limit`, that the boot mapping leaves out.
#[cfg(target_os = "none")]
pub(crate) fn mapped_run(from: usize, limit: usize) -> usize {
    let mut pfn = from;
    while pfn < limit {
        let Ok((_, table)) = entry(start::linear(pfn).addr(), 2, false) else { return pfn };
        let Some(table) = m2p(pte::mfn(table)).filter(|_| table & pte::PRESENT != 0) else { return pfn };
        let words = start::linear(table).cast::<u64>();
        let end = ((pfn / 512 + 1) * 512).min(limit);
        while pfn < end {
            // SAFETY: an L1 table of ours, read as in `read_entry`.
            if unsafe { words.add(pfn % 512).read_volatile() } & pte::PRESENT == 0 {
                return pfn;
            }
            pfn += 1;
        }
    }
    limit
}
