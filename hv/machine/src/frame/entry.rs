//! What the frame table keeps per frame, and every step by which its word may change.
//!
//! Each method is one transition of the state machine, made by compare-and-swap; none knows what is in
//! the frame. The hardest decision is where a frame's TLB stamp is written. It must be no older than the
//! removal of the last mapping, and whoever reuses the frame must see it: so the last use of a type
//! leaves in two steps, the first of which locks the word, and the stamp is taken between them. Stamping
//! before the step would be a race (another CPU maps and unmaps in between, and the older stamp stays),
//! stamping after it as well (the frame is reused in between).
//!
//! The cells are a trait so that the same code runs under loom, which explores every interleaving.

use super::word::{Phase, Type, Word};
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use shared_abi::DomId;

/// A 64-bit atomic.
pub trait Cell64 {
    /// Loads it.
    fn load(&self) -> u64;
    /// Replaces `old` by `new`, or says what is there.
    fn cas(&self, old: u64, new: u64) -> Result<(), u64>;
}

/// A 32-bit atomic whose accesses are ordered by the word's.
pub trait Cell32 {
    /// Loads it.
    fn get(&self) -> u32;
    /// Stores to it.
    fn set(&self, value: u32);
}

impl Cell64 for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        AtomicU64::load(self, Acquire)
    }
    #[inline]
    fn cas(&self, old: u64, new: u64) -> Result<(), u64> {
        self.compare_exchange(old, new, AcqRel, Acquire).map(drop)
    }
}

impl Cell32 for AtomicU32 {
    #[inline]
    fn get(&self) -> u32 {
        self.load(Relaxed)
    }
    #[inline]
    fn set(&self, value: u32) {
        self.store(value, Release)
    }
}

/// One frame. 24 bytes; with the frame's word of the M2P that is 32, 0.8% of memory.
#[repr(C)]
pub struct Entry<A = AtomicU64, B = AtomicU32> {
    word: A,
    /// Next frame on the owner's list or of a free list.
    next: B,
    /// Previous frame there.
    prev: B,
    /// TLB clock when the frame was last mapped in a way that matters. While the frame is dying: the
    /// next frame on its list of work.
    stamp: B,
    /// Of a table: entries that hold references, while not all or none do. Of a free frame: see
    /// `alloc.rs`.
    aux: B,
}

const _: () = assert!(size_of::<Entry>() == 24);

/// Why a reference or type was not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The frame is not that domain's.
    Owner,
    /// The frame is in use as something else.
    Type,
    /// The frame has as many references as can be counted.
    Full,
}

/// What came of asking for a type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// One more reference and use are counted.
    Held,
    /// The word is locked, with the wanted type and one more reference, and was of this type before: flush
    /// stale translations, check the contents, then [`Entry::commit`], [`Entry::pause`],
    /// [`Entry::retire`] or [`Entry::revert`].
    Begin(Type),
    /// The word is locked; continue the check where it paused, then as above.
    Resume,
    /// A half-checked table of another type was in the way. It is dying now, and on the caller to work
    /// off; then ask again.
    Retired,
    /// Another CPU has the word locked.
    Locked,
    /// The table is on somebody's list of work.
    Dying,
    /// No.
    Refused(Refusal),
}

/// What came of giving a reference or use back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Put {
    /// Others remain.
    Done,
    /// That was the last reference: the frame is the caller's, to be reclaimed.
    Last,
    /// That was the last use of a table: it is dying, and on the caller to work off.
    Retired,
}

impl<A: Cell64, B: Cell32> Entry<A, B> {
    /// An entry with this word.
    pub fn new(word: Word, a: impl Fn(u64) -> A, b: impl Fn(u32) -> B) -> Self {
        Entry { word: a(word.0), next: b(0), prev: b(0), stamp: b(0), aux: b(0) }
    }

