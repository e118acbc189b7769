//! What the firmware's ACPI tables say of the machine, put to use: I/O APICs, ISA lines, power registers, and
//! the list of CPUs.

use crate::acpi::{Acpi, Memory, Polarity};
use crate::irq::rights;
use crate::ranges::Ranges;
use crate::{power, time_of_day};
use alloc::vec::Vec;
use core::ops::Range;
use hv_machine::x86_64::clock::{self, Reference};
use hv_machine::x86_64::ioapic::{self, Trigger};
use hv_machine::x86_64::{apic, firmware, mmio, percpu};
use spin::Once;

static ACPI: Once<Acpi> = Once::new();

struct Physical;
impl Memory for Physical {
    fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        firmware::read(address, buf)
    }
}

/// What the rest of boot needs to know.
pub struct Found {
    /// Local APIC ids of the CPUs, the BSP's first.
    pub cpus: Vec<u32>,
    /// Frames that no domain gets: the local APICs', and where a write is an interrupt.
    pub kept: Vec<Range<u64>>,
}

/// Reads the tables and sets up what they describe. `rsdp`: where the loader says they begin.
pub fn init(rsdp: Option<u64>, noreboot: bool) -> Found {
    ioapic::disable_8259();
    let bsp = apic::id();
    let mut found = Found { cpus: Vec::from([bsp]), kept: Vec::from([0xfee0_0..0xfef0_0]) };
    let Some(acpi) = Acpi::read(&Physical, rsdp) else {
        log::warn!("no ACPI: one CPU, one I/O APIC where PCs have it, no power off");
        if let Err(e) = ioapic::add(0xfec0_0000, 0) {
            log::error!("{e}");
        }
        show(&[0xfec0_0]);
        time_of_day::init(0x32);
        return found;
    };
    let acpi = ACPI.call_once(|| acpi);
    let io_apics = acpi.madt.iter().flat_map(|madt| &madt.io_apics).map(|io| u64::from(io.address));
    let shown: Vec<u64> =
        io_apics.chain(acpi.hpet.as_ref().map(|hpet| hpet.address)).map(|a| a >> 12).collect();
    show(&shown);
    if let Some(madt) = &acpi.madt {
        for io in &madt.io_apics {
            if let Err(e) = ioapic::add(io.address.into(), io.gsi_base) {
                log::error!("I/O APIC at {:#x}: {e}", io.address);
            }
        }
        let others = madt.enabled_cpus().map(|c| c.apic_id).filter(|id| *id != bsp);
        found.cpus.extend(others.take(percpu::MAX_CPUS - 1));
    }
    let fadt = acpi.fadt.as_ref();
    let port = |r: Option<crate::acpi::Register>| r.and_then(|r| r.port()).unwrap_or(0);
    power::init(
        [fadt.map_or(0, |f| port(f.pm1a_control)), fadt.map_or(0, |f| port(f.pm1b_control))],
        acpi.s5.as_ref().map(|s| [s.a, s.b]),
        fadt.and_then(|f| f.reset).and_then(|(r, v)| Some((r.port()?, v))),
        noreboot,
    );
    if !clock::is_measured() {
        measure_clock(acpi);
    }
    time_of_day::init(fadt.map_or(0, |f| f.century));
    log::info!(
        "ACPI at {:#x}: {} CPUs, {} I/O APICs, {} lines, S5 {}",
        acpi.rsdp,
        found.cpus.len(),
        acpi.madt.as_ref().map_or(0, |madt| madt.io_apics.len()),
        ioapic::gsi_end(),
        if acpi.s5.is_some() { "known" } else { "unknown" }
    );
    found
}

/// Lets domains see these frames of the hypervisor's devices, and no more.
fn show(frames: &[u64]) {
    let mut set = Ranges::default();
    for frame in frames {
        if let Err(e) = set.add(*frame..frame + 1) {
            log::error!("device memory at frame {frame:#x}: {e:?}");
        }
    }
    rights::set_read_only(set);
}

/// Measures the clock on a machine without a PIT.
fn measure_clock(acpi: &Acpi) {
    let hpet = acpi.hpet.and_then(|h| mmio::map(h.address, 0x400)).map(Reference::Hpet);
    let pm_timer = acpi.fadt.as_ref().and_then(|f| {
        let bits = if f.pm_timer_32_bits { 32 } else { 24 };
        Some(Reference::PmTimer(f.pm_timer?.port()?, bits))
    });
    match [hpet, pm_timer].into_iter().flatten().find(|r| clock::calibrate_by(*r)) {
        Some(by) => {
            let name = if matches!(by, Reference::Hpet(_)) { "the HPET" } else { "the ACPI timer" };
            log::info!("no PIT: TSC {} MHz by {name}", clock::tsc_hz() / 1_000_000);
        }
        None => {
            log::error!("no timer to measure the TSC by: taken to run at {} MHz", clock::tsc_hz() / 1_000_000)
        }
    }
}

/// The line on which an ISA interrupt arrives.
pub fn isa_gsi(irq: u8) -> u32 {
    ACPI.get().and_then(|a| a.madt.as_ref()).map_or(irq.into(), |m| m.isa_route(irq).gsi)
}

/// How an ISA line signals.
pub fn isa_trigger(gsi: u32) -> Trigger {
    let route = ACPI
        .get()
        .and_then(|a| a.madt.as_ref())
        .and_then(|m| (0..16).map(|irq| m.isa_route(irq)).find(|r| r.gsi == gsi));
    match route {
        Some(r) => {
            Trigger { level: r.trigger == crate::acpi::Trigger::Level, low: r.polarity == Polarity::Low }
        }
        None => Trigger { level: false, low: false },
    }
}

/// Where the firmware says PCI configuration space is mapped.
pub fn mmcfg() -> impl Iterator<Item = &'static crate::acpi::Segment> {
    ACPI.get().and_then(|a| a.mcfg.as_ref()).into_iter().flat_map(|m| &m.segments)
}
