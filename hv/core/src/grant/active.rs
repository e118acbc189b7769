//! The record of one entry in use, of either version: what it granted when its first use began, and who uses it how
//! often. Uses that have begun go by the record, whatever becomes of the entry.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, Ordering::SeqCst};

use hv_machine::frame::{Frame, FrameTable, Held};
use shared_abi::grant_table::{GNTST_BAD_PAGE, GNTST_GENERAL_ERROR, GTF_READING, GTF_WRITING};
use shared_abi::{DomId, GrantRef, Mfn};

use super::Failure;

/// Records are made in runs of this many.
pub const RUN: usize = 64;

/// A run of records.
pub type Run<'t> = Box<[Active<'t>; RUN]>;

/// What a use is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Use {
    /// Who maps or copies.
    pub by: DomId,
    /// Whether it writes.
    pub write: bool,
    /// What must be granted.
    pub want: Want,
}

/// What a use can do with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// A whole frame, to map.
    Map,
    /// A whole frame, to copy; anything else is special.
    Whole,
    /// Whatever is granted, to copy.
    Any,
}

impl Use {
    /// The mark that tells the granting domain of it.
    #[inline]
    pub fn mark(self) -> u16 {
        GTF_READING | if self.write { GTF_WRITING } else { 0 }
    }
}

/// The bytes of a frame that a grant is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// The first.
    pub start: u16,
    /// How many; with `start` perhaps more than there are.
    pub len: u16,
}

impl Window {
    /// Whether it has `bytes` bytes from `from` on.
    #[inline]
    pub fn holds(self, from: usize, bytes: usize) -> bool {
        let start = usize::from(self.start);
        from >= start && from + bytes <= start + usize::from(self.len)
    }
}

/// What an entry names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Names {
    /// A frame.
    Frame(Mfn),
    /// Bytes of one, to copy.
    Part(Mfn, Window),
    /// What another domain grants to this one, to copy.
    Through(DomId, GrantRef),
}

impl Names {
    /// The frame and the part of it that is named, if the use can do with that.
    #[cold]
    fn special(self, using: Use) -> Result<(Mfn, Window), Failure> {
        match (self, using.want) {
            (_, Want::Map) | (Names::Frame(_), _) => Err(GNTST_GENERAL_ERROR.into()),
            (_, Want::Whole) => Err(Failure::Special),
            (Names::Part(mfn, part), Want::Any) => Ok((mfn, part)),
            (Names::Through(dom, gref), Want::Any) => Err(Failure::Through(dom, gref)),
        }
    }
}

/// An entry as its owner and the hypervisor see it.
pub trait Entry<'t>: Copy {
    /// Marks the entry as in use, if it grants that; what it names at that instant. When it is `pinned` already its
    /// domain and type were checked, and only the right to write is asked for.
    ///
    /// # Errors
    /// `GNTST_GENERAL_ERROR`.
    fn mark(self, using: Use, pinned: bool) -> Result<Names, i16>;

    /// Where its marks are.
    fn marks(self) -> &'t AtomicU16;
}

/// What an entry granted.
pub enum Granted<'t> {
    /// Nothing: it is not in use.
    Nothing,
    /// A frame, which stays its owner's for as long.
    Frame(Frame<'t, Held>),
    /// What another grants, and is in use too.
    Through(DomId, GrantRef),
}

/// An entry's uses.
pub struct Active<'t> {
    granted: Granted<'t>,
    /// Where its marks are, while it is in use.
    marks: &'t AtomicU16,
    readers: u32,
    writers: u32,
    by: DomId,
    /// The bytes it is for, if not all of a frame: not to be mapped then.
    pub part: Option<Window>,
}

/// Records of entries that are not in use, and have their marks `anywhere`; none if memory is exhausted.
#[cold]
#[inline(never)]
pub fn make_run(anywhere: &AtomicU16) -> Option<Run<'_>> {
    let mut run = Vec::new();
    run.try_reserve_exact(RUN).ok()?;
    run.resize_with(RUN, || Active {
        granted: Granted::Nothing,
        marks: anywhere,
        readers: 0,
        writers: 0,
        by: DomId::INVALID,
        part: None,
    });
    run.into_boxed_slice().try_into().ok()
}

impl<'t> Active<'t> {
    /// Whether the entry is in use.
    #[inline]
    pub fn in_use(&self) -> bool {
        !matches!(self.granted, Granted::Nothing)
    }

