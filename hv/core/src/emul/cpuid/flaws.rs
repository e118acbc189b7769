//! What a guest is told, and denied, because of a flaw of the processor.
//!
//! Gather Data Sampling (CVE-2022-40982): a gather instruction may show what another domain had in
//! a vector register. With Intel's microcode of August 2023 the processor prevents that by itself;
//! without, all that helps is that no guest has gathers. As Xen does, AVX and what builds on it is
//! hidden then, and with it the state that XCR0 would enable, so hiding is not a mere request.
//!
//! Return stack underflow: from Skylake on an empty return stack falls back to the predictor that
//! a retpoline avoids. A kernel that would choose retpolines by the model is told by `RSBA`.
//!
//! LFENCE on AMD's processors before Zen 3 waits for what precedes it because the hypervisor told it to
//! (hv-machine's `speculation`): guests are told so by the leaf with which newer ones tell it themselves.

use super::{Leaf, Vendor, vendor_of};

/// `IA32_ARCH_CAPABILITIES` (0x10a): what of it is a fact about the processor, and so of use to a
/// kernel that has none of the controls: RDCL_NO, RSBA, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO,
/// SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, RRSBA, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO.
const SHOWN: u64 = 0x0d18_e175;
const RSBA: u64 = 1 << 2;
const GDS_CTRL: u64 = 1 << 25;
const GDS_NO: u64 = 1 << 26;

/// The highest extended leaf of [`with_waiting_lfence`], and the bit in its EAX.
const LFENCE_LEAF: u32 = 0x8000_0021;
const EAX21_LFENCE_DISPATCH: u32 = 1 << 2;

const ECX1_AVX: u32 = 1 << 28;

/// Intel's models, of family 6, whose return stack falls back to the branch predictor.
const RETURN_STACK: [u8; 9] = [0x4e, 0x55, 0x5e, 0x66, 0x67, 0x8e, 0x9e, 0xa5, 0xa6];
/// Intel's models, of family 6, that leak by gathers: Skylake to Rocket Lake.
const GATHER: [u8; 15] =
    [0x4e, 0x55, 0x5e, 0x66, 0x6a, 0x6c, 0x7d, 0x7e, 0x8c, 0x8d, 0x8e, 0x9e, 0xa5, 0xa6, 0xa7];

/// The leaves of a processor of AMD's whose LFENCE waits for what precedes it.
pub fn with_waiting_lfence(host: impl Fn(u32, u32) -> Leaf) -> impl Fn(u32, u32) -> Leaf {
    let highest = host(0x8000_0000, 0).eax;
    move |leaf, subleaf| {
        let own = if leaf >> 16 == 0x8000 && leaf > highest { Leaf::default() } else { host(leaf, subleaf) };
        match leaf {
            0x8000_0000 => Leaf { eax: own.eax.max(LFENCE_LEAF), ..own },
            LFENCE_LEAF => Leaf { eax: own.eax | EAX21_LFENCE_DISPATCH, ..own },
            _ => own,
        }
    }
}

/// The flaws of one processor that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flaws {
    gather_leaks: bool,
    capabilities: u64,
}

impl Flaws {
    /// Of the processor whose CPUID and `IA32_ARCH_CAPABILITIES` (zero where there is none) are these.
    pub fn of(host: &impl Fn(u32, u32) -> Leaf, capabilities: u64) -> Flaws {
        let signature = host(1, 0).eax;
        let family = signature >> 8 & 0xf;
        let model = (signature >> 4 & 0xf | signature >> 12 & 0xf0) as u8;
        let listed =
            |models: &[u8]| vendor_of(host(0, 0)) == Vendor::Intel && family == 6 && models.contains(&model);
        Flaws {
            gather_leaks: listed(&GATHER) && capabilities & (GDS_CTRL | GDS_NO) == 0,
            capabilities: capabilities & SHOWN | if listed(&RETURN_STACK) { RSBA } else { 0 },
        }
    }

    /// Leaf 1 of the processor without what may not be used.
    pub fn hide(&self, mut leaf1: Leaf) -> Leaf {
        if self.gather_leaks {
            leaf1.ecx &= !ECX1_AVX;
        }
        leaf1
    }

    /// What a hardware domain reads from `IA32_ARCH_CAPABILITIES`; zero where it is told that there is none.
    pub fn capabilities(&self) -> u64 {
        self.capabilities
    }
}
