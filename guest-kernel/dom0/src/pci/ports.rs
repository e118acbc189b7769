//! The machine's configuration space, through ports 0xCF8 and 0xCFC, which Xen emulates for dom0.

use super::{Address, Config, Function};
use guest_kernel::hypercall::{Result, physdev_op};
use guest_kernel::pci_ports;
use shared_abi::physdev::{PhysdevPciDeviceAdd, PhysdevPhysfn};

/// Configuration space of the machine.
#[derive(Clone, Copy, Default, Debug)]
pub struct Ports;

impl Config for Ports {
    fn read(&self, at: Address, register: u8) -> u32 {
        pci_ports::pci_read(at.bus, at.device, at.function, register).unwrap_or(!0)
    }

    fn write(&self, at: Address, register: u8, value: u32) {
        // Refused to a domain that does not own the hardware; it reads all ones and finds nothing.
        let _ = pci_ports::pci_write(at.bus, at.device, at.function, register, value);
    }

    fn write_u16(&self, at: Address, register: u8, value: u16) {
        let _ = pci_ports::pci_write_u16(at.bus, at.device, at.function, register, value);
    }
}

/// Tells Xen of a function, as the domain that enumerates the buses must: Xen programs message
/// interrupts only of functions that it knows.
pub fn announce(function: &Function) -> Result<()> {
    let mut op = PhysdevPciDeviceAdd {
        seg: 0,
        bus: function.address.bus,
        devfn: function.address.devfn(),
        flags: 0,
        physfn: PhysdevPhysfn { bus: 0, devfn: 0 },
        _pad: 0,
    };
    physdev_op(&mut op).map(drop)
}
