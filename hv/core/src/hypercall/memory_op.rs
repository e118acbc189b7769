//! `memory_op`: giving frames to domains and taking them back, and what the machine's memory looks like.
//!
//! Extents are done one by one; a continuation's progress is in the command's upper bits
//! (memory.h `MEMOP_EXTENT_SHIFT`), and what is returned is how many extents were done in all.

use super::should_yield;
use crate::access;
use crate::domain::{Current, Domain, MOST_E820, find};
use crate::error::{HcResult, Stop};
use crate::mm::{frames, work};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::sync::atomic::Ordering::SeqCst;
use hv_machine::boot::Kind;
use hv_machine::frame::{INVALID_M2P_ENTRY, Limit, Work};
use hv_machine::guest_mem;
use shared_abi::arch_x86::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use shared_abi::errno::Errno;
use shared_abi::memory::*;
use shared_abi::{DomId, GuestAddr, Mfn};

/// Largest extent that a domain may ask for: 2 MiB, or 1 GiB for the control domain, as Xen's defaults.
fn max_order(dom: &Domain) -> u32 {
    if dom.control { 18 } else { 9 }
}

/// Frames that no domain gets: 2 MiB, for the hypervisor's own small objects.
const RESERVE: u64 = 512;

/// `memory_op(cmd, arg)`.
pub fn memory_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let (cmd, start) = (a[0] as u32 & 63, a[0] >> MEMOP_EXTENT_SHIFT);
    let arg = GuestAddr(a[1]);
    let r = match cmd {
        XENMEM_INCREASE_RESERVATION | XENMEM_DECREASE_RESERVATION | XENMEM_POPULATE_PHYSMAP => {
            reservation(cur, cmd, start, arg)
        }
        XENMEM_EXCHANGE => return exchange(cur, arg),
        XENMEM_MAXIMUM_RAM_PAGE => return Ok(frames().frames()),
        XENMEM_CURRENT_RESERVATION | XENMEM_MAXIMUM_RESERVATION | XENMEM_MAXIMUM_GPFN => {
            let d: MemoryDomain = guest_mem::read(arg)?;
            let d = access::target(cur.dom, d.domid)?;
            return Ok(match cmd {
                XENMEM_CURRENT_RESERVATION => d.memory.total(),
                XENMEM_MAXIMUM_RESERVATION => d.memory.max(),
                _ => d
                    .shared
                    .page()
                    .load_u64(core::mem::offset_of!(shared_abi::xen::SharedInfo, arch))
                    .saturating_sub(1),
            });
        }
        XENMEM_MACHPHYS_MAPPING => {
            let m = MachphysMapping {
                v_start: MACH2PHYS_VIRT_START,
                v_end: MACH2PHYS_VIRT_END,
                max_mfn: frames().frames() - 1,
            };
            guest_mem::write(arg, &m)?;
            return Ok(0);
        }
        XENMEM_MACHPHYS_MFN_LIST | XENMEM_MACHPHYS_COMPAT_MFN_LIST => return machphys_list(cur, cmd, arg),
        XENMEM_MEMORY_MAP => return memory_map(cur, arg),
        XENMEM_MACHINE_MEMORY_MAP => return machine_memory_map(cur, arg),
        XENMEM_SET_MEMORY_MAP => return set_memory_map(cur, arg),
        XENMEM_ADD_TO_PHYSMAP | XENMEM_ADD_TO_PHYSMAP_BATCH | XENMEM_REMOVE_FROM_PHYSMAP => {
            // For translated guests; a PV guest's physmap is its own.
            let target = match cmd {
                XENMEM_ADD_TO_PHYSMAP => {
                    let p: AddToPhysmap = guest_mem::read(arg)?;
                    // Another domain's frame: in a batch only.
                    if p.space == XENMAPSPACE_GMFN_FOREIGN {
                        return Err(Errno::ENOSYS.into());
                    }
                    p.domid
                }
                XENMEM_ADD_TO_PHYSMAP_BATCH => {
                    let p: AddToPhysmapBatch = guest_mem::read(arg)?;
                    // A batch is a range of its own.
                    if u32::from(p.space) == XENMAPSPACE_GMFN_RANGE {
                        return Err(Errno::EOPNOTSUPP.into());
                    }
                    p.domid
                }
                _ => guest_mem::read::<RemoveFromPhysmap>(arg)?.domid,
            };
            access::target(cur.dom, target)?;
            return Err(Errno::EACCES.into());
        }
        XENMEM_CLAIM_PAGES => {
            let r: MemoryReservation = guest_mem::read(arg)?;
            if r.extent_start.0 != 0 || r.extent_order != 0 || r.mem_flags != 0 {
                return Err(Errno::EINVAL.into());
            }
            let d = find(r.domid).ok_or(Errno::EINVAL)?;
            access::control_only(cur.dom)?;
            if r.nr_extents == 0 {
                d.memory.release_claim();
                return Ok(0);
            }
            d.memory.claim(r.nr_extents, frames().free_frames().saturating_sub(RESERVE))?;
            // Its destruction may have looked for a claim before.
            if d.dying.load(SeqCst) {
                d.memory.release_claim();
            }
            return Ok(0);
        }
        XENMEM_GET_VNUMAINFO => {
            let [domain, zero]: [u16; 2] = guest_mem::read(arg)?;
            if zero != 0 {
                return Err(Errno::EINVAL.into());
            }
            access::target(cur.dom, DomId(domain))?;
            // no domain has NUMA nodes
            return Err(Errno::EOPNOTSUPP.into());
        }
        XENMEM_ACQUIRE_RESOURCE => return super::grant_table_op::acquire_resource(cur, arg),
        _ => Err(Errno::ENOSYS.into()),
    };
    match r {
        Ok((done, true)) => Ok(done),
        Ok((done, false)) => {
            a[0] = u64::from(cmd) | done << MEMOP_EXTENT_SHIFT;
            Err(Stop::Retry)
        }
        Err(e) => Err(e),
    }
}

