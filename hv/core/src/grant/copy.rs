//! `GNTTABOP_copy`: bytes between two frames, each the caller's own or granted to it.
//!
//! Requests come in lists of which many name the same frame as the one before (the pieces of a packet, of
//! a page): a side stays claimed until a request names another, or the list ends ([`Copies::end`]). While
//! it is claimed, the grant is in use, as a mapping's is.

use hv_machine::frame::{self, Frame, FrameTable, Stop, Work, Writable};
use hv_machine::ram::View;
use shared_abi::grant_table::{
    GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTST_BAD_COPY_ARG, GNTST_BAD_DOMAIN, GNTST_BAD_PAGE,
    GNTST_GENERAL_ERROR, GNTST_PERMISSION_DENIED, GnttabCopy, GnttabCopyPtr,
};
use shared_abi::{DomId, GrantRef, Mfn};

use super::active::{Active, Use, Want};
use super::table::GrantTable;
use super::{Failure, special};

/// Finds domains' grant tables.
pub trait Tables<'t>: Copy {
    /// A domain that was found.
    type Domain;

    /// The domain `dom`, or the caller for `DOMID_SELF`.
    fn find(&self, dom: DomId) -> Option<Self::Domain>;

    /// Calls `act` with the domain's locked grant table.
    fn with<R>(&self, dom: &Self::Domain, act: impl FnOnce(&mut GrantTable<'t>) -> R) -> R;

    /// Uses of the domain's grants have ended: if it was destroyed meanwhile, they may be what it waited for.
    fn ended(&self, dom: Self::Domain);
}

/// How a request names one side's frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    /// The reference, or the frame's number.
    number: u64,
    dom: DomId,
    pub by_ref: bool,
}

impl Name {
    #[inline]
    pub fn new(ptr: &GnttabCopyPtr, by_ref: bool) -> Name {
        Name { number: ptr.gmfn().0, dom: ptr.domid, by_ref }
    }

    #[inline]
    pub fn gref(self) -> GrantRef {
        GrantRef(self.number as u32)
    }

    #[inline]
    pub fn granter<'t, T: Tables<'t>>(self, tables: T) -> Result<T::Domain, Failure> {
        Ok(tables.find(self.dom).ok_or(GNTST_BAD_DOMAIN)?)
    }
}

/// A claimed source. Its frame stays by the use of its grant, or by a reference to one's own.
struct Source<'t, D> {
    name: Name,
    view: View<'t>,
    held: Held<'t, D>,
}

enum Held<'t, D> {
    Granted(D),
    Own(Frame<'t, frame::Held>),
}

/// A claimed destination.
struct Dest<'t, D> {
    name: Name,
    frame: Frame<'t, Writable>,
    /// Who granted it, if it was named by reference.
    granter: Option<D>,
}

/// The copies of one list. [End](Copies::end) it.
pub struct Copies<'t, T: Tables<'t>> {
    me: DomId,
    frames: &'t FrameTable,
    tables: T,
    source: Option<Source<'t, T::Domain>>,
    dest: Option<Dest<'t, T::Domain>>,
}