    /// See the field.
    #[inline]
    pub fn next_get(&self) -> u32 {
        self.next.get()
    }
    /// See the field. Only whoever holds the lock of the list the frame is on may call it.
    #[inline]
    pub fn next_set(&self, mfn: u32) {
        self.next.set(mfn)
    }
    /// See the field.
    #[inline]
    pub fn prev_get(&self) -> u32 {
        self.prev.get()
    }
    /// See the field. As `next_set`.
    #[inline]
    pub fn prev_set(&self, mfn: u32) {
        self.prev.set(mfn)
    }
    /// See the field.
    #[inline]
    pub fn stamp_get(&self) -> u32 {
        self.stamp.get()
    }
    /// See the field. Only whoever has the frame to himself (locked, dying or without references) may
    /// call it.
    #[inline]
    pub fn stamp_set(&self, stamp: u32) {
        self.stamp.set(stamp)
    }
    /// See the field.
    #[inline]
    pub fn aux_get(&self) -> u32 {
        self.aux.get()
    }
    /// See the field. As `stamp_set`.
    #[inline]
    pub fn aux_set(&self, aux: u32) {
        self.aux.set(aux)
    }

    /// The word as it is this moment.
    #[inline]
    pub fn word(&self) -> Word {
        Word(self.word.load())
    }

    /// Changes the word by `change` unless that says no.
    #[inline]
    fn update(&self, change: impl Fn(Word) -> Option<Word>) -> Result<Word, Word> {
        let mut word = self.word.load();
        loop {
            let Some(new) = change(Word(word)) else { return Err(Word(word)) };
            match self.word.cas(word, new.0) {
                Ok(()) => return Ok(Word(word)),
                Err(found) => word = found,
            }
        }
    }

    /// Replaces the word of a frame that nobody else can have a reference to (it has none, or is private
    /// to the caller).
    pub(super) fn reset(&self, word: Word) {
        let _ = self.update(|_| Some(word));
    }

    /// Counts a reference to a frame of `owner`'s.
    #[inline]
    pub fn get_ref(&self, owner: DomId) -> Result<(), Refusal> {
        let mut word = self.word.load();
        loop {
            let (now, more) = (Word(word), Word(word.wrapping_add(Word::REF)));
            if now.owner() != owner || more.refs() <= 1 {
                let full = now.owner() == owner && now.refs() != 0;
                return Err(if full { Refusal::Full } else { Refusal::Owner });
            }
            match self.word.cas(word, more.0) {
                Ok(()) => return Ok(()),
                Err(found) => word = found,
            }
        }
    }

    /// Gives a reference back.
    #[inline]
    pub fn put_ref(&self) -> Put {
        let mut word = self.word.load();
        loop {
            debug_assert!(Word(word).refs() > Word(word).types(), "no plain reference to give back");
            match self.word.cas(word, word - Word::REF) {
                Ok(()) if Word(word).refs() == 1 => return Put::Last,
                Ok(()) => return Put::Done,
                Err(found) => word = found,
            }
        }
    }

    /// Counts a reference and a use as `want`, if the frame has that type ready: the hot path.
    #[inline(always)]
    pub fn acquire_ready(&self, owner: DomId, want: Type) -> bool {
        let key = Word::key(owner, want);
        let mut word = self.word.load();
        loop {
            // Counts that were full are 0 in `more`; references that were 0 are 1.
            let more = Word(word.wrapping_add(Word::REF + Word::TYPE_USE));
            if word & Word::KEY_MASK != key || more.refs() <= 1 || more.types() == 0 {
                return false;
            }
            match self.word.cas(word, more.0) {
                Ok(()) => return true,
                Err(found) => word = found,
            }
        }
    }

    /// Counts a reference and a use of the checked table of `owner`'s that the frame is; its level, or 0
    /// if it is none.
    #[inline]
    pub fn acquire_table(&self, owner: DomId) -> u32 {
        let mut word = self.word.load();
        loop {
            let (now, more) = (Word(word), Word(word.wrapping_add(Word::REF + Word::TYPE_USE)));
            let level = now.ready_level();
            if level == 0 || now.owner() != owner || more.refs() <= 1 || more.types() == 0 {
                return 0;
            }
            match self.word.cas(word, more.0) {
                Ok(()) => return level,
                Err(found) => word = found,
            }
        }
    }

