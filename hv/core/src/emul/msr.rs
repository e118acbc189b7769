//! Model-specific registers of a PV guest.
//!
//! A register is either named here or does not exist: an access to any other one is #GP, as with
//! Xen 4.17's default `msr_relaxed=0`. Nothing a guest writes reaches a hardware register but
//! segment bases and TSC_AUX, through the vcpu's own state.

use super::cpuid::Vendor;
use super::privop::control_error;
use super::{Base, Cpu, Stop, canonical};

/// Registers whose hardware value [`read`] and [`write`] ask for.
pub const HOST_READABLE: [u32; 5] = [PLATFORM_ID, UCODE_REV, MISC_ENABLE, PAT, EFER];

const P5_MC_TYPE: u32 = 0x1;
const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const UCODE_REV: u32 = 0x8b;
/// Whether CPUID can be made to fault, among others.
pub const PLATFORM_INFO: u32 = 0xce;
const MPERF: u32 = 0xe7;
const APERF: u32 = 0xe8;
/// What the processor says of its own flaws.
pub const ARCH_CAPABILITIES: u32 = 0x10a;
const MISC_FEATURES_ENABLES: u32 = 0x140;
const MCG_CAP: u32 = 0x179;
const MCG_CTL: u32 = 0x17b;
const PERF_STATUS: u32 = 0x198;
const PERF_CTL: u32 = 0x199;
const THERM_CONTROL: u32 = 0x19a;
const THERM_STATUS: u32 = 0x19c;
const MISC_ENABLE: u32 = 0x1a0;
const ENERGY_PERF_BIAS: u32 = 0x1b0;
const PAT: u32 = 0x277;
const PERF_CAPABILITIES: u32 = 0x345;
const HYPERCALL_PAGE: u32 = 0x4000_0000;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const SHADOW_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
const K8_SYSCFG: u32 = 0xc001_0010;
const K8_HWCR: u32 = 0xc001_0015;
const K8_IORR_BASE0: u32 = 0xc001_0016;
const K8_TOP_MEM1: u32 = 0xc001_001a;
const K8_TOP_MEM2: u32 = 0xc001_001d;
const K8_NB_CFG: u32 = 0xc001_001f;
const K8_PSTATE_LIMIT: u32 = 0xc001_0061;
const K8_PSTATE7: u32 = 0xc001_006b;
const K8_TSEG_BASE: u32 = 0xc001_0112;
const K8_TSEG_MASK: u32 = 0xc001_0113;
const K8_DE_CFG: u32 = 0xc001_1029;

/// MCG_CAP of a guest: two banks; on Intel also CMCI, threshold status and software recovery.
const MCG_BANKS: u64 = 2;
const MCG_INTEL: u64 = 1 << 10 | 1 << 11 | 1 << 24;
/// The first machine-check bank register (CTL, STATUS, ADDR, MISC of each bank follow), and the
/// last of 32 banks.
const MC0_CTL: u32 = 0x400;
const MC31_MISC: u32 = 0x47f;
/// The registers that enable corrected-error interrupts, one a bank.
const MC0_CTL2: u32 = 0x280;
const MC31_CTL2: u32 = 0x29f;

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
        ARCH_CAPABILITIES => cpu.policy().arch_capabilities().ok_or(Stop::Unhandled),
        // Locked, and no feature enabled.
        FEATURE_CONTROL if vendor == Vendor::Intel => Ok(1),
        PLATFORM_INFO | MISC_FEATURES_ENABLES | PERF_CAPABILITIES => Ok(0),
        PERF_STATUS | PERF_CTL | THERM_STATUS if vendor == Vendor::Intel => Ok(0),
        MISC_ENABLE => host(cpu, MISC_ENABLE).map(guest_misc_enable),
        PAT => host(cpu, PAT),
        MCG_CAP if vendor == Vendor::Intel => Ok(MCG_BANKS | MCG_INTEL),
        MCG_CAP => Ok(MCG_BANKS),
        _ if bank_control(msr) => Ok(u64::MAX),
        _ if machine_check(msr) || performance_counter(vendor, msr) => Ok(0),
        K8_HWCR | K8_PSTATE_LIMIT..=K8_PSTATE7 if vendor == Vendor::Amd => Ok(0),
        K8_NB_CFG => host(cpu, K8_NB_CFG),
        // The memory map's registers, which a hardware domain looks at for its size.
        K8_SYSCFG | K8_IORR_BASE0..=K8_TOP_MEM1 | K8_TOP_MEM2 | K8_TSEG_BASE | K8_TSEG_MASK
            if vendor == Vendor::Amd && cpu.hardware_domain() =>
        {
            Ok(0)
        }
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
        EFER if read(cpu, EFER)? == value => Ok(()),
        // The first half of Intel's way to read the microcode revision.
        UCODE_REV if vendor == Vendor::Intel && value == 0 => Ok(()),
        MISC_FEATURES_ENABLES if value == 0 => Ok(()),
        // What follows is accepted and ignored.
        MISC_ENABLE | MCG_CAP => Ok(()),
        MPERF | APERF if vendor != Vendor::Other => Ok(()),
        PERF_CTL | THERM_CONTROL | ENERGY_PERF_BIAS if vendor == Vendor::Intel => Ok(()),
        // Banks report nothing, and are only told to forget.
        _ if bank_report(msr) => {
            if value == 0 {
                Ok(())
            } else {
                Err(Stop::Unhandled)
            }
        }
        _ if machine_check(msr) && msr > P5_MC_TYPE || performance_counter(vendor, msr) => Ok(()),
        K8_HWCR | K8_PSTATE_LIMIT..=K8_PSTATE7 | K8_DE_CFG if vendor == Vendor::Amd => Ok(()),
        K8_NB_CFG => Ok(()),
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

/// CTL of one of the guest's banks.
fn bank_control(msr: u32) -> bool {
    in_bank(msr) && msr & 3 == 0
}

/// STATUS, ADDR or MISC of one of the guest's banks.
fn bank_report(msr: u32) -> bool {
    in_bank(msr) && msr & 3 != 0
}

fn in_bank(msr: u32) -> bool {
    (MC0_CTL..=MC31_MISC).contains(&msr) && u64::from((msr - MC0_CTL) / 4) < MCG_BANKS
}

/// A machine-check register. No machine check is delivered, so all of them read as zero but what
/// [`read`] names.
fn machine_check(msr: u32) -> bool {
    matches!(msr, 0..=P5_MC_TYPE | MCG_CAP..=MCG_CTL | MC0_CTL..=MC31_MISC | MC0_CTL2..=MC31_CTL2)
}

/// A performance counter or its control: zero and ignored, so that a driver finds no counter
/// working.
fn performance_counter(vendor: Vendor, msr: u32) -> bool {
    match vendor {
        Vendor::Intel => {
            matches!(msr, 0xc1..=0xc8 | 0x186..=0x189 | 0x309..=0x30b | 0x38d..=0x390)
        }
        Vendor::Amd => matches!(msr, 0xc001_0000..=0xc001_0007 | 0xc001_0200..=0xc001_020b),
        Vendor::Other => false,
    }
}
