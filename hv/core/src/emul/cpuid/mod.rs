//! The CPUID policy: what a PV domain sees of the processor.
//!
//! A [`Policy`] is made once per domain from the hardware's leaves, which come as a function, and
//! holds every leaf the domain can read; [`Policy::query`] adds what differs between its vcpus and
//! from one moment to the next ([`View`]).
//!
//! Hardest decision: a PV guest that executes `cpuid` without the emulation prefix, on hardware
//! that can't make it fault, sees the hardware. The policy is therefore not a means of isolation
//! but the kernel's, and it shows what Xen 4.17 shows, topology leaves and the leaked OSXSAVE
//! included, because Linux was written around those.

mod features;
mod flaws;
mod hypervisor;
mod update;
mod xstate;

pub use features::Features;
pub use flaws::with_waiting_lfence;
pub use hypervisor::TimeInfo;
pub use update::BadLeaf;

use super::privop::CR4_OSXSAVE;
use features::{EXTD_1_ECX, EXTD_1_EDX, EXTD_7_EDX, EXTD_8_EBX, EXTD_21_EAX};
use features::{FEAT_0_EBX, FEAT_0_ECX, FEAT_0_EDX, FEAT_1_EAX, FEAT_2_EDX, LEAF_1_ECX, LEAF_1_EDX};

/// What CPUID leaves in EAX to EDX.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct Leaf {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// The processor's maker, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// GenuineIntel.
    Intel,
    /// AuthenticAMD or HygonGenuine.
    Amd,
    /// Any other.
    Other,
}

/// How a CPUID reached the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// With the emulation prefix, by #UD: an enlightened kernel.
    Forced,
    /// Natively, by #GP: the hardware was told to make CPUID fault.
    Faulted,
}

/// Which default a policy starts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The hardware domain, which can't migrate: it also sees an invariant TSC.
    HardwareDomain,
    /// Any other domain.
    Guest,
}

/// What of a vcpu's state shows in CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The vcpu's number.
    pub vcpu: u32,
    /// The guest's CR4.
    pub cr4: u64,
    /// The guest's XCR0.
    pub xcr0: u64,
    /// Whether the hardware's CR4.OSXSAVE is set.
    pub host_osxsave: bool,
    /// What the domain is told about its time.
    pub time: TimeInfo,
    /// Width in bits of the highest machine address that RAM may have.
    pub machine_address_width: u8,
}

const BASIC_MAX: u32 = 0xd;
const FEAT_MAX: u32 = 2;
const EXTD_MAX_INTEL: u32 = 0x8000_0008;
const EXTD_MAX_AMD: u32 = 0x8000_0021;
/// Words of a set of features (cpufeatureset.h).
pub const FEATURE_WORDS: usize = 19;
/// Subleaves kept of leaf 4, cache parameters.
const CACHES: usize = 6;
/// Subleaves kept of leaf 0xb, topology.
const TOPOLOGY: usize = 2;

const ECX1_MONITOR: u32 = 1 << 3;
const ECX1_OSXSAVE: u32 = 1 << 27;
const ECX1_HYPERVISOR: u32 = 1 << 31;
const EDX1_MTRR: u32 = 1 << 12;
/// Of leaf 0x80000007.
const EDX7_ITSC: u32 = 1 << 8;
/// Of leaf 7.
const EDX7_ARCH_CAPABILITIES: u32 = 1 << 29;
/// The bits of leaf 1 EDX that AMD repeats in leaf 0x80000001 EDX.
const COMMON_1D: u32 = 0x0183_f3ff;

/// What a domain sees of the processor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    vendor: Vendor,
    kind: Kind,
    /// The hardware has MONITOR, and its leaf 5: a hardware domain's power management asks.
    monitor: Option<Leaf>,
    /// The hardware has MTRRs: a hardware domain's kernel is told, for `XENPF_add_memtype`.
    mtrr: bool,
    /// `IA32_ARCH_CAPABILITIES` as a hardware domain reads it; zero: hidden.
    arch_capabilities: u64,
    basic: [Leaf; BASIC_MAX as usize + 1],
    caches: [Leaf; CACHES],
    topology: [Leaf; TOPOLOGY],
    feat: [Leaf; FEAT_MAX as usize + 1],
    xstate: xstate::Xstate,
    extd: [Leaf; (EXTD_MAX_AMD & 0xffff) as usize + 1],
}

