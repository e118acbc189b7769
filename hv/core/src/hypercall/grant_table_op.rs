//! `grant_table_op`: batches of grant operations. Each element has a status of its own; a continuation goes
//! on at the element where it stopped.

use super::should_yield;
use crate::access;
use crate::domain::grants::{All, complete, status};
use crate::domain::{Current, Domain, find};
use crate::error::{HcResult, Stop};
use crate::grant::{self, Copies, Failure, Map, Space, Unmap, Unmapped, Unmapping};
use crate::mm::{frames, with_rights};
use arrayvec::ArrayVec;
use hv_machine::frame::{FlushDue, FrameTable, Work};
use hv_machine::guest_mem::{self, List};
use shared_abi::errno::Errno;
use shared_abi::grant_table::*;
use shared_abi::memory::*;
use shared_abi::GuestAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Unmaps that share one flush.
const UNMAP_BATCH: usize = 32;

/// `grant_table_op(cmd, list, count)`.
pub fn grant_table_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let mut rest = Rest { list: a[1], count: a[2] };
    let done = operate(cur, a[0] as u32, &mut rest);
    (a[1], a[2]) = (rest.list, rest.count);
    done
}

/// What a call goes on with if it is not done.
pub(super) struct Rest {
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

/// What is not done for every packet or block.
#[inline(never)]
fn others(cur: &mut Current<'_>, cmd: u32, rest: &mut Rest, count: u64) -> HcResult {
    let list = GuestAddr(rest.list);
    match cmd {
        GNTTABOP_UNMAP_AND_REPLACE => replaces(cur, rest, count),
        GNTTABOP_TRANSFER => batch::<_, 8>(cur, frames(), rest, count, |_, o: &mut GnttabTransfer| {
            o.status = grant::TRANSFER_STATUS;
            Ok(())
        }),
        GNTTABOP_SWAP_GRANT_REF => batch::<_, 4>(cur, frames(), rest, count, |cur, o: &mut GnttabSwapGrantRef| {
            let r = cur.dom.grants.table.lock().swap(o.ref_a, o.ref_b);
            o.status = r.err().unwrap_or(GNTST_OKAY);
            Ok(())
        }),
        GNTTABOP_SETUP_TABLE if count == 1 => setup_table(cur, list),
        GNTTABOP_QUERY_SIZE if count == 1 => query_size(cur, list),
        GNTTABOP_GET_VERSION if count == 1 => {
            let mut v: GnttabGetVersion = guest_mem::read(list)?;
            access::target(cur.dom, v.dom)?;
            v.version = 1;
            guest_mem::write(list, &v)?;
            Ok(0)
        }
        GNTTABOP_SET_VERSION if count == 1 => {
            let mut v: GnttabSetVersion = guest_mem::read(list)?;
            v.version = grant::set_version(v.version)?;
            guest_mem::write(list, &v)?;
            Ok(0)
        }
        GNTTABOP_GET_STATUS_FRAMES if count == 1 => {
            let mut v: GnttabGetStatusFrames = guest_mem::read(list)?;
            let known = access::target(cur.dom, v.dom).is_ok();
            v.status = if known { grant::STATUS_FRAMES_STATUS } else { GNTST_BAD_DOMAIN };
            guest_mem::write(list, &v)?;
            Ok(0)
        }
        GNTTABOP_SETUP_TABLE | GNTTABOP_QUERY_SIZE | GNTTABOP_GET_VERSION | GNTTABOP_SET_VERSION
        | GNTTABOP_GET_STATUS_FRAMES => Err(Errno::EINVAL.into()),
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
            *rest = Rest { list: list.address(i)?.0, count: count - i };
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
        Err(Failure::Status(s)) => o.status = s,
        Err(Failure::Again) => return Err(Stop::Retry),
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
struct Gone {
    frames: &'static FrameTable,
    due: Option<FlushDue>,
    all: ArrayVec<Unmapping, UNMAP_BATCH>,
}

impl Gone {
    fn new() -> Gone {
        Gone { frames: frames(), due: None, all: ArrayVec::new() }
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
        if let Some(due) = self.due.take() {
            self.frames.flush(due);
        }
        self.all.iter().for_each(|gone| complete(*gone));
        self.all.clear();
    }
}

#[inline(never)]
fn unmaps(cur: &mut Current<'_>, rest: &mut Rest, count: u64) -> HcResult {
    let mut gone = Gone::new();
    let frames = gone.frames;
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
    let mut gone = Gone::new();
    let frames = gone.frames;
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

fn setup_table(cur: &mut Current<'_>, list: GuestAddr) -> HcResult {
    let mut op: GnttabSetupTable = guest_mem::read(list)?;
    op.status = match access::target(cur.dom, op.dom) {
        Err(Errno::EPERM) => GNTST_PERMISSION_DENIED,
        Err(_) => GNTST_BAD_DOMAIN,
        Ok(d) => {
            let grown = d.grants.table.lock().grow(op.nr_frames);
            match grown {
                Err(s) => s,
                Ok(()) => {
                    tell_frames(&d, 0..op.nr_frames, op.frame_list)?;
                    GNTST_OKAY
                }
            }
        }
    };
    guest_mem::write(list, &op)?;
    Ok(0)
}

fn query_size(cur: &mut Current<'_>, list: GuestAddr) -> HcResult {
    let mut op: GnttabQuerySize = guest_mem::read(list)?;
    op.status = match access::target(cur.dom, op.dom) {
        Err(Errno::EPERM) => GNTST_PERMISSION_DENIED,
        Err(_) => GNTST_BAD_DOMAIN,
        Ok(d) => {
            let table = d.grants.table.lock();
            (op.nr_frames, op.max_nr_frames) = (table.frame_count(), table.max_frames());
            GNTST_OKAY
        }
    };
    guest_mem::write(list, &op)?;
    Ok(0)
}

/// `XENMEM_acquire_resource` of a grant table: its frames' numbers, for a toolstack to map.
pub(super) fn acquire_resource(cur: &mut Current<'_>, arg: GuestAddr) -> HcResult {
    let mut r: MemAcquireResource = guest_mem::read(arg)?;
    if r.pad != 0 {
        return Err(Errno::EINVAL.into());
    }
    let d = access::control(cur.dom, r.domid)?;
    if r.r#type != XENMEM_RESOURCE_GRANT_TABLE {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if r.id != u32::from(XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED) {
        return Err(Errno::EINVAL.into());
    }
    let mut table = d.grants.table.lock();
    if r.frame_list.0 == 0 {
        if r.nr_frames != 0 {
            return Err(Errno::EINVAL.into());
        }
        r.nr_frames = table.max_frames();
        drop(table);
        guest_mem::write(arg, &r)?;
        return Ok(0);
    }
    let first = u32::try_from(r.frame).map_err(|_| Errno::EINVAL)?;
    let end = first.checked_add(r.nr_frames).filter(|e| *e <= table.max_frames()).ok_or(Errno::EINVAL)?;
    table.grow(end).map_err(|_| Errno::ENOMEM)?;
    drop(table);
    tell_frames(&d, first..end, r.frame_list)?;
    Ok(0)
}

/// Writes the numbers of a table's frames to a list of the caller's. A table never shrinks, so its lock is only taken
/// for each: nothing that may fault is done under it.
fn tell_frames(d: &Domain, which: core::ops::Range<u32>, list: GuestAddr) -> Result<(), Stop> {
    for (at, i) in which.enumerate() {
        let mfn = d.grants.table.lock().frame(i).ok_or(Errno::EINVAL)?;
        guest_mem::write_at(list, at as u64, &mfn.0)?;
    }
    Ok(())
}