impl<'t, T: Tables<'t>> Copies<'t, T> {
    /// Of domain `me`.
    pub fn new(me: DomId, frames: &'t FrameTable, tables: T) -> Self {
        Copies { me, frames, tables, source: None, dest: None }
    }

    /// Does one copy.
    ///
    /// # Errors
    /// `GNTST_BAD_COPY_ARG` when a side leaves its frame; `GNTST_PERMISSION_DENIED` for another's
    /// frame by number; `GNTST_BAD_PAGE` for a frame that is not whose it should be;
    /// `GNTST_BAD_DOMAIN`; else as for a mapping. [`Failure::Again`] has copied nothing.
    #[inline]
    pub fn copy(&mut self, op: &GnttabCopy, work: &mut Work<'_>) -> Result<(), Failure> {
        match self.copy_frames(op, work) {
            Err(Failure::Special) => special::copy(self.me, self.frames, self.tables, *op, work),
            done => done,
        }
    }

    /// Does one between whole frames.
    #[inline(always)]
    fn copy_frames(&mut self, op: &GnttabCopy, work: &mut Work<'_>) -> Result<(), Failure> {
        let source = Name::new(&op.source, op.flags & GNTCOPY_SOURCE_GREF != 0);
        if self.source.as_ref().is_some_and(|side| side.name != source) {
            self.end_source(work);
        }
        if self.source.is_none() {
            self.claim_source(source)?;
        }
        let dest = Name::new(&op.dest, op.flags & GNTCOPY_DEST_GREF != 0);
        if self.dest.as_ref().is_some_and(|side| side.name != dest) {
            self.end_dest(work);
        }
        if self.dest.is_none() {
            self.claim_dest(dest, work)?;
        }
        let (Some(source), Some(dest)) = (&self.source, &self.dest) else { return Err(Failure::Again) };
        let (from, to, bytes) =
            (usize::from(op.source.offset), usize::from(op.dest.offset), usize::from(op.len));
        if from + bytes > 4096 || to + bytes > 4096 {
            return Err(GNTST_BAD_COPY_ARG.into());
        }
        dest.frame.page().copy_from(to, source.view, from, bytes);
        Ok(())
    }

    /// Ends what is still claimed.
    pub fn end(&mut self, work: &mut Work<'_>) {
        self.end_dest(work);
        self.end_source(work);
    }

    #[inline(always)]
    fn end_source(&mut self, work: &mut Work<'_>) {
        if let Some(source) = self.source.take() {
            match source.held {
                Held::Granted(granter) => self.end_use(source.name, false, granter),
                Held::Own(frame) => frame.release(work),
            }
        }
    }

    #[inline(always)]
    fn end_dest(&mut self, work: &mut Work<'_>) {
        if let Some(dest) = self.dest.take() {
            dest.frame.release(work);
            if let Some(granter) = dest.granter {
                self.end_use(dest.name, true, granter);
            }
        }
    }

    fn claim_source(&mut self, name: Name) -> Result<(), Failure> {
        let (view, held) = if name.by_ref {
            let granter = name.granter(self.tables)?;
            let using = Use { by: self.me, write: false, want: Want::Whole };
            let view = |active: &Active<'t>| Ok(active.frame()?.view());
            let view = self.tables.with(&granter, |table| table.pin(name.gref(), using).and_then(view))?;
            (view, Held::Granted(granter))
        } else {
            let frame = self.frames.get(own(self.tables, name)?, self.me).map_err(not_to_be_read)?;
            (frame.view(), Held::Own(frame))
        };
        self.source = Some(Source { name, view, held });
        Ok(())
    }

    fn claim_dest(&mut self, name: Name, work: &mut Work<'_>) -> Result<(), Failure> {
        let (mfn, owner, granter) = if name.by_ref {
            let granter = name.granter(self.tables)?;
            let using = Use { by: self.me, write: true, want: Want::Whole };
            let (mfn, owner) = self.tables.with(&granter, |table| {
                let owner = table.owner();
                table.pin(name.gref(), using).and_then(|active| Ok((active.frame()?.mfn(), owner)))
            })?;
            (mfn, owner, Some(granter))
        } else {
            (own(self.tables, name)?, self.me, None)
        };
        match self.frames.get_writable_by(self.me, mfn, owner, work) {
            Ok(frame) => {
                self.dest = Some(Dest { name, frame, granter });
                Ok(())
            }
            Err(stop) => {
                let refused = not_to_be_written(stop, self.frames, mfn, self.me, granter.is_some());
                if let Some(granter) = granter {
                    self.end_use(name, true, granter);
                }
                Err(refused)
            }
        }
    }

    #[inline]
    fn end_use(&self, name: Name, write: bool, granter: T::Domain) {
        self.tables.with(&granter, |table| table.unpin(name.gref(), write));
        self.tables.ended(granter);
    }
}

/// What a side by frame number must be: the caller's own. Whether another domain exists is said first.
#[inline(always)]
pub(super) fn own<'t, T: Tables<'t>>(tables: T, name: Name) -> Result<Mfn, Failure> {
    if name.dom == DomId::SELF {
        return Ok(Mfn(name.number));
    }
    name.granter(tables)?;
    Err(GNTST_PERMISSION_DENIED.into())
}

/// Why the caller's own source can't be read.
pub(super) fn not_to_be_read(stop: Stop) -> Failure {
    Failure::stop(stop, GNTST_BAD_PAGE)
}

/// Why a destination can't be written. Not one's own: a bad page. Granted or one's own, but in use as a page table: an
/// error.
#[cold]
pub(super) fn not_to_be_written(
    stop: Stop,
    frames: &FrameTable,
    mfn: Mfn,
    me: DomId,
    granted: bool,
) -> Failure {
    let is_error = granted || frames.get(mfn, me).is_ok();
    Failure::stop(stop, if is_error { GNTST_GENERAL_ERROR } else { GNTST_BAD_PAGE })
}
