//! Grants both ways: our frames to others, others' frames and bytes to us.
//!
//! The hardest decision is what happens when we end a grant that the peer still has mapped: the
//! frame must not be reused, and a peer must not be able to stop us either. So ending never
//! waits: the grant goes to a quarantine that holds reference and frame, looked through again
//! when references run short. What a hostile peer can cost us is the frames we gave it.

use crate::hypercall::{Result, call, check};
use crate::local::Local;
use crate::memory::{Pages, mfn_of};
use crate::shared::Shared;
use crate::window::{Mapping, Range};
use alloc::{rc::Rc, vec::Vec};
use core::marker::PhantomData;
use core::mem::offset_of;
use core::ops::Deref;
use shared_abi::grant_table::*;
use shared_abi::xen::hypercall as nr;
use shared_abi::{DomId, Errno, Gfn, GrantRef, GuestAddr, Mfn, PAGE_SIZE};

/// What a peer may do with a frame, or we with a peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read only.
    ReadOnly,
}

const ENTRY: usize = size_of::<GrantEntryV1>();
const FRAME: usize = offset_of!(GrantEntryV1, frame);
const DOMID: usize = offset_of!(GrantEntryV1, domid);
const IN_USE: u16 = GTF_READING | GTF_WRITING;

/// Our grant table: its frames, mapped, and which references are free.
#[derive(Default)]
struct Table {
    frames: Vec<Frame>,
    free: Vec<u32>,
    quarantine: Vec<(u32, Rc<Pages>)>,
    full: bool,
}

