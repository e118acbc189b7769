//! One version-1 entry: 16 bits of flags, 16 bits of domain id, 32 bits of frame number, in
//! memory that its owner may write at any moment. All 64 are read and marked by one
//! compare-and-swap, so what was read is what was granted when the mark appeared.

use core::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};

use shared_abi::Mfn;
use shared_abi::grant_table::{
    GNTST_GENERAL_ERROR, GTF_PERMIT_ACCESS, GTF_READONLY, GTF_SUB_PAGE, GTF_TYPE_MASK,
};

use super::active::{Entry, Names, Use, Want};

/// How often a mark is tried on an entry that changes under it (Xen: five times).
const ATTEMPTS: u32 = 5;

/// The entry in a word of the table.
#[derive(Clone, Copy)]
pub struct V1<'t> {
    /// All of it.
    pub word: &'t AtomicU64,
    /// Its flags, where its marks are.
    pub flags: &'t AtomicU16,
}

impl<'t> Entry<'t> for V1<'t> {
    #[inline]
    fn mark(self, using: Use, pinned: bool) -> Result<Names, i16> {
        let word = self.word.load(SeqCst);
        let marked = marked(word, using, pinned).ok_or(GNTST_GENERAL_ERROR)?;
        match self.word.compare_exchange(word, marked, SeqCst, SeqCst) {
            Ok(_) => Ok(Names::Frame(Mfn(word >> 32))),
            Err(found) => self.mark_again(found, using, pinned).map(Names::Frame),
        }
    }

    #[inline]
    fn marks(self) -> &'t AtomicU16 {
        self.flags
    }
}

impl V1<'_> {
    #[cold]
    fn mark_again(self, mut word: u64, using: Use, pinned: bool) -> Result<Mfn, i16> {
        for _ in 1..ATTEMPTS {
            let marked = marked(word, using, pinned).ok_or(GNTST_GENERAL_ERROR)?;
            match self.word.compare_exchange(word, marked, SeqCst, SeqCst) {
                Ok(_) => return Ok(Mfn(word >> 32)),
                Err(found) => word = found,
            }
        }
        Err(GNTST_GENERAL_ERROR)
    }
}

/// An entry with the mark in it, if it grants the use.
#[inline]
fn marked(word: u64, using: Use, pinned: bool) -> Option<u64> {
    let type_mask = GTF_TYPE_MASK | if using.want == Want::Map { GTF_SUB_PAGE } else { 0 };
    // Domain and type in one comparison.
    let head = |dom: u16, flags: u16| u32::from(dom) << 16 | u32::from(flags);
    let grants = pinned || word as u32 & head(!0, type_mask) == head(using.by.0, GTF_PERMIT_ACCESS);
    let writable = !using.write || word as u16 & GTF_READONLY == 0;
    (grants && writable).then_some(word | u64::from(using.mark()))
}
