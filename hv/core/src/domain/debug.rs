//! A guest's debug registers: what may be in them. Breakpoints are on its own addresses only; general detect and I/O
//! breakpoints would trap what the guest does not do itself.

use hv_machine::guest_mem::access_ok;
use hv_machine::x86_64::cpu::is_canonical;
use shared_abi::GuestAddr;
use shared_abi::errno::Errno;

/// Sets register `n` among `dr`: the four addresses, DR6 and DR7. With `extensions` (CR4.DE) there are no DR4 and DR5,
/// else they are other names of those.
///
/// # Errors
/// `ENODEV`: no such register; `EINVAL`: a bit that it does not have; `EPERM`: one that the guest may not set.
pub fn set(dr: &mut [u64; 6], extensions: bool, n: usize, v: u64) -> Result<(), Errno> {
    match n {
        4 | 5 if extensions => return Err(Errno::ENODEV),
        0..=3 => {
            if !access_ok(GuestAddr(v), 0) || !is_canonical(v) {
                return Err(Errno::EPERM);
            }
            dr[n] = v;
        }
        4..=7 if v >> 32 != 0 => return Err(Errno::EINVAL),
        4 | 6 => dr[4] = v & 0xe00f | 0xffff_0ff0,
        5 | 7 => {
            let active = v & 0xff != 0;
            if v & 0x2000 != 0 || active && (0..4).any(|i| v >> (16 + 4 * i) & 3 == 2) {
                return Err(Errno::EPERM);
            }
            dr[5] = v & !0xd800 | 0x400;
        }
        _ => return Err(Errno::ENODEV),
    }
    Ok(())
}

/// Register `n` of them.
///
/// # Errors
/// `ENODEV`: no such register.
pub fn get(dr: &[u64; 6], extensions: bool, n: u64) -> Result<u64, Errno> {
    match n {
        0..=3 => Ok(dr[n as usize]),
        4 | 5 if extensions => Err(Errno::ENODEV),
        4 | 6 => Ok(dr[4]),
        5 | 7 => Ok(dr[5]),
        _ => Err(Errno::ENODEV),
    }
}