/// One mapped frame of the table.
struct Frame(#[cfg(target_os = "none")] Mapping, #[cfg(not(target_os = "none"))] Pages);

impl Deref for Frame {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

static TABLE: Local<Table> = Local::new(Table::default);

fn grant_op<T>(cmd: u32, args: &mut [T]) -> Result<()> {
    let args = [cmd as usize, args.as_mut_ptr().expose_provenance(), args.len(), 0, 0];
    // SAFETY: the callers here pass the command's structures; addresses in them are of ranges of
    // the window or of lists that outlive the call.
    check(unsafe { call(nr::GRANT_TABLE_OP, args) }).map(drop)
}

fn status(status: i16) -> Result<()> {
    match status {
        GNTST_OKAY => Ok(()),
        GNTST_BAD_DOMAIN => Err(Errno::ESRCH),
        GNTST_PERMISSION_DENIED => Err(Errno::EPERM),
        GNTST_BAD_GNTREF => Err(Errno::ENOENT),
        GNTST_NO_SPACE | GNTST_NO_DEVICE_SPACE => Err(Errno::ENOSPC),
        GNTST_EAGAIN => Err(Errno::EAGAIN),
        _ => Err(Errno::EINVAL),
    }
}

impl Table {
    fn entry(&self, reference: u32) -> (&Shared, usize) {
        let at = reference as usize;
        (&self.frames[at / ENTRIES_PER_PAGE_V1], at % ENTRIES_PER_PAGE_V1 * ENTRY)
    }

    /// Ends a grant unless the peer has it mapped.
    fn end(&self, reference: u32) -> bool {
        let (frame, at) = self.entry(reference);
        loop {
            let flags = frame.load_u16(at);
            if flags & IN_USE != 0 {
                return false;
            }
            if frame.exchange_u16(at, flags, GTF_INVALID).is_ok() {
                return true;
            }
        }
    }

    fn reap(&mut self) {
        let held = core::mem::take(&mut self.quarantine);
        for (reference, pages) in held {
            if self.end(reference) {
                self.free.push(reference);
            } else {
                self.quarantine.push((reference, pages));
            }
        }
    }

    fn take(&mut self) -> Result<u32> {
        if self.free.is_empty() {
            self.reap();
        }
        if self.free.is_empty() {
            self.grow()?;
        }
        self.free.pop().ok_or(Errno::ENOSPC)
    }

    /// Adds one frame to the table.
    fn grow(&mut self) -> Result<()> {
        if self.full {
            return Err(Errno::ENOSPC);
        }
        let count = self.frames.len() + 1;
        let frame = match table_frame(count) {
            Ok(frame) => frame,
            Err(errno) => {
                self.full = true;
                return Err(errno);
            }
        };
        self.frames.push(frame);
        let first = ((count - 1) * ENTRIES_PER_PAGE_V1) as u32;
        let first_free = first.max(GNTTAB_NR_RESERVED_ENTRIES);
        self.free.extend((first_free..first + ENTRIES_PER_PAGE_V1 as u32).rev());
        Ok(())
    }
}

/// Sets the table up with `count` frames and maps the last.
#[cfg(target_os = "none")]
fn table_frame(count: usize) -> Result<Frame> {
    let mut list = alloc::vec![0u64; count];
    let mut setup = [GnttabSetupTable {
        dom: DomId::SELF,
        nr_frames: count as u32,
        frame_list: GuestAddr(list.as_mut_ptr().expose_provenance() as u64),
        ..Default::default()
    }];
    grant_op(GNTTABOP_SETUP_TABLE, &mut setup)?;
    status(setup[0].status)?;
    // The frames belong to the hypervisor, which lets their domain map them.
    Mapping::own_grant_frame(Mfn(list[count - 1])).map(Frame)
}

#[cfg(not(target_os = "none"))]
fn table_frame(count: usize) -> Result<Frame> {
    if count > 2 { Err(Errno::ENOSPC) } else { Pages::new(1).map(Frame) }
}

/// A frame of ours offered to another domain. Ends on drop; while the peer still has the frame
/// mapped it is held back.
#[derive(Debug)]
pub struct Grant {
    reference: u32,
    pages: Rc<Pages>,
}

impl Grant {
    /// Offers page `index` of `pages` to `domid`. `ENOSPC` when all references are in use.
    pub fn offer(pages: &Rc<Pages>, index: usize, domid: DomId, access: Access) -> Result<Grant> {
        let frame = u32::try_from(pages.mfn(index).0).map_err(|_| Errno::ERANGE)?;
        TABLE.with(|table| {
            let reference = table.take()?;
            let (entry, at) = table.entry(reference);
            entry.store_u32(at + FRAME, frame);
            entry.store_u16(at + DOMID, domid.0);
            let read_only = if access == Access::ReadOnly { GTF_READONLY } else { 0 };
            entry.store_u16(at, GTF_PERMIT_ACCESS | read_only);
            Ok(Grant { reference, pages: pages.clone() })
        })
    }

    /// What the peer names it by.
    pub fn reference(&self) -> GrantRef {
        GrantRef(self.reference)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        TABLE.with(|table| {
            if table.end(self.reference) {
                table.free.push(self.reference);
            } else {
                table.quarantine.push((self.reference, self.pages.clone()));
            }
        });
    }
}

/// Frames of another domain, mapped by their references until drop, in the order given.
#[derive(Debug)]
pub struct GrantMapping {
    memory: Shared,
    range: Range,
    mapped: Vec<(GrantHandle, Mfn)>,
}

impl Deref for GrantMapping {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.memory
    }
}

impl GrantMapping {
    /// Maps all of `references` or none. Fails with what Xen says about the first bad one.
    pub fn map(domid: DomId, references: &[GrantRef], access: Access) -> Result<GrantMapping> {
        let range = Range::new(references.len())?;
        let read_only = if access == Access::ReadOnly { GNTMAP_READONLY } else { 0 };
        let mut ops: Vec<_> = references
            .iter()
            .enumerate()
            .map(|(index, reference)| GnttabMapGrantRef {
                host_addr: (range.address() + index * PAGE_SIZE) as u64,
                flags: GNTMAP_HOST_MAP | read_only,
                r#ref: *reference,
                dom: domid,
                // Xen overwrites it; what it did not reach counts as failed.
                status: GNTST_GENERAL_ERROR,
                ..Default::default()
            })
            .collect();
        let mut result = grant_op(GNTTABOP_MAP_GRANT_REF, &mut ops);
        let mut mapped = Vec::with_capacity(ops.len());
        for (index, op) in ops.iter().enumerate() {
            match status(op.status) {
                Ok(()) => mapped.push((index, op.handle, Mfn(op.dev_bus_addr >> 12))),
                Err(errno) => result = result.and(Err(errno)),
            }
        }
        if let Err(errno) = result {
            unmap(&range, mapped.iter().map(|(index, handle, _)| (*index, *handle)));
            return Err(errno);
        }
        // SAFETY: every page of the range is mapped until drop unmaps them.
        let memory = unsafe { range.shared() };
        Ok(GrantMapping { memory, range, mapped: mapped.into_iter().map(|(_, h, m)| (h, m)).collect() })
    }

    /// The machine frame behind page `index`, for a device to read or write.
    pub fn mfn(&self, index: usize) -> Mfn {
        self.mapped[index].1
    }
}

impl Drop for GrantMapping {
    fn drop(&mut self) {
        unmap(&self.range, self.mapped.iter().enumerate().map(|(index, (handle, _))| (index, *handle)));
    }
}

fn unmap(range: &Range, mapped: impl Iterator<Item = (usize, GrantHandle)>) {
    let mut ops: Vec<_> = mapped
        .map(|(index, handle)| GnttabUnmapGrantRef {
            host_addr: (range.address() + index * PAGE_SIZE) as u64,
            handle,
            ..Default::default()
        })
        .collect();
    if ops.is_empty() {
        return;
    }
    let result = grant_op(GNTTABOP_UNMAP_GRANT_REF, &mut ops);
    assert!(
        result.is_ok() && ops.iter().all(|op| op.status == GNTST_OKAY),
        "Xen refused to unmap what it mapped: the range cannot be reused"
    );
}

/// Copies between private memory and frames that others granted, in one hypercall.
///
/// The buffers are borrowed until [`CopyBatch::run`]; each piece that lies in one page on both
/// sides is one operation of the hypercall.
#[derive(Default)]
pub struct CopyBatch<'a> {
    ops: Vec<GnttabCopy>,
    /// For each copy that was added, where its operations end.
    ends: Vec<usize>,
    buffers: PhantomData<&'a mut [u8]>,
}