/// The outcome of a list of extents: how many are done, and whether that is all there will be.
type Extents = Result<(u64, bool), Stop>;

fn reservation(cur: &mut Current<'_>, cmd: u32, start: u64, arg: GuestAddr) -> Extents {
    // Whatever is wrong with the request, the answer is how many extents are done.
    let Ok(r) = guest_mem::read::<MemoryReservation>(arg) else { return Ok((start, true)) };
    let count = r.nr_extents;
    if count > u64::from(u32::MAX) >> MEMOP_EXTENT_SHIFT || start >= count {
        return Ok((start, true));
    }
    let Ok(dom) = access::target(cur.dom, r.domid) else { return Ok((start, true)) };
    if r.extent_order > max_order(cur.dom) {
        return Ok((start, true));
    }
    cur.cx.work.refill(Work::BUDGET);
    for i in start..count {
        // After every eight frames, or every extent that is larger: those may have to be cleared.
        let due = i > start && ((i - start) << r.extent_order).is_multiple_of(8);
        if due && (i - start >= 256 || should_yield(cur)) {
            return Ok((i, false));
        }
        let step = match cmd {
            XENMEM_DECREASE_RESERVATION => decrease(cur, &dom, &r, i),
            _ => increase(&dom, &r, i, cmd == XENMEM_POPULATE_PHYSMAP),
        };
        match step {
            Ok(()) => {}
            Err(Stop::Retry) => return Ok((i, false)),
            // What was done is done: the caller learns how far it came.
            Err(_) => return Ok((i, true)),
        }
    }
    Ok((count, true))
}

fn limit(mem_flags: u32) -> Limit {
    match address_bits(mem_flags) {
        0 => Limit::Any,
        bits => Limit::AddressBits(bits),
    }
}

fn increase(dom: &Arc<Domain>, r: &MemoryReservation, i: u64, populate: bool) -> Result<(), Stop> {
    let list = r.extent_start;
    let n = 1u64 << r.extent_order;
    let gpfn: u64 = if populate { guest_mem::read_at(list, i)? } else { INVALID_M2P_ENTRY };
    if dom.dying.load(SeqCst) {
        return Err(Errno::EINVAL.into());
    }
    // The hypervisor's heap must always be able to grow.
    let free = frames().free_frames().saturating_sub(RESERVE);
    if free < n || !dom.memory.leaves_claims(n, free) || !dom.memory.charge(n) {
        return Err(Errno::ENOMEM.into());
    }
    let mfn = frames()
        .populate(dom.id, r.extent_order, limit(r.mem_flags))
        .inspect_err(|_| dom.memory.credit(n))?;
    dom.memory.use_claim(n);
    take_from_the_dying(dom, mfn, n)?;
    if populate {
        for k in 0..n {
            frames().m2p_set(Mfn(mfn.0 + k), gpfn.wrapping_add(k));
        }
    }
    // The caller may have asked not to be told (`increase` with no list).
    if list.0 != 0 || populate {
        guest_mem::write_at(list, i, &mfn.0)?;
    }
    Ok(())
}

