//! The naive truth about a machine: what the counts must be, found by looking at every entry.

use super::*;
use crate::frame::types::is_hv_slot;

/// A reference that a test holds by a handle: the frame, and whether it is a use of its type.
pub(in crate::frame) type Handle = (Mfn, bool);

/// Panics unless every frame's counts are what pins, allocations, `handles` and the entries of all tables
/// add up to, and no frame is what it must not be.
pub(in crate::frame) fn audit(table: &FrameTable, handles: &[Handle]) {
    let frames = table.frames() as usize;
    let mut refs = std::vec![0u64; frames];
    let mut uses = std::vec![0u64; frames];
    let word = |mfn: usize| table.word(Mfn(mfn as u64));
    for &(mfn, typed) in handles {
        refs[mfn.0 as usize] += 1;
        uses[mfn.0 as usize] += typed as u64;
    }
    for mfn in 0..frames {
        let Some(this) = word(mfn) else { continue };
        assert!(!this.has(Word::LOCKED), "{mfn:#x}: {this:?}");
        refs[mfn] += this.has(Word::ALLOCATED) as u64 + this.has(Word::PINNED) as u64;
        uses[mfn] += this.has(Word::PINNED) as u64;
        let level = this.ty().level();
        let holding = match (level, this.phase()) {
            (1.., Phase::Valid) => {
                assert!(this.types() > 0, "{mfn:#x}: {this:?}");
                pte::ENTRIES
            }
            (1.., Phase::Partial | Phase::Dying) => {
                assert_eq!(this.types(), 0, "{mfn:#x}: {this:?}");
                refs[mfn] += 1;
                table.at(mfn as u32).aux_get() as usize
            }
            _ => 0,
        };
        for index in (0..holding).filter(|&index| !is_hv_slot(level, index)) {
            let value = peek(table, Mfn(mfn as u64), index);
            if value & pte::PRESENT == 0 {
                continue;
            }
            let target = pte::mfn(value);
            let Some(named) = table.word(target) else { continue };
            let what = std::format!("{mfn:#x}[{index}] = {value:#x}: {named:?}");
            refs[target.0 as usize] += 1;
            if level > 1 {
                uses[target.0 as usize] += 1;
                assert_eq!((named.ty().level(), named.phase()), (level - 1, Phase::Valid), "{what}");
            } else if value & pte::RW != 0 {
                uses[target.0 as usize] += 1;
                assert_eq!(named.ty(), Type::Writable, "{what}");
            }
            assert!(value & pte::USER != 0 && value & pte::GLOBAL == 0, "{what}");
        }
    }
    let mut owned = std::collections::BTreeMap::<DomId, u32>::new();
    for mfn in 0..frames {
        let Some(this) = word(mfn) else { continue };
        assert_eq!((this.refs(), this.types()), (refs[mfn], uses[mfn]), "{mfn:#x}: {this:?}");
        if this.refs() > 0 && !this.has(Word::SHARED) {
            *owned.entry(this.owner()).or_default() += 1;
        }
    }
    for (owner, count) in owned {
        assert_eq!(table.owned(owner), count, "{owner}");
    }
}
