//! Port I/O for the initial domain: PCI configuration space and little else.
//!
//! Xen emulates or permits the instructions once the domain has raised its I/O privilege level.
//! A device can be told to overwrite any memory, so an owner of ports is trusted like unsafe
//! code; the two PCI configuration ports are all that is offered, and only to the domain that
//! owns the hardware.

use crate::hypercall::{self, Result};
use crate::local::Local;
use shared_abi::Errno;
use shared_abi::physdev::PhysdevSetIopl;

/// PCI's address and data ports.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

static ALLOWED: Local<Option<bool>> = Local::new(|| None);

fn allowed() -> Result<()> {
    let yes = ALLOWED.with(|a| {
        *a.get_or_insert_with(|| {
            crate::start::boot().initial && hypercall::physdev_op(&mut PhysdevSetIopl { iopl: 1 }).is_ok()
        })
    });
    if yes { Ok(()) } else { Err(Errno::EPERM) }
}

#[cfg(target_arch = "x86_64")]
fn select(bus: u8, device: u8, function: u8, register: u8) {
    let address = 1 << 31
        | u32::from(bus) << 16
        | u32::from(device & 31) << 11
        | u32::from(function & 7) << 8
        | u32::from(register & 0xfc);
    // SAFETY: selects a configuration register; `allowed` made the instruction legal.
    unsafe {
        core::arch::asm!("out dx, eax", in("dx") CONFIG_ADDRESS, in("eax") address, options(nomem, nostack))
    };
}

/// Reads the 32-bit configuration register at byte offset `register` (its low two bits ignored).
pub fn pci_read(bus: u8, device: u8, function: u8, register: u8) -> Result<u32> {
    allowed()?;
    select(bus, device, function, register);
    let value: u32;
    // SAFETY: reads the register just selected.
    unsafe {
        core::arch::asm!("in eax, dx", in("dx") CONFIG_DATA, out("eax") value, options(nomem, nostack))
    };
    Ok(value)
}

/// Writes the 32-bit configuration register at byte offset `register`.
pub fn pci_write(bus: u8, device: u8, function: u8, register: u8, value: u32) -> Result<()> {
    allowed()?;
    select(bus, device, function, register);
    // SAFETY: writes the register just selected; see the top of the file about trust.
    unsafe {
        core::arch::asm!("out dx, eax", in("dx") CONFIG_DATA, in("eax") value, options(nomem, nostack))
    };
    Ok(())
}

/// Writes the 16-bit configuration register at byte offset `register` (its lowest bit ignored):
/// Xen takes writes of MSI-X's control register in this width only.
pub fn pci_write_u16(bus: u8, device: u8, function: u8, register: u8, value: u16) -> Result<()> {
    allowed()?;
    select(bus, device, function, register);
    let port = CONFIG_DATA + u16::from(register & 2);
    // SAFETY: writes half of the register just selected; see the top of the file about trust.
    unsafe { core::arch::asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) };
    Ok(())
}
