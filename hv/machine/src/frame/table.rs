//! The frame table: one entry for every frame from 0 to the top of RAM, and what all of them share.
//!
//! It is an object, so that each test has a machine of its own; the target has one, [`frames`]. A frame
//! that boot says nothing about has no references and is never free: nobody can map it. Device memory must
//! be declared as such ([`FrameTable::add_io`]), so a gap in the memory map can't expose the hypervisor.

use super::alloc::Free;
use super::clock::TlbClock;
use super::entry::Entry;
use super::owners::Owners;
use super::word::Word;
use crate::lock::Mutex;
use crate::ram::{Ram, Region};
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use shared_abi::{DomId, Mfn};

/// "No frame" in a 32-bit frame number.
pub(super) const NONE: u32 = u32::MAX;
/// Owner of the hypervisor's private frames and of free ones. They have no references, so no request for
/// one can succeed.
pub const PRIVATE: DomId = DomId::IDLE;
/// Word of a frame that boot has not spoken of.
pub(super) const UNTOLD: Word = Word::new(DomId::INVALID, 0);
/// The M2P's word for a frame that has no pseudo-physical number (xen.h `INVALID_M2P_ENTRY`).
pub const INVALID_M2P_ENTRY: u64 = !0;
/// First slot of an L4 table that is the hypervisor's.
pub const FIRST_HV_SLOT: usize = 256;
/// The one of them with the machine-to-physical table, and nothing else.
pub const M2P_SLOT: usize = FIRST_HV_SLOT;
/// How many there are: 256 to 271 (xen-x86_64.h `HYPERVISOR_VIRT_START`..`HYPERVISOR_VIRT_END`).
pub const HV_SLOTS: usize = 16;

/// What the frame table needs of the machine's CPUs.
pub trait Cpus: Sync {
    /// Makes every CPU of `clock.stale_cpus(stamp)` flush its TLB, and returns when they have. Called
    /// with interrupts off and frames locked: it must take no lock that somebody holds while he spins
    /// without answering flush requests. Each CPU brackets its flush by `clock.begin`, `clock.end`.
    fn flush(&self, clock: &TlbClock, stamp: u32);

    /// Called in a loop while another CPU has a frame locked: answers a flush request made to this CPU.
    fn relax(&self);
}

/// The machine's frames. See the module's description and [`crate::frame`].
pub struct FrameTable {
    entries: Region<Entry>,
    m2p: Region<AtomicU64>,
    ram: Ram,
    cpus: &'static dyn Cpus,
    clock: &'static TlbClock,
    pub(super) free: Mutex<Free>,
    pub(super) owners: Owners,
    pub(super) template: [AtomicU64; HV_SLOTS],
    /// Dying tables that nobody works on, linked by `stamp`.
    pub(super) orphans: AtomicU32,
}

impl FrameTable {
    /// Bytes of memory that the entries of `frames` frames take.
    pub const fn entry_bytes(frames: usize) -> usize {
        frames * size_of::<Entry>()
    }

    /// A table over `ram`. `entries` is memory for [`FrameTable::entry_bytes`] of `ram.frames()`; `m2p`
    /// has at least one word per frame. Both get their initial contents here. `clock` is the machine's
    /// ([`super::CLOCK`]).
    ///
    /// # Safety
    /// `entries` must be 8-byte aligned, mapped writable for ever, as large as that, and used for nothing
    /// else.
    #[allow(unsafe_code)]
    pub unsafe fn new(
        ram: Ram,
        entries: *mut u8,
        m2p: Region<AtomicU64>,
        cpus: &'static dyn Cpus,
        clock: &'static TlbClock,
    ) -> Self {
        let len = ram.frames() as usize;
        let entries = entries.cast::<Entry>();
        for index in 0..len {
            // SAFETY: the caller gave this memory, for this.
            unsafe { entries.add(index).write(Entry::new(UNTOLD, AtomicU64::new, AtomicU32::new)) };
        }
        // SAFETY: just initialised; the rest is the caller's promise.
        Self::build(ram, unsafe { Region::new(entries, len) }, m2p, cpus, clock)
    }

    /// A machine of `frames` frames for tests on the host; none is free yet.
    #[cfg(not(target_os = "none"))]
    pub fn fake(frames: usize, cpus: &'static dyn Cpus) -> FrameTable {
        let clock = alloc::boxed::Box::leak(alloc::boxed::Box::new(TlbClock::new()));
        let entries = Region::boxed((0..frames).map(|_| Entry::new(UNTOLD, AtomicU64::new, AtomicU32::new)));
        let m2p = Region::boxed((0..frames).map(|_| AtomicU64::new(0)));
        Self::build(Ram::fake(frames), entries, m2p, cpus, clock)
    }