fn decrease(cur: &mut Current<'_>, dom: &Arc<Domain>, r: &MemoryReservation, i: u64) -> Result<(), Stop> {
    let first: u64 = guest_mem::read_at(r.extent_start, i)?;
    let end = first.checked_add(1 << r.extent_order).ok_or(Errno::EINVAL)?;
    // What giving up page tables leaves to do is done before the next extent, not within one: half an extent can't
    // be reported, and a tree of tables is more than may be taken apart in one go.
    frames().settle(&mut cur.cx.work)?;
    for mfn in first..end {
        frames().disown(Mfn(mfn), dom.id, &mut cur.cx.work)?;
        dom.memory.credit(1);
    }
    Ok(())
}

/// Takes frames back that came to a domain after its destruction had looked for what it owns.
fn take_from_the_dying(dom: &Domain, mfn: Mfn, n: u64) -> Result<(), Stop> {
    if !dom.dying.load(SeqCst) {
        return Ok(());
    }
    for k in 0..n {
        // Or the destruction has found it.
        let _ = frames().disown(Mfn(mfn.0 + k), dom.id, &mut work());
    }
    Err(Errno::EINVAL.into())
}

/// `XENMEM_exchange`: frames of one size for frames of another, for instance single ones for a contiguous
/// run below 4 GiB. Each chunk is the larger of the two sizes.
fn exchange(cur: &mut Current<'_>, arg: GuestAddr) -> HcResult {
    let mut x: MemoryExchange = guest_mem::read(arg)?;
    let (in_order, out_order) = (x.r#in.extent_order, x.out.extent_order);
    if in_order > max_order(cur.dom) || out_order > max_order(cur.dom) || x.r#in.domid != x.out.domid {
        return Err(Errno::EPERM.into());
    }
    let frames_in = x.r#in.nr_extents.checked_shl(in_order).filter(|n| n >> in_order == x.r#in.nr_extents);
    let frames_out = x.out.nr_extents.checked_shl(out_order).filter(|n| n >> out_order == x.out.nr_extents);
    if frames_in.is_none() || frames_in != frames_out || x.nr_exchanged > x.r#in.nr_extents {
        return Err(Errno::EINVAL.into());
    }
    let dom = access::target(cur.dom, x.r#in.domid)?;
    let order = in_order.max(out_order);
    let in_per = 1u64 << (order - in_order);
    let out_per = 1u64 << (order - out_order);
    if !x.r#in.nr_extents.is_multiple_of(in_per) || !x.nr_exchanged.is_multiple_of(in_per) {
        return Err(Errno::EINVAL.into());
    }
    while x.nr_exchanged < x.r#in.nr_extents {
        let chunk = x.nr_exchanged / in_per;
        cur.cx.work.refill(Work::BUDGET);
        // Take the old frames, which nothing may refer to any more.
        let mut stolen = Vec::new();
        let taken = (|| -> Result<(), Stop> {
            stolen.try_reserve_exact((in_per << in_order) as usize).map_err(|_| Errno::ENOMEM)?;
            for e in 0..in_per {
                let first: u64 = guest_mem::read_at(x.r#in.extent_start, x.nr_exchanged + e)?;
                for k in 0..1u64 << in_order {
                    stolen.push(frames().steal(Mfn(first.checked_add(k).ok_or(Errno::EINVAL)?), dom.id)?);
                }
            }
            Ok(())
        })();
        // Allocate the new ones before the old ones are gone, so that an error leaves all as it was.
        let new = taken.and_then(|()| {
            let mut blocks = Vec::new();
            blocks.try_reserve_exact(out_per as usize).map_err(|_| Errno::ENOMEM)?;
            for _ in 0..out_per {
                blocks.push(frames().alloc(out_order, limit(x.out.mem_flags)).ok_or(Errno::ENOMEM)?);
            }
            Ok(blocks)
        });
        let blocks = match new {
            Ok(b) => b,
            Err(e) => {
                for frame in stolen {
                    let mfn = frame.mfn();
                    frame.restore();
                    let _ = take_from_the_dying(&dom, mfn, 1);
                }
                guest_mem::write(arg, &x)?;
                return Err(e);
            }
        };
        drop(stolen);
        // The old frames are gone: a list that can't be written loses numbers, not frames.
        let mut told = Ok(());
        for (e, block) in blocks.into_iter().enumerate() {
            let slot = chunk * out_per + e as u64;
            let gpfn: u64 = guest_mem::read_at(x.out.extent_start, slot).unwrap_or(INVALID_M2P_ENTRY);
            let Ok(mfn) = frames().assign(block, dom.id) else {
                dom.memory.credit(1 << out_order);
                continue;
            };
            for k in 0..1u64 << out_order {
                frames().m2p_set(Mfn(mfn.0 + k), gpfn.wrapping_add(k));
            }
            let written = guest_mem::write_at(x.out.extent_start, slot, &mfn.0).map_err(Stop::from);
            told = told.and(written).and(take_from_the_dying(&dom, mfn, 1 << out_order));
        }
        x.nr_exchanged += in_per;
        guest_mem::write(arg, &x)?;
        told?;
        if x.nr_exchanged < x.r#in.nr_extents && should_yield(cur) {
            return Err(Stop::Retry);
        }
    }
    Ok(0)
}

