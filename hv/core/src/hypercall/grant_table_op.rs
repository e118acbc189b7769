//! `grant_table_op`: batches of grant operations. Each element has a status of its own; a continuation goes
//! on at the element where it stopped.

use super::should_yield;
use crate::access;
use crate::domain::grants::{All, complete, status};
use crate::domain::{Current, Domain, find};
use crate::error::{HcResult, Stop};
use crate::grant::{self, Copies, Failure, Map, Space, Unmap, Unmapping};
use crate::mm::{frames, with_rights};
use arrayvec::ArrayVec;
use hv_machine::frame::{FlushDue, Work};
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
        GNTTABOP_UNMAP_AND_REPLACE => unmap_batch(cur, rest, count, replace, |o, status| o.status = status),
        GNTTABOP_TRANSFER => batch::<_, 8>(cur, rest, count, |_, o: &mut GnttabTransfer| {
            o.status = grant::TRANSFER_STATUS;
            Ok(())
        }),
        GNTTABOP_SWAP_GRANT_REF => batch::<_, 4>(cur, rest, count, |cur, o: &mut GnttabSwapGrantRef| {
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
    rest: &mut Rest,
    count: u64,
    mut one: impl FnMut(&mut Current<'_>, &mut T) -> Result<(), Stop>,
) -> HcResult {
    let list = List::<T>::new(GuestAddr(rest.list), count)?;
    let mut op = T::new_zeroed();
    for i in 0..count {
        list.read(i, &mut op)?;
        let yields = i > 0 && i % 8 == 0 && should_yield(cur);
        let done = if yields || settle(cur).is_err() { Err(Stop::Retry) } else { one(cur, &mut op) };
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
fn settle(cur: &mut Current<'_>) -> Result<(), Stop> {
    cur.cx.work.refill(Work::BUDGET);
    Ok(frames().settle(&mut cur.cx.work)?)
}

#[inline(never)]
fn maps(cur: &mut Current<'_>, rest: &mut Rest, count: u64) -> HcResult {
    batch::<_, 16>(cur, rest, count, map)
}

#[inline]
fn map(cur: &mut Current<'_>, o: &mut GnttabMapGrantRef) -> Result<(), Stop> {
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
    let (dom, mut space) = space(cur)?;
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
fn space<'a>(cur: &'a mut Current<'_>) -> Result<(&'a Domain, Space<'a, 'static>), Stop> {
    let root = cur.cx.cpu.kernel_root().ok_or(Errno::EINVAL)?;
    Ok((cur.dom, Space { frames: frames(), root, dom: cur.dom.id, work: &mut cur.cx.work }))
}

/// The first step of an unmap: what is to end when translations are flushed.
type Unmapped = Result<(Unmapping, Option<FlushDue>), Failure>;

#[inline(never)]
fn unmaps(cur: &mut Current<'_>, rest: &mut Rest, count: u64) -> HcResult {
    unmap_batch(cur, rest, count, unmap, |o, status| o.status = status)
}

#[inline]
fn unmap(cur: &mut Current<'_>, o: &GnttabUnmapGrantRef) -> Result<Unmapped, Stop> {
    let op = Unmap { handle: o.handle, host_addr: o.host_addr, dev_bus_addr: o.dev_bus_addr };
    let (dom, mut space) = space(cur)?;
    Ok(grant::unmap(&op, &mut dom.grants.maptrack.lock(), &mut space))
}

fn replace(cur: &mut Current<'_>, o: &GnttabUnmapAndReplace) -> Result<Unmapped, Stop> {
    let op = Unmap { handle: o.handle, host_addr: o.host_addr, dev_bus_addr: 0 };
    let (dom, mut space) = space(cur)?;
    Ok(with_rights(dom, dom.id, |rights| {
        grant::replace(&op, o.new_addr, &mut dom.grants.maptrack.lock(), &mut space, rights)
    }))
}

/// Unmaps in groups: each group's translations are flushed once, then the grants' uses end.
#[inline]
fn unmap_batch<T: FromBytes + IntoBytes + Immutable>(
    cur: &mut Current<'_>,
    rest: &mut Rest,
    count: u64,
    one: impl Fn(&mut Current<'_>, &T) -> Result<Unmapped, Stop>,
    answer: impl Fn(&mut T, i16),
) -> HcResult {
    let list = List::new(GuestAddr(rest.list), count)?;
    let (mut op, mut i) = (T::new_zeroed(), 0);
    while i < count {
        let mut group = Group { due: None, uses: ArrayVec::new() };
        // Of so many requests, not of so many successes: who asks for a million impossible ones must not
        // keep the CPU for all of them.
        let end = count.min(i + UNMAP_BATCH as u64);
        let mut done = Ok(());
        while i < end && done.is_ok() {
            done = unmap_one(cur, &list, i, &mut op, &mut group, &one, &answer);
            i += u64::from(done.is_ok());
        }
        group.end();
        if done.is_ok() && i < count && should_yield(cur) {
            done = Err(Stop::Retry);
        }
        if done == Err(Stop::Retry) {
            *rest = Rest { list: list.address(i)?.0, count: count - i };
        }
        done?;
    }
    Ok(0)
}

#[inline]
fn unmap_one<T: FromBytes + IntoBytes + Immutable>(
    cur: &mut Current<'_>,
    list: &List<T>,
    i: u64,
    op: &mut T,
    group: &mut Group,
    one: &impl Fn(&mut Current<'_>, &T) -> Result<Unmapped, Stop>,
    answer: &impl Fn(&mut T, i16),
) -> Result<(), Stop> {
    list.read(i, op)?;
    settle(cur)?;
    let status = match one(cur, op)? {
        Ok((unmapping, due)) => {
            group.due = due.or(group.due);
            group.uses.push(unmapping);
            GNTST_OKAY
        }
        Err(Failure::Status(status)) => status,
        Err(Failure::Again) => return Err(Stop::Retry),
    };
    answer(op, status);
    Ok(list.write_end::<4>(i, op)?)
}

/// Unmappings whose first step is done.
struct Group {
    due: Option<FlushDue>,
    uses: ArrayVec<Unmapping, UNMAP_BATCH>,
}

impl Group {
    /// Flushes once for all, then ends their uses.
    #[inline]
    fn end(&self) {
        if let Some(due) = self.due {
            frames().flush(due);
        }
        self.uses.iter().for_each(|unmapping| complete(*unmapping));
    }
}

#[inline(never)]
fn copies(cur: &mut Current<'_>, rest: &mut Rest, count: u64) -> HcResult {
    let mut copies = Copies::new(cur.dom.id, frames(), All(cur.dom));
    let done = batch::<_, 4>(cur, rest, count, |cur, o: &mut GnttabCopy| {
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
