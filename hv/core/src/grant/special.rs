//! Copies from or to what only version 2 grants: a part of a frame, or another domain's grant, passed on.
//!
//! They are rare, so each is done by itself: both sides are claimed, and given back when the bytes are copied.
//!
//! Of a grant that is passed on, what the other domain granted is in use first, in the name of the domain that
//! passes it on, then that domain's own entry. It may not be passed on twice: a chain, or a circle, has no end (XSA-226).

use arrayvec::ArrayVec;
use hv_machine::frame::{FrameTable, Work};
use shared_abi::grant_table::{
    GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTST_BAD_COPY_ARG, GNTST_GENERAL_ERROR, GnttabCopy,
};
use shared_abi::{DomId, GrantRef, Mfn};

use super::Failure;
use super::active::{Use, Want, Window};
use super::copy::{Name, Tables, not_to_be_read, not_to_be_written, own};

/// One side of a copy: a frame, and which of its bytes.
struct Side<D> {
    mfn: Mfn,
    owner: DomId,
    part: Option<Window>,
    write: bool,
    /// The grants in use for it.
    uses: ArrayVec<(D, GrantRef), 2>,
}

/// Does one copy of domain `me`.
///
/// # Errors
/// As [`super::Copies::copy`]; `GNTST_GENERAL_ERROR` also for bytes that are not granted.
#[cold]
#[inline(never)]
pub fn copy<'t, T: Tables<'t>>(
    me: DomId,
    frames: &'t FrameTable,
    tables: T,
    op: GnttabCopy,
    work: &mut Work<'_>,
) -> Result<(), Failure> {
    let source = Name::new(&op.source, op.flags & GNTCOPY_SOURCE_GREF != 0);
    let dest = Name::new(&op.dest, op.flags & GNTCOPY_DEST_GREF != 0);
    let source = claim(me, tables, source, false)?;
    let done = claim(me, tables, dest, true).and_then(|dest| {
        let done = copy_between(me, frames, &source, &dest, &op, work);
        dest.end(tables);
        done
    });
    source.end(tables);
    done
}

fn copy_between<D>(
    me: DomId,
    frames: &FrameTable,
    source: &Side<D>,
    dest: &Side<D>,
    op: &GnttabCopy,
    work: &mut Work<'_>,
) -> Result<(), Failure> {
    let (from, to, bytes) = (usize::from(op.source.offset), usize::from(op.dest.offset), usize::from(op.len));
    let read = frames.get(source.mfn, source.owner).map_err(not_to_be_read)?;
    let done = match frames.get_writable_by(me, dest.mfn, dest.owner, work) {
        Err(stop) => Err(not_to_be_written(stop, frames, dest.mfn, me, !dest.uses.is_empty())),
        Ok(written) => {
            let done = if from + bytes > 4096 || to + bytes > 4096 {
                Err(GNTST_BAD_COPY_ARG.into())
            } else if source.has(from, bytes) && dest.has(to, bytes) {
                written.page().copy_from(to, read.view(), from, bytes);
                Ok(())
            } else {
                Err(GNTST_GENERAL_ERROR.into())
            };
            written.release(work);
            done
        }
    };
    read.release(work);
    done
}

impl<D> Side<D> {
    fn has(&self, from: usize, bytes: usize) -> bool {
        self.part.is_none_or(|part| part.holds(from, bytes))
    }

    fn end<'t, T: Tables<'t, Domain = D>>(self, tables: T) {
        // The domain that passes a grant on first: it is in use for nothing then.
        for (granter, gref) in self.uses.into_iter().rev() {
            tables.with(&granter, |table| table.unpin(gref, self.write));
            tables.ended(granter);
        }
    }
}

fn claim<'t, T: Tables<'t>>(
    me: DomId,
    tables: T,
    name: Name,
    write: bool,
) -> Result<Side<T::Domain>, Failure> {
    if !name.by_ref {
        let mfn = own(tables, name)?;
        return Ok(Side { mfn, owner: me, part: None, write, uses: ArrayVec::new() });
    }
    let granter = name.granter(tables)?;
    let using = Use { by: me, write, want: Want::Any };
    let (gref, mut uses) = (name.gref(), ArrayVec::new());
    let pinned = tables.with(&granter, |table| {
        let owner = table.owner();
        table.pin(gref, using).and_then(|active| Ok((active.frame()?.mfn(), owner, active.part)))
    });
    let (mfn, owner, part) = match pinned {
        Err(Failure::Through(dom, gref)) => {
            claim_through(tables, &granter, name.gref(), using, (dom, gref), &mut uses)?
        }
        other => other?,
    };
    uses.push((granter, gref));
    Ok(Side { mfn, owner, part, write, uses })
}

/// Claims what the entry `gref` passes on, and that entry, which is not yet in `uses`.
fn claim_through<'t, T: Tables<'t>>(
    tables: T,
    granter: &T::Domain,
    gref: GrantRef,
    using: Use,
    through: (DomId, GrantRef),
    uses: &mut ArrayVec<(T::Domain, GrantRef), 2>,
) -> Result<(Mfn, DomId, Option<Window>), Failure> {
    let by = tables.with(granter, |table| table.owner());
    if through.0 == by || through.0 == DomId::SELF {
        return Err(GNTST_GENERAL_ERROR.into());
    }
    let beyond = tables.find(through.0).ok_or(GNTST_GENERAL_ERROR)?;
    let pinned = tables.with(&beyond, |table| {
        let active = table.pin(through.1, Use { by, ..using })?;
        Ok((active.frame()?.mfn(), through.0, active.part))
    });
    let seen = pinned.map_err(|failure| match failure {
        Failure::Through(..) => GNTST_GENERAL_ERROR.into(),
        other => other,
    })?;
    let done = tables.with(granter, |table| table.pin_through(gref, using, through, seen.2));
    if let Err(failure) = done {
        tables.with(&beyond, |table| table.unpin(through.1, using.write));
        tables.ended(beyond);
        return Err(failure);
    }
    uses.push((beyond, through.1));
    Ok(seen)
}
