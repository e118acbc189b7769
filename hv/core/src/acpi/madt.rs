//! `APIC`, the multiple APIC description table.

use alloc::vec::Vec;

use super::Table;
use super::table::field;

/// More CPUs, IO-APICs, overrides or NMI lines than these are not taken.
const MAX_CPUS: usize = 1024;
const MAX_IO_APICS: usize = 128;
const MAX_LINES: usize = 256;

/// A CPU that firmware lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// Its local APIC id.
    pub apic_id: u32,
    /// Its ACPI processor UID.
    pub uid: u32,
    /// It is there and may be started.
    pub enabled: bool,
    /// It is not enabled, but may become so later.
    pub online_capable: bool,
}

/// An IO-APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    /// Its id.
    pub id: u8,
    /// The physical address of its registers.
    pub address: u32,
    /// The global system interrupt of its first pin.
    pub gsi_base: u32,
}

/// When an interrupt line is active.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Polarity {
    High,
    Low,
}

/// What of an interrupt line is an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Trigger {
    Edge,
    Level,
}

/// Where an ISA interrupt arrives, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IsaRoute {
    /// The ISA interrupt, 0 to 15.
    pub irq: u8,
    /// The global system interrupt.
    pub gsi: u32,
    /// Its polarity.
    pub polarity: Polarity,
    /// Its trigger mode.
    pub trigger: Trigger,
}

/// A local APIC pin that is wired to NMI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalNmi {
    /// The processor UID; `None`: every processor.
    pub uid: Option<u32>,
    /// LINT0 or LINT1.
    pub lint: u8,
    /// The polarity.
    pub polarity: Polarity,
    /// The trigger mode.
    pub trigger: Trigger,
}

/// The parsed table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Madt {
    /// The physical address of the local APICs' registers.
    pub local_apic: u64,
    /// There are 8259 interrupt controllers, which must be masked.
    pub has_8259: bool,
    /// CPUs, each APIC id once, in the table's order (the boot CPU is by convention the first).
    pub cpus: Vec<Cpu>,
    /// IO-APICs.
    pub io_apics: Vec<IoApic>,
    /// ISA interrupts that are not identity-mapped, active high and edge-triggered.
    pub overrides: Vec<IsaRoute>,
    /// Local APIC pins wired to NMI.
    pub local_nmis: Vec<LocalNmi>,
}

/// The polarity and trigger of MPS INTI flags, where `conforming` says what the bus does.
fn inti(flags: u16, conforming: (Polarity, Trigger)) -> (Polarity, Trigger) {
    let polarity = match flags & 3 {
        1 => Polarity::High,
        3 => Polarity::Low,
        _ => conforming.0,
    };
    let trigger = match flags >> 2 & 3 {
        1 => Trigger::Edge,
        3 => Trigger::Level,
        _ => conforming.1,
    };
    (polarity, trigger)
}

const ISA: (Polarity, Trigger) = (Polarity::High, Trigger::Edge);

impl Madt {
    /// Parses the table. Unknown and malformed entries are skipped. `None`: it is no MADT.
    pub fn parse(table: &Table) -> Option<Madt> {
        let mut madt = Madt {
            local_apic: u64::from(table.u32(36)?),
            has_8259: table.u32(40)? & 1 != 0,
            ..Madt::default()
        };
        for (kind, entry) in table.entries(44) {
            madt.entry(kind, entry);
        }
        Some(madt)
    }

    /// Takes one entry; `None` where it is too short for its type.
    fn entry(&mut self, kind: u8, entry: &[u8]) -> Option<()> {
        let byte = |offset: usize| entry.get(offset).copied();
        let word = |offset| field(entry, offset).map(u16::from_le_bytes);
        let dword = |offset| field(entry, offset).map(u32::from_le_bytes);
        match kind {
            // APIC id 0xff is the broadcast address: firmware's mark of an absent CPU.
            0 if byte(3)? != 0xff => self.add_cpu(u32::from(byte(3)?), u32::from(byte(2)?), dword(4)?),
            1 => {
                let io_apic = IoApic { id: byte(2)?, address: dword(4)?, gsi_base: dword(8)? };
                push(&mut self.io_apics, MAX_IO_APICS, io_apic);
            }
            // Bus 0 is ISA; no other is defined.
            2 if byte(2)? == 0 => {
                let (irq, gsi) = (byte(3)?, dword(4)?);
                let (polarity, trigger) = inti(word(8)?, ISA);
                if irq < 16 && !self.overrides.iter().any(|route| route.irq == irq) {
                    push(&mut self.overrides, MAX_LINES, IsaRoute { irq, gsi, polarity, trigger });
                }
            }
            4 => {
                let uid = Some(u32::from(byte(2)?)).filter(|uid| *uid != 0xff);
                self.add_nmi(uid, word(3)?, byte(5)?);
            }
            5 => self.local_apic = field(entry, 4).map(u64::from_le_bytes)?,
            9 => self.add_cpu(dword(4)?, dword(12)?, dword(8)?),
            10 => {
                let uid = Some(dword(4)?).filter(|uid| *uid != u32::MAX);
                self.add_nmi(uid, word(2)?, byte(8)?);
            }
            _ => {}
        }
        Some(())
    }

    fn add_cpu(&mut self, apic_id: u32, uid: u32, flags: u32) {
        let cpu = Cpu { apic_id, uid, enabled: flags & 1 != 0, online_capable: flags & 2 != 0 };
        // Firmware may list a CPU in both formats.
        match self.cpus.iter_mut().find(|known| known.apic_id == apic_id) {
            Some(known) if cpu.enabled && !known.enabled => *known = cpu,
            Some(_) => {}
            None => push(&mut self.cpus, MAX_CPUS, cpu),
        }
    }

    fn add_nmi(&mut self, uid: Option<u32>, flags: u16, lint: u8) {
        let (polarity, trigger) = inti(flags, ISA);
        if lint < 2 {
            push(&mut self.local_nmis, MAX_LINES, LocalNmi { uid, lint, polarity, trigger });
        }
    }

    /// The CPUs that may be started.
    pub fn enabled_cpus(&self) -> impl Iterator<Item = &Cpu> {
        self.cpus.iter().filter(|cpu| cpu.enabled)
    }

    /// Where the ISA interrupt `irq` arrives.
    pub fn isa_route(&self, irq: u8) -> IsaRoute {
        let known = self.overrides.iter().find(|route| route.irq == irq).copied();
        let (polarity, trigger) = ISA;
        known.unwrap_or(IsaRoute { irq, gsi: u32::from(irq), polarity, trigger })
    }
}

fn push<T>(list: &mut Vec<T>, max: usize, item: T) {
    if list.len() < max {
        list.push(item);
    }
}
