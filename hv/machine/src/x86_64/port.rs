//! Port I/O. The hypervisor's own ports are used by `uart`, `clock`, `ioapic`; the rest are passed
//! through for a domain that was given them.

use core::arch::asm;

/// Reads one, two or four bytes of a port. Any other size reads as all ones.
pub fn read(port: u16, bytes: u8) -> u32 {
    // SAFETY: a port read touches no memory; which ports may be read is the caller's decision.
    unsafe {
        match bytes {
            1 => {
                let v: u8;
                asm!("in al, dx", out("al") v, in("dx") port, options(nomem, nostack, preserves_flags));
                v.into()
            }
            2 => {
                let v: u16;
                asm!("in ax, dx", out("ax") v, in("dx") port, options(nomem, nostack, preserves_flags));
                v.into()
            }
            4 => {
                let v: u32;
                asm!("in eax, dx", out("eax") v, in("dx") port, options(nomem, nostack, preserves_flags));
                v
            }
            _ => !0,
        }
    }
}

/// Writes one, two or four bytes of a port.
pub fn write(port: u16, v: u32, bytes: u8) {
    // SAFETY: which ports may be written is decided by the caller from the domain's permissions; the
    // hypervisor never grants ports through which a device could be made to write to memory unasked
    // to any domain but the control domain, which is trusted with the hardware.
    unsafe {
        match bytes {
            1 => {
                asm!("out dx, al", in("al") v as u8, in("dx") port, options(nomem, nostack, preserves_flags))
            }
            2 => {
                asm!("out dx, ax", in("ax") v as u16, in("dx") port, options(nomem, nostack, preserves_flags))
            }
            4 => asm!("out dx, eax", in("eax") v, in("dx") port, options(nomem, nostack, preserves_flags)),
            _ => {}
        }
    }
}

/// Reads a byte.
#[inline]
pub fn inb(port: u16) -> u8 {
    read(port, 1) as u8
}
/// Writes a byte.
#[inline]
pub fn outb(port: u16, v: u8) {
    write(port, v.into(), 1)
}
