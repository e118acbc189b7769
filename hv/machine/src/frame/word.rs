//! The one word that says what a frame is: how its 64 bits are shared out, and nothing else.
//!
//! Owner, type and both counts stand in one word so that "is it this domain's, does it have this type,
//! then count one more use" is a single compare-and-swap: there is no moment at which a frame could
//! change hands between a check and its count. The price is narrow counts (23 and 17 bits); one that is
//! full refuses the next use, it never wraps.

use shared_abi::DomId;

/// What a frame is in use as. Guests can write to frames of type `Writable` only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Type {
    /// Nothing yet: it may be mapped read-only, and become anything.
    None = 0,
    /// Mapped writable, or written by the hypervisor for a guest.
    Writable = 1,
    /// A page table of level 1.
    L1 = 2,
    /// A page table of level 2.
    L2 = 3,
    /// A page table of level 3.
    L3 = 4,
    /// A page table of level 4.
    L4 = 5,
    /// Segment descriptors (part of a GDT or LDT).
    SegDesc = 6,
    /// The hypervisor's, shown to guests read-only: it never becomes anything else.
    ReadOnly = 7,
}

impl Type {
    /// The page-table level, 1 to 4, or 0.
    #[inline]
    pub const fn level(self) -> u32 {
        match self {
            Type::L1 | Type::L2 | Type::L3 | Type::L4 => self as u32 - 1,
            _ => 0,
        }
    }

    /// The type of page tables of `level`, if there is such a level.
    pub const fn table(level: u32) -> Option<Type> {
        Some(match level {
            1 => Type::L1,
            2 => Type::L2,
            3 => Type::L3,
            4 => Type::L4,
            _ => return None,
        })
    }
}

/// How far a frame of a checked type (a table or descriptors) has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Its contents are unchecked and hold no references.
    Idle = 0,
    /// Checked up to an entry (the frame's `aux`); nobody uses it; it holds one reference to itself.
    Partial = 1,
    /// Checked. For tables: the type count is not zero.
    Valid = 2,
    /// A table whose entries are being let go, on somebody's list of work; it holds one reference to
    /// itself.
    Dying = 3,
}

/// A frame's word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Word(pub u64);

const REFS_BITS: u32 = 23;
const TYPES_BITS: u32 = 17;
const TYPES_AT: u32 = REFS_BITS;
const TY_AT: u32 = TYPES_AT + TYPES_BITS;
const PHASE_AT: u32 = TY_AT + 3;
const OWNER_AT: u32 = 49;

impl Word {
    /// One reference.
    pub const REF: u64 = 1;
    /// One use of the type.
    pub const TYPE_USE: u64 = 1 << TYPES_AT;
    /// The most references a frame can have.
    pub const MAX_REFS: u64 = (1 << REFS_BITS) - 1;
    /// The most uses of a frame's type.
    pub const MAX_TYPES: u64 = (1 << TYPES_BITS) - 1;
    /// A CPU is about to change the type; the type count is zero.
    pub const LOCKED: u64 = 1 << 45;
    /// The guest pinned it: one use of the type is held by the pin.
    pub const PINNED: u64 = 1 << 46;
    /// It belongs to its owner's memory: one reference is held by that, and it is on the owner's list.
    pub const ALLOCATED: u64 = 1 << 47;
    /// The hypervisor's own, shared with its owner: on no list.
    pub const SHARED: u64 = 1 << 48;
    /// The bits that [`Word::key`] compares.
    pub const KEY_MASK: u64 = (0x7fff << OWNER_AT) | (0b11_111 << TY_AT) | Self::LOCKED;

    /// A frame of `owner`'s with `refs` references and no type.
    pub const fn new(owner: DomId, refs: u64) -> Word {
        Word(((owner.0 as u64 & 0x7fff) << OWNER_AT) | refs)
    }

    /// What the bits under `KEY_MASK` are when `ty` of a frame of `owner`'s can be used without further
    /// ado.
    #[inline]
    pub const fn key(owner: DomId, ty: Type) -> u64 {
        let phase = match ty {
            Type::None | Type::Writable | Type::ReadOnly => Phase::Idle,
            _ => Phase::Valid,
        };
        ((owner.0 as u64 & 0x7fff) << OWNER_AT) | ((ty as u64) << TY_AT) | ((phase as u64) << PHASE_AT)
    }

    /// The owner.
    #[inline]
    pub const fn owner(self) -> DomId {
        DomId((self.0 >> OWNER_AT) as u16)
    }

