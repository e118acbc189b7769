//! Which I/O ports, I/O memory and interrupts a domain may use (`XEN_DOMCTL_*_permission`).

use crate::ranges::Ranges;
use core::ops::Range;
use hv_machine::x86_64::{cpu, uart};
use shared_abi::Mfn;
use shared_abi::errno::Errno;
use spin::Once;

/// A domain's rights to hardware.
pub struct Rights {
    /// I/O ports.
    pub ports: Ranges,
    /// Frames of I/O memory.
    pub memory: Ranges,
    /// Interrupts, by pirq.
    pub irqs: Ranges,
}

/// Frames of the hypervisor's own devices that a domain with the right to them may look at, not change.
static READ_ONLY: Once<Ranges> = Once::new();

/// Boot: names the frames that [`is_read_only`] knows.
pub fn set_read_only(frames: Ranges) {
    READ_ONLY.call_once(|| frames);
}

/// Whether any mapping of this device memory must be read-only.
pub fn is_read_only(mfn: Mfn) -> bool {
    READ_ONLY.get().is_some_and(|r| r.contains(mfn.0..mfn.0.saturating_add(1)))
}

/// Frames that the processor can address, memory or device.
fn machine_frames() -> u64 {
    1 << ((cpu::cpuid(0x8000_0008, 0).eax & 0xff).clamp(36, 52) - 12)
}

/// Ports that no domain gets: both interrupt controllers, the timer that the hypervisor's clock was measured
/// by, and the ELCR.
const KEPT_PORTS: [Range<u64>; 4] = [0x20..0x22, 0xa0..0xa2, 0x40..0x44, 0x61..0x62];

impl Rights {
    /// None at all; or, for the control domain, everything but what the hypervisor itself drives.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(control: bool) -> Result<Rights, Errno> {
        let mut r = Rights { ports: Ranges::default(), memory: Ranges::default(), irqs: Ranges::default() };
        if control {
            let uart = u64::from(uart::base());
            let kept = KEPT_PORTS.iter().cloned().chain([uart..uart + 8, 0xcf8..0xcf9, 0xcfa..0xd00]);
            r.ports.add(0..0x1_0000)?;
            for k in kept {
                r.ports.remove(k)?;
            }
            r.memory.add(0..machine_frames())?;
            // Line 0 is the timer's.
            r.irqs.add(1..4096)?;
        }
        Ok(r)
    }
    /// Whether all these ports may be used.
    pub fn may_use_ports(&self, first: u16, last: u16) -> bool {
        self.ports.contains(first.into()..u64::from(last) + 1)
    }
    /// Whether this frame of I/O memory may be mapped.
    pub fn may_map(&self, mfn: Mfn) -> bool {
        self.memory.contains(mfn.0..mfn.0.saturating_add(1))
    }
    /// Takes frames of devices away that the hypervisor drives.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn keep_memory(&mut self, frames: Range<u64>) -> Result<(), Errno> {
        self.memory.remove(frames)
    }
}
