//! The hypervisor's own leaves, from 0x40000000 (cpuid.h of the public headers).

use super::{Leaf, View};

/// Xen's version, as `XENVER_version` tells it: 4.17.
const VERSION: u32 = 4 << 16 | 17;
/// The highest leaf that a PV guest has.
const MAX_LEAF: u32 = 0x4000_0005;
/// `XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD`.
const PRESERVE_AD: u32 = 1;

/// What a domain is told about its time (leaf 0x40000003).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimeInfo {
    /// RDTSC is emulated.
    pub emulated: bool,
    /// The hardware's TSC is known to be reliable: constant, and the same on all CPUs.
    pub reliable: bool,
    /// The domain's `tsc_mode` (`XEN_DOMCTL_settscinfo`).
    pub mode: u32,
    /// The guest's TSC frequency in kHz.
    pub khz: u32,
    /// How often the domain was migrated.
    pub incarnation: u32,
    /// What is added to a guest's time, in nanoseconds.
    pub offset: u64,
    /// Multiplier from TSC ticks to nanoseconds, as in `vcpu_time_info`.
    pub to_system_mul: u32,
    /// Shift from TSC ticks to nanoseconds, as in `vcpu_time_info`.
    pub shift: i8,
    /// The hardware's TSC frequency in kHz.
    pub host_khz: u32,
}

/// The leaf 0x40000000 + `index`. Unknown ones are zero.
pub fn leaf(index: u32, subleaf: u32, view: &View, rdtscp: bool) -> Leaf {
    let time = &view.time;
    match (index, subleaf) {
        // "XenVMMXenVMM"
        (0, _) => Leaf { eax: MAX_LEAF, ebx: 0x566e_6558, ecx: 0x6558_4d4d, edx: 0x4d4d_566e },
        (1, _) => Leaf { eax: VERSION, ..Leaf::default() },
        // One hypercall page, installed by the MSR 0x40000000.
        (2, _) => Leaf { eax: 1, ebx: 0x4000_0000, ecx: PRESERVE_AD, edx: 0 },
        (3, 0) => Leaf {
            eax: u32::from(time.emulated) | u32::from(time.reliable) << 1 | u32::from(rdtscp) << 2,
            ebx: time.mode,
            ecx: time.khz,
            edx: time.incarnation,
        },
        (3, 1) => Leaf {
            eax: time.offset as u32,
            ebx: (time.offset >> 32) as u32,
            ecx: time.to_system_mul,
            edx: u32::from(time.shift as u8),
        },
        (3, 2) => Leaf { eax: time.host_khz, ..Leaf::default() },
        (5, 0) => Leaf { ebx: u32::from(view.machine_address_width), ..Leaf::default() },
        _ => Leaf::default(),
    }
}
