//! References as values: who holds one, holds the frame in that state, and gives it back by dropping it.
//!
//! References that live in page-table entries, in a pin or in a domain's memory have no handle; only this
//! module's siblings turn one into the other. A handle's drop has no list of work at hand: if it was the
//! last use of a table, the table goes to the orphans, which [`FrameTable::settle`] works off. Where a
//! guest can cause that, use [`Frame::release`], which charges it to the guest's own work.

use super::table::{FIRST_HV_SLOT, FrameTable, M2P_SLOT};
use super::types::Work;
use super::word::{Type, Word};
use crate::ram::{Page, View};
use core::marker::PhantomData;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use shared_abi::{DomId, Mfn};

mod sealed {
    pub trait Sealed {}
}

/// What a handle's holder may rely on.
pub trait State: sealed::Sealed {
    /// The type in use, or `None` for a plain reference.
    const TYPE: Option<Type>;
}

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $ty:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;
        impl sealed::Sealed for $name {}
        impl State for $name {
            const TYPE: Option<Type> = $ty;
        }
    )*};
}

states! {
    /// The frame stays its owner's.
    Held = None;
    /// Its contents are data: it may be written.
    Writable = Some(Type::Writable);
    /// It holds checked segment descriptors.
    SegDesc = Some(Type::SegDesc);
    /// It is a checked L4 table: fit for CR3.
    L4 = Some(Type::L4);
}

/// A reference to a guest's frame in state `S`.
#[must_use]
pub struct Frame<'t, S: State> {
    table: &'t FrameTable,
    mfn: u32,
    state: PhantomData<S>,
}

impl<'t, S: State> Frame<'t, S> {
    /// Makes a reference that was counted elsewhere this handle's.
    pub(super) fn adopt(table: &'t FrameTable, mfn: u32) -> Self {
        Frame { table, mfn, state: PhantomData }
    }

    /// Leaves the reference counted, for it lives elsewhere now.
    pub(super) fn keep(self) -> u32 {
        let mfn = self.mfn;
        core::mem::forget(self);
        mfn
    }

    /// The frame.
    pub fn mfn(&self) -> Mfn {
        Mfn(self.mfn.into())
    }

    pub(super) fn number(&self) -> u32 {
        self.mfn
    }

    /// Whose it is, for as long as this is held.
    pub fn owner(&self) -> DomId {
        self.table.at(self.mfn).word().owner()
    }

    /// The frame's contents, to read.
    pub fn view(&self) -> View<'t> {
        self.table.ram().view(self.mfn)
    }

    /// Gives the reference back; what follows from that is on `work`.
    #[inline]
    pub fn release(self, work: &mut Work<'_>) {
        let table = self.table;
        let mfn = self.keep();
        match S::TYPE {
            None => table.put_ref(mfn),
            Some(_) => table.put_type(mfn, work),
        }
    }
}

impl<'t> Frame<'t, Writable> {
    /// The frame's contents, to read and write.
    pub fn page(&self) -> Page<'t> {
        self.table.ram().page(self.mfn)
    }
}

impl<'t> Frame<'t, L4> {
    /// As a table to update.
    pub fn into_table(self) -> Table<'t> {
        Table { table: self.table, level: 4, mfn: self.keep() }
    }
}

impl<S: State> Drop for Frame<'_, S> {
    fn drop(&mut self) {
        match S::TYPE {
            None => self.table.put_ref(self.mfn),
            Some(_) => self.table.put_type_orphan(self.mfn),
        }
    }
}

impl<S: State> core::fmt::Debug for Frame<'_, S> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Frame({:#x}, {:?})", self.mfn, S::TYPE)
    }
}

/// A reference to a checked page table of a level known at run time.
#[must_use]
pub struct Table<'t> {
    table: &'t FrameTable,
    mfn: u32,
    level: u32,
}

impl<'t> Table<'t> {
    pub(super) fn adopt(table: &'t FrameTable, mfn: u32, level: u32) -> Self {
        Table { table, mfn, level }
    }

    /// The frame.
    pub fn mfn(&self) -> Mfn {
        Mfn(self.mfn.into())
    }

    pub(super) fn number(&self) -> u32 {
        self.mfn
    }

    /// 1 to 4.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Its entries, to read.
    pub fn view(&self) -> View<'t> {
        self.table.ram().view(self.mfn)
    }

    /// Gives the reference back; what follows from that is on `work`.
    #[inline]
    pub fn release(self, work: &mut Work<'_>) {
        let (table, mfn) = (self.table, self.mfn);
        core::mem::forget(self);
        table.put_type(mfn, work);
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        self.table.put_type_orphan(self.mfn);
    }
}

