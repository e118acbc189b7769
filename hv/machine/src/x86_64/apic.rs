//! The local APIC: interrupts between CPUs, end of interrupt, and the timer. As x2APIC (registers are
//! MSRs) where the CPU has it, else as xAPIC (registers are memory).

use super::{clock, cpu, paging, percpu};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Vectors that the hypervisor keeps for itself; devices get those below.
pub mod vector {
    /// First vector for devices.
    pub const DEVICE_FIRST: u8 = 0x30;
    /// Between them, no device's: the one that ring 3 may use by `int`, for 32-bit system calls.
    pub const SYSTEM_CALL: u8 = 0x80;
    /// Last vector for devices.
    pub const DEVICE_LAST: u8 = 0xef;
    /// The local timer.
    pub const TIMER: u8 = 0xf0;
    /// Another CPU wants this one to look at its run queue and pending events.
    pub const KICK: u8 = 0xf1;
    /// Another CPU wants this one's TLB flushed.
    pub const FLUSH: u8 = 0xf2;
    /// Spurious.
    pub const SPURIOUS: u8 = 0xff;
}

const ID: u32 = 0x20;
const TPR: u32 = 0x80;
const EOI: u32 = 0xb0;
const SVR: u32 = 0xf0;
const ICR_LOW: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_DIVIDE: u32 = 0x3e0;
const MASKED: u32 = 1 << 16;

static X2APIC: AtomicBool = AtomicBool::new(false);
static DEADLINE: AtomicBool = AtomicBool::new(false);
static BASE: AtomicU64 = AtomicU64::new(0);

fn read(reg: u32) -> u32 {
    if X2APIC.load(Relaxed) {
        // SAFETY: x2APIC registers exist as MSRs once it is enabled.
        unsafe { cpu::rdmsr(0x800 + (reg >> 4)) as u32 }
    } else {
        // SAFETY: BASE is the register page, mapped uncached in `init`.
        unsafe { ((BASE.load(Relaxed) + u64::from(reg)) as *const u32).read_volatile() }
    }
}

fn write(reg: u32, v: u32) {
    if X2APIC.load(Relaxed) {
        // SAFETY: as in `read`; values are legal ones of these registers.
        unsafe { cpu::wrmsr(0x800 + (reg >> 4), v.into()) }
    } else {
        // SAFETY: as in `read`.
        unsafe { ((BASE.load(Relaxed) + u64::from(reg)) as *mut u32).write_volatile(v) }
    }
}

/// Enables this CPU's local APIC. The BSP's first call chooses the mode for all.
pub fn init(bsp: bool) -> Result<(), &'static str> {
    let features = cpu::cpuid(1, 0);
    if features.edx & (1 << 9) == 0 {
        return Err("no local APIC");
    }
    // SAFETY: APIC_BASE exists with the local APIC; enabling it raises nothing while all is masked.
    unsafe {
        let base = cpu::rdmsr(cpu::msr::APIC_BASE);
        if bsp {
            X2APIC.store(features.ecx & (1 << 21) != 0, Relaxed);
            DEADLINE.store(features.ecx & (1 << 24) != 0, Relaxed);
            if !X2APIC.load(Relaxed) {
                let va =
                    paging::map_mmio(base & 0x000f_ffff_ffff_f000, 1).ok_or("no room for the local APIC")?;
                BASE.store(va, Relaxed);
            }
        }
        let mode = if X2APIC.load(Relaxed) { 0xc00 } else { 0x800 };
        cpu::wrmsr(cpu::msr::APIC_BASE, base | mode);
    }
    write(TPR, 0);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, 0x400); // NMI
    write(TIMER_DIVIDE, 0b1011); // by one
    write(LVT_TIMER, u32::from(vector::TIMER) | if DEADLINE.load(Relaxed) { 1 << 18 } else { 0 });
    write(SVR, 0x100 | u32::from(vector::SPURIOUS));
    Ok(())
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    let v = read(ID);
    if X2APIC.load(Relaxed) { v } else { v >> 24 }
}

/// Ends the interrupt in service.
#[inline]
pub fn eoi() {
    write(EOI, 0);
}

fn icr(target: u32, low: u32) {
    if X2APIC.load(Relaxed) {
        // SAFETY: the ICR exists; senders name vectors that have handlers.
        unsafe { cpu::wrmsr(0x830, u64::from(target) << 32 | u64::from(low)) };
    } else {
        while read(ICR_LOW) & (1 << 12) != 0 {
            core::hint::spin_loop();
        }
        write(ICR_HIGH, target << 24);
        write(ICR_LOW, low);
    }
}

/// Interrupts another CPU.
pub fn send(cpu: usize, vector: u8) {
    icr(percpu::of(cpu).apic_id, 0x4000 | u32::from(vector));
}
/// Resets another CPU (INIT).
pub(super) fn send_init(apic_id: u32) {
    icr(apic_id, 0x4500);
}
/// Starts another CPU at a page below 1 MiB (start-up IPI).
pub(super) fn send_startup(apic_id: u32, page: u8) {
    icr(apic_id, 0x4600 | u32::from(page));
}

/// Asks for the timer interrupt at a TSC value (`None`: never).
pub fn set_timer(deadline: Option<u64>) {
    if DEADLINE.load(Relaxed) {
        // SAFETY: the MSR exists with the feature; zero disarms.
        unsafe { cpu::wrmsr(cpu::msr::TSC_DEADLINE, deadline.map_or(0, |d| d.max(1))) };
        return;
    }
    let count = match deadline {
        None => 0,
        Some(d) => clock::tsc_to_apic(d.saturating_sub(cpu::rdtsc())).clamp(1, u32::MAX.into()) as u32,
    };
    write(TIMER_INITIAL, count);
}

/// The timer counter's current value, for calibration: counts down from `u32::MAX` once started here.
pub(super) fn start_counting() {
    write(LVT_TIMER, MASKED | u32::from(vector::TIMER));
    write(TIMER_INITIAL, u32::MAX);
}
/// Ticks since [`start_counting`].
pub(super) fn counted() -> u32 {
    u32::MAX - read(0x390)
}
/// Stops the counter and re-arms the timer's entry.
pub(super) fn stop_counting() {
    write(TIMER_INITIAL, 0);
    write(LVT_TIMER, u32::from(vector::TIMER) | if DEADLINE.load(Relaxed) { 1 << 18 } else { 0 });
}