    /// Number of references, the type's uses included.
    #[inline]
    pub const fn refs(self) -> u64 {
        self.0 & Self::MAX_REFS
    }

    /// Number of uses of the type.
    #[inline]
    pub const fn types(self) -> u64 {
        (self.0 >> TYPES_AT) & Self::MAX_TYPES
    }

    /// The type.
    #[inline]
    pub const fn ty(self) -> Type {
        match (self.0 >> TY_AT) & 7 {
            0 => Type::None,
            1 => Type::Writable,
            2 => Type::L1,
            3 => Type::L2,
            4 => Type::L3,
            5 => Type::L4,
            6 => Type::SegDesc,
            _ => Type::ReadOnly,
        }
    }

    /// The level of the table that the frame is checked and unlocked as, or 0.
    #[inline]
    pub const fn ready_level(self) -> u32 {
        const MASK: u64 = (0b11 << PHASE_AT) | Word::LOCKED;
        let ty = (self.0 >> TY_AT) as u32 & 7;
        let ready = self.0 & MASK == (Phase::Valid as u64) << PHASE_AT;
        if ready && ty.wrapping_sub(Type::L1 as u32) < 4 { ty - 1 } else { 0 }
    }

    /// Whether one more use of the type can be counted.
    #[inline]
    pub const fn has_room(self) -> bool {
        const TYPES: u64 = Word::MAX_TYPES << TYPES_AT;
        self.0 & TYPES != TYPES && self.refs() != Word::MAX_REFS
    }

    /// How far checking has come.
    #[inline]
    pub const fn phase(self) -> Phase {
        match (self.0 >> PHASE_AT) & 3 {
            0 => Phase::Idle,
            1 => Phase::Partial,
            2 => Phase::Valid,
            _ => Phase::Dying,
        }
    }

    /// Whether it is a table half checked or half taken apart, which nobody works on at this moment.
    pub const fn is_unfinished(self) -> bool {
        !self.has(Word::LOCKED) && matches!(self.phase(), Phase::Partial | Phase::Dying)
    }

    /// Whether all of the flag's bits are set.
    #[inline]
    pub const fn has(self, flag: u64) -> bool {
        self.0 & flag == flag
    }

    /// With this type.
    pub const fn with_ty(self, ty: Type) -> Word {
        Word(self.0 & !(7 << TY_AT) | ((ty as u64) << TY_AT))
    }

    /// With this phase.
    pub const fn with_phase(self, phase: Phase) -> Word {
        Word(self.0 & !(3 << PHASE_AT) | ((phase as u64) << PHASE_AT))
    }

    /// With this flag set.
    pub const fn with(self, flag: u64) -> Word {
        Word(self.0 | flag)
    }

    /// With this flag clear.
    pub const fn without(self, flag: u64) -> Word {
        Word(self.0 & !flag)
    }
}

impl core::fmt::Debug for Word {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "d{} refs {} {:?} x{} {:?}{}{}{}{}",
            self.owner().0,
            self.refs(),
            self.ty(),
            self.types(),
            self.phase(),
            if self.has(Self::LOCKED) { " locked" } else { "" },
            if self.has(Self::PINNED) { " pinned" } else { "" },
            if self.has(Self::ALLOCATED) { " allocated" } else { "" },
            if self.has(Self::SHARED) { " shared" } else { "" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_do_not_overlap() {
        let owner = DomId(0x7fff);
        let full = Word::new(owner, Word::MAX_REFS);
        assert_eq!(
            (full.owner(), full.refs(), full.types(), full.ty()),
            (owner, Word::MAX_REFS, 0, Type::None)
        );
        let word = Word(full.0 + Word::MAX_TYPES * Word::TYPE_USE);
        assert_eq!((word.refs(), word.types(), word.ty()), (Word::MAX_REFS, Word::MAX_TYPES, Type::None));
        for flag in [Word::LOCKED, Word::PINNED, Word::ALLOCATED, Word::SHARED] {
            assert_eq!(word.0 & flag, 0);
            for bits in 0..8u8 {
                let ty = Word((bits as u64) << TY_AT).ty();
                let set = word.with_ty(ty).with_phase(Phase::Dying).with(flag);
                assert_eq!((set.ty() as u8, set.phase(), set.types()), (bits, Phase::Dying, Word::MAX_TYPES));
                assert_eq!(set.without(flag).with_phase(Phase::Idle).with_ty(Type::None), word);
            }
        }
    }
}
