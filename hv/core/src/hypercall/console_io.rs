//! `console_io`: the machine's console, for the control domain (and, as log lines, for others' debugging).

use crate::console;
use crate::domain::Current;
use crate::error::{HcResult, Stop};
use crate::keys;
use hv_machine::guest_mem;
use shared_abi::GuestAddr;
use shared_abi::errno::Errno;
use shared_abi::xen::{CONSOLEIO_READ, CONSOLEIO_WRITE};

/// Bytes taken before other work gets its turn (a serial line is slow).
const CHUNK: usize = 128;

/// `console_io(cmd, count, buffer)`.
pub fn console_io(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    if !cur.dom.control {
        return Err(Errno::EPERM.into());
    }
    let count = (a[1] & 0xffff_ffff) as usize;
    let mut buf = [0u8; CHUNK];
    match a[0] as u32 {
        CONSOLEIO_WRITE => {
            let n = count.min(CHUNK);
            guest_mem::copy_in(&mut buf[..n], GuestAddr(a[2]))?;
            console::write(&buf[..n]);
            if n < count {
                a[1] = (count - n) as u64;
                a[2] = a[2].wrapping_add(n as u64);
                return Err(Stop::Retry);
            }
            Ok(0)
        }
        // More could not be told from an error.
        CONSOLEIO_READ if count > i32::MAX as usize => Err(Errno::E2BIG.into()),
        CONSOLEIO_READ => {
            let n = console::read(&mut buf[..count.min(CHUNK)]);
            keys::press_typed();
            guest_mem::copy_out(GuestAddr(a[2]), &buf[..n])?;
            Ok(n as u64)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}
