//! `grant_table_op`: batches of grant operations. Each element has a status of its own; a continuation goes
//! on at the element where it stopped.

use super::should_yield;
use crate::access;
use crate::domain::grants::{All, complete, status};
use crate::domain::{Current, Domain, find};
use crate::error::{HcResult, Stop};
use crate::grant::{self, Copies, Failure, GrantTable, Map, Space, Unmap, Unmapped, Unmapping};
use crate::mm::flush::{What, Whom, flush};
use crate::mm::{frames, with_rights};
use alloc::sync::Arc;
use arrayvec::ArrayVec;
use hv_machine::frame::{FlushDue, FrameTable, Work};
use hv_machine::guest_mem::{self, List};
use shared_abi::errno::Errno;
use shared_abi::grant_table::*;
use shared_abi::memory::*;
use shared_abi::{DomId, GrantRef, GuestAddr, Mfn};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Unmaps that share one flush.
const UNMAP_BATCH: usize = 32;

/// `grant_table_op(cmd, list, count)`.
pub fn grant_table_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let mut rest = Rest { command: a[0], list: a[1], count: a[2] };
    let done = operate(cur, a[0] as u32, &mut rest);
    (a[0], a[1], a[2]) = (rest.command, rest.list, rest.count);
    done
}

/// What a call goes on with if it is not done.
pub(super) struct Rest {
    /// The command.
    pub command: u64,
    /// Where the first element is that is not done.
    pub list: u64,
    /// How many are not; of a call, the lower half of the register.
    pub count: u64,
}

/// `grant_table_op`'s command `cmd`.
#[inline(always)]
pub(super) fn operate(cur: &mut Current<'_>, cmd: u32, rest: &mut Rest) -> HcResult {
    let count = rest.count & 0xffff_ffff;
    if count > i32::MAX as u64 {
        return Err(Errno::EINVAL.into());
    }
    match cmd {
        GNTTABOP_MAP_GRANT_REF => maps(cur, rest, count),
        GNTTABOP_UNMAP_GRANT_REF => unmaps(cur, rest, count),
        GNTTABOP_COPY => copies(cur, rest, count),
        _ => others(cur, cmd, rest, count),
    }
}

/// The command in the first argument; what is above is where a flush of caches goes on.
const COMMAND: u32 = 0xfff;