fn vendor_of(leaf0: Leaf) -> Vendor {
    match (leaf0.ebx, leaf0.edx, leaf0.ecx) {
        (0x756e_6547, 0x4965_6e69, 0x6c65_746e) => Vendor::Intel,
        (0x6874_7541, 0x6974_6e65, 0x444d_4163) | (0x6f67_7948, 0x6e65_476e, 0x656e_6975) => Vendor::Amd,
        _ => Vendor::Other,
    }
}

impl Policy {
    /// The hardware's own leaves, as far as a policy has them. Its CPUID is `host(leaf, subleaf)`, its
    /// `IA32_ARCH_CAPABILITIES` is `arch_capabilities`, zero where there is none.
    pub fn hardware(host: &impl Fn(u32, u32) -> Leaf, arch_capabilities: u64) -> Policy {
        let leaf0 = host(0, 0);
        let vendor = vendor_of(leaf0);
        let mut policy = Policy {
            vendor,
            kind: Kind::HardwareDomain,
            monitor: (host(1, 0).ecx & ECX1_MONITOR != 0).then(|| host(5, 0)),
            mtrr: host(1, 0).edx & EDX1_MTRR != 0,
            arch_capabilities,
            basic: [Leaf::default(); _],
            caches: [Leaf::default(); _],
            topology: [Leaf::default(); _],
            feat: [Leaf::default(); _],
            xstate: xstate::Xstate::default(),
            extd: [Leaf::default(); _],
        };
        for leaf in 0..=leaf0.eax.min(BASIC_MAX) {
            policy.basic[leaf as usize] = host(leaf, 0);
        }
        policy.basic[0].eax = leaf0.eax.min(BASIC_MAX);
        if leaf0.eax >= 4 && vendor != Vendor::Amd {
            for (subleaf, cache) in policy.caches.iter_mut().enumerate() {
                *cache = host(4, subleaf as u32);
                if cache.eax & 0x1f == 0 {
                    break;
                }
            }
        }
        if leaf0.eax >= 0xb {
            policy.topology = core::array::from_fn(|subleaf| host(0xb, subleaf as u32));
        }
        if leaf0.eax >= 7 {
            let max = host(7, 0).eax.min(FEAT_MAX);
            for subleaf in 0..=max {
                policy.feat[subleaf as usize] = host(7, subleaf);
            }
            policy.feat[0].eax = max;
        }
        let extd_max = host(0x8000_0000, 0).eax;
        if extd_max >> 16 == 0x8000 {
            let limit = if vendor == Vendor::Amd { EXTD_MAX_AMD } else { EXTD_MAX_INTEL };
            for leaf in 0x8000_0000..=extd_max.min(limit) {
                policy.extd[(leaf & 0xffff) as usize] = host(leaf, 0);
            }
            policy.extd[0].eax = extd_max.min(limit);
        }
        policy.xstate = xstate::Xstate::read(host, leaf0.eax);
        policy
    }

    /// The default policy of a domain on this [`hardware`](Policy::hardware).
    pub fn new(host: impl Fn(u32, u32) -> Leaf, arch_capabilities: u64, kind: Kind) -> Policy {
        let flaws = flaws::Flaws::of(&host, arch_capabilities);
        let shown = if kind == Kind::HardwareDomain { flaws.capabilities() } else { 0 };
        let mut policy = Policy { kind, ..Policy::hardware(&host, shown) };
        policy.basic[1] = flaws.hide(policy.basic[1]);
        let itsc = policy.extd[7].edx & EDX7_ITSC;
        policy.mask_features();
        if kind == Kind::HardwareDomain {
            policy.extd[7].edx |= itsc;
        }
        if policy.arch_capabilities != 0 {
            policy.feat[0].edx |= EDX7_ARCH_CAPABILITIES;
        }
        policy.basic[1].ecx |= ECX1_HYPERVISOR;
        policy.settle();
        policy
    }

