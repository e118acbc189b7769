//! Grant tables wired to domains: who owns which, and what is left when one of them is destroyed.

use super::{Domain, find};
use crate::error::Stop;
use crate::grant::{Failure, GrantTable, Maptrack, Tables, Unmapping};
use crate::mm::frames;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use hv_machine::frame::Work;
use hv_machine::lock::{Mutex, rank};
use shared_abi::DomId;
use shared_abi::errno::Errno;
use shared_abi::grant_table::{GNTST_GENERAL_ERROR, GNTST_OKAY};

/// Limits of a domain's grants.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Frames of its table.
    pub frames: u32,
    /// Frames of records of its mappings, as Xen counts them.
    pub maptrack_frames: u32,
    /// The highest version of its table's entries.
    pub version: u32,
}

impl Limits {
    /// The most that a domain may get, and what it gets whose creator names nothing (Xen's defaults).
    pub const MOST: Limits = Limits { frames: 64, maptrack_frames: 1024, version: 2 };

    /// From domctl's createdomain, where negative numbers of frames mean the most.
    ///
    /// # Errors
    /// `EINVAL` of more than the most, and of a table without frames or version.
    pub fn from_config(table: i32, maptrack: i32, options: u32) -> Result<Limits, Errno> {
        let or = |v: i32, most: u32| u32::try_from(v).unwrap_or(most);
        let limits = Limits {
            frames: or(table, Self::MOST.frames),
            maptrack_frames: or(maptrack, Self::MOST.maptrack_frames),
            version: options,
        };
        let ok = (1..=Self::MOST.frames).contains(&limits.frames)
            && limits.maptrack_frames <= Self::MOST.maptrack_frames
            && (1..=Self::MOST.version).contains(&limits.version);
        if ok { Ok(limits) } else { Err(Errno::EINVAL) }
    }
}

/// A domain's grants: those it gave, and its mappings of others'.
pub struct Grants {
    /// Its table.
    pub table: Mutex<GrantTable<'static>>,
    /// Its mappings.
    pub maptrack: Mutex<Maptrack<'static>>,
}

impl Grants {
    /// An empty table for `owner`.
    pub fn new(owner: DomId, limits: Limits) -> Result<Grants, Errno> {
        let table = GrantTable::new(frames(), owner, limits.frames, limits.version);
        let table = table.map_err(|_| Errno::ENOMEM)?;
        Ok(Grants {
            table: Mutex::new(rank::GRANT, table),
            maptrack: Mutex::new(rank::MAPTRACK, Maptrack::new(limits.maptrack_frames)),
        })
    }
}

/// The status of a grant operation, or a reason to ask again.
pub fn status(r: Result<(), Failure>) -> Result<i16, Stop> {
    match r {
        Ok(()) => Ok(GNTST_OKAY),
        Err(Failure::Status(s)) => Ok(s),
        Err(Failure::Again) => Err(Stop::Retry),
        // (Neither comes so far.)
        Err(Failure::Special | Failure::Through(..)) => Ok(GNTST_GENERAL_ERROR),
    }
}

/// All domains' tables, as the caller finds them.
#[derive(Clone, Copy)]
pub struct All<'a>(pub &'a Arc<Domain>);

impl Tables<'static> for All<'_> {
    type Domain = Arc<Domain>;

    #[inline]
    fn find(&self, dom: DomId) -> Option<Arc<Domain>> {
        if dom == DomId::SELF || dom == self.0.id { Some(self.0.clone()) } else { find(dom) }
    }

    #[inline(always)]
    fn with<R>(&self, dom: &Arc<Domain>, act: impl FnOnce(&mut GrantTable<'static>) -> R) -> R {
        act(&mut dom.grants.table.lock())
    }

    #[inline]
    fn ended(&self, dom: Arc<Domain>) {
        ended(&dom);
    }
}

/// Uses of the domain's grants ended: it goes if that was the last thing it waited for.
fn ended(granter: &Domain) {
    if granter.dying.load(SeqCst) {
        super::lifecycle::finish(granter);
    }
}

/// Ends uses of a grant whose translations are flushed.
#[inline]
pub fn complete(u: Unmapping) {
    if let Some(granter) = find(u.granter) {
        u.complete(&mut granter.grants.table.lock());
        ended(&granter);
    }
}

/// Destruction: no new grants, and the domain's mappings of others' frames end. Its page tables are gone or
/// go; no CPU runs it, and switching away flushed what it had.
pub fn release(dom: &Domain, work: &mut Work<'static>) -> Result<(), Stop> {
    dom.grants.table.lock().set_dying();
    for _ in 0..1024 {
        let next = dom.grants.maptrack.lock().release_next(work);
        match next {
            Ok(Some(u)) => complete(u),
            Ok(None) => return Ok(()),
            Err(()) => return Err(Stop::Retry),
        }
    }
    Err(Stop::Retry)
}
