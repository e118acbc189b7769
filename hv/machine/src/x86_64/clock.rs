//! Time: the TSC's rate, measured once against a timer of known rate, and the hypervisor's system time from it.
//!
//! The PIT comes first, for it can be asked before anything else is known of the machine. One that has none is measured
//! again when the firmware's tables have told of an HPET or of the ACPI timer. The hardest decision is to trust no single
//! reading: on a virtual machine any two instructions may be milliseconds apart, so each end of the measured time is
//! the tightest of several readings between two of the TSC.

use super::mmio::Registers;
use super::port::{self, inb, outb};
use super::{apic, cpu};
use crate::ticks;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

static TSC_HZ: AtomicU64 = AtomicU64::new(0);
static TSC_BOOT: AtomicU64 = AtomicU64::new(0);
/// APIC timer ticks per TSC tick, as a fraction of 2^32.
static APIC_PER_TSC: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per TSC tick, as a fraction of 2^32.
static NS_PER_TSC: AtomicU64 = AtomicU64::new(0);
static MEASURED: AtomicBool = AtomicBool::new(false);

/// TSC ticks after which a timer that has not moved is none: a quarter of a second at 4 GHz.
const PATIENCE: u64 = 1_000_000_000;

/// A timer of known rate.
#[derive(Clone, Copy, Debug)]
pub enum Reference {
    /// Channel 2 of the interval timer, counting down from 0xffff once.
    Pit,
    /// The ACPI PM timer: its port, and how many bits it has.
    PmTimer(u16, u32),
    /// An HPET's registers.
    Hpet(Registers),
}

impl Reference {
    /// Ticks a second; 0 for one that is none.
    fn hz(self) -> u64 {
        match self {
            Reference::Pit => 1_193_182,
            Reference::PmTimer(..) => 3_579_545,
            // The period in femtoseconds, at most 100 ns.
            Reference::Hpet(r) => match r.read_u32(4) {
                period @ 1..=100_000_000 => 1_000_000_000_000_000 / u64::from(period),
                _ => 0,
            },
        }
    }

    fn start(self) {
        match self {
            Reference::Pit => {
                // The gate on, the speaker off; mode 0, count down once.
                outb(0x61, inb(0x61) & !0b10 | 1);
                outb(0x43, 0b1011_0000);
                outb(0x42, 0xff);
                outb(0x42, 0xff);
            }
            Reference::PmTimer(..) => {}
            Reference::Hpet(r) => r.write_u32(0x10, r.read_u32(0x10) | 1),
        }
    }

    /// What it counts, upwards.
    fn read(self) -> u32 {
        match self {
            Reference::Pit => {
                outb(0x43, 0b1000_0000);
                let low = u32::from(inb(0x42));
                0xffff - (low | u32::from(inb(0x42)) << 8)
            }
            Reference::PmTimer(at, _) => port::read(at, 4),
            Reference::Hpet(r) => r.read_u32(0xf0),
        }
    }

    /// Ticks from one reading to a later one.
    fn between(self, from: u32, to: u32) -> u64 {
        let bits = match self {
            Reference::Pit => 16,
            Reference::PmTimer(_, bits) => bits.clamp(24, 32),
            Reference::Hpet(_) => 32,
        };
        u64::from(to.wrapping_sub(from)) & ((1 << bits) - 1)
    }

    /// It ran out, and what it says means nothing.
    fn over(self) -> bool {
        matches!(self, Reference::Pit) && inb(0x61) & 0x20 != 0
    }
}

/// The TSC, the timer and the local APIC's timer at one time.
struct Sample {
    tsc: u64,
    timer: u32,
    apic: u32,
}

/// The tightest of some readings.
fn sample(of: Reference) -> Sample {
    let mut best = Sample { tsc: 0, timer: 0, apic: 0 };
    let mut gap = u64::MAX;
    for _ in 0..8 {
        let before = cpu::rdtsc();
        let (timer, apic) = (of.read(), apic::counted());
        let after = cpu::rdtsc();
        if after - before < gap {
            gap = after - before;
            best = Sample { tsc: before + gap / 2, timer, apic };
        }
    }
    best
}

