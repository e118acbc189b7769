//! Page faults: mostly the guest's own affair; a write to one of its page tables is emulated.

use super::bounce::{self, CannotEnter};
use super::emulate::GuestCpu;
use crate::domain::Current;
use crate::emul;
use crate::mm::frames;
use hv_machine::frame::Type;
use hv_machine::guest_mem::access_ok;
use hv_machine::x86_64::cpu;
use shared_abi::{GuestAddr, pte};

const PRESENT: u32 = 1;
const WRITE: u32 = 2;
const RESERVED: u32 = 8;

/// Handles #PF; CR2 has the address.
pub fn handle(cur: &mut Current<'_>) -> Result<(), CannotEnter> {
    let address = cpu::read_cr2();
    let error = cur.cx.cpu.regs().error_code;
    if cur.cx.cpu.kernel_mode() && error & (PRESENT | WRITE | RESERVED) == PRESENT | WRITE && is_page_table(cur, address) {
        let out = emul::page_table_write(&mut GuestCpu::new(cur), address);
        if out == emul::Outcome::Unhandled {
            return bounce::page_fault(cur, address, error);
        }
        return super::after(cur, out, 14, None);
    }
    // The guest may not learn from a fault's P bit what the hypervisor has mapped: all of its range.
    let error = if access_ok(GuestAddr(address), 0) { error } else { error | PRESENT };
    bounce::page_fault(cur, address, error)
}

/// Whether `address` is mapped read-only onto an L1 table of the guest's own.
fn is_page_table(cur: &Current<'_>, address: u64) -> bool {
    let Some(root) = cur.cx.cpu.kernel_root() else { return false };
    let Some((table, index)) = frames().find_l1(root, cur.dom.id, address) else { return false };
    let entry = table.view().load_u64(index * 8);
    entry & (pte::PRESENT | pte::RW) == pte::PRESENT
        && frames().word(pte::mfn(entry)).is_some_and(|w| w.owner() == cur.dom.id && w.ty() == Type::L1 && w.types() > 0)
}