    fn build(
        ram: Ram,
        entries: Region<Entry>,
        m2p: Region<AtomicU64>,
        cpus: &'static dyn Cpus,
        clock: &'static TlbClock,
    ) -> Self {
        assert!(ram.frames() < u64::from(NONE) && m2p.len() >= entries.len());
        m2p.iter().for_each(|word| word.store(INVALID_M2P_ENTRY, Relaxed));
        FrameTable {
            entries,
            m2p,
            ram,
            cpus,
            clock,
            free: Free::new(),
            owners: Owners::new(),
            template: [const { AtomicU64::new(0) }; HV_SLOTS],
            orphans: AtomicU32::new(NONE),
        }
    }

    /// How many frames the table has, gaps included.
    pub fn frames(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The clock of TLB flushes, for CPUs to join and report to.
    pub fn clock(&self) -> &TlbClock {
        self.clock
    }

    pub(crate) fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Boot: the frames from `from` up to, not including, `to` are device memory. Frames told of before
    /// stay what they are; frames beyond the table are device memory anyway.
    pub fn add_io(&self, from: Mfn, to: Mfn) {
        for mfn in from.0.min(self.frames())..to.0.min(self.frames()) {
            if self.at(mfn as u32).word() == UNTOLD {
                self.at(mfn as u32).reset(Word::new(DomId::IO, 0));
            }
        }
    }

    /// Boot: what slots 256 to 271 of every guest's L4 table hold.
    pub fn set_template(&self, slots: [u64; HV_SLOTS]) {
        for (slot, value) in self.template.iter().zip(slots) {
            slot.store(value, Relaxed);
        }
    }

    /// The entry of a frame that is known to exist.
    #[inline]
    pub(super) fn at(&self, mfn: u32) -> &Entry {
        &self.entries[mfn as usize]
    }

    /// The entry of a frame, if there is such a frame.
    #[inline]
    pub(super) fn try_at(&self, mfn: u32) -> Option<&Entry> {
        self.entries.get(mfn as usize)
    }

    /// The entry of a frame that a guest named, if the table has one.
    #[inline]
    pub(super) fn named(&self, mfn: Mfn) -> Option<&Entry> {
        self.entries.get(mfn.0 as usize)
    }

    /// The number and entry of a frame that a guest named, if it is RAM (free and unusable RAM too).
    #[inline]
    pub(super) fn find(&self, mfn: Mfn) -> Option<(u32, &Entry)> {
        let entry = self.entries.get(usize::try_from(mfn.0).ok()?)?;
        (entry.word().owner() != DomId::IO).then_some((mfn.0 as u32, entry))
    }

    /// Whether `mfn` is device memory, or beyond all memory.
    pub fn is_io(&self, mfn: Mfn) -> bool {
        self.find(mfn).is_none()
    }

    /// The owner, type and counts of a frame as they are this moment: for reports, not for decisions.
    pub fn word(&self, mfn: Mfn) -> Option<Word> {
        self.find(mfn).map(|(_, entry)| entry.word())
    }

    /// Sets the pseudo-physical number that the M2P shows for `mfn`, which the caller knows to be the
    /// concerned domain's.
    pub fn m2p_set(&self, mfn: Mfn, pfn: u64) {
        if let Some(word) = self.m2p.get(mfn.0 as usize) {
            word.store(pfn, Relaxed);
        }
    }

    /// What the M2P shows for `mfn`: [`INVALID_M2P_ENTRY`] if it has no number or no such word.
    pub fn m2p_get(&self, mfn: Mfn) -> u64 {
        self.m2p.get(mfn.0 as usize).map_or(INVALID_M2P_ENTRY, |word| word.load(Relaxed))
    }

    pub(super) fn m2p_clear(&self, mfn: u32) {
        self.m2p[mfn as usize].store(INVALID_M2P_ENTRY, Relaxed);
    }

    /// Flushes all translations that CPUs hold.
    pub(super) fn flush_all(&self) {
        self.cpus.flush(self.clock, self.clock.now());
    }

    /// Flushes what translations CPUs may still hold to a frame stamped so.
    pub(super) fn flush_stale(&self, stamp: u32) {
        if self.clock.stale_cpus(stamp).next().is_some() {
            self.cpus.flush(self.clock, stamp);
        }
    }

    /// The same for several frames, in one flush: for the stamp of the least age, since a stamp so old that
    /// the clock came round may only look newer than it is.
    pub(super) fn flush_newest(&self, frames: Range<u32>) {
        let now = self.clock.now();
        let stamps = frames.map(|frame| self.at(frame).stamp_get());
        if let Some(newest) = stamps.min_by_key(|stamp| now.wrapping_sub(*stamp)) {
            self.flush_stale(newest);
        }
    }

    pub(super) fn relax(&self) {
        self.cpus.relax();
        core::hint::spin_loop();
    }
}

static FRAMES: spin::Once<FrameTable> = spin::Once::new();

/// Boot: makes `table` the machine's. Only the first one counts.
pub fn install(table: impl FnOnce() -> FrameTable) -> &'static FrameTable {
    FRAMES.call_once(table)
}

/// The machine's frame table. Panics before [`install`].
#[inline]
pub fn frames() -> &'static FrameTable {
    FRAMES.get().expect("the frame table is not set up yet")
}
