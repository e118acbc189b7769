//! One version-2 entry: two words that only their owner writes, and 16 bits of status, in a table of their own,
//! where the hypervisor's marks are. Both are memory that the owner may write at any moment.
//!
//! Entry and mark are no longer one word. So the entry is looked at, the mark set, and the entry looked at again:
//! who withdraws a grant and then finds no mark knows that every later use is refused. What the second look
//! finds is what was granted.

use core::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};

use shared_abi::grant_table::{
    GNTST_GENERAL_ERROR, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_SUB_PAGE, GTF_TRANSITIVE,
    GTF_TYPE_MASK, GTF_WRITING,
};
use shared_abi::{DomId, GrantRef, Mfn};

use super::active::{Entry, Names, Use, Want, Window};

/// An entry and its status.
#[derive(Clone, Copy)]
pub struct V2<'t> {
    /// Flags and domain; then `sub_page`'s offset and length, or `transitive`'s domain.
    pub head: &'t AtomicU64,
    /// The frame, or `transitive`'s reference.
    pub body: &'t AtomicU64,
    /// The marks.
    pub status: &'t AtomicU16,
}

impl<'t> Entry<'t> for V2<'t> {
    fn mark(self, using: Use, pinned: bool) -> Result<Names, i16> {
        if !grants(self.head.load(SeqCst), using, pinned) {
            return Err(GNTST_GENERAL_ERROR);
        }
        self.status.fetch_or(using.mark(), SeqCst);
        let head = self.head.load(SeqCst);
        if !grants(head, using, pinned) {
            // Of an entry in use, only the right to write was asked for, which nobody has.
            self.status.fetch_and(!(GTF_WRITING | if pinned { 0 } else { GTF_READING }), SeqCst);
            return Err(GNTST_GENERAL_ERROR);
        }
        let (flags, body) = (head as u16, self.body.load(SeqCst));
        Ok(if flags & GTF_TYPE_MASK == GTF_TRANSITIVE {
            Names::Through(DomId((head >> 32) as u16), GrantRef(body as u32))
        } else if flags & GTF_SUB_PAGE != 0 {
            Names::Part(Mfn(body), Window { start: (head >> 32) as u16, len: (head >> 48) as u16 })
        } else {
            Names::Frame(Mfn(body))
        })
    }

    fn marks(self) -> &'t AtomicU16 {
        self.status
    }
}

/// Whether an entry of this first word grants the use.
fn grants(head: u64, using: Use, pinned: bool) -> bool {
    let (flags, dom) = (head as u16, DomId((head >> 16) as u16));
    let of_type = match flags & GTF_TYPE_MASK {
        GTF_PERMIT_ACCESS => using.want != Want::Map || flags & GTF_SUB_PAGE == 0,
        // Another's grant, passed on: for copies alone.
        GTF_TRANSITIVE => using.want != Want::Map,
        _ => false,
    };
    (pinned || of_type && dom == using.by) && (!using.write || flags & GTF_READONLY == 0)
}