    /// The frame granted.
    ///
    /// # Errors
    /// `GNTST_GENERAL_ERROR` of what passes another's grant on.
    #[inline]
    pub fn frame(&self) -> Result<&Frame<'t, Held>, i16> {
        if let Granted::Frame(frame) = &self.granted { Ok(frame) } else { Err(GNTST_GENERAL_ERROR) }
    }

    /// Whether `dom` uses this frame by the entry.
    pub fn is_use_of(&self, mfn: Mfn, dom: DomId) -> bool {
        self.by == dom && self.frame().is_ok_and(|frame| frame.mfn() == mfn)
    }

    /// Begins a use of the entry, which is of `owner`'s table; whether it is the first.
    ///
    /// # Errors
    /// `GNTST_GENERAL_ERROR` when the entry does not grant this, is in use by another domain or keeps changing;
    /// `GNTST_BAD_PAGE` when its frame is not its owner's; [`Failure::Special`], [`Failure::Through`].
    #[inline(always)]
    pub fn begin(
        &mut self,
        entry: impl Entry<'t>,
        using: Use,
        frames: &'t FrameTable,
        owner: DomId,
    ) -> Result<bool, Failure> {
        let first = !self.in_use();
        if first {
            let clear = || entry.marks().fetch_and(!(GTF_READING | GTF_WRITING), SeqCst);
            let (mfn, part) = match entry.mark(using, false)? {
                Names::Frame(mfn) => (mfn, None),
                names => match names.special(using) {
                    Ok((mfn, part)) => (mfn, Some(part)),
                    Err(failure) => {
                        clear();
                        return Err(failure);
                    }
                },
            };
            let frame = frames.get(mfn, owner).map_err(|stop| {
                clear();
                Failure::stop(stop, GNTST_BAD_PAGE)
            })?;
            self.start(Granted::Frame(frame), entry.marks(), using.by);
            self.part = part;
        } else {
            self.may_join(using)?;
            self.join(entry, using)?;
        }
        self.count(using);
        Ok(first)
    }

    /// The same of an entry that passes `through` on, of which `part` is in use already for this.
    ///
    /// # Errors
    /// `GNTST_GENERAL_ERROR`, also when it passes on something else by now: who changes it all the time keeps
    /// nobody waiting.
    #[cold]
    pub fn begin_through(
        &mut self,
        entry: impl Entry<'t>,
        using: Use,
        through: (DomId, GrantRef),
        part: Option<Window>,
    ) -> Result<bool, Failure> {
        let first = !self.in_use();
        if first {
            if entry.mark(using, false)? != Names::Through(through.0, through.1) {
                entry.marks().fetch_and(!(GTF_READING | GTF_WRITING), SeqCst);
                return Err(GNTST_GENERAL_ERROR.into());
            }
            self.start(Granted::Through(through.0, through.1), entry.marks(), using.by);
            self.part = part;
        } else {
            let same = matches!(self.granted, Granted::Through(dom, gref) if (dom, gref) == through);
            if !same || self.part != part || self.by != using.by {
                return Err(GNTST_GENERAL_ERROR.into());
            }
            self.join(entry, using)?;
        }
        self.count(using);
        Ok(first)
    }

    #[inline]
    fn start(&mut self, granted: Granted<'t>, marks: &'t AtomicU16, by: DomId) {
        // There was nothing to drop.
        core::mem::forget(core::mem::replace(&mut self.granted, granted));
        (self.marks, self.by) = (marks, by);
    }

    /// Whether such a use may join those that there are.
    #[inline]
    fn may_join(&self, using: Use) -> Result<(), Failure> {
        if self.by != using.by {
            return Err(GNTST_GENERAL_ERROR.into());
        }
        match (&self.granted, self.part, using.want) {
            (Granted::Frame(_), None, _) | (Granted::Frame(_), Some(_), Want::Any) => Ok(()),
            (_, _, Want::Map) | (Granted::Nothing, ..) => Err(GNTST_GENERAL_ERROR.into()),
            (_, _, Want::Whole) => Err(Failure::Special),
            (Granted::Through(dom, gref), _, Want::Any) => Err(Failure::Through(*dom, *gref)),
        }
    }

    /// Joins it; the right to write is asked for when nobody has it yet.
    #[inline]
    fn join(&self, entry: impl Entry<'t>, using: Use) -> Result<(), i16> {
        if using.write && self.writers == 0 {
            entry.mark(using, true)?;
        }
        Ok(())
    }

    #[inline]
    fn count(&mut self, using: Use) {
        *(if using.write { &mut self.writers } else { &mut self.readers }) += 1;
    }

    /// Ends a use; whether it was the last.
    #[inline]
    pub fn end(&mut self, write: bool) -> bool {
        let uses = if write { &mut self.writers } else { &mut self.readers };
        debug_assert!(*uses > 0, "more uses of a grant end than began");
        *uses = uses.saturating_sub(1);
        let last = self.readers == 0 && self.writers == 0;
        let mut gone = if write && self.writers == 0 { GTF_WRITING } else { 0 };
        if last {
            gone |= GTF_READING;
            self.granted = Granted::Nothing;
        }
        if gone != 0 {
            self.marks.fetch_and(!gone, SeqCst);
        }
        last
    }

    /// The entry's marks are elsewhere from now on.
    pub fn set_marks(&mut self, marks: &'t AtomicU16) {
        self.marks = marks;
    }
}
