//! Time: the TSC's rate, measured once against the PIT, and the hypervisor's system time from it.

use super::port::{inb, outb};
use super::{apic, cpu};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

static TSC_HZ: AtomicU64 = AtomicU64::new(0);
static TSC_BOOT: AtomicU64 = AtomicU64::new(0);
/// APIC timer ticks per TSC tick, as a fraction of 2^32.
static APIC_PER_TSC: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per TSC tick, as a fraction of 2^32.
static NS_PER_TSC: AtomicU64 = AtomicU64::new(0);

const PIT_HZ: u64 = 1_193_182;

/// Measures the TSC and the local APIC's timer against PIT channel 2. Takes 20 ms.
pub fn calibrate() {
    // Channel 2's gate on, speaker off; mode 0, count down once.
    let count = (PIT_HZ / 50) as u16;
    outb(0x61, inb(0x61) & !0b10 | 1);
    outb(0x43, 0b1011_0000);
    apic::start_counting();
    outb(0x42, count as u8);
    outb(0x42, (count >> 8) as u8);
    let start = cpu::rdtsc();
    // A machine without a PIT never raises the output: give up after what is a second at 4 GHz.
    while inb(0x61) & 0x20 == 0 && cpu::rdtsc() - start < 4_000_000_000 {
        core::hint::spin_loop();
    }
    let ticks = cpu::rdtsc() - start;
    let apic = u64::from(apic::stop_counting());
    let hz = (ticks * PIT_HZ / u64::from(count)).max(1_000_000);
    TSC_HZ.store(hz, Relaxed);
    APIC_PER_TSC.store(((u128::from(apic) << 32) / u128::from(ticks.max(1))) as u64, Relaxed);
    NS_PER_TSC.store(((1_000_000_000_u128 << 32) / u128::from(hz)) as u64, Relaxed);
    TSC_BOOT.store(start, Relaxed);
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
    ((u128::from(tsc.saturating_sub(TSC_BOOT.load(Relaxed))) * u128::from(NS_PER_TSC.load(Relaxed))) >> 32) as u64
}
/// The TSC value of a system time.
#[inline]
pub fn ns_to_tsc(ns: u64) -> u64 {
    TSC_BOOT.load(Relaxed).saturating_add((u128::from(ns) * u128::from(tsc_hz()) / 1_000_000_000) as u64)
}
/// System time now.
#[inline]
pub fn now() -> u64 {
    tsc_to_ns(cpu::rdtsc())
}
pub(super) fn tsc_to_apic(tsc: u64) -> u64 {
    ((u128::from(tsc) * u128::from(APIC_PER_TSC.load(Relaxed))) >> 32) as u64
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