/// The frames of the M2P itself, one per 2 MiB: for tools that map it.
fn machphys_list(cur: &Current<'_>, cmd: u32, arg: GuestAddr) -> HcResult {
    access::control_only(cur.dom)?;
    if cmd == XENMEM_MACHPHYS_COMPAT_MFN_LIST {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let mut l: MachphysMfnList = guest_mem::read(arg)?;
    let m2p = crate::run::m2p_frames();
    let n = (m2p.end - m2p.start).div_ceil(512).min(l.max_extents.into());
    for i in 0..n {
        guest_mem::write_at(l.extent_start, i, &(m2p.start + i * 512))?;
    }
    l.nr_extents = n as u32;
    guest_mem::write(arg, &l)?;
    Ok(0)
}

fn write_map(arg: GuestAddr, entries: impl Iterator<Item = E820Entry> + Clone) -> HcResult {
    let mut m: MemoryMap = guest_mem::read(arg)?;
    let n = entries.clone().count();
    if (m.nr_entries as usize) < n && m.buffer.0 != 0 {
        return Err(Errno::EINVAL.into());
    }
    if m.buffer.0 != 0 {
        for (i, e) in entries.enumerate() {
            guest_mem::write_at(m.buffer, i as u64, &e)?;
        }
    }
    m.nr_entries = n as u32;
    guest_mem::write(arg, &m)?;
    Ok(0)
}

/// The domain's own map, if its builder set one.
fn memory_map(cur: &Current<'_>, arg: GuestAddr) -> HcResult {
    let map = cur.dom.e820.lock().clone();
    if map.is_empty() {
        return Err(Errno::ENOSYS.into());
    }
    write_map(arg, map.into_iter())
}

/// The machine's map, as the loader gave it, for the control domain; and, as reserved, devices that it may not touch, so
/// that it puts nothing there.
fn machine_memory_map(cur: &Current<'_>, arg: GuestAddr) -> HcResult {
    access::control_only(cur.dom)?;
    let boot = crate::run::BOOT.get().ok_or(Errno::ENOSYS)?;
    let told =
        boot.memory.iter().map(|(r, k)| E820Entry { addr: r.start, size: r.end - r.start, r#type: k.e820() });
    let reserved = Kind::Reserved.e820();
    let kept = crate::run::KEPT.get().into_iter().flatten();
    let kept =
        kept.map(|f| E820Entry { addr: f.start << 12, size: (f.end - f.start) << 12, r#type: reserved });
    write_map(arg, told.chain(kept))
}

fn set_memory_map(cur: &Current<'_>, arg: GuestAddr) -> HcResult {
    let f: ForeignMemoryMap = guest_mem::read(arg)?;
    let d = access::control(cur.dom, DomId(f.domid.0))?;
    if f.map.nr_entries as usize > MOST_E820 {
        return Err(Errno::EINVAL.into());
    }
    let mut entries = ArrayVec::<_, MOST_E820>::new();
    for i in 0..f.map.nr_entries {
        entries.push(guest_mem::read_at::<E820Entry>(f.map.buffer, i.into())?);
    }
    *d.e820.lock() = entries;
    Ok(0)
}
