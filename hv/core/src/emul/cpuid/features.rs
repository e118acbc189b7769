//! The features that PV guests are offered, word by word.
//!
//! Source: cpufeatureset.h, the bits annotated `A` (all guests); those annotated for shadow- or
//! hardware-assisted guests only (VME, PSE, PGE, MTRR, SMEP, SMAP, PCID, UMIP, VMX, x2APIC …) are
//! not a PV guest's. Left out beyond that are the controls of speculation (IBRS, STIBP, SSBD,
//! IBPB and what goes with them; `flaws` has ARCH_CAPS) and DBEXT, masks of breakpoints' addresses: they are promises
//! about MSRs that [`msr`] does not keep.
//!
//! [`msr`]: crate::emul::msr

use super::{Policy, Vendor};

/// FPU DE TSC MSR PAE MCE CX8 APIC SEP MCA CMOV PAT CLFLUSH ACPI MMX FXSR SSE SSE2 SS HTT.
pub const LEAF_1_EDX: u32 = 0x1fc9_cbf5;
/// SSE3 PCLMULQDQ SSSE3 FMA CX16 SSE4_1 SSE4_2 MOVBE POPCNT AESNI XSAVE AVX F16C RDRAND HYPERVISOR.
pub const LEAF_1_ECX: u32 = 0xf6d8_3203;
/// FSGSBASE BMI1 AVX2 BMI2 ERMS RTM AVX512{F,DQ,_IFMA,PF,ER,CD,BW,VL} RDSEED ADX CLFLUSHOPT CLWB SHA.
pub const FEAT_0_EBX: u32 = 0xfdaf_0b29;
/// PREFETCHWT1 AVX512_{VBMI,VBMI2,VNNI,BITALG,VPOPCNTDQ} GFNI VAES VPCLMULQDQ RDPID CLDEMOTE.
pub const FEAT_0_ECX: u32 = 0x0240_5f43;
/// AVX512_4VNNIW AVX512_4FMAPS FSRM MD_CLEAR SERIALIZE.
pub const FEAT_0_EDX: u32 = 0x0000_441c;
/// AVX_VNNI AVX512_BF16 FZRM FSRS FSRCS.
pub const FEAT_1_EAX: u32 = 0x0000_1c30;
/// MCDT_NO.
pub const FEAT_2_EDX: u32 = 0x0000_0020;
/// XSAVEOPT XSAVEC XGETBV1.
pub const XSTATE_1_EAX: u32 = 0x0000_0007;
/// SYSCALL NX MMXEXT FFXSR RDTSCP LM 3DNOWEXT 3DNOW.
pub const EXTD_1_EDX: u32 = 0xea50_0800;
/// LAHF_LM CMP_LEGACY ABM SSE4A MISALIGNSSE 3DNOWPREFETCH XOP FMA4 TBM.
pub const EXTD_1_ECX: u32 = 0x0021_09e3;
/// None: ITSC only where asked for, or for a hardware domain.
pub const EXTD_7_EDX: u32 = 0;
/// CLZERO RSTR_FP_ERR_PTRS SSB_NO BTC_NO.
pub const EXTD_8_EBX: u32 = 0x2400_0005;
/// LFENCE_DISPATCH VERW_CLEAR NSCB SRSO_NO SRSO_US_NO.
pub const EXTD_21_EAX: u32 = 0x6000_0064;

/// The features of a policy that the hypervisor itself must know of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Features {
    pub tsc: bool,
    pub de: bool,
    pub xsave: bool,
    pub avx: bool,
    pub avx512: bool,
    pub fsgsbase: bool,
    pub rdpid: bool,
    pub rdtscp: bool,
    pub itsc: bool,
}

impl Features {
    pub(super) fn of(policy: &Policy) -> Features {
        let bit = |word: u32, n: u32| word >> n & 1 != 0;
        Features {
            tsc: bit(policy.basic[1].edx, 4),
            de: bit(policy.basic[1].edx, 2),
            xsave: bit(policy.basic[1].ecx, 26),
            avx: bit(policy.basic[1].ecx, 28),
            avx512: bit(policy.feat[0].ebx, 16),
            fsgsbase: bit(policy.feat[0].ebx, 0),
            rdpid: bit(policy.feat[0].ecx, 22),
            rdtscp: bit(policy.extd[1].edx, 27),
            itsc: bit(policy.extd[7].edx, 8),
        }
    }
}

/// Clears what can't be used without a feature that is absent: vector extensions without the
/// state they live in. Overrides take single bits away; a guest must not find the rest.
pub(super) fn drop_dependents(policy: &mut Policy) {
    const SEP: u32 = 1 << 11;
    const FMA_F16C: u32 = 1 << 12 | 1 << 29;
    const AVX: u32 = 1 << 28;
    const AVX2: u32 = 1 << 5;
    const AVX512F: u32 = 1 << 16;
    const AVX512_OTHERS: u32 = 1 << 17 | 1 << 21 | 0xf << 26 & !(1 << 29) | 3 << 30;
    const VAES_VPCLMULQDQ: u32 = 3 << 9;
    const AVX512_ECX: u32 = 1 << 1 | 1 << 6 | 3 << 11 | 1 << 14;
    const AVX512_EDX: u32 = 3 << 2;
    const AVX_VNNI: u32 = 1 << 4;
    const AVX512_BF16: u32 = 1 << 5;
    const XOP_FMA4: u32 = 1 << 11 | 1 << 16;

    // AMD's processors don't have SYSENTER in long mode.
    if policy.vendor == Vendor::Amd {
        policy.basic[1].edx &= !SEP;
    }
    if !policy.features().xsave {
        policy.basic[1].ecx &= !AVX;
    }
    if !policy.features().avx {
        policy.basic[1].ecx &= !FMA_F16C;
        policy.feat[0].ebx &= !AVX2;
        policy.feat[0].ecx &= !VAES_VPCLMULQDQ;
        policy.extd[1].ecx &= !XOP_FMA4;
    }
    if policy.feat[0].ebx & AVX2 == 0 {
        policy.feat[0].ebx &= !AVX512F;
        policy.feat[1].eax &= !AVX_VNNI;
    }
    if !policy.features().avx512 {
        policy.feat[0].ebx &= !AVX512_OTHERS;
        policy.feat[0].ecx &= !AVX512_ECX;
        policy.feat[0].edx &= !AVX512_EDX;
        policy.feat[1].eax &= !AVX512_BF16;
    }
}
