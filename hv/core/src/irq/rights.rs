//! Which I/O ports, I/O memory and interrupts a domain may use (`XEN_DOMCTL_*_permission`).

use alloc::vec::Vec;
use core::ops::Range;
use hv_machine::x86_64::{cpu, uart};
use shared_abi::Mfn;
use shared_abi::errno::Errno;

/// A set of numbers as sorted, disjoint ranges.
#[derive(Clone, Default, Debug)]
pub struct Ranges(Vec<Range<u64>>);

/// Ranges that a set may consist of.
const MOST: usize = 256;

impl Ranges {
    /// Whether all of `r` is in the set.
    pub fn contains(&self, r: Range<u64>) -> bool {
        r.start >= r.end || self.0.iter().any(|x| x.start <= r.start && r.end <= x.end)
    }
    /// Adds a range.
    ///
    /// # Errors
    /// `ENOMEM` when the set would be in too many pieces.
    pub fn add(&mut self, r: Range<u64>) -> Result<(), Errno> {
        if r.start >= r.end {
            return Ok(());
        }
        let mut merged = r;
        self.0.retain(|x| {
            let touches = x.start <= merged.end && merged.start <= x.end;
            if touches {
                merged = merged.start.min(x.start)..merged.end.max(x.end);
            }
            !touches
        });
        if self.0.len() >= MOST {
            return Err(Errno::ENOMEM);
        }
        let at = self.0.partition_point(|x| x.start < merged.start);
        self.0.insert(at, merged);
        Ok(())
    }
    /// Takes a range out.
    ///
    /// # Errors
    /// As [`Ranges::add`].
    pub fn remove(&mut self, r: Range<u64>) -> Result<(), Errno> {
        if self.0.len() >= MOST {
            return Err(Errno::ENOMEM);
        }
        let old = core::mem::take(&mut self.0);
        for x in old {
            for piece in [x.start..x.end.min(r.start), x.start.max(r.end)..x.end] {
                if piece.start < piece.end {
                    self.0.push(piece);
                }
            }
        }
        Ok(())
    }
}

/// A domain's rights to hardware.
pub struct Rights {
    /// I/O ports.
    pub ports: Ranges,
    /// Frames of I/O memory.
    pub memory: Ranges,
    /// Interrupts, by pirq.
    pub irqs: Ranges,
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
    pub fn new(control: bool) -> Rights {
        let mut r = Rights { ports: Ranges::default(), memory: Ranges::default(), irqs: Ranges::default() };
        if control {
            let uart = u64::from(uart::base());
            let kept = KEPT_PORTS.iter().cloned().chain([uart..uart + 8, 0xcf8..0xcf9, 0xcfa..0xd00]);
            let all = r.ports.add(0..0x1_0000).and_then(|()| {
                kept.into_iter().try_for_each(|k| r.ports.remove(k))?;
                r.memory.add(0..machine_frames())?;
                r.irqs.add(0..4096)
            });
            debug_assert!(all.is_ok());
        }
        r
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
    pub fn keep_memory(&mut self, frames: Range<u64>) {
        let _ = self.memory.remove(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(ops in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..16), 0..60)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (add, start, len) in ops {
                let r = start..start + len;
                if add {
                    ranges.add(r.clone()).unwrap();
                    set.extend(r);
                } else {
                    ranges.remove(r.clone()).unwrap();
                    r.for_each(|n| { set.remove(&n); });
                }
                for a in 0..80 {
                    for n in 1..4 {
                        prop_assert_eq!(ranges.contains(a..a + n), (a..a + n).all(|x| set.contains(&x)));
                    }
                }
            }
        }
    }
}
