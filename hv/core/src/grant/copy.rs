//! `GNTTABOP_copy`: bytes between two frames, each the caller's own or granted to it.

use hv_machine::frame::{Frame, FrameTable, Held, Work, Writable};
use shared_abi::grant_table::{
    GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTST_BAD_COPY_ARG, GNTST_BAD_PAGE, GNTST_GENERAL_ERROR,
    GNTST_PERMISSION_DENIED, GnttabCopy, GnttabCopyPtr,
};
use shared_abi::{DomId, Mfn};

use super::Failure;
use super::table::GrantTable;
use super::v1::Use;

/// Finds domains' grant tables.
pub trait Tables<'t> {
    /// Calls `act` with the locked grant table of `dom`, or of the caller for `DOMID_SELF`.
    ///
    /// # Errors
    /// `GNTST_BAD_DOMAIN` when there is no such domain, `GNTST_PERMISSION_DENIED` when the caller
    /// has no business with it; what `act` returns.
    fn with<R>(
        &self,
        dom: DomId,
        act: impl FnOnce(&mut GrantTable<'t>) -> Result<R, Failure>,
    ) -> Result<R, Failure>;
}

/// One side of a copy while it goes on: its frame, and the grant to end.
struct Side<'t, S: hv_machine::frame::State> {
    frame: Frame<'t, S>,
    grant: Option<GnttabCopyPtr>,
}

fn using(by: DomId, write: bool) -> Use {
    Use { by, write, map: false }
}

/// What a side by frame number must be: the caller's own.
fn own(ptr: &GnttabCopyPtr) -> Result<Mfn, Failure> {
    if ptr.domid != DomId::SELF {
        return Err(GNTST_PERMISSION_DENIED.into());
    }
    Ok(Mfn(ptr.gmfn().0))
}

fn source<'t>(
    op: &GnttabCopy,
    me: DomId,
    frames: &'t FrameTable,
    tables: &impl Tables<'t>,
) -> Result<Side<'t, Held>, Failure> {
    let ptr = op.source;
    if op.flags & GNTCOPY_SOURCE_GREF == 0 {
        let mfn = own(&ptr)?;
        let frame = frames.get(mfn, me).map_err(|stop| Failure::stop(stop, GNTST_BAD_PAGE))?;
        return Ok(Side { frame, grant: None });
    }
    let frame = tables.with(ptr.domid, |table| {
        let mfn = table.pin(ptr.gref(), using(me, false), 1)?;
        let frame = table.frame_table().get(mfn, table.owner());
        frame.map_err(|stop| {
            table.unpin(ptr.gref(), false, 1);
            Failure::stop(stop, GNTST_BAD_PAGE)
        })
    })?;
    Ok(Side { frame, grant: Some(ptr) })
}

fn destination<'t>(
    op: &GnttabCopy,
    me: DomId,
    frames: &'t FrameTable,
    tables: &impl Tables<'t>,
    work: &mut Work<'t>,
) -> Result<Side<'t, Writable>, Failure> {
    let ptr = op.dest;
    if op.flags & GNTCOPY_DEST_GREF == 0 {
        let mfn = own(&ptr)?;
        let frame = frames.get_writable(mfn, me, work).map_err(|stop| {
            // Not one's own: a bad page. One's own, but in use as a page table: an error.
            let is_own = frames.get(mfn, me).is_ok();
            Failure::stop(stop, if is_own { GNTST_GENERAL_ERROR } else { GNTST_BAD_PAGE })
        })?;
        return Ok(Side { frame, grant: None });
    }
    let frame = tables.with(ptr.domid, |table| {
        let mfn = table.pin(ptr.gref(), using(me, true), 1)?;
        let frame = table.frame_table().get_writable(mfn, table.owner(), work);
        frame.map_err(|stop| {
            table.unpin(ptr.gref(), true, 1);
            Failure::stop(stop, GNTST_GENERAL_ERROR)
        })
    })?;
    Ok(Side { frame, grant: Some(ptr) })
}

/// Ends the use of a granted side. Its domain was there a moment ago, and stays while an entry of
/// its table is in use.
fn end<'t>(grant: Option<GnttabCopyPtr>, write: bool, tables: &impl Tables<'t>) {
    if let Some(ptr) = grant {
        let _ = tables.with(ptr.domid, |table| {
            table.unpin(ptr.gref(), write, 1);
            Ok(())
        });
    }
}

/// Does one copy for domain `me`.
///
/// # Errors
/// `GNTST_BAD_COPY_ARG` when a side leaves its frame; `GNTST_PERMISSION_DENIED` for another's
/// frame by number; `GNTST_BAD_PAGE` for a frame that is not whose it should be; else as for a
/// mapping. [`Failure::Again`] has copied nothing.
pub fn copy<'t>(
    op: &GnttabCopy,
    me: DomId,
    frames: &'t FrameTable,
    tables: &impl Tables<'t>,
    work: &mut Work<'t>,
) -> Result<(), Failure> {
    let src = source(op, me, frames, tables)?;
    let dst = match destination(op, me, frames, tables, work) {
        Ok(dst) => dst,
        Err(failure) => {
            drop(src.frame);
            end(src.grant, false, tables);
            return Err(failure);
        }
    };
    let bytes = usize::from(op.len);
    let (from, to) = (usize::from(op.source.offset), usize::from(op.dest.offset));
    let within = from + bytes <= 4096 && to + bytes <= 4096;
    if within {
        dst.frame.page().copy_from(to, src.frame.view(), from, bytes);
    }
    dst.frame.release(work);
    end(dst.grant, true, tables);
    drop(src.frame);
    end(src.grant, false, tables);
    if within { Ok(()) } else { Err(GNTST_BAD_COPY_ARG.into()) }
}
