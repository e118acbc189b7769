//! `grant_table_op`: batches of grant operations. Each element has a status of its own; a continuation goes
//! on at the element where it stopped.

use super::should_yield;
use crate::access;
use crate::domain::grants::{All, complete, status};
use crate::domain::{Current, Domain, find};
use crate::error::{HcResult, Stop};
use crate::grant::{self, Failure, Map, Space, Unmap};
use crate::mm::{frames, with_rights};
use hv_machine::frame::{FlushDue, Work};
use hv_machine::guest_mem;
use shared_abi::errno::Errno;
use shared_abi::grant_table::*;
use shared_abi::memory::*;
use shared_abi::GuestAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Unmaps that share one flush.
const UNMAP_BATCH: usize = 32;

/// `grant_table_op(cmd, list, count)`.
pub fn grant_table_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let (list, count) = (GuestAddr(a[1]), a[2] & 0xffff_ffff);
    if count > i32::MAX as u64 {
        return Err(Errno::EINVAL.into());
    }
    match a[0] as u32 {
        GNTTABOP_MAP_GRANT_REF => batch(cur, a, list, count, map),
        GNTTABOP_UNMAP_GRANT_REF => unmap_batch(cur, a, list, count, |o: &GnttabUnmapGrantRef| Unmap {
            handle: o.handle,
            host_addr: o.host_addr,
            dev_bus_addr: o.dev_bus_addr,
            new_addr: None,
        }, |o, s| o.status = s),
        GNTTABOP_UNMAP_AND_REPLACE => unmap_batch(cur, a, list, count, |o: &GnttabUnmapAndReplace| Unmap {
            handle: o.handle,
            host_addr: o.host_addr,
            dev_bus_addr: 0,
            new_addr: Some(o.new_addr),
        }, |o, s| o.status = s),
        GNTTABOP_COPY => batch(cur, a, list, count, copy),
        GNTTABOP_TRANSFER => batch(cur, a, list, count, |_, o: &mut GnttabTransfer| {
            o.status = grant::TRANSFER_STATUS;
            Ok(())
        }),
        GNTTABOP_SWAP_GRANT_REF => batch(cur, a, list, count, |cur, o: &mut GnttabSwapGrantRef| {
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
            v.status = grant::STATUS_FRAMES_STATUS;
            guest_mem::write(list, &v)?;
            Ok(0)
        }
        GNTTABOP_SETUP_TABLE | GNTTABOP_QUERY_SIZE | GNTTABOP_GET_VERSION | GNTTABOP_SET_VERSION
        | GNTTABOP_GET_STATUS_FRAMES => Err(Errno::EINVAL.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Runs `one` on each element and writes it back.
fn batch<T: FromBytes + IntoBytes + Immutable>(
    cur: &mut Current<'_>,
    a: &mut [u64; 6],
    list: GuestAddr,
    count: u64,
    mut one: impl FnMut(&mut Current<'_>, &mut T) -> Result<(), Stop>,
) -> HcResult {
    for i in 0..count {
        let at = guest_mem::offset::<T>(list, i)?;
        let yields = i > 0 && i % 8 == 0 && should_yield(cur);
        let mut op: T = guest_mem::read(at)?;
        cur.cx.work.refill(Work::BUDGET);
        let done = if yields || frames().settle(&mut cur.cx.work).is_err() { Err(Stop::Retry) } else { one(cur, &mut op) };
        if done == Err(Stop::Retry) {
            (a[1], a[2]) = (at.0, count - i);
            return Err(Stop::Retry);
        }
        done?;
        guest_mem::write(at, &op)?;
    }
    Ok(0)
}

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
    let dom = cur.dom;
    let Some(root) = cur.cx.kernel_root.as_ref() else { return Err(Errno::EINVAL.into()) };
    let work = &mut cur.cx.work;
    let op = Map { gref: o.r#ref, flags: o.flags, host_addr: o.host_addr };
    let done = with_rights(dom, dom.id, |rights| {
        let mut space = Space { frames: frames(), root, rights: *rights, work };
        let mut table = granter.grants.table.lock();
        let mut track = dom.grants.maptrack.lock();
        grant::map(&op, &mut table, &mut track, &mut space)
    });
    match done {
        Ok(m) => (o.status, o.handle, o.dev_bus_addr) = (GNTST_OKAY, m.handle, m.dev_bus_addr),
        Err(Failure::Status(s)) => o.status = s,
        Err(Failure::Again) => return Err(Stop::Retry),
    }
    Ok(())
}

/// Unmaps in groups: each group's translations are flushed once, then the grants' uses end.
fn unmap_batch<T: FromBytes + IntoBytes + Immutable>(
    cur: &mut Current<'_>,
    a: &mut [u64; 6],
    list: GuestAddr,
    count: u64,
    request: impl Fn(&T) -> Unmap,
    set_status: impl Fn(&mut T, i16),
) -> HcResult {
    let mut i = 0;
    while i < count {
        let mut due: Option<FlushDue> = None;
        let mut pending: arrayvec::ArrayVec<_, UNMAP_BATCH> = arrayvec::ArrayVec::new();
        let mut stop = None;
        while i < count && !pending.is_full() && stop.is_none() {
            let step = (|| -> Result<(), Stop> {
                let at = guest_mem::offset::<T>(list, i)?;
                let mut op: T = guest_mem::read(at)?;
                cur.cx.work.refill(Work::BUDGET);
                frames().settle(&mut cur.cx.work)?;
                let dom = cur.dom;
                let root = cur.cx.kernel_root.as_ref().ok_or(Errno::EINVAL)?;
                let work = &mut cur.cx.work;
                let done = with_rights(dom, dom.id, |rights| {
                    let mut space = Space { frames: frames(), root, rights: *rights, work };
                    grant::unmap(&request(&op), &mut dom.grants.maptrack.lock(), &mut space)
                });
                let s = match done {
                    Ok((u, d)) => {
                        pending.push(u);
                        due = match (due, d) {
                            (Some(x), Some(y)) => Some(x.merge(y)),
                            (x, y) => x.or(y),
                        };
                        GNTST_OKAY
                    }
                    Err(Failure::Status(s)) => s,
                    Err(Failure::Again) => return Err(Stop::Retry),
                };
                set_status(&mut op, s);
                guest_mem::write(at, &op)?;
                Ok(())
            })();
            match step {
                Ok(()) => i += 1,
                Err(e) => stop = Some(e),
            }
        }
        if let Some(d) = due {
            frames().flush(d);
        }
        pending.into_iter().for_each(complete);
        match stop {
            None if i < count && should_yield(cur) => stop = Some(Stop::Retry),
            _ => {}
        }
        if let Some(e) = stop {
            if e == Stop::Retry {
                (a[1], a[2]) = (guest_mem::offset::<T>(list, i)?.0, count - i);
            }
            return Err(e);
        }
    }
    Ok(0)
}

fn copy(cur: &mut Current<'_>, o: &mut GnttabCopy) -> Result<(), Stop> {
    let r = grant::copy(o, cur.dom.id, frames(), &All(cur.dom), &mut cur.cx.work);
    o.status = status(r)?;
    Ok(())
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
