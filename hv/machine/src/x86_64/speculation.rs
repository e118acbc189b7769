//! What is done against guests that look at what a processor did ahead of time.
//!
//! The hardest decision is what to leave out. A guest's kernel runs in ring 3 here, on page tables that map the
//! hypervisor and all memory for ring 0. What the processor can do by itself is used:
//!
//! | flaw | what is done | cost |
//! | --- | --- | --- |
//! | branch targets learnt from a guest (Spectre v2) | IBRS that holds for ever (Intel's enhanced, AMD's automatic), with STIBP; SMEP keeps the return stack's old entries from being run | at boot |
//! | the same between guests | IBPB when a CPU goes from one domain to another | at that switch |
//! | buffers that keep what was last loaded (MDS, TAA) | VERW on the way to a guest, where the processor is affected | a test |
//! | a swapgs gone past (CVE-2019-1125) | LFENCE behind each that may be (asm/entry.s), which AMD's processors before Zen 3 must be told to obey | one instruction |
//!
//! Not done, and told at boot where the processor is affected: a second set of page tables against Meltdown (with it
//! every trap changes CR3), shadow tables against L1TF, IBRS at every entry or retpolines where IBRS does not hold for
//! ever. On such a processor a guest can read other guests' memory with enough patience: give it only guests that trust
//! each other.

use super::cpu::{self, cpuid, msr};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const ARCH_CAPABILITIES: u32 = 0x10a;
const IBRS: u64 = 1;
const STIBP: u64 = 1 << 1;
/// EFER: automatic IBRS.
const AIBRSE: u64 = 1 << 21;

/// AMD: how LFENCE behaves, and the bit that makes it wait for the instructions before it.
const DE_CFG: u32 = 0xc001_1029;
const LFENCE_SERIALISE: u64 = 1 << 1;
/// AMD's families without that register, where LFENCE always waits.
const WAITING_FAMILIES: [u32; 2] = [0xf, 0x11];

static LFENCE_TOLD: AtomicBool = AtomicBool::new(false);
static HAS_IBPB: AtomicBool = AtomicBool::new(false);
static NEEDS_VERW: AtomicBool = AtomicBool::new(false);

/// A processor's flaws and remedies, as it tells them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// IBRS that holds for ever: Intel's.
    enhanced: bool,
    /// The same, AMD's.
    automatic: bool,
    stibp: bool,
    ibpb: bool,
    /// Buffers keep what was loaded.
    leaks_buffers: bool,
    /// VERW empties them.
    verw: bool,
    /// Meltdown and L1TF.
    reads_ahead: bool,
    /// AMD's LFENCE, which is not known to wait before it was told to.
    lfence_asks: bool,
}

/// Whether LFENCE of this processor of AMD's waits, told to if need be.
fn lfence_waits() -> bool {
    let signature = cpuid(1, 0).eax;
    let family = match signature >> 8 & 0xf {
        0xf => 0xf + (signature >> 20 & 0xff),
        family => family,
    };
    let is_set = || cpu::try_rdmsr(DE_CFG).map(|value| (value, value & LFENCE_SERIALISE != 0));
    WAITING_FAMILIES.contains(&family)
        || match is_set() {
            Some((_, true)) => true,
            // A hypervisor below may have dropped the write.
            Some((value, false)) => {
                cpu::try_wrmsr(DE_CFG, value | LFENCE_SERIALISE) && is_set().is_some_and(|(_, is)| is)
            }
            None => false,
        }
}

