//! `FACP`, the fixed ACPI description table.

use super::Table;

/// Where a register is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Physical memory.
    Memory,
    /// An I/O port.
    Port,
    /// PCI configuration space of bus 0: device, function and offset in the address.
    PciConfig,
}

/// A register by ACPI's generic address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    /// Where.
    pub space: Space,
    /// The address there.
    pub address: u64,
    /// Its width in bits, if the table says.
    pub bits: u8,
}

impl Register {
    /// The port's number, for a register that is one.
    pub fn port(&self) -> Option<u16> {
        let port = u16::try_from(self.address).ok()?;
        (self.space == Space::Port).then_some(port)
    }

    fn from_port(port: u32, bytes: u8) -> Option<Register> {
        let register =
            Register { space: Space::Port, address: u64::from(port), bits: bytes.saturating_mul(8) };
        (port != 0 && port <= 0xffff).then_some(register)
    }

    /// A generic address structure.
    fn generic(table: &Table, offset: usize) -> Option<Register> {
        let [space, bits, _, _] = table.bytes(offset)?;
        let address = table.u64(offset + 4)?;
        let space = match space {
            0 => Space::Memory,
            1 if address <= 0xffff => Space::Port,
            2 => Space::PciConfig,
            _ => return None,
        };
        (address != 0).then_some(Register { space, address, bits })
    }
}

/// The parsed table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fadt {
    /// The physical address of the DSDT.
    pub dsdt: u64,
    /// The physical address of the FACS, zero if none.
    pub facs: u64,
    /// The system control interrupt, an ISA interrupt's number.
    pub sci_irq: u16,
    /// The port that switches ACPI mode on and off, zero if none.
    pub smi_command: u32,
    /// What is written there to switch ACPI mode on.
    pub acpi_enable: u8,
    /// What is written there to switch it off.
    pub acpi_disable: u8,
    /// PM1a event block: status, then enable.
    pub pm1a_event: Option<Register>,
    /// PM1b event block.
    pub pm1b_event: Option<Register>,
    /// PM1a control register: sleep type and enable.
    pub pm1a_control: Option<Register>,
    /// PM1b control register.
    pub pm1b_control: Option<Register>,
    /// The power management timer.
    pub pm_timer: Option<Register>,
    /// The timer counts 32 bits instead of 24.
    pub pm_timer_32_bits: bool,
    /// The reset register and what is written there.
    pub reset: Option<(Register, u8)>,
    /// CMOS index of the century, zero if none.
    pub century: u8,
    /// No fixed hardware: sleep by other registers.
    pub hardware_reduced: bool,
    /// IA-PC boot flags: bit 1 there is an 8042, bit 5 there is no CMOS clock.
    pub boot_flags: u16,
}

const FLAG_TIMER_32: u32 = 1 << 8;
const FLAG_RESET: u32 = 1 << 10;
const FLAG_HARDWARE_REDUCED: u32 = 1 << 20;

impl Fadt {
    /// Parses the table. `None`: it is shorter than ACPI 1.0's.
    pub fn parse(table: &Table) -> Option<Fadt> {
        let flags = table.u32(112)?;
        let wide = |old: usize, new: usize| {
            let extended = table.u64(new).filter(|address| *address != 0);
            extended.or(table.u32(old).map(u64::from)).unwrap_or_default()
        };
        let block = |old: usize, new: usize, len: usize| {
            let legacy = || Register::from_port(table.u32(old)?, table.u8(len)?);
            Register::generic(table, new).or_else(legacy)
        };
        let reset = Register::generic(table, 116).zip(table.u8(128)).filter(|_| flags & FLAG_RESET != 0);
        Some(Fadt {
            dsdt: wide(40, 140),
            facs: wide(36, 132),
            sci_irq: table.u16(46)?,
            smi_command: table.u32(48)?,
            acpi_enable: table.u8(52)?,
            acpi_disable: table.u8(53)?,
            pm1a_event: block(56, 148, 88),
            pm1b_event: block(60, 160, 88),
            pm1a_control: block(64, 172, 89),
            pm1b_control: block(68, 184, 89),
            pm_timer: block(76, 208, 91),
            pm_timer_32_bits: flags & FLAG_TIMER_32 != 0,
            reset,
            century: table.u8(108)?,
            hardware_reduced: flags & FLAG_HARDWARE_REDUCED != 0,
            boot_flags: table.u16(109)?,
        })
    }
}