    /// Gives a reference back if others remain; else nothing happens.
    #[inline]
    pub fn put_ref_of_many(&self) -> bool {
        let mut word = self.word.load();
        while Word(word).refs() > 1 {
            match self.word.cas(word, word - Word::REF) {
                Ok(()) => return true,
                Err(found) => word = found,
            }
        }
        false
    }

    /// Gives a use of the type back, with its reference, if others remain; else nothing happens.
    #[inline]
    pub fn put_type_of_many(&self) -> bool {
        let mut word = self.word.load();
        while Word(word).types() > 1 {
            match self.word.cas(word, word - Word::TYPE_USE - Word::REF) {
                Ok(()) => return true,
                Err(found) => word = found,
            }
        }
        false
    }

    /// Asks for a reference and a use as `want` of a frame of `owner`'s.
    pub fn acquire(&self, owner: DomId, want: Type) -> Asked {
        let mut word = self.word.load();
        loop {
            let now = Word(word);
            let (new, answer) = match Self::next_step(now, owner, want) {
                Ok(step) => step,
                Err(answer) => return answer,
            };
            match self.word.cas(word, new.0) {
                Ok(()) => return answer,
                Err(found) => word = found,
            }
        }
    }

    /// The transition that a request for `want` makes from `now`; `Err` if it makes none.
    fn next_step(now: Word, owner: DomId, want: Type) -> Result<(Word, Asked), Asked> {
        use Asked::*;
        if now.owner() != owner || now.refs() == 0 {
            return Err(Refused(Refusal::Owner));
        }
        if now.has(Word::LOCKED) {
            return Err(Locked);
        }
        if now.phase() == Phase::Dying {
            return Err(Dying);
        }
        if !now.has_room() {
            return Err(Refused(Refusal::Full));
        }
        if now.0 & Word::KEY_MASK == Word::key(owner, want) {
            return Ok((Word(now.0 + Word::REF + Word::TYPE_USE), Held));
        }
        if now.types() != 0 || now.ty() == Type::ReadOnly || want == Type::ReadOnly {
            return Err(Refused(Refusal::Type));
        }
        // A frame its owner gave up starts nothing that the owner's end would have to find.
        if want != Type::Writable && !now.has(Word::ALLOCATED) {
            return Err(Refused(Refusal::Type));
        }
        if now.phase() == Phase::Partial {
            return Ok(if now.ty() == want {
                (now.with(Word::LOCKED), Resume)
            } else {
                (now.with_phase(Phase::Dying), Retired)
            });
        }
        let phase = if want == Type::Writable { Phase::Idle } else { Phase::Partial };
        let locked = Word(now.0 + Word::REF).with_ty(want).with_phase(phase).with(Word::LOCKED);
        Ok((locked, Begin(now.ty())))
    }

    /// Ends a [`Begin`](Asked::Begin) or `Resume`: the type is good, and used once.
    pub fn commit(&self) {
        let done = self.update(|word| {
            let phase = if word.ty() == Type::Writable { Phase::Idle } else { Phase::Valid };
            Some(Word(word.without(Word::LOCKED).with_phase(phase).0 + Word::TYPE_USE))
        });
        debug_assert!(done.is_ok_and(|word| word.has(Word::LOCKED) && word.types() == 0));
    }

    /// Ends one for this time: the check goes on later, from the entry that `aux` says. If the frame was
    /// taken out of its owner's memory meanwhile, nobody would: then it is dying, on the caller to work
    /// off, and this says true.
    pub fn pause(&self) -> bool {
        self.update(|word| {
            let open = word.without(Word::LOCKED);
            Some(if word.has(Word::ALLOCATED) { open } else { open.with_phase(Phase::Dying) })
        })
        .is_ok_and(|word| !word.has(Word::ALLOCATED))
    }

    /// Ends one whose check failed after some entries: the table is dying, and on the caller to work off.
    pub fn retire(&self) {
        let _ = self.update(|word| Some(word.without(Word::LOCKED).with_phase(Phase::Dying)));
    }

