//! ACPI's static tables: which CPUs and interrupt controllers there are, how to power off.
//!
//! Why a parser of our own over bytes: the tables are firmware's word, read once at boot, and a
//! broken firmware must cost a feature, not the boot. Each table is copied out of physical memory
//! once ([`Table`]), its length and checksum are verified, and every field is read from that copy
//! by offset with a bound. No AML is interpreted; the one thing wanted from it, the sleep type of
//! S5, is found by its bytes ([`sleep`]).
//!
//! ```ignore
//! let root = acpi::Root::find(&memory, boot.rsdp)?;
//! let madt = root.table(&memory, b"APIC").map(|table| Madt::parse(&table));
//! ```
//!
//! | table | parsed by | tells |
//! | --- | --- | --- |
//! | RSDP, RSDT/XSDT | [`Root`] | where the others are |
//! | `APIC` | [`Madt`] | CPUs, IO-APICs, interrupt source overrides, NMIs |
//! | `FACP` | [`Fadt`] | power management registers, reset, century, where the DSDT is |
//! | `HPET` | [`Hpet`] | the high-precision timer |
//! | `MCFG` | [`Mcfg`] | PCI Express configuration space |
//! | DSDT, `SSDT` | [`sleep`] | the sleep type of S5 |

mod fadt;
mod hpet;
mod madt;
mod mcfg;
mod root;
pub mod sleep;
mod table;

#[cfg(test)]
mod tests;

pub use fadt::{Fadt, Register, Space};
pub use hpet::Hpet;
pub use madt::{Cpu, IoApic, IsaRoute, LocalNmi, Madt, Polarity, Trigger};
pub use mcfg::{Mcfg, Segment};
pub use root::Root;
pub use table::Table;

use alloc::vec::Vec;

/// Physical memory as firmware left it.
pub trait Memory {
    /// Copies `buf.len()` bytes from physical address `address`; `false`, with `buf` in any state,
    /// where there are none. Tables also lie in memory that the memory map calls reserved.
    fn read(&self, address: u64, buf: &mut [u8]) -> bool;
}

/// What the hypervisor wants of ACPI, as far as firmware has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Acpi {
    /// CPUs and interrupt controllers.
    pub madt: Option<Madt>,
    /// Fixed hardware.
    pub fadt: Option<Fadt>,
    /// The high-precision timer.
    pub hpet: Option<Hpet>,
    /// PCI Express configuration space.
    pub mcfg: Option<Mcfg>,
    /// The sleep types that power the machine off.
    pub s5: Option<sleep::SleepType>,
    /// The root pointer's address: a hardware domain is told.
    pub rsdp: u64,
}

impl Acpi {
    /// Reads all tables. `rsdp` is the address that the boot loader gave, if it did. `None`: there
    /// is no ACPI.
    pub fn read(memory: &impl Memory, rsdp: Option<u64>) -> Option<Acpi> {
        let root = Root::find(memory, rsdp)?;
        let fadt = root.table(memory, b"FACP").and_then(|table| Fadt::parse(&table));
        let dsdt = fadt.as_ref().and_then(|fadt| Table::read(memory, fadt.dsdt, Some(b"DSDT")));
        let ssdts: Vec<Table> = root.tables(memory, b"SSDT").collect();
        let s5 = dsdt.iter().chain(&ssdts).find_map(|table| sleep::find(table.body(), b"_S5_"));
        Some(Acpi {
            madt: root.table(memory, b"APIC").and_then(|table| Madt::parse(&table)),
            fadt,
            hpet: root.table(memory, b"HPET").and_then(|table| Hpet::parse(&table)),
            mcfg: root.table(memory, b"MCFG").map(|table| Mcfg::parse(&table)),
            s5,
            rsdp: root.rsdp(),
        })
    }
}
