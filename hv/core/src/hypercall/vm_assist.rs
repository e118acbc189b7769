//! `vm_assist`: behaviours that a guest can choose.

use crate::domain::Current;
use crate::error::HcResult;
use core::sync::atomic::Ordering::Relaxed;
use shared_abi::errno::Errno;
use shared_abi::xen::*;

/// Those a 64-bit PV guest can choose (the segment ones are for 32-bit guests, and are accepted as Xen
/// does; writable page tables are how every guest is treated anyway).
const VALID: u64 = 1 << VMASST_TYPE_4GB_SEGMENTS
    | 1 << VMASST_TYPE_4GB_SEGMENTS_NOTIFY
    | 1 << VMASST_TYPE_WRITABLE_PAGETABLES
    | 1 << VMASST_TYPE_PAE_EXTENDED_CR3
    | 1 << VMASST_TYPE_ARCHITECTURAL_IOPL
    | 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG
    | 1 << VMASST_TYPE_M2P_STRICT;

/// `vm_assist(cmd, type)`.
pub fn vm_assist(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let (cmd, kind) = (a[0] as u32, a[1] as u32);
    if kind >= 64 || VALID & 1 << kind == 0 {
        return Err(Errno::EINVAL.into());
    }
    match cmd {
        VMASST_CMD_ENABLE => cur.dom.assists.fetch_or(1 << kind, Relaxed),
        VMASST_CMD_DISABLE => cur.dom.assists.fetch_and(!(1 << kind), Relaxed),
        _ => return Err(Errno::ENOSYS.into()),
    };
    // How a system call enters the kernel depends on it: each vcpu looks.
    cur.dom.vcpus().iter().for_each(|v| v.kick());
    Ok(0)
}