/// Measures for 20 ms: the TSC's rate, and the local APIC's timer for 2^32 ticks of the TSC.
fn measure(by: Reference) -> Option<(u64, u64)> {
    let hz = by.hz();
    if hz == 0 {
        return None;
    }
    for _ in 0..5 {
        by.start();
        apic::start_counting();
        let first = sample(by);
        let moved = loop {
            if by.between(first.timer, by.read()) >= hz / 50 {
                break true;
            }
            if cpu::rdtsc() - first.tsc > PATIENCE {
                break false;
            }
            core::hint::spin_loop();
        };
        let last = sample(by);
        let over = by.over();
        apic::stop_counting();
        if !moved {
            return None;
        }
        let (tsc, timer) = (last.tsc - first.tsc, by.between(first.timer, last.timer));
        if over || timer == 0 || tsc == 0 {
            continue;
        }
        let rate = (u128::from(tsc) * u128::from(hz) / u128::from(timer)) as u64;
        let apic = u128::from(last.apic.wrapping_sub(first.apic));
        return Some((rate.max(1_000_000), ((apic << 32) / u128::from(tsc)) as u64));
    }
    None
}

/// The TSC's rate as the processor tells it, or a guess.
fn told() -> u64 {
    let leaves = cpu::cpuid(0, 0).eax;
    let ratio = if leaves >= 0x15 { cpu::cpuid(0x15, 0) } else { cpu::Cpuid::default() };
    let base = if leaves >= 0x16 { cpu::cpuid(0x16, 0).eax & 0xffff } else { 0 };
    match (ratio.eax, u64::from(ratio.ebx), u64::from(ratio.ecx)) {
        (d @ 1.., n @ 1.., crystal @ 1..) => crystal * n / u64::from(d),
        _ if base != 0 => u64::from(base) * 1_000_000,
        _ => 1_000_000_000,
    }
}

fn set(hz: u64, apic_per_tsc: u64) {
    TSC_HZ.store(hz, Relaxed);
    APIC_PER_TSC.store(apic_per_tsc, Relaxed);
    NS_PER_TSC.store(((1_000_000_000_u128 << 32) / u128::from(hz)) as u64, Relaxed);
}

/// Sets the clock going, by the PIT if there is one.
pub fn calibrate() {
    TSC_BOOT.store(cpu::rdtsc(), Relaxed);
    if !calibrate_by(Reference::Pit) {
        set(told(), 1 << 32);
    }
}

/// Measures the clock by another timer; whether that went well.
pub fn calibrate_by(by: Reference) -> bool {
    let Some((hz, apic)) = measure(by) else { return false };
    set(hz, apic);
    MEASURED.store(true, Relaxed);
    true
}

/// Whether the TSC's rate was measured.
pub fn is_measured() -> bool {
    MEASURED.load(Relaxed)
}

/// The TSC's rate in Hz.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Relaxed)
}
/// The scale from TSC ticks to nanoseconds as `vcpu_time_info` has it: multiplier (a fraction of 2^32) and the
/// shift before it. It is the hypervisor's own, so both clocks agree.
pub fn guest_scale() -> (u32, i8) {
    let mut mul = NS_PER_TSC.load(Relaxed);
    let mut shift = 0;
    while mul > u64::from(u32::MAX) {
        mul >>= 1;
        shift += 1;
    }
    (mul as u32, shift)
}
/// The TSC value at which system time is zero.
pub fn tsc_at_zero() -> u64 {
    TSC_BOOT.load(Relaxed)
}
/// System time of a TSC value: nanoseconds since the clock was measured.
#[inline]
pub fn tsc_to_ns(tsc: u64) -> u64 {
    ((u128::from(tsc.saturating_sub(TSC_BOOT.load(Relaxed))) * u128::from(NS_PER_TSC.load(Relaxed))) >> 32)
        as u64
}
/// The TSC value of a system time.
#[inline]
pub fn ns_to_tsc(ns: u64) -> u64 {
    TSC_BOOT.load(Relaxed).saturating_add(ticks::of_ns(ns, tsc_hz()))
}
/// System time now.
#[inline]
pub fn now() -> u64 {
    tsc_to_ns(cpu::rdtsc())
}
pub(super) fn tsc_to_apic(tsc: u64) -> u64 {
    u64::try_from(u128::from(tsc) * u128::from(APIC_PER_TSC.load(Relaxed)) >> 32).unwrap_or(u64::MAX)
}
/// Waits, for hardware that needs it (start-up of other CPUs).
pub(super) fn delay_us(us: u64) {
    let end = cpu::rdtsc() + tsc_hz() / 1_000_000 * us;
    while cpu::rdtsc() < end {
        core::hint::spin_loop();
    }
}

/// One register of the CMOS clock.
pub fn cmos(register: u8) -> u8 {
    outb(0x70, register & 0x7f);
    inb(0x71)
}