impl core::fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Table({:#x}, L{})", self.mfn, self.level)
    }
}

/// 2^`order` frames that are the hypervisor's own: nobody else can map or name them. Dropping it frees
/// them.
#[must_use]
pub struct Block<'t> {
    table: &'t FrameTable,
    mfn: u32,
    order: u32,
}

impl<'t> Block<'t> {
    pub(super) fn new(table: &'t FrameTable, mfn: u32, order: u32) -> Self {
        Block { table, mfn, order }
    }

    /// The first frame.
    pub fn mfn(&self) -> Mfn {
        Mfn(self.mfn.into())
    }

    pub(super) fn number(&self) -> u32 {
        self.mfn
    }

    /// log2 of the number of frames.
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Frame `index` (below 2^order) of it, to read and write.
    pub fn page(&self, index: u32) -> Page<'t> {
        assert!(index < 1 << self.order, "frame beyond the block");
        self.table.ram().page(self.mfn + index)
    }

    /// Leaves the frames allocated for ever, or until [`FrameTable::free_kept`]; the first frame.
    pub fn keep(self) -> Mfn {
        let mfn = self.mfn();
        core::mem::forget(self);
        mfn
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        self.table.give_block(self.mfn, self.order);
    }
}

impl core::fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Block({:#x}, order {})", self.mfn, self.order)
    }
}

impl FrameTable {
    /// Frees `frames` frames from `mfn` on that [`Block::keep`] left allocated.
    ///
    /// # Safety
    /// They must be of kept blocks, and nobody uses them any more.
    #[allow(unsafe_code)]
    pub unsafe fn free_kept(&self, mfn: Mfn, frames: u64) {
        self.give_run(mfn.0 as u32..(mfn.0 + frames) as u32);
    }

    /// Shares a fresh frame with `owner`, which can map it writable (`Type::Writable`: shared info, grant
    /// table) or only read-only (`Type::ReadOnly`). It never becomes a page table and is not part of the
    /// domain's memory. `block` must be of order 0.
    pub fn share<'t>(&'t self, block: Block<'t>, owner: DomId, ty: Type) -> Shared<'t> {
        assert!(block.order == 0 && matches!(ty, Type::Writable | Type::ReadOnly));
        let mfn = block.mfn;
        core::mem::forget(block);
        self.at(mfn).reset(Word(Word::new(owner, 1).with_ty(ty).with(Word::SHARED).0 + Word::TYPE_USE));
        Shared { table: self, mfn }
    }

    /// Boot: shows the frames from `from` up to `to`, which boot has not spoken of otherwise (the M2P's
    /// own), to whoever may map frames of `DomId::XEN`, read-only.
    pub fn show(&self, from: Mfn, to: Mfn) {
        for mfn in from.0.min(self.frames())..to.0.min(self.frames()) {
            let entry = self.at(mfn as u32);
            if entry.word() == super::table::UNTOLD {
                let word = Word::new(DomId::XEN, 1).with_ty(Type::ReadOnly).with(Word::SHARED);
                entry.reset(Word(word.0 + Word::TYPE_USE));
            }
        }
    }
}

impl Frame<'_, L4> {
    /// Shows the machine-to-physical table to who runs on this root, or hides it. What a CPU that runs on it has cached
    /// of it stays until its next change of address spaces.
    pub fn show_m2p(&self, shown: bool) {
        let entry = if shown { self.table.template[M2P_SLOT - FIRST_HV_SLOT].load(Relaxed) } else { 0 };
        self.table.ram().entry(self.mfn, M2P_SLOT).store(entry, SeqCst);
    }
}

/// A frame of the hypervisor's that a domain may map. Dropping it ends the hypervisor's use; the frame is
/// freed when the domain's last mapping is gone as well.
#[must_use]
pub struct Shared<'t> {
    table: &'t FrameTable,
    mfn: u32,
}

impl<'t> Shared<'t> {
    /// The frame.
    pub fn mfn(&self) -> Mfn {
        Mfn(self.mfn.into())
    }

    /// Whether a domain maps it at this moment.
    pub fn is_mapped(&self) -> bool {
        self.table.at(self.mfn).word().refs() > 1
    }

    /// Its contents. Guests may change them at any moment.
    pub fn page(&self) -> Page<'t> {
        self.table.ram().page(self.mfn)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        self.table.count_as_given_up(self.mfn);
        self.table.put_type_orphan(self.mfn);
    }
}

impl core::fmt::Debug for Shared<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Shared({:#x})", self.mfn)
    }
}
