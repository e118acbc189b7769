//! PCI configuration space through ports 0xCF8 and 0xCFC, shared by the hypervisor (message-signalled
//! interrupts) and the control domain.

use hv_machine::lock::{Mutex, rank};
use hv_machine::x86_64::port;

static PORTS: Mutex<()> = Mutex::new(rank::PORT, ());

/// A function's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sbdf {
    /// Bus.
    pub bus: u8,
    /// Device in bits 7–3, function in bits 2–0.
    pub devfn: u8,
}

impl Sbdf {
    fn latch(self, register: u8) -> u32 {
        1 << 31 | u32::from(self.bus) << 16 | u32::from(self.devfn) << 8 | u32::from(register & 0xfc)
    }
    /// Reads a register of 1, 2 or 4 bytes.
    pub fn read(self, register: u8, size: u8) -> u32 {
        read_by_latch(self.latch(register), register & 3, size)
    }
    /// Writes a register.
    pub fn write(self, register: u8, size: u8, value: u32) {
        write_raw(self.latch(register), register & 3, size, value);
    }
    /// Whether there is such a function.
    pub fn exists(self) -> bool {
        self.read(0, 4) != !0
    }
    /// The register of a capability.
    pub fn capability(self, id: u8) -> Option<u8> {
        if !self.exists() || self.read(6, 2) & 0x10 == 0 {
            return None;
        }
        let mut at = self.read(0x34, 1) as u8 & 0xfc;
        // A list has at most 48 entries; a device that says otherwise has a loop.
        for _ in 0..48 {
            if at < 0x40 {
                return None;
            }
            let head = self.read(at, 2);
            if head & 0xff == u32::from(id) {
                return Some(at);
            }
            at = (head >> 8) as u8 & 0xfc;
        }
        None
    }
}

/// A read as the ports do it: `latch` is 0xCF8's value, `offset` the byte within the double word.
pub fn read_by_latch(latch: u32, offset: u8, size: u8) -> u32 {
    let _held = PORTS.lock();
    port::write(0xcf8, latch & !3, 4);
    port::read(0xcfc + u16::from(offset & 3), size)
}

fn write_raw(latch: u32, offset: u8, size: u8, value: u32) {
    let _held = PORTS.lock();
    port::write(0xcf8, latch & !3, 4);
    port::write(0xcfc + u16::from(offset & 3), value, size);
}

/// A write of the control domain's.
pub fn write_by_latch(latch: u32, offset: u8, size: u8, value: u32) {
    write_raw(latch, offset, size, value);
}
