//! `multicall`: several hypercalls in one.

use super::call;
use crate::domain::Current;
use crate::error::{HcResult, Stop};
use core::sync::atomic::Ordering::Relaxed;
use hv_machine::guest_mem;
use shared_abi::GuestAddr;
use shared_abi::errno::Errno;
use shared_abi::xen::{MulticallEntry, hypercall as nr};

/// Entries done before other work gets its turn.
const BATCH: u64 = 64;
/// Entries between two looks at the local APIC, which takes as long as a short call.
const LOOK: u64 = 8;

/// Runs the list; each entry's result goes into it.
pub fn multicall(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let (list, count) = (GuestAddr(a[0]), a[1] & 0xffff_ffff);
    if !guest_mem::access_ok(list, 0) {
        return Err(Errno::EFAULT.into());
    }
    for i in 0..count {
        let waits =
            || if i % LOOK == 0 { super::should_yield(cur) } else { cur.vcpu.attention.load(Relaxed) };
        if i > 0 && (i % BATCH == 0 || waits()) {
            *a = [guest_mem::offset::<MulticallEntry>(list, i)?.0, count - i, 0, 0, 0, 0];
            return Err(Stop::Retry);
        }
        let mut e: MulticallEntry = guest_mem::read_at(list, i)?;
        // A multicall in a multicall could nest without end; an iret leaves the list behind.
        let result = match e.op {
            nr::MULTICALL => Err(Stop::Error(Errno::EINVAL)),
            nr::IRET => Err(Stop::Error(Errno::ENOSYS)),
            op => call(cur, op, &mut e.args),
        };
        e.result = match result {
            Ok(v) => v,
            Err(Stop::Error(err)) => err.neg() as u64,
            Err(Stop::Retry) => {
                guest_mem::write_at(list, i, &e)?;
                *a = [guest_mem::offset::<MulticallEntry>(list, i)?.0, count - i, 0, 0, 0, 0];
                return Err(Stop::Retry);
            }
            Err(Stop::Crash(why)) => return Err(Stop::Crash(why)),
        };
        let at = guest_mem::offset::<MulticallEntry>(list, i)?;
        guest_mem::write_u64(
            GuestAddr(at.0 + core::mem::offset_of!(MulticallEntry, result) as u64),
            e.result,
        )?;
        // The call may have stopped this vcpu (a block, a shutdown).
        if !cur.vcpu.runnable() && i + 1 < count {
            *a = [guest_mem::offset::<MulticallEntry>(list, i + 1)?.0, count - i - 1, 0, 0, 0, 0];
            return Err(Stop::Retry);
        }
    }
    Ok(0)
}
