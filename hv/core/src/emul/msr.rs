//! Model-specific registers of a PV guest.
//!
//! A register is either named here or does not exist: an access to any other one is #GP, as with
//! Xen 4.17's default `msr_relaxed=0`. Nothing a guest writes reaches a hardware register but
//! segment bases and TSC_AUX, through the vcpu's own state.

use super::cpuid::Vendor;
use super::privop::control_error;
use super::{Base, Cpu, Stop, canonical};

/// Registers whose hardware value [`read`] and [`write`] ask for.
pub const HOST_READABLE: [u32; 7] =
    [PLATFORM_ID, UCODE_REV, MISC_ENABLE, PLATFORM_INFO, PAT, EFER, K8_SYSCFG];

const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const UCODE_REV: u32 = 0x8b;
const PLATFORM_INFO: u32 = 0xce;
const MPERF: u32 = 0xe7;
const APERF: u32 = 0xe8;
const MISC_FEATURES_ENABLES: u32 = 0x140;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const THERM_CONTROL: u32 = 0x19a;
const MISC_ENABLE: u32 = 0x1a0;
const ENERGY_PERF_BIAS: u32 = 0x1b0;
const PAT: u32 = 0x277;
const MC0_CTL: u32 = 0x400;
const HYPERCALL_PAGE: u32 = 0x4000_0000;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const SHADOW_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
const K8_SYSCFG: u32 = 0xc001_0010;
const K8_HWCR: u32 = 0xc001_0015;
const K8_DE_CFG: u32 = 0xc001_1029;

/// Machine-check banks that a guest has.
const MC_BANKS: u32 = 2;

/// EFER's bits as a guest sees them: SCE, LME, LMA, NXE, LMSLE, FFXSE; SVME stays hidden.
const EFER_VISIBLE: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 14;

/// Bits of MISC_ENABLE that a guest sees clear: performance monitoring, MONITOR.
const MISC_ENABLE_CLEAR: u64 = 1 << 7 | 1 << 18;
/// Bits of MISC_ENABLE that a guest sees set: no BTS, no PEBS, no xTPR messages.
const MISC_ENABLE_SET: u64 = 1 << 11 | 1 << 12 | 1 << 23;

/// Reads `msr` for the guest's kernel. `Err(Stop::Unhandled)`: no such register, #GP.
pub fn read<C: Cpu>(cpu: &mut C, msr: u32) -> Result<u64, Stop> {
    let vendor = cpu.policy().vendor();
    let features = cpu.policy().features();
    match msr {
        FS_BASE => Ok(cpu.base(Base::Fs)),
        GS_BASE => Ok(cpu.base(Base::Gs)),
        SHADOW_GS_BASE => Ok(cpu.base(Base::ShadowGs)),
        TSC => Ok(cpu.tsc()),
        TSC_AUX if features.rdtscp || features.rdpid => Ok(u64::from(cpu.tsc_aux())),
        EFER => host(cpu, EFER).map(|efer| efer & EFER_VISIBLE),
        // Linux reads it although it has no APIC: enabled, at its place, and which CPU is first.
        APIC_BASE => {
            let bsp = if cpu.cpuid_view().vcpu == 0 { 1 << 8 } else { 0 };
            Ok(0xfee0_0000 | 1 << 11 | bsp)
        }
        PLATFORM_ID if vendor == Vendor::Intel => host(cpu, PLATFORM_ID),
        UCODE_REV if vendor != Vendor::Other => host(cpu, UCODE_REV),
        FEATURE_CONTROL if vendor == Vendor::Intel => Ok(1),
        PLATFORM_INFO | MISC_FEATURES_ENABLES => Ok(0),
        MISC_ENABLE => host(cpu, MISC_ENABLE).map(guest_misc_enable),
        PAT => host(cpu, PAT),
        MCG_CAP => Ok(u64::from(MC_BANKS)),
        MCG_STATUS => Ok(0),
        _ if mc_bank(msr) => Ok(0),
        K8_SYSCFG if vendor == Vendor::Amd && cpu.hardware_domain() => host(cpu, K8_SYSCFG),
        // TscFreqSel, which Linux takes for a firmware bug where it is clear.
        K8_HWCR if vendor == Vendor::Amd => Ok(1 << 24),
        // LFENCE is serialising.
        K8_DE_CFG if vendor == Vendor::Amd => Ok(1 << 1),
        // The register that installs the hypercall page reads as zero.
        HYPERCALL_PAGE => Ok(0),
        _ => Err(Stop::Unhandled),
    }
}

/// Writes `msr` for the guest's kernel. `Err(Stop::Unhandled)`: no such register or value, #GP.
pub fn write<C: Cpu>(cpu: &mut C, msr: u32, value: u64) -> Result<(), Stop> {
    let vendor = cpu.policy().vendor();
    let features = cpu.policy().features();
    match msr {
        FS_BASE | GS_BASE | SHADOW_GS_BASE if canonical(value) => {
            let base = match msr {
                FS_BASE => Base::Fs,
                GS_BASE => Base::Gs,
                _ => Base::ShadowGs,
            };
            cpu.set_base(base, value);
            Ok(())
        }
        TSC_AUX if (features.rdtscp || features.rdpid) && value >> 32 == 0 => {
            cpu.set_tsc_aux(value as u32);
            Ok(())
        }
        // The first half of Intel's way to read the microcode revision.
        UCODE_REV if vendor == Vendor::Intel => Ok(()),
        MISC_ENABLE if read(cpu, MISC_ENABLE)? == value => Ok(()),
        MISC_FEATURES_ENABLES if value == 0 => Ok(()),
        MPERF | APERF if vendor != Vendor::Other => Ok(()),
        THERM_CONTROL | ENERGY_PERF_BIAS if vendor == Vendor::Intel => Ok(()),
        MCG_STATUS => Ok(()),
        _ if mc_bank(msr) => Ok(()),
        K8_DE_CFG if vendor == Vendor::Amd => Ok(()),
        // The low 12 bits are the page's number; there is one page.
        HYPERCALL_PAGE if value & 0xfff == 0 => {
            cpu.install_hypercall_page(value >> 12).map_err(control_error)
        }
        _ => Err(Stop::Unhandled),
    }
}

fn host<C: Cpu>(cpu: &mut C, msr: u32) -> Result<u64, Stop> {
    cpu.host_msr(msr).ok_or(Stop::Unhandled)
}

fn guest_misc_enable(value: u64) -> u64 {
    value & !MISC_ENABLE_CLEAR | MISC_ENABLE_SET
}

/// CTL, STATUS, ADDR or MISC of one of the guest's machine-check banks.
fn mc_bank(msr: u32) -> bool {
    (MC0_CTL..MC0_CTL + 4 * MC_BANKS).contains(&msr)
}
