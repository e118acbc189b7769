//! What the firmware's ACPI tables say of the machine, put to use.
use hv_machine::x86_64::ioapic::{self, Trigger};
/// How an ISA line signals.
pub fn isa_trigger(gsi: u32) -> Trigger { if gsi == 9 { Trigger { level: true, low: false } } else { Trigger { level: false, low: false } } }
/// Sets up.
pub fn init() { ioapic::disable_8259(); let _ = ioapic::add(0xfec0_0000, 0); }
