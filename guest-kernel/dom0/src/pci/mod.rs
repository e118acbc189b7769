//! PCI functions: which there are, where their registers and capabilities lie.
//!
//! The firmware has numbered the buses and placed the BARs; this only reads what it did. What a
//! configuration register says is bounded like anything from outside: a list of capabilities ends
//! after as many as have room, a bus is walked once whatever the bridges say.

mod bar;
mod capability;
#[cfg(test)]
pub(crate) mod fake;
pub mod interrupt;
mod line;
mod ports;

pub use bar::Bar;
pub use capability::{Capability, MSIX, VENDOR};
pub use ports::{Ports, announce};

use alloc::vec::Vec;
use core::fmt;

/// A function's place, in segment 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address {
    /// Bus.
    pub bus: u8,
    /// Device on the bus, 0 to 31.
    pub device: u8,
    /// Function of the device, 0 to 7.
    pub function: u8,
}

impl Address {
    /// Device and function in one byte, as Xen takes them.
    pub fn devfn(self) -> u8 {
        self.device << 3 | self.function
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{:x}", self.bus, self.device, self.function)
    }
}

/// Access to configuration space.
pub trait Config {
    /// Reads the 32-bit register at byte offset `register`, a multiple of 4. All ones where
    /// nothing answers.
    fn read(&self, at: Address, register: u8) -> u32;
    /// Writes it.
    fn write(&self, at: Address, register: u8, value: u32);
    /// Writes the 16-bit register at byte offset `register`, a multiple of 2.
    fn write_u16(&self, at: Address, register: u8, value: u16);
}

impl<C: Config + ?Sized> Config for &C {
    fn read(&self, at: Address, register: u8) -> u32 {
        (**self).read(at, register)
    }
    fn write(&self, at: Address, register: u8, value: u32) {
        (**self).write(at, register, value)
    }
    fn write_u16(&self, at: Address, register: u8, value: u16) {
        (**self).write_u16(at, register, value)
    }
}

/// A function that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its place.
    pub address: Address,
    /// Who made it.
    pub vendor: u16,
    /// What it is, in its maker's numbers.
    pub device: u16,
    /// What it is, in PCI's: class, subclass, interface.
    pub class: u32,
    /// The bus behind it, if it is a bridge between PCI buses.
    pub secondary: Option<u8>,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Function { address, vendor, device, class, .. } = self;
        write!(f, "{address} class {class:06x} {vendor:04x}:{device:04x}")
    }
}

const ID: u8 = 0x00;
const COMMAND: u8 = 0x04;
const CLASS: u8 = 0x08;
const HEADER: u8 = 0x0c;
const BUSES: u8 = 0x18;

/// In the command register: answer to memory accesses, be the master of DMA, no INTx.
const MEMORY: u32 = 1 << 1;
const MASTER: u32 = 1 << 2;
const NO_INTX: u32 = 1 << 10;

/// The function at `address`, if there is one.
fn function(config: &impl Config, address: Address) -> Option<Function> {
    let id = config.read(address, ID);
    if id as u16 == 0xffff || id == 0 {
        return None;
    }
    let header = config.read(address, HEADER) >> 16 & 0x7f;
    let secondary = (header == 1).then(|| (config.read(address, BUSES) >> 8) as u8);
    let class = config.read(address, CLASS) >> 8;
    Some(Function { address, vendor: id as u16, device: (id >> 16) as u16, class, secondary })
}

/// All functions of bus 0 and of the buses behind its bridges, in the order of their addresses.
pub fn enumerate(config: &impl Config) -> Vec<Function> {
    let mut found = Vec::new();
    let mut seen = [false; 256];
    seen[0] = true;
    let mut buses = Vec::from([0]);
    while let Some(bus) = buses.pop() {
        for device in 0..32 {
            let place = |function| Address { bus, device, function };
            let Some(first) = function(config, place(0)) else { continue };
            let several = config.read(place(0), HEADER) & 1 << 23 != 0;
            let others = (1..if several { 8 } else { 1 }).filter_map(|n| function(config, place(n)));
            for function in core::iter::once(first).chain(others) {
                found.push(function);
                if let Some(bus) = function.secondary
                    && !core::mem::replace(&mut seen[usize::from(bus)], true)
                {
                    buses.push(bus);
                }
            }
        }
    }
    found.sort_by_key(|function| function.address);
    found
}

impl Function {
    /// Lets the function answer at its BARs and access memory by itself. `intx` says whether it
    /// may raise its interrupt pin.
    pub fn enable(&self, config: &impl Config, intx: bool) {
        // The status bits in the upper half are cleared by writing ones: write zeroes.
        let command = config.read(self.address, COMMAND) & 0xffff & !NO_INTX;
        let pin = if intx { 0 } else { NO_INTX };
        config.write(self.address, COMMAND, command | MEMORY | MASTER | pin);
    }
}

#[cfg(test)]
mod tests {
    use super::fake::Fake;
    use super::*;

    fn at(bus: u8, device: u8, function: u8) -> Address {
        Address { bus, device, function }
    }

    /// A machine as QEMU's q35 with a bridge; the bridge's bridge leads back to bus 0.
    #[test]
    fn finds_functions_behind_bridges_and_walks_a_loop_once() {
        let fake = Fake::default();
        fake.device(at(0, 0, 0), 0x8086, 0x29c0);
        fake.device(at(0, 31, 0), 0x8086, 0x2918);
        fake.or(at(0, 31, 0), HEADER, 1 << 23);
        fake.device(at(0, 31, 3), 0x8086, 0x2930);
        fake.device(at(0, 4, 0), 0x1af4, 0x1041);
        // Not multi-function: its function 1 must not be asked for.
        fake.device(at(0, 4, 1), 0x1af4, 0x1042);
        for (place, secondary) in [(at(0, 2, 0), 1u32), (at(1, 0, 0), 0), (at(1, 1, 0), 1)] {
            fake.device(place, 0x1b36, 1);
            fake.or(place, HEADER, 1 << 16);
            fake.or(place, BUSES, secondary << 8);
        }
        fake.device(at(1, 5, 0), 0x1af4, 0x1042);
        let found: Vec<_> = enumerate(&fake).iter().map(|f| f.address).collect();
        let expected = [
            at(0, 0, 0),
            at(0, 2, 0),
            at(0, 4, 0),
            at(0, 31, 0),
            at(0, 31, 3),
            at(1, 0, 0),
            at(1, 1, 0),
            at(1, 5, 0),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn enabling_leaves_the_status_bits_alone() {
        let fake = Fake::default();
        fake.device(at(0, 4, 0), 0x1af4, 0x1041);
        fake.or(at(0, 4, 0), COMMAND, 0x0010_0001);
        let function = enumerate(&fake)[0];
        function.enable(&fake, false);
        assert_eq!(fake.read(at(0, 4, 0), COMMAND), 0x0407);
        function.enable(&fake, true);
        assert_eq!(fake.read(at(0, 4, 0), COMMAND), 0x0007);
    }
}