/// What is not done for every packet or block.
#[inline(never)]
fn others(cur: &mut Current<'_>, cmd: u32, rest: &mut Rest, count: u64) -> HcResult {
    let list = GuestAddr(rest.list);
    if cmd > COMMAND && cmd & COMMAND != GNTTABOP_CACHE_FLUSH {
        return Err(Errno::EINVAL.into());
    }
    match cmd & COMMAND {
        GNTTABOP_UNMAP_AND_REPLACE => replaces(cur, rest, count),
        GNTTABOP_TRANSFER => batch::<_, 8>(cur, frames(), rest, count, |_, o: &mut GnttabTransfer| {
            o.status = grant::TRANSFER_STATUS;
            Ok(())
        }),
        GNTTABOP_SWAP_GRANT_REF => {
            batch::<_, 4>(cur, frames(), rest, count, |cur, o: &mut GnttabSwapGrantRef| {
                let r = cur.dom.grants.table.lock().swap(o.ref_a, o.ref_b);
                o.status = r.err().unwrap_or(GNTST_OKAY);
                Ok(())
            })
        }
        GNTTABOP_CACHE_FLUSH => cache_flush(cur, cmd, rest, count),
        GNTTABOP_SETUP_TABLE if count == 1 => setup_table(cur, list),
        GNTTABOP_QUERY_SIZE if count == 1 => query_size(cur, list),
        // Of these two there is one, whatever the count says.
        GNTTABOP_GET_VERSION => {
            let mut v: GnttabGetVersion = guest_mem::read(list)?;
            v.version = access::target(cur.dom, v.dom)?.grants.table.lock().version();
            guest_mem::write(list, &v)?;
            Ok(0)
        }
        GNTTABOP_SET_VERSION => {
            let mut v: GnttabSetVersion = guest_mem::read(list)?;
            let done = {
                let mut table = cur.dom.grants.table.lock();
                let done = table.set_version(v.version);
                v.version = table.version();
                done
            };
            guest_mem::write(list, &v)?;
            Ok(done.map(|()| 0)?)
        }
        GNTTABOP_GET_STATUS_FRAMES if count == 1 => get_status_frames(cur, list),
        GNTTABOP_SETUP_TABLE | GNTTABOP_QUERY_SIZE | GNTTABOP_GET_STATUS_FRAMES => Err(Errno::EINVAL.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Runs `one` on each element of the list; the last `ANSWER` bytes of it are the answer.
#[inline]
fn batch<T: FromBytes + IntoBytes + Immutable, const ANSWER: usize>(
    cur: &mut Current<'_>,
    frames: &FrameTable,
    rest: &mut Rest,
    count: u64,
    mut one: impl FnMut(&mut Current<'_>, &mut T) -> Result<(), Stop>,
) -> HcResult {
    let list = List::<T>::new(GuestAddr(rest.list), count)?;
    let mut op = T::new_zeroed();
    for i in 0..count {
        list.read(i, &mut op)?;
        let yields = i % 8 == 7 && should_yield(cur);
        let done = if yields || settle(cur, frames).is_err() { Err(Stop::Retry) } else { one(cur, &mut op) };
        if done == Err(Stop::Retry) {
            (rest.list, rest.count) = (list.address(i)?.0, count - i);
        }
        done?;
        list.write_end::<ANSWER>(i, &op)?;
    }
    Ok(0)
}

/// Before each operation: a full budget, and nothing left from the one before.
#[inline]
fn settle(cur: &mut Current<'_>, frames: &FrameTable) -> Result<(), Stop> {
    cur.cx.work.refill(Work::BUDGET);
    Ok(frames.settle(&mut cur.cx.work)?)
}

#[inline(never)]
fn maps(cur: &mut Current<'_>, rest: &mut Rest, count: u64) -> HcResult {
    let frames = frames();
    batch::<_, 16>(cur, frames, rest, count, |cur, o| map(cur, frames, o))
}

#[inline]
fn map(cur: &mut Current<'_>, frames: &'static FrameTable, o: &mut GnttabMapGrantRef) -> Result<(), Stop> {
    if o.flags & (GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP) == 0 {
        o.status = GNTST_BAD_GNTREF;
        return Ok(());
    }
    // By its number, if by any: the granting domain is another one, and `DOMID_SELF` none.
    let Some(granter) = find(o.dom) else {
        o.status = GNTST_BAD_DOMAIN;
        return Ok(());
    };
    let op = Map { gref: o.r#ref, flags: o.flags, host_addr: o.host_addr };
    let (dom, mut space) = space(cur, frames)?;
    let done = {
        let mut table = granter.grants.table.lock();
        let mut track = dom.grants.maptrack.lock();
        grant::map(&op, &mut table, &mut track, &mut space)
    };
    match done {
        Ok(m) => (o.status, o.handle, o.dev_bus_addr) = (GNTST_OKAY, m.handle, m.dev_bus_addr),
        Err(failure) => o.status = status(Err(failure))?,
    }
    Ok(())
}

/// The caller, and its side of a mapping.
#[inline]
fn space<'a>(
    cur: &'a mut Current<'_>,
    frames: &'static FrameTable,
) -> Result<(&'a Domain, Space<'a, 'static>), Stop> {
    let root = cur.cx.cpu.kernel_root().ok_or(Errno::EINVAL)?;
    Ok((cur.dom, Space { frames, root, dom: cur.dom.id, work: &mut cur.cx.work }))
}

/// Mappings that are gone from page tables: translations are to be flushed, once for all, before their uses of
/// grants end. [End](Gone::end) it.
struct Gone<'d> {
    /// Where they were mapped.
    dom: &'d Domain,
    due: Option<FlushDue>,
    all: ArrayVec<Unmapping, UNMAP_BATCH>,
}

impl<'d> Gone<'d> {
    fn new(dom: &'d Domain) -> Gone<'d> {
        Gone { dom, due: None, all: ArrayVec::new() }
    }

    /// Takes up what an unmap did; its status.
    #[inline]
    fn add(&mut self, done: Result<Unmapped, Failure>) -> Result<i16, Stop> {
        status(done.map(|Unmapped { gone, due }| {
            self.due = due.or(self.due);
            self.all.extend(gone);
            if self.all.is_full() {
                self.end();
            }
        }))
    }

    /// Flushes, and ends the uses.
    #[inline(never)]
    fn end(&mut self) {
        // The translations are where its vcpus are: a CPU that runs others has dropped them.
        if let Some(FlushDue) = self.due.take() {
            flush(self.dom, Whom::All, What::All);
        }
        self.all.iter().for_each(|gone| complete(*gone));
        self.all.clear();
    }
}

#[inline(never)]
fn unmaps(cur: &mut Current<'_>, rest: &mut Rest, count: u64) -> HcResult {
    let (mut gone, frames) = (Gone::new(cur.dom), frames());
    let done = batch::<_, 4>(cur, frames, rest, count, |cur, o: &mut GnttabUnmapGrantRef| {
        let op = Unmap { handle: o.handle, host_addr: o.host_addr, dev_bus_addr: o.dev_bus_addr };
        let (dom, mut space) = space(cur, frames)?;
        let done = grant::unmap(&op, &mut dom.grants.maptrack.lock(), &mut space);
        o.status = gone.add(done)?;
        Ok(())
    });
    gone.end();
    done
}

fn replaces(cur: &mut Current<'_>, rest: &mut Rest, count: u64) -> HcResult {
    let (mut gone, frames) = (Gone::new(cur.dom), frames());
    let done = batch::<_, 4>(cur, frames, rest, count, |cur, o: &mut GnttabUnmapAndReplace| {
        let op = Unmap { handle: o.handle, host_addr: o.host_addr, dev_bus_addr: 0 };
        let (dom, mut space) = space(cur, frames)?;
        let done = with_rights(dom, dom.id, |rights| {
            grant::replace(&op, o.new_addr, &mut dom.grants.maptrack.lock(), &mut space, rights)
        });
        o.status = gone.add(done)?;
        Ok(())
    });
    gone.end();
    done
}

#[inline(never)]
fn copies(cur: &mut Current<'_>, rest: &mut Rest, count: u64) -> HcResult {
    let frames = frames();
    let mut copies = Copies::new(cur.dom.id, frames, All(cur.dom));
    let done = batch::<_, 4>(cur, frames, rest, count, |cur, o: &mut GnttabCopy| {
        o.status = status(copies.copy(o, &mut cur.cx.work))?;
        Ok(())
    });
    copies.end(&mut cur.cx.work);
    done
}

/// The domain that a request about a table names, or its status.
fn owner(cur: &Current<'_>, dom: DomId) -> Result<Arc<Domain>, i16> {
    access::target(cur.dom, dom).map_err(|e| match e {
        Errno::EPERM => GNTST_PERMISSION_DENIED,
        _ => GNTST_BAD_DOMAIN,
    })
}

fn setup_table(cur: &mut Current<'_>, list: GuestAddr) -> HcResult {
    let mut op: GnttabSetupTable = guest_mem::read(list)?;
    // A list that can't be a guest's is an error, one that isn't there a status.
    List::<u64>::new(op.frame_list, op.nr_frames.into())?;
    let done = owner(cur, op.dom).and_then(|d| {
        d.grants.table.lock().grow(op.nr_frames)?;
        tell(&d, GrantTable::frame, 0..op.nr_frames, op.frame_list).map_err(|_| GNTST_BAD_VIRT_ADDR)
    });
    op.status = done.err().unwrap_or(GNTST_OKAY);
    guest_mem::write(list, &op)?;
    Ok(0)
}

fn get_status_frames(cur: &mut Current<'_>, list: GuestAddr) -> HcResult {
    let mut op: GnttabGetStatusFrames = guest_mem::read(list)?;
    List::<u64>::new(op.frame_list, op.nr_frames.into())?;
    let done = owner(cur, op.dom).and_then(|d| {
        if op.nr_frames > d.grants.table.lock().status_count() {
            return Err(GNTST_GENERAL_ERROR);
        }
        tell(&d, GrantTable::status_frame, 0..op.nr_frames, op.frame_list).map_err(|_| GNTST_BAD_VIRT_ADDR)
    });
    op.status = done.err().unwrap_or(GNTST_OKAY);
    guest_mem::write(list, &op)?;
    Ok(0)
}

fn query_size(cur: &mut Current<'_>, list: GuestAddr) -> HcResult {
    let mut op: GnttabQuerySize = guest_mem::read(list)?;
    op.status = match owner(cur, op.dom) {
        Err(status) => status,
        Ok(d) => {
            let table = d.grants.table.lock();
            (op.nr_frames, op.max_nr_frames) = (table.frame_count(), table.max_frames());
            GNTST_OKAY
        }
    };
    guest_mem::write(list, &op)?;
    Ok(0)
}

/// Entries that a request to flush looks at in one go.
const LOOK: u32 = 1 << 12;

/// `GNTTABOP_cache_flush`: of one's own memory, or what another granted.
fn cache_flush(cur: &mut Current<'_>, cmd: u32, rest: &mut Rest, count: u64) -> HcResult {
    let mut next = GrantRef(cmd & !COMMAND);
    let r = batch::<_, 0>(cur, frames(), rest, count, |cur, o: &mut GnttabCacheFlush| {
        flush_one(cur, o, &mut next)?;
        next = GrantRef(0);
        Ok(())
    });
    rest.command = u64::from(cmd & COMMAND | next.0);
    r
}

/// Flushes, unless another domain's entries are to be looked at from `next` on before.
fn flush_one(cur: &mut Current<'_>, o: &GnttabCacheFlush, next: &mut GrantRef) -> Result<(), Stop> {
    let invalid = Err(Errno::EINVAL.into());
    if u32::from(o.offset) + u32::from(o.length) > 4096
        || o.offset == 4096
        || o.op & !(GNTTAB_CACHE_INVAL | GNTTAB_CACHE_CLEAN) != 0
    {
        return invalid;
    }
    if o.length == 0 || o.op == 0 {
        return if next.0 == 0 { Ok(()) } else { Err(Errno::EILSEQ.into()) };
    }
    let mfn = Mfn(o.a >> 12);
    let Some(word) = frames().word(mfn) else { return invalid };
    let owner = word.owner();
    let frame = frames().get(mfn, owner).map_err(|_| Errno::EPERM)?;
    if owner != cur.dom.id {
        let owner = find(owner).ok_or(Errno::EPERM)?;
        let found = owner.grants.table.lock().find_use(mfn, cur.dom.id, *next, LOOK);
        match found {
            None => return invalid,
            Some(Err(more)) => {
                *next = more;
                return Err(Stop::Retry);
            }
            Some(Ok(())) => {}
        }
    }
    // To drop what was written is not for guests; caches are coherent otherwise, and writing back is always allowed.
    if o.op == GNTTAB_CACHE_INVAL {
        return Err(Errno::EOPNOTSUPP.into());
    }
    frame.view().write_back(o.offset.into(), o.length.into());
    Ok(())
}

/// `XENMEM_acquire_resource` of a grant table: its frames' numbers, for a toolstack to map.
pub(super) fn acquire_resource(cur: &mut Current<'_>, arg: GuestAddr) -> HcResult {
    let mut r: MemAcquireResource = guest_mem::read(arg)?;
    if r.pad != 0 {
        return Err(Errno::EINVAL.into());
    }
    // Another's.
    if r.domid == cur.dom.id {
        return Err(Errno::EPERM.into());
    }
    let d = find(r.domid).ok_or(Errno::ESRCH)?;
    access::control_only(cur.dom)?;
    if r.r#type != XENMEM_RESOURCE_GRANT_TABLE {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let of_status = match u16::try_from(r.id) {
        Ok(XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED) => false,
        Ok(XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS) => true,
        _ => return Err(Errno::EINVAL.into()),
    };
    let mut table = d.grants.table.lock();
    let max = if of_status { table.max_statuses() } else { table.max_frames() };
    if r.frame_list.0 == 0 {
        if r.nr_frames != 0 {
            return Err(Errno::EINVAL.into());
        }
        r.nr_frames = max;
        drop(table);
        guest_mem::write(arg, &r)?;
        return Ok(0);
    }
    let first = u32::try_from(r.frame).map_err(|_| Errno::EINVAL)?;
    let end = first.checked_add(r.nr_frames).filter(|end| *end <= max).ok_or(Errno::EINVAL)?;
    if of_status {
        if table.version() != 2 {
            return Err(Errno::EINVAL.into());
        }
        table.grow_statuses(end).map_err(|_| Errno::EINVAL)?;
        drop(table);
        return Ok(tell(&d, GrantTable::status_frame, first..end, r.frame_list).map(|()| 0)?);
    }
    table.grow(end).map_err(|_| Errno::EINVAL)?;
    drop(table);
    Ok(tell(&d, GrantTable::frame, first..end, r.frame_list).map(|()| 0)?)
}

/// Writes the numbers of a table's frames to a list of the caller's. The table's lock is only taken for each: nothing
/// that may fault is done under it.
fn tell(
    d: &Domain,
    number: impl Fn(&GrantTable<'static>, u32) -> Option<Mfn>,
    which: core::ops::Range<u32>,
    list: GuestAddr,
) -> Result<(), Errno> {
    for (at, i) in which.enumerate() {
        let mfn = number(&d.grants.table.lock(), i).ok_or(Errno::EINVAL)?;
        guest_mem::write_at(list, at as u64, &mfn.0).map_err(|_| Errno::EFAULT)?;
    }
    Ok(())
}
