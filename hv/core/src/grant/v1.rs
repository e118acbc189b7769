//! One version-1 entry: 16 bits of flags, 16 bits of domain id, 32 bits of frame number, in
//! memory that its owner may write at any moment. All 64 are read and marked by one
//! compare-and-swap, so what was read is what was granted when the mark appeared.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use shared_abi::grant_table::{
    GNTST_GENERAL_ERROR, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_SUB_PAGE, GTF_TYPE_MASK,
    GTF_WRITING,
};
use shared_abi::{DomId, Mfn};

/// How often a mark is tried on an entry that changes under it (Xen: five times).
const ATTEMPTS: u32 = 5;

/// What the hypervisor's mark is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Use {
    /// Who maps or copies.
    pub by: DomId,
    /// Whether it writes.
    pub write: bool,
    /// Whether it maps; a copy may also use what is granted for copying only.
    pub map: bool,
}

/// The entry in a word of the table.
#[derive(Clone, Copy)]
pub struct Entry<'a>(pub &'a AtomicU64);

impl Entry<'_> {
    /// Marks the entry as in use, if it grants that; the frame it names at that instant. When it
    /// is `pinned` already its domain and type were checked, and only the right to write is asked
    /// for.
    #[inline]
    pub fn mark(self, using: Use, pinned: bool) -> Result<Mfn, i16> {
        let word = self.0.load(SeqCst);
        let marked = marked(word, using, pinned).ok_or(GNTST_GENERAL_ERROR)?;
        match self.0.compare_exchange(word, marked, SeqCst, SeqCst) {
            Ok(_) => Ok(Mfn(word >> 32)),
            Err(found) => self.mark_again(found, using, pinned),
        }
    }

    #[cold]
    fn mark_again(self, mut word: u64, using: Use, pinned: bool) -> Result<Mfn, i16> {
        for _ in 1..ATTEMPTS {
            let marked = marked(word, using, pinned).ok_or(GNTST_GENERAL_ERROR)?;
            match self.0.compare_exchange(word, marked, SeqCst, SeqCst) {
                Ok(_) => return Ok(Mfn(word >> 32)),
                Err(found) => word = found,
            }
        }
        Err(GNTST_GENERAL_ERROR)
    }

    /// Takes marks away.
    #[inline]
    pub fn clear(self, marks: u16) {
        self.0.fetch_and(!u64::from(marks), SeqCst);
    }
}

/// An entry with the mark in it, if it grants the use.
#[inline]
fn marked(word: u64, using: Use, pinned: bool) -> Option<u64> {
    let (flags, dom) = (word as u16, DomId((word >> 16) as u16));
    let type_mask = GTF_TYPE_MASK | if using.map { GTF_SUB_PAGE } else { 0 };
    let grants = pinned || flags & type_mask == GTF_PERMIT_ACCESS && dom == using.by;
    let writable = !using.write || flags & GTF_READONLY == 0;
    let mark = GTF_READING | if using.write { GTF_WRITING } else { 0 };
    (grants && writable).then_some(word | u64::from(mark))
}
