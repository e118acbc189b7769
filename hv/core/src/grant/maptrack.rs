//! What a domain has mapped of others' frames, by the handle it was given.
//!
//! Handles are indices into a table that grows up to the domain's limit and whose free places
//! form a list, so a handle costs the same however many there are. A handle says nothing about
//! the page-table entry it is for: that is found again by the address the guest gives at the
//! unmap, and believed only if it maps the recorded frame.

use alloc::vec::Vec;

use hv_machine::frame::{Frame, Work, Writable};
use shared_abi::grant_table::{
    GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY, GNTST_BAD_HANDLE, GNTST_NO_SPACE, GrantHandle,
};
use shared_abi::{DomId, GrantRef, Mfn};

use super::map::Unmapping;

/// Handles in a maptrack frame, the unit of the domain's limit (`max_maptrack_frames` of
/// domctl's createdomain): what Xen has.
pub const HANDLES_PER_FRAME: u32 = 256;
const NONE: u32 = u32::MAX;

/// One mapping.
pub(super) struct Track<'t> {
    pub granter: DomId,
    pub gref: GrantRef,
    pub mfn: Mfn,
    /// As in the request, of which count: `GNTMAP_readonly` and `GNTMAP_contains_pte`, and the parts it
    /// still has, `GNTMAP_host_map` and `GNTMAP_device_map`.
    pub flags: u32,
    /// A writable device mapping's use of the frame.
    pub device_use: Option<Frame<'t, Writable>>,
}

impl Track<'_> {
    /// Whether the processor, or device, mapping is still there.
    #[inline]
    pub fn has(&self, part: u32) -> bool {
        self.flags & part != 0
    }

    /// Whether it is writable.
    #[inline]
    pub fn write(&self) -> bool {
        self.flags & GNTMAP_READONLY == 0
    }
}

/// A mapping's parts; while one is left, the grant is in use.
pub(super) const PARTS: u32 = GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP;

pub(super) enum Place<'t> {
    Free { next: u32 },
    Used(Track<'t>),
}

/// A handle that is free until it is filled.
pub(super) struct Vacancy<'a, 't> {
    handle: GrantHandle,
    place: &'a mut Place<'t>,
    free: &'a mut u32,
    used: &'a mut u32,
}

impl<'t> Vacancy<'_, 't> {
    /// Records a mapping under the handle.
    pub fn fill(self, track: Track<'t>) -> GrantHandle {
        if let Place::Free { next } = *self.place {
            *self.free = next;
            *self.used += 1;
        }
        *self.place = Place::Used(track);
        self.handle
    }
}

/// A handle that may be in use.
pub(super) struct Occupied<'a, 't> {
    handle: GrantHandle,
    place: &'a mut Place<'t>,
    free: &'a mut u32,
    used: &'a mut u32,
}

impl<'t> Occupied<'_, 't> {
    /// Its mapping.
    ///
    /// # Errors
    /// `GNTST_BAD_HANDLE`.
    #[inline]
    pub fn track(&mut self) -> Result<&mut Track<'t>, i16> {
        match self.place {
            Place::Used(track) => Ok(track),
            Place::Free { .. } => Err(GNTST_BAD_HANDLE),
        }
    }

    /// Frees it, if it is in use.
    #[inline]
    pub fn remove(self) -> Option<Track<'t>> {
        if !matches!(self.place, Place::Used(_)) {
            return None;
        }
        let free = Place::Free { next: *self.free };
        let Place::Used(track) = core::mem::replace(self.place, free) else { return None };
        *self.free = self.handle;
        *self.used -= 1;
        Some(track)
    }
}

/// A domain's mappings.
pub struct Maptrack<'t> {
    runs: Vec<Vec<Place<'t>>>,
    free: u32,
    limit: u32,
    used: u32,
    /// Where [`Maptrack::release_next`] stands.
    released: u32,
}

impl<'t> Maptrack<'t> {
    /// No mappings, and at most `max_frames` × [`HANDLES_PER_FRAME`].
    pub const fn new(max_frames: u32) -> Self {
        let limit = max_frames.saturating_mul(HANDLES_PER_FRAME);
        Maptrack { runs: Vec::new(), free: NONE, limit, used: 0, released: 0 }
    }

    /// How many mappings there are.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// A free handle, for a mapping about to be made.
    ///
    /// # Errors
    /// `GNTST_NO_SPACE` at the limit or when memory is exhausted.
    pub(super) fn vacancy(&mut self) -> Result<Vacancy<'_, 't>, i16> {
        if self.free == NONE {
            self.add_run()?;
        }
        let Maptrack { runs, free, used, .. } = self;
        let handle = *free;
        let run = runs.get_mut((handle / HANDLES_PER_FRAME) as usize).ok_or(GNTST_NO_SPACE)?;
        let place = run.get_mut((handle % HANDLES_PER_FRAME) as usize).ok_or(GNTST_NO_SPACE)?;
        Ok(Vacancy { handle, place, free, used })
    }

    fn add_run(&mut self) -> Result<(), i16> {
        let first = self.runs.len() as u32 * HANDLES_PER_FRAME;
        if first >= self.limit {
            return Err(GNTST_NO_SPACE);
        }
        self.runs.try_reserve(1).map_err(|_| GNTST_NO_SPACE)?;
        let mut run = Vec::new();
        run.try_reserve_exact(HANDLES_PER_FRAME as usize).map_err(|_| GNTST_NO_SPACE)?;
        let last = first + HANDLES_PER_FRAME - 1;
        run.extend((first..=last).map(|n| Place::Free { next: if n == last { NONE } else { n + 1 } }));
        self.runs.push(run);
        self.free = first;
        Ok(())
    }

    /// A handle that is to be freed, perhaps.
    ///
    /// # Errors
    /// `GNTST_BAD_HANDLE`.
    #[inline]
    pub(super) fn occupied(&mut self, handle: GrantHandle) -> Result<Occupied<'_, 't>, i16> {
        let Maptrack { runs, free, used, .. } = self;
        let run = runs.get_mut((handle / HANDLES_PER_FRAME) as usize).ok_or(GNTST_BAD_HANDLE)?;
        let place = run.get_mut((handle % HANDLES_PER_FRAME) as usize).ok_or(GNTST_BAD_HANDLE)?;
        Ok(Occupied { handle, place, free, used })
    }

    /// The domain whose frame a handle maps.
    ///
    /// # Errors
    /// `GNTST_BAD_HANDLE`.
    pub fn granter(&mut self, handle: GrantHandle) -> Result<DomId, i16> {
        self.occupied(handle)?.track().map(|track| track.granter)
    }

    /// Destruction: takes the next mapping out of the record, to be completed
    /// ([`Unmapping::complete`]) with its granter's table. Its page-table entry goes with the
    /// domain's page tables. The domain runs no more. `None` when all are gone; each call looks
    /// at 256 handles at most and may be the last before a continuation: `Err` says to ask again.
    #[allow(clippy::result_unit_err)]
    pub fn release_next(&mut self, work: &mut Work<'_>) -> Result<Option<Unmapping>, ()> {
        let end = self.runs.len() as u32 * HANDLES_PER_FRAME;
        for _ in 0..HANDLES_PER_FRAME {
            if self.used == 0 || self.released >= end {
                return Ok(None);
            }
            let handle = self.released;
            self.released += 1;
            if let Some(track) = self.occupied(handle).ok().and_then(Occupied::remove) {
                let gone = Unmapping::new(&track);
                if let Some(frame) = track.device_use {
                    frame.release(work);
                }
                return Ok(Some(gone));
            }
        }
        Err(())
    }
}
