//! Page faults: mostly the guest's own affair; a write to one of its page tables is emulated, and where a descriptor is
//! in no frame of its table the selector is at fault.

use super::bounce::{self, CannotEnter};
use super::emulate::GuestCpu;
use crate::domain::Current;
use crate::emul;
use crate::mm::frames;
use hv_machine::frame::Table;
use hv_machine::guest_mem::access_ok;
use hv_machine::x86_64::{cpu, desc};
use shared_abi::{GuestAddr, pte};

const PRESENT: u32 = 1;
const WRITE: u32 = 2;
const USER: u32 = 4;
const RESERVED: u32 = 8;

/// Handles #PF; CR2 has the address.
pub fn handle(cur: &mut Current<'_>) -> Result<(), CannotEnter> {
    let address = cpu::read_cr2();
    let error = cur.cx.cpu.regs().error_code;
    if cur.cx.cpu.kernel_mode()
        && error & (PRESENT | WRITE | RESERVED) == PRESENT | WRITE
        && let Some(table) = page_table(cur, address)
    {
        let mut cpu = GuestCpu::at_table(cur, table);
        let out = emul::page_table_write(&mut cpu, address);
        cpu.release_table();
        if out == emul::Outcome::Unhandled {
            return bounce::page_fault(cur, address, error);
        }
        return super::after(cur, out, 14, None);
    }
    if access_ok(GuestAddr(address), 0) {
        return bounce::page_fault(cur, address, error);
    }
    if error & USER == 0
        && let Some(selector) = desc::selector_at(address)
    {
        return bounce::exception(cur, 13, Some(selector));
    }
    // The guest may not learn from a fault's P bit what the hypervisor has mapped: all of its range.
    bounce::page_fault(cur, address, error | PRESENT)
}

/// The vector and error code for a guest whose `iret` the CPU refused for these. A descriptor in no frame is a selector
/// that isn't good: it is the hypervisor's window where the CPU found nothing.
pub fn of_return(vector: u32, error: u32) -> (u8, u32) {
    match vector {
        14 => (13, desc::selector_at(cpu::read_cr2()).unwrap_or(0)),
        _ => (vector as u8, error),
    }
}

/// The L1 table of the guest's own onto which `address` is mapped read-only.
fn page_table(cur: &mut Current<'_>, address: u64) -> Option<Table<'static>> {
    let root = cur.cx.cpu.kernel_root()?;
    let (table, index) = frames().find_l1(root, cur.dom.id, address)?;
    let entry = table.view().load_u64(index * 8);
    table.release(&mut cur.cx.work);
    if entry & (pte::PRESENT | pte::RW) != pte::PRESENT {
        return None;
    }
    frames().get_l1(pte::mfn(entry), cur.dom.id)
}