fn look() -> Found {
    let leaves = cpuid(0, 0);
    let amd = matches!(&leaves.ebx.to_le_bytes(), b"Auth" | b"Hygo");
    let features = if leaves.eax >= 7 { cpuid(7, 0).edx } else { 0 };
    let highest = cpuid(0x8000_0000, 0).eax;
    let extended = |leaf: u32| if highest >= leaf { cpuid(leaf, 0) } else { cpu::Cpuid::default() };
    let sizes = extended(0x8000_0008).ebx;
    let told = if features & 1 << 29 != 0 { cpu::try_rdmsr(ARCH_CAPABILITIES).unwrap_or(0) } else { 0 };
    Found {
        enhanced: told & 1 << 1 != 0 && features & 1 << 26 != 0,
        automatic: amd && extended(0x8000_0021).eax & 1 << 8 != 0,
        stibp: features & 1 << 27 != 0,
        ibpb: features & 1 << 26 != 0 || sizes & 1 << 12 != 0,
        leaks_buffers: !amd && told & 1 << 5 == 0,
        verw: features & 1 << 10 != 0,
        reads_ahead: !amd && told & 1 == 0,
        lfence_asks: amd && extended(0x8000_0021).eax & 1 << 2 == 0,
    }
}

/// Turns on, on this CPU, what needs no more than that.
pub(super) fn init() {
    let found = look();
    if found.lfence_asks && lfence_waits() {
        LFENCE_TOLD.store(true, Relaxed);
    }
    if found.enhanced {
        cpu::try_wrmsr(SPEC_CTRL, IBRS | if found.stibp { STIBP } else { 0 });
    }
    if found.automatic {
        // SAFETY: EFER exists; the bit changes what is predicted, and nothing else.
        unsafe { cpu::wrmsr(msr::EFER, cpu::rdmsr(msr::EFER) | AIBRSE) };
    }
    HAS_IBPB.store(found.ibpb, Relaxed);
    NEEDS_VERW.store(found.leaks_buffers && found.verw, Relaxed);
}

/// Whether this is a processor of AMD's whose LFENCE waits for what precedes it without its CPUID saying so.
pub fn lfence_was_told_to_wait() -> bool {
    LFENCE_TOLD.load(Relaxed)
}

/// What the boot CPU is, for the log.
pub fn found() -> Found {
    look()
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ibrs = self.enhanced || self.automatic;
        let done = [(ibrs, "IBRS"), (self.ibpb, "IBPB"), (self.leaks_buffers && self.verw, "VERW")];
        let open = [
            (!ibrs, "branch targets"),
            (!self.ibpb, "branch targets between guests"),
            (self.leaks_buffers && !self.verw, "buffers"),
            (self.lfence_asks && !lfence_was_told_to_wait(), "a swapgs gone past"),
            (self.reads_ahead, "Meltdown and L1TF"),
        ];
        f.write_str("in use:")?;
        list(f, &done)?;
        f.write_str("; open:")?;
        list(f, &open)
    }
}

fn list(f: &mut fmt::Formatter<'_>, which: &[(bool, &str)]) -> fmt::Result {
    if which.iter().all(|(is, _)| !is) {
        return f.write_str(" none");
    }
    which
        .iter()
        .filter(|(is, _)| *is)
        .enumerate()
        .try_for_each(|(n, (_, name))| write!(f, "{} {name}", if n == 0 { "" } else { "," }))
}

/// Another domain's vcpu runs here from now on: it finds no branch targets of the one before.
pub fn another_domain() {
    if HAS_IBPB.load(Relaxed) {
        cpu::try_wrmsr(PRED_CMD, 1);
    }
}

/// Whether [`before_guest`] does anything on this machine.
pub(crate) fn acts_before_guest() -> bool {
    NEEDS_VERW.load(Relaxed)
}

/// The last thing before a guest is entered: the processor's buffers are emptied, if they would tell.
#[inline(always)]
pub(crate) fn before_guest() {
    if NEEDS_VERW.load(Relaxed) {
        let selector: u16 = super::desc::HOST_DS;
        // SAFETY: reads a selector's descriptor; with the feature it empties buffers as well.
        unsafe {
            core::arch::asm!("verw word ptr [{}]", in(reg) &raw const selector, options(readonly, nostack))
        };
    }
}
