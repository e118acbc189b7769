//! A vcpu's descriptor tables: frames held as checked descriptors, shown in the CPU's window while it runs.

use super::{DescFrame, frames, typed, work};
use crate::domain::{Context, Domain};
use crate::error::Stop;
use arrayvec::ArrayVec;
use hv_machine::guest_mem::access_ok;
use hv_machine::x86_64::desc;
use hv_machine::x86_64::paging::{Window, map_window};
use shared_abi::errno::Errno;
use shared_abi::{GuestAddr, Mfn, pte};

/// Takes `mfns` as the vcpu's GDT.
pub fn set_gdt(dom: &Domain, cx: &mut Context, mfns: &[u64], entries: u32) -> Result<(), Stop> {
    let mut held: ArrayVec<DescFrame, 14> = ArrayVec::new();
    for mfn in mfns {
        held.push(typed(frames().get_descriptors(Mfn(*mfn), dom.id, &mut work()))?);
    }
    cx.gdt = held;
    cx.gdt_entries = entries;
    Ok(())
}

/// Shows the vcpu's GDT to this CPU.
pub fn load_gdt(cx: &Context) {
    let n = cx.gdt.len();
    map_window(Window::Gdt, (0..14).map(|i| (i < n).then(|| cx.gdt[i].mfn().0)));
}

/// Takes the descriptors at `base` of the running vcpu's address space as its LDT.
pub fn set_ldt(dom: &Domain, cx: &mut Context, base: u64, entries: u32) -> Result<(), Stop> {
    if entries > 8192 || base & 0xfff != 0 || !access_ok(GuestAddr(base), entries as usize * 8) {
        return Err(Errno::EINVAL.into());
    }
    let mut held: ArrayVec<DescFrame, 16> = ArrayVec::new();
    for page in 0..u64::from(entries.div_ceil(512)) {
        let root = cx.cpu.kernel_root().ok_or(Errno::EINVAL)?;
        let (table, index) = frames().find_l1(root, dom.id, base + (page << 12)).ok_or(Errno::EINVAL)?;
        let entry = table.view().load_u64(index * 8);
        if entry & pte::PRESENT == 0 {
            return Err(Errno::EINVAL.into());
        }
        held.push(typed(frames().get_descriptors(pte::mfn(entry), dom.id, &mut work()))?);
    }
    cx.ldt = held;
    cx.ldt_base = base;
    cx.ldt_entries = entries;
    Ok(())
}

/// Shows the vcpu's LDT to this CPU.
pub fn load_ldt(cx: &Context) {
    let n = cx.ldt.len();
    map_window(Window::Ldt, (0..16).map(|i| (i < n).then(|| cx.ldt[i].mfn().0)));
    desc::load_ldt(cx.ldt_entries);
}

/// `update_descriptor`: one descriptor at a machine address.
pub fn update_descriptor(dom: &Domain, mfn: Mfn, offset: usize, value: u64) -> Result<(), Stop> {
    typed(frames().update_descriptor(mfn, offset, value, dom.id, &mut work()))
}
