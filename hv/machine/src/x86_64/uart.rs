//! The serial console: a 16550 at COM1 or COM2, polled for output; input by interrupt or poll.

use super::port::{inb, outb};
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};

static BASE: AtomicU16 = AtomicU16::new(0x3f8);
static PRESENT: AtomicBool = AtomicBool::new(false);

/// Sets up the UART at `base` with `baud` (8n1, FIFO on). A missing UART is noticed and left alone.
pub fn init(base: u16, baud: u32) {
    BASE.store(base, Relaxed);
    outb(base + 7, 0x5a);
    if inb(base + 7) != 0x5a {
        PRESENT.store(false, Relaxed);
        return;
    }
    let divisor = (115_200 / baud.clamp(1, 115_200)) as u16;
    outb(base + 1, 0);
    outb(base + 3, 0x80);
    outb(base, divisor as u8);
    outb(base + 1, (divisor >> 8) as u8);
    outb(base + 3, 0x03);
    outb(base + 2, 0xc7);
    outb(base + 4, 0x0b);
    PRESENT.store(true, Relaxed);
}

/// The UART's first port, for the I/O permission of other domains to leave it out.
pub fn base() -> u16 {
    BASE.load(Relaxed)
}

/// Lets the UART raise its interrupt when a byte has come.
pub fn enable_receive_interrupt() {
    if PRESENT.load(Relaxed) {
        outb(base() + 1, 0x01);
    }
}

/// Sends bytes, newline as carriage return and newline. Waits for room, at most some milliseconds a byte.
pub fn write(bytes: &[u8]) {
    if !PRESENT.load(Relaxed) {
        return;
    }
    for &b in bytes {
        if b == b'\n' {
            put(b'\r');
        }
        put(b);
    }
}

fn put(b: u8) {
    let base = base();
    for _ in 0..200_000 {
        if inb(base + 5) & 0x20 != 0 {
            break;
        }
        core::hint::spin_loop();
    }
    outb(base, b);
}

/// One received byte, if there is one.
pub fn read() -> Option<u8> {
    if PRESENT.load(Relaxed) && inb(base() + 5) & 1 != 0 { Some(inb(base())) } else { None }
}