    /// Takes away every feature that PV guests are not offered.
    fn mask_features(&mut self) {
        self.basic[1].ecx &= LEAF_1_ECX;
        self.basic[1].edx &= LEAF_1_EDX;
        self.feat[0].ebx &= FEAT_0_EBX;
        self.feat[0].ecx &= FEAT_0_ECX;
        self.feat[0].edx &= FEAT_0_EDX;
        self.feat[1] = Leaf { eax: self.feat[1].eax & FEAT_1_EAX, ..Leaf::default() };
        self.feat[2] = Leaf { edx: self.feat[2].edx & FEAT_2_EDX, ..Leaf::default() };
        self.extd[1].ecx &= EXTD_1_ECX;
        self.extd[1].edx &= EXTD_1_EDX;
        self.extd[7].edx &= EXTD_7_EDX;
        self.extd[8].ebx &= EXTD_8_EBX;
        self.extd[0x21] = Leaf { eax: self.extd[0x21].eax & EXTD_21_EAX, ..Leaf::default() };
    }

    /// Makes the leaves consistent with the features, and empties those that are not for guests.
    fn settle(&mut self) {
        features::drop_dependents(self);
        self.xstate.limit(&self.features());
        // The processor type, and the APIC id, are a vcpu's.
        self.basic[1].eax &= 0x0fff_0fff;
        self.basic[1].ebx &= 0x00ff_ffff;
        for leaf in [4, 5, 6, 7, 8, 0xa, 0xb, 0xc, 0xd] {
            self.basic[leaf] = Leaf::default();
        }
        self.topology = [Leaf::default(); _];
        self.extd[1].edx &= !COMMON_1D;
        self.extd[7] = Leaf { edx: self.extd[7].edx, ..Leaf::default() };
        self.extd[8].edx = 0;
        // Guests have 48-bit linear addresses, whatever the hardware has.
        if self.extd[0].eax >= 0x8000_0008 {
            self.extd[8].eax = self.extd[8].eax & 0xff | 48 << 8;
        }
        match self.vendor {
            Vendor::Amd => self.settle_amd(),
            Vendor::Intel | Vendor::Other => self.settle_intel(),
        }
    }

    fn settle_intel(&mut self) {
        // One query of leaf 2 tells all.
        self.basic[2].eax = self.basic[2].eax & !0xff | 1;
        if self.basic[0].eax < 2 {
            self.basic[2] = Leaf::default();
        }
        self.basic[3] = Leaf::default();
        self.basic[9] = Leaf::default();
        self.extd[0] = Leaf { eax: self.extd[0].eax, ..Leaf::default() };
        (self.extd[1].eax, self.extd[1].ebx) = (0, 0);
        self.extd[5] = Leaf::default();
        self.extd[6] = Leaf { ecx: self.extd[6].ecx, ..Leaf::default() };
        self.extd[8].ecx = 0;
    }

    fn settle_amd(&mut self) {
        self.basic[2] = Leaf::default();
        self.basic[3] = Leaf::default();
        self.basic[9] = Leaf::default();
        self.extd[0] = Leaf { eax: self.extd[0].eax, ..self.basic[0] };
        self.extd[1].eax = self.basic[1].eax;
        self.extd[1].ebx &= 0xff00_ffff;
        self.extd[1].edx |= self.basic[1].edx & COMMON_1D;
        self.extd[8].ecx &= 0x0003_f0ff;
        // Of the rest, only the large-page TLBs (0x19) and performance hints (0x1a) are a guest's;
        // 0x19 goes with 1 GiB pages, which PV guests don't have.
        for leaf in (0x9..=0x19).chain(0x1b..=0x20) {
            self.extd[leaf] = Leaf::default();
        }
    }

    /// The processor's maker.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// What `IA32_ARCH_CAPABILITIES` says; `None` where the domain has no such register.
    pub fn arch_capabilities(&self) -> Option<u64> {
        (self.feat[0].edx & EDX7_ARCH_CAPABILITIES != 0).then_some(self.arch_capabilities)
    }

    /// The words of features, in the order of cpufeatureset.h.
    pub fn featureset(&self) -> [u32; FEATURE_WORDS] {
        [
            self.basic[1].edx,
            self.basic[1].ecx,
            self.extd[1].edx,
            self.extd[1].ecx,
            self.xstate.stored(1).eax,
            self.feat[0].ebx,
            self.feat[0].ecx,
            self.extd[7].edx,
            self.extd[8].ebx,
            self.feat[0].edx,
            self.feat[1].eax,
            self.extd[0x21].eax,
            self.feat[1].ebx,
            self.feat[2].edx,
            self.feat[1].ecx,
            self.feat[1].edx,
            self.arch_capabilities as u32,
            (self.arch_capabilities >> 32) as u32,
            self.extd[0x21].ecx,
        ]
    }

