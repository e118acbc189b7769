//! Interrupts: vectors of the CPU, and whom each is for.
//!
//! | file | concept |
//! | --- | --- |
//! | `pirq` | physical interrupts as a domain names them: lines and message-signalled ones |
//! | `rights` | I/O ports, I/O memory and interrupts that a domain may use |
//! | `pci` | configuration space |
//! | `msi` | a device's message-signalled interrupts |

pub mod msi;
pub mod pci;
pub mod pirq;
pub mod rights;

use crate::domain::find;
use crate::{console, keys, run};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use hv_machine::x86_64::{apic, apic::vector, ioapic, tlb};
use shared_abi::DomId;
use shared_abi::xen::VIRQ_CONSOLE;

/// What each device vector is for: bit 63 in use, bits 47–32 the domain, bits 31–0 its pirq.
static VECTORS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
const USED: u64 = 1 << 63;
/// Line of the serial console's interrupt plus one.
static SERIAL: AtomicU32 = AtomicU32::new(0);
/// The serial console's vector.
const SERIAL_VECTOR: u8 = 0xe8;

/// Takes a free device vector for a domain's pirq.
pub(crate) fn take_vector(dom: DomId, pirq: u32) -> Option<u8> {
    let value = USED | u64::from(dom.0) << 32 | u64::from(pirq);
    (vector::DEVICE_FIRST..SERIAL_VECTOR)
        .filter(|v| *v != vector::SYSTEM_CALL)
        .find(|v| VECTORS[usize::from(*v)].compare_exchange(0, value, SeqCst, SeqCst).is_ok())
}

/// Gives a vector back. Its device must be quiet.
pub(crate) fn give_vector(v: u8) {
    VECTORS[usize::from(v)].store(0, SeqCst);
}

/// Lets the serial line interrupt when a byte comes (ISA line 4 or 3, edge).
pub fn init_serial(gsi: u32, apic_id: u32) {
    if ioapic::route(gsi, SERIAL_VECTOR, apic_id, ioapic::Trigger { level: false, low: false }) {
        SERIAL.store(gsi + 1, Relaxed);
        hv_machine::x86_64::uart::enable_receive_interrupt();
        ioapic::mask(gsi, false);
    }
}

/// The line that the hypervisor keeps for its console.
pub fn serial_gsi() -> Option<u32> {
    SERIAL.load(Relaxed).checked_sub(1)
}

/// An interrupt came, in a guest or while idle.
pub fn interrupt(v: u8) {
    match v {
        vector::TIMER => {
            apic::eoi();
            if hv_machine::frame::CLOCK.overdue(hv_machine::x86_64::percpu::cpu_id()) {
                tlb::flush_local();
            }
            run::resched();
        }
        vector::KICK => {
            apic::eoi();
            run::resched();
        }
        vector::FLUSH => {
            apic::eoi();
            tlb::poll();
        }
        vector::SPURIOUS => {}
        SERIAL_VECTOR => {
            apic::eoi();
            if console::poll_input() {
                crate::domain::events::raise_global_virq(VIRQ_CONSOLE);
            }
            keys::press_typed();
        }
        v => {
            let what = VECTORS[usize::from(v)].load(SeqCst);
            if what & USED != 0 {
                let (dom, pirq) = (DomId((what >> 32) as u16), what as u32);
                match find(dom) {
                    Some(d) => pirq::arrived(&d, pirq),
                    None => apic::eoi(),
                }
            } else {
                apic::eoi();
            }
        }
    }
}
