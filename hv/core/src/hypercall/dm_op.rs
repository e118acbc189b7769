//! `dm_op`: what a device model may do to its guest. No domain here has one.

use crate::domain::{Current, find};
use crate::error::HcResult;
use hv_machine::guest_mem;
use shared_abi::errno::Errno;
use shared_abi::{DomId, GuestAddr};

/// Buffers of one call, at most.
const MOST_BUFFERS: u32 = 3;
/// Bytes of `struct xen_dm_op_buf`.
const BUFFER_BYTES: usize = 16;

/// `dm_op(domain, buffers, list)`: refused as Xen refuses it for a domain without a device model.
pub fn dm_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let (domain, count, list) = (DomId(a[0] as u16), a[1] as u32, GuestAddr(a[2]));
    let mut buffers = [0; MOST_BUFFERS as usize * BUFFER_BYTES];
    match count {
        0 => return Err(Errno::ENODATA.into()),
        1..=MOST_BUFFERS => guest_mem::copy_in(&mut buffers[..count as usize * BUFFER_BYTES], list)?,
        _ => return Err(Errno::E2BIG.into()),
    }
    match find(domain) {
        None => Err(Errno::ESRCH.into()),
        Some(d) if d.id == cur.dom.id => Err(Errno::EPERM.into()),
        Some(_) => Err(Errno::EINVAL.into()),
    }
}
