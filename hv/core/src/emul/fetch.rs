//! Instruction fetch: once, into a private buffer, so that what was judged is what is executed.

use super::{Cpu, guest_range};

/// The architectural limit of an instruction's length.
pub const MAX_LEN: usize = 15;

/// The bytes at `rip`, at most 15 and as many as the guest could execute itself.
pub struct Bytes {
    buf: [u8; MAX_LEN],
    len: usize,
}

impl Bytes {
    /// Fetches at the current `rip`. Stops in front of hypervisor and non-canonical addresses.
    pub fn at_rip<C: Cpu>(cpu: &mut C) -> Bytes {
        let rip = cpu.rip();
        let mut buf = [0; MAX_LEN];
        let reach = (1..=MAX_LEN).rev().find(|&n| guest_range(rip, n)).unwrap_or(0);
        let len = if reach == 0 { 0 } else { cpu.fetch(rip, &mut buf[..reach]).min(reach) };
        Bytes { buf, len }
    }

    /// The bytes.
    pub fn get(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}