    /// The features that the hypervisor itself must know of.
    pub fn features(&self) -> Features {
        Features::of(self)
    }

    /// The states that the domain may enable in XCR0; zero without XSAVE.
    pub fn xcr0_mask(&self) -> u64 {
        self.xstate.mask()
    }

    /// The leaf as it is stored: the same for all vcpus at all times. Leaves without subleaves
    /// ignore `subleaf`; what doesn't exist is zero.
    pub fn stored(&self, leaf: u32, subleaf: u32) -> Leaf {
        let subleaf_index = subleaf as usize;
        match leaf {
            4 => self.caches.get(subleaf_index).copied().unwrap_or_default(),
            7 => self.feat.get(subleaf_index).copied().unwrap_or_default(),
            0xb => self.topology.get(subleaf_index).copied().unwrap_or_default(),
            0xd => self.xstate.stored(subleaf),
            0..=BASIC_MAX => self.basic[leaf as usize],
            0x8000_0000..=EXTD_MAX_AMD => self.extd[(leaf & 0xffff) as usize],
            _ => Leaf::default(),
        }
    }

    /// Whether the domain is told that the leaf exists.
    fn in_range(&self, leaf: u32, subleaf: u32) -> bool {
        match leaf {
            7 => self.basic[0].eax >= 7 && subleaf <= self.feat[0].eax,
            0..=BASIC_MAX => leaf <= self.basic[0].eax,
            _ => leaf <= self.extd[0].eax,
        }
    }

    /// What CPUID tells a vcpu. `kernel`: it is in guest kernel mode.
    pub fn query(&self, leaf: u32, subleaf: u32, view: &View, origin: Origin, kernel: bool) -> Leaf {
        if leaf >> 8 == 0x40_0000 {
            return hypervisor::leaf(leaf & 0xff, subleaf, view, self.features().rdtscp);
        }
        if !self.in_range(leaf, subleaf) {
            return Leaf::default();
        }
        let mut out = self.stored(leaf, subleaf);
        let leaked = self.leaked_monitor(origin, kernel);
        if matches!(leaf, 1 | 0x8000_0001) && self.kind == Kind::HardwareDomain && kernel && self.mtrr {
            out.edx |= EDX1_MTRR;
        }
        match leaf {
            1 => {
                // Linux relies on seeing the hypervisor's OSXSAVE before it sets its own.
                let leak = origin == Origin::Forced && kernel && view.host_osxsave;
                if view.cr4 & CR4_OSXSAVE != 0 || self.features().xsave && leak {
                    out.ecx |= ECX1_OSXSAVE;
                }
                if leaked.is_some() {
                    out.ecx |= ECX1_MONITOR;
                }
            }
            5 => out = leaked.unwrap_or_default(),
            0xd => self.xstate.enabled_size(subleaf, view.xcr0, &mut out),
            _ => {}
        }
        out
    }

    /// The hardware's leaf 5, where it is shown: to a hardware domain's kernel by a native CPUID,
    /// for its ACPI code, which tells the hypervisor about idle states.
    fn leaked_monitor(&self, origin: Origin, kernel: bool) -> Option<Leaf> {
        let shown = self.kind == Kind::HardwareDomain && origin == Origin::Faulted && kernel;
        if shown { self.monitor } else { None }
    }
}

/// The words of features that PV guests are offered, in the order of cpufeatureset.h.
#[cfg(test)]
pub(super) fn feature_words() -> [u32; 14] {
    [
        LEAF_1_EDX,
        LEAF_1_ECX,
        EXTD_1_EDX,
        EXTD_1_ECX,
        features::XSTATE_1_EAX,
        FEAT_0_EBX,
        FEAT_0_ECX,
        EXTD_7_EDX,
        EXTD_8_EBX,
        FEAT_0_EDX,
        FEAT_1_EAX,
        EXTD_21_EAX,
        0,
        FEAT_2_EDX,
    ]
}
