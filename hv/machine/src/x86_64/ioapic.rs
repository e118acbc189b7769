//! I/O APICs: from a device's interrupt line (GSI) to a CPU's vector.

use super::{paging, port};
use crate::lock::Mutex;
use alloc::vec::Vec;

struct IoApic {
    phys: u64,
    va: u64,
    gsi_base: u32,
    lines: u32,
}

static ALL: Mutex<Vec<IoApic>> = Mutex::new(crate::lock::rank::IOAPIC, Vec::new());

/// How a line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Level (else edge).
    pub level: bool,
    /// Active low (else high).
    pub low: bool,
}

impl IoApic {
    fn read(&self, reg: u32) -> u32 {
        // SAFETY: `va` maps the register page uncached (`add`); select and window form one access under the lock.
        unsafe {
            (self.va as *mut u32).write_volatile(reg);
            ((self.va + 0x10) as *const u32).read_volatile()
        }
    }
    fn write(&self, reg: u32, v: u32) {
        // SAFETY: as in `read`.
        unsafe {
            (self.va as *mut u32).write_volatile(reg);
            ((self.va + 0x10) as *mut u32).write_volatile(v);
        }
    }
}

/// Adds an I/O APIC at a physical address; all its lines are masked.
pub fn add(phys: u64, gsi_base: u32) -> Result<(), &'static str> {
    let va = paging::map_mmio(phys, 1).ok_or("no room for an I/O APIC")?;
    let mut io = IoApic { phys, va, gsi_base, lines: 0 };
    io.lines = (io.read(1) >> 16 & 0xff) + 1;
    for l in 0..io.lines {
        io.write(0x10 + 2 * l, 1 << 16);
    }
    ALL.lock().push(io);
    Ok(())
}

/// Masks both legacy interrupt controllers.
pub fn disable_8259() {
    for p in [0x21, 0xa1] {
        port::outb(p, 0xff);
    }
}

fn with(gsi: u32, f: impl FnOnce(&IoApic, u32)) -> bool {
    let all = ALL.lock();
    match all.iter().find(|io| gsi >= io.gsi_base && gsi - io.gsi_base < io.lines) {
        Some(io) => {
            f(io, 0x10 + 2 * (gsi - io.gsi_base));
            true
        }
        None => false,
    }
}

/// A register of the I/O APIC at a physical address, for the control domain to look at.
pub fn register(phys: u64, reg: u32) -> Option<u32> {
    let all = ALL.lock();
    let io = all.iter().find(|io| io.phys == phys)?;
    (reg < 0x10 + 2 * io.lines).then(|| io.read(reg))
}

/// Lines of all I/O APICs: one past the highest GSI.
pub fn gsi_end() -> u32 {
    ALL.lock().iter().map(|io| io.gsi_base + io.lines).max().unwrap_or(0)
}

/// Routes a line to a vector of a CPU, masked. False: no such line.
pub fn route(gsi: u32, vector: u8, apic_id: u32, t: Trigger) -> bool {
    with(gsi, |io, r| {
        io.write(r, 1 << 16);
        io.write(r + 1, apic_id << 24);
        io.write(r, 1 << 16 | u32::from(t.level) << 15 | u32::from(t.low) << 13 | u32::from(vector));
    })
}
/// Masks or unmasks a line. False: no such line.
pub fn mask(gsi: u32, masked: bool) -> bool {
    with(gsi, |io, r| {
        let v = io.read(r);
        io.write(r, if masked { v | 1 << 16 } else { v & !(1 << 16) });
    })
}
