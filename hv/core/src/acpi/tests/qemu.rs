//! The tables of QEMU 10.0's machines with four CPUs, as firmware left them in memory: `pc` and
//! `q35` under SeaBIOS (root pointer without XSDT), `q35` under OVMF (with one).
//!
//! The files hold, after the mark `OXACPI01`, (address: u64, length: u32, bytes) of the root
//! pointer and then of each table.

use std::vec::Vec;

use super::build::Ram;
use crate::acpi::sleep::SleepType;
use crate::acpi::{Acpi, IsaRoute, Polarity, Space, Trigger};

fn machine(file: &[u8]) -> (Ram, u64) {
    let mut rest = file.strip_prefix(b"OXACPI01").unwrap();
    let mut ram = Ram::default();
    let mut rsdp = 0;
    while let Some((address, after)) = rest.split_first_chunk() {
        let (len, after) = after.split_first_chunk().unwrap();
        let (bytes, after) = after.split_at(u32::from_le_bytes(*len) as usize);
        if ram.pieces.is_empty() {
            rsdp = u64::from_le_bytes(*address);
        }
        ram.pieces.insert(u64::from_le_bytes(*address), bytes.into());
        rest = after;
    }
    (ram, rsdp)
}

fn common(acpi: &Acpi) {
    let madt = acpi.madt.as_ref().unwrap();
    assert_eq!(madt.local_apic, 0xfee0_0000);
    assert!(madt.has_8259);
    assert_eq!(madt.enabled_cpus().map(|cpu| cpu.apic_id).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let [io_apic] = madt.io_apics[..] else { panic!("{:?}", madt.io_apics) };
    assert_eq!((io_apic.address, io_apic.gsi_base), (0xfec0_0000, 0));
    // The timer's line is on pin 2; PCI's lines and the SCI are level-triggered, active high.
    let timer = IsaRoute { irq: 0, gsi: 2, polarity: Polarity::High, trigger: Trigger::Edge };
    assert_eq!(madt.isa_route(0), timer);
    assert_eq!(madt.isa_route(4), IsaRoute { irq: 4, gsi: 4, ..timer });
    let sci = IsaRoute { irq: 9, gsi: 9, polarity: Polarity::High, trigger: Trigger::Level };
    assert_eq!(madt.isa_route(9), sci);
    assert_eq!(madt.local_nmis.len(), 1);
    assert_eq!((madt.local_nmis[0].uid, madt.local_nmis[0].lint), (None, 1));

    let fadt = acpi.fadt.unwrap();
    assert_eq!((fadt.sci_irq, fadt.century), (9, 0x32));
    assert_eq!(fadt.pm1b_control, None);
    assert!(!fadt.hardware_reduced);
    assert_eq!(fadt.pm_timer.map(|register| register.bits), Some(32));

    let hpet = acpi.hpet.unwrap();
    assert_eq!((hpet.address, hpet.block_id), (0xfed0_0000, 0x8086_a201));
    assert_eq!(acpi.s5, Some(SleepType { a: 0, b: 0 }));
}

#[test]
fn pc() {
    let (ram, rsdp) = machine(include_bytes!("pc.tables"));
    // Found by its bytes where a BIOS puts it, and by a wrong address as well.
    let acpi = Acpi::read(&ram, None).unwrap();
    assert_eq!(acpi.rsdp, rsdp);
    assert_eq!(Acpi::read(&ram, Some(0x1234)).as_ref(), Some(&acpi));
    common(&acpi);
    let fadt = acpi.fadt.unwrap();
    assert_eq!(fadt.pm1a_control.and_then(|register| register.port()), Some(0x604));
    assert_eq!(fadt.pm1a_event.and_then(|register| register.port()), Some(0x600));
    assert_eq!(fadt.pm_timer.and_then(|register| register.port()), Some(0x608));
    assert_eq!((fadt.smi_command, fadt.acpi_enable, fadt.acpi_disable), (0xb2, 0xf1, 0xf0));
    assert_eq!((fadt.reset, acpi.mcfg), (None, None));
}

fn q35_registers(acpi: &Acpi) {
    common(acpi);
    let fadt = acpi.fadt.unwrap();
    assert_eq!(fadt.pm1a_control.and_then(|register| register.port()), Some(0x604));
    let (reset, value) = fadt.reset.unwrap();
    assert_eq!((reset.space, reset.address, value), (Space::Port, 0xcf9, 0x0f));
}

#[test]
fn q35() {
    let (ram, rsdp) = machine(include_bytes!("q35.tables"));
    let acpi = Acpi::read(&ram, Some(rsdp)).unwrap();
    q35_registers(&acpi);
    let [segment] = acpi.mcfg.as_ref().unwrap().segments[..] else { panic!("{:?}", acpi.mcfg) };
    assert_eq!(segment.range(), 0xb000_0000..0xc000_0000);
}

#[test]
fn q35_under_uefi() {
    let (ram, rsdp) = machine(include_bytes!("q35-uefi.tables"));
    let acpi = Acpi::read(&ram, Some(rsdp)).unwrap();
    q35_registers(&acpi);
    let [segment] = acpi.mcfg.as_ref().unwrap().segments[..] else { panic!("{:?}", acpi.mcfg) };
    assert_eq!((segment.segment, segment.first_bus, segment.last_bus), (0, 0, 0xff));
}
