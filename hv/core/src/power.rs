//! Power off and reset: by ACPI where the firmware says how, else by what PCs have always had.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use hv_machine::x86_64::{clock, cpu, port};
use shared_abi::sched::*;

/// PM1a and PM1b control ports, and the sleep types of S5 for them plus 0x100 when known.
static PM1: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static S5: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
/// Reset register: port in the upper half, value in the lower; 0: none.
static RESET: AtomicU32 = AtomicU32::new(0);
/// `noreboot` on the command line: stop instead of rebooting.
static NO_REBOOT: AtomicBool = AtomicBool::new(false);

const SLP_EN: u32 = 1 << 13;

/// What ACPI said: PM1 control ports, their S5 values, and the reset port with its value.
pub fn init(pm1: [u16; 2], s5: Option<[u8; 2]>, reset: Option<(u16, u8)>, noreboot: bool) {
    for i in 0..2 {
        PM1[i].store(pm1[i].into(), Relaxed);
        if let Some(s) = s5 {
            S5[i].store(0x100 | u32::from(s[i]), Relaxed);
        }
    }
    if let Some((p, v)) = reset {
        RESET.store(u32::from(p) << 16 | u32::from(v) | 1 << 15, Relaxed);
    }
    NO_REBOOT.store(noreboot, Relaxed);
}

/// The control domain shut down: so does the machine.
pub fn control_domain_ended(reason: u32) -> ! {
    match reason {
        SHUTDOWN_POWEROFF => {
            log::info!("dom0 powered off");
            off()
        }
        SHUTDOWN_REBOOT => {
            log::info!("dom0 reboots the machine");
            reset()
        }
        r => {
            log::error!("dom0 stopped (reason {r})");
            if NO_REBOOT.load(Relaxed) { stop() } else { reset() }
        }
    }
}

fn stop() -> ! {
    log::error!("the machine stays stopped (noreboot)");
    cpu::halt_forever()
}

/// Powers the machine off.
pub fn off() -> ! {
    for i in 0..2 {
        let (p, s) = (PM1[i].load(Relaxed) as u16, S5[i].load(Relaxed));
        if p != 0 && s != 0 {
            let now = port::read(p, 2) & !0x3c00;
            port::write(p, now | (s & 7) << 10 | SLP_EN, 2);
        }
    }
    wait();
    log::error!("the machine can be turned off now");
    cpu::halt_forever()
}

/// Resets the machine.
pub fn reset() -> ! {
    if NO_REBOOT.load(Relaxed) {
        stop()
    }
    let r = RESET.load(Relaxed);
    if r != 0 {
        port::outb((r >> 16) as u16, r as u8);
        wait();
    }
    port::outb(0xcf9, 2);
    port::outb(0xcf9, 6);
    wait();
    // The keyboard controller's reset line.
    port::outb(0x64, 0xfe);
    wait();
    cpu::halt_forever()
}

/// A domain with I/O rights is about to write a port: a note for the log when that turns the machine off.
pub fn about_to_write(p: u16, value: u32) {
    if value & SLP_EN != 0 && PM1.iter().any(|x| x.load(Relaxed) == u32::from(p) && p != 0) {
        log::info!("dom0 enters an ACPI sleep state");
    }
}

fn wait() {
    let end = clock::now() + 500_000_000;
    while clock::now() < end {
        core::hint::spin_loop();
    }
}