    /// Ends one whose check failed before anything was counted: the frame has no type (and no stale
    /// translations, for they were flushed), and the reference is the caller's to give back.
    pub fn revert(&self) {
        let _ =
            self.update(|word| Some(word.without(Word::LOCKED).with_ty(Type::None).with_phase(Phase::Idle)));
    }

    /// Turns a half-checked table that nobody works on into a dying one, for the caller to work off.
    pub fn retire_partial(&self) -> bool {
        self.update(|word| {
            (word.phase() == Phase::Partial && !word.has(Word::LOCKED)).then(|| word.with_phase(Phase::Dying))
        })
        .is_ok()
    }

    /// Ends the dying of a table whose entries hold nothing any more, and gives up the reference it had
    /// to itself. The stamp must be set before.
    pub fn buried(&self) -> Put {
        let before = self.update(|word| Some(Word(word.with_phase(Phase::Idle).0 - Word::REF)));
        if before.is_ok_and(|word| word.refs() == 1) { Put::Last } else { Put::Done }
    }

    /// Gives a use of the type back, with its reference unless `keep_ref`. `now` reads the TLB clock.
    #[inline]
    pub fn put_type(&self, keep_ref: bool, now: impl Fn() -> u32) -> Put {
        let give = Word::TYPE_USE + if keep_ref { 0 } else { Word::REF };
        let mut word = self.word.load();
        loop {
            debug_assert!(Word(word).types() > 0, "no use of the type to give back");
            if Word(word).types() == 1 {
                return self.put_last_type(keep_ref, now);
            }
            match self.word.cas(word, word - give) {
                Ok(()) => return Put::Done,
                Err(found) => word = found,
            }
        }
    }

    #[inline(never)]
    fn put_last_type(&self, keep_ref: bool, now: impl Fn() -> u32) -> Put {
        let before = self.update(|word| {
            let less = Word(word.0 - Word::TYPE_USE);
            Some(match (word.types(), word.ty().level()) {
                (2.., _) if keep_ref => less,
                (2.., _) => Word(less.0 - Word::REF),
                (_, 0) => less.with(Word::LOCKED),
                // A table's use always goes with its reference; the table now holds that itself.
                _ => less.with_phase(Phase::Dying),
            })
        });
        let Ok(before) = before else { return Put::Done };
        if before.types() > 1 {
            return Put::Done;
        }
        if before.ty().level() != 0 {
            debug_assert!(!keep_ref);
            return Put::Retired;
        }
        self.stamp.set(now());
        let give = if keep_ref { 0 } else { Word::REF };
        let before = self.update(|word| Some(Word(word.without(Word::LOCKED).0 - give)));
        if !keep_ref && before.is_ok_and(|word| word.refs() == 1) { Put::Last } else { Put::Done }
    }

    /// Sets the pin of a frame that is part of its owner's memory; whether that was possible and it was
    /// not set before. (A pin on a frame that the owner gave up would outlive the owner.)
    pub fn pin(&self) -> bool {
        self.update(|word| {
            (word.has(Word::ALLOCATED) && !word.has(Word::PINNED)).then(|| word.with(Word::PINNED))
        })
        .is_ok()
    }

    /// Clears a flag of a frame of `owner`'s; whether it was set before.
    pub fn lower(&self, owner: DomId, flag: u64) -> bool {
        self.update(|word| (word.owner() == owner && word.has(flag)).then(|| word.without(flag))).is_ok()
    }

    /// Takes a frame out of its owner's memory that has no other use: no type in use, no reference but
    /// that of the allocation. The frame is then the caller's, without any reference.
    pub fn steal(&self, owner: DomId) -> Result<(), Refusal> {
        self.update(|word| {
            let idle = word.refs() == 1 && word.types() == 0 && word.has(Word::ALLOCATED);
            (word.owner() == owner && idle && !word.has(Word::LOCKED))
                .then(|| Word::new(owner, 0).with_ty(word.ty()))
        })
        .map(drop)
        .map_err(|word| if word.owner() == owner { Refusal::Type } else { Refusal::Owner })
    }
}