impl<'a> CopyBatch<'a> {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds: read `to.len()` bytes from `offset` in the frame that `domid` granted as
    /// `reference`. `EINVAL`, and nothing added, if the bytes pass the frame's end.
    pub fn read(&mut self, domid: DomId, reference: GrantRef, offset: usize, to: &'a mut [u8]) -> Result<()> {
        let len = to.len();
        self.pieces(to.as_mut_ptr(), len, offset, |local, remote, len| GnttabCopy {
            source: GnttabCopyPtr::by_ref(domid, reference, remote),
            dest: local,
            len,
            flags: GNTCOPY_SOURCE_GREF,
            status: GNTST_GENERAL_ERROR,
            ..Default::default()
        })
    }

    /// Adds: write `from` to `offset` in the frame that `domid` granted as `reference`. `EINVAL`,
    /// and nothing added, if the bytes pass the frame's end.
    pub fn write(&mut self, domid: DomId, reference: GrantRef, offset: usize, from: &'a [u8]) -> Result<()> {
        self.pieces(from.as_ptr(), from.len(), offset, |local, remote, len| GnttabCopy {
            source: local,
            dest: GnttabCopyPtr::by_ref(domid, reference, remote),
            len,
            flags: GNTCOPY_DEST_GREF,
            status: GNTST_GENERAL_ERROR,
            ..Default::default()
        })
    }

    fn pieces(
        &mut self,
        start: *const u8,
        len: usize,
        offset: usize,
        op: impl Fn(GnttabCopyPtr, u16, u16) -> GnttabCopy,
    ) -> Result<()> {
        if offset > PAGE_SIZE || len > PAGE_SIZE - offset {
            return Err(Errno::EINVAL);
        }
        let mut done = 0;
        while done < len {
            let at = start.wrapping_add(done);
            let in_page = at.addr() % PAGE_SIZE;
            let piece = (PAGE_SIZE - in_page).min(len - done);
            let frame = Gfn(mfn_of(at).0);
            let local = GnttabCopyPtr::by_frame(DomId::SELF, frame, in_page as u16);
            self.ops.push(op(local, (offset + done) as u16, piece as u16));
            done += piece;
        }
        self.ends.push(self.ops.len());
        Ok(())
    }

    /// Copies. One result for each copy that was added, in their order.
    pub fn run(mut self) -> impl Iterator<Item = Result<()>> + use<> {
        let called = if self.ops.is_empty() { Ok(()) } else { grant_op(GNTTABOP_COPY, &mut self.ops) };
        let mut start = 0;
        self.ends.into_iter().map(move |end| {
            let ops = &self.ops[core::mem::replace(&mut start, end)..end];
            called.and_then(|()| ops.iter().try_for_each(|op| status(op.status)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(reference: GrantRef) -> u16 {
        TABLE.with(|t| {
            let (entry, at) = t.entry(reference.0);
            entry.load_u16(at)
        })
    }

    fn set_flags(reference: GrantRef, flags: u16) {
        TABLE.with(|t| {
            let (entry, at) = t.entry(reference.0);
            entry.store_u16(at, flags)
        })
    }

    #[test]
    fn a_grant_in_use_keeps_its_frame_until_the_peer_lets_go() {
        let pages = Rc::new(Pages::new(1).unwrap());
        let grant = Grant::offer(&pages, 0, DomId(3), Access::ReadOnly).unwrap();
        let reference = grant.reference();
        assert!(reference.0 >= GNTTAB_NR_RESERVED_ENTRIES);
        assert_eq!(flags(reference), GTF_PERMIT_ACCESS | GTF_READONLY);
        set_flags(reference, GTF_PERMIT_ACCESS | GTF_READING);
        drop(grant);
        assert_eq!(flags(reference), GTF_PERMIT_ACCESS | GTF_READING);
        assert_eq!(Rc::strong_count(&pages), 2);
        set_flags(reference, GTF_PERMIT_ACCESS);
        TABLE.with(|t| t.reap());
        assert_eq!(flags(reference), GTF_INVALID);
        assert_eq!(Rc::strong_count(&pages), 1);
    }

    #[test]
    fn references_run_out_and_come_back() {
        let pages = Rc::new(Pages::new(1).unwrap());
        let mut grants = Vec::new();
        let end = loop {
            match Grant::offer(&pages, 0, DomId(1), Access::ReadWrite) {
                Ok(grant) => grants.push(grant),
                Err(errno) => break errno,
            }
        };
        assert_eq!((grants.len(), end), (1024 - 8, Errno::ENOSPC));
        let mut numbers: Vec<_> = grants.iter().map(|g| g.reference().0).collect();
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), grants.len());
        grants.pop();
        assert!(Grant::offer(&pages, 0, DomId(1), Access::ReadWrite).is_ok());
    }
}
