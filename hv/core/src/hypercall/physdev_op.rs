//! `physdev_op`: interrupts, I/O privilege and PCI devices, for a domain with hardware.

use crate::access;
use crate::domain::Current;
use crate::error::HcResult;
use crate::irq::{msi::Msi, pci::Sbdf, pirq};
use hv_machine::guest_mem;
use hv_machine::x86_64::ioapic::{self, Trigger};
use shared_abi::GuestAddr;
use shared_abi::errno::Errno;
use shared_abi::physdev::*;

/// `physdev_op(cmd, arg)`.
pub fn physdev_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let arg = GuestAddr(a[1]);
    let dom = cur.dom;
    match a[0] as u32 {
        PHYSDEVOP_EOI => {
            let e: PhysdevEoi = guest_mem::read(arg)?;
            pirq::eoi(dom, e.irq)?;
        }
        // The older form: the caller's every interrupt.
        PHYSDEVOP_IRQ_UNMASK_NOTIFY => pirq::eoi_all(dom),
        PHYSDEVOP_IRQ_STATUS_QUERY => {
            let mut q: PhysdevIrqStatusQuery = guest_mem::read(arg)?;
            q.flags = if pirq::needs_eoi(dom, q.irq) { XENIRQSTAT_NEEDS_EOI } else { 0 };
            guest_mem::write(arg, &q)?;
        }
        PHYSDEVOP_SET_IOPL => {
            let s: PhysdevSetIopl = guest_mem::read(arg)?;
            if s.iopl > 3 {
                return Err(Errno::EINVAL.into());
            }
            cur.cx.iopl = s.iopl as u8;
        }
        PHYSDEVOP_SET_IOBITMAP => {
            let s: PhysdevSetIobitmap = guest_mem::read(arg)?;
            if s.nr_ports > 65536 || !guest_mem::access_ok(s.bitmap, (s.nr_ports as usize).div_ceil(8)) {
                return Err(Errno::EINVAL.into());
            }
            cur.cx.io_bitmap = (s.nr_ports > 0).then_some((s.bitmap.0, s.nr_ports));
        }
        PHYSDEVOP_MAP_PIRQ => {
            let mut m: PhysdevMapPirq = guest_mem::read(arg)?;
            access::control_only(dom)?;
            let target = access::target(dom, m.domid)?;
            let wanted = u32::try_from(m.pirq).ok();
            m.pirq = match m.r#type {
                MAP_PIRQ_TYPE_GSI => {
                    let gsi = u32::try_from(m.index).map_err(|_| Errno::EINVAL)?;
                    if wanted.is_some_and(|w| w != gsi) {
                        return Err(Errno::EINVAL.into());
                    }
                    pirq::setup_line(&target, gsi, None)?;
                    gsi
                }
                MAP_PIRQ_TYPE_MSI | MAP_PIRQ_TYPE_MSI_SEG => {
                    let dev = Sbdf { bus: m.bus as u8, devfn: m.devfn as u8 };
                    if m.r#type == MAP_PIRQ_TYPE_MSI_SEG && m.bus >> 16 != 0 {
                        return Err(Errno::ENODEV.into());
                    }
                    let msi = Msi::find(dev, m.entry_nr as u32, m.table_base)?;
                    pirq::setup_message(&target, wanted, msi)?
                }
                // One message for each vector would need them adjacent: a driver then takes one, or MSI-X.
                MAP_PIRQ_TYPE_MULTI_MSI => return Err(Errno::EOPNOTSUPP.into()),
                _ => return Err(Errno::EINVAL.into()),
            } as i32;
            guest_mem::write(arg, &m)?;
        }
        PHYSDEVOP_UNMAP_PIRQ => {
            let m: PhysdevUnmapPirq = guest_mem::read(arg)?;
            access::control_only(dom)?;
            let target = access::target(dom, m.domid)?;
            pirq::unmap(&target, u32::try_from(m.pirq).map_err(|_| Errno::EINVAL)?)?;
        }
        PHYSDEVOP_SETUP_GSI => {
            let s: PhysdevSetupGsi = guest_mem::read(arg)?;
            access::control_only(dom)?;
            let gsi = u32::try_from(s.gsi).map_err(|_| Errno::EINVAL)?;
            pirq::setup_line(dom, gsi, Some(Trigger { level: s.triggering != 0, low: s.polarity != 0 }))?;
        }
        PHYSDEVOP_GET_FREE_PIRQ => {
            let mut g: PhysdevGetFreePirq = guest_mem::read(arg)?;
            access::control_only(dom)?;
            g.pirq = pirq::free_number(dom)?;
            guest_mem::write(arg, &g)?;
        }
        PHYSDEVOP_APIC_READ => {
            let mut r: PhysdevApic = guest_mem::read(arg)?;
            access::control_only(dom)?;
            r.value = ioapic::register(r.apic_physbase, r.reg).ok_or(Errno::EINVAL)?;
            guest_mem::write(arg, &r)?;
        }
        // The I/O APICs are the hypervisor's to program; a kernel that writes the routing it was told changes
        // nothing.
        PHYSDEVOP_APIC_WRITE => {
            let w: PhysdevApic = guest_mem::read(arg)?;
            access::control_only(dom)?;
            ioapic::register(w.apic_physbase, 0).ok_or(Errno::EINVAL)?;
        }
        PHYSDEVOP_ALLOC_IRQ_VECTOR => {
            let mut i: PhysdevIrq = guest_mem::read(arg)?;
            access::control_only(dom)?;
            i.vector = i.irq;
            guest_mem::write(arg, &i)?;
        }
        // What devices there are, the hypervisor looks up itself when it needs one.
        PHYSDEVOP_MANAGE_PCI_ADD
        | PHYSDEVOP_MANAGE_PCI_REMOVE
        | PHYSDEVOP_MANAGE_PCI_ADD_EXT
        | PHYSDEVOP_PCI_DEVICE_ADD
        | PHYSDEVOP_PCI_DEVICE_REMOVE
        | PHYSDEVOP_PREPARE_MSIX
        | PHYSDEVOP_RELEASE_MSIX
        | PHYSDEVOP_PCI_MMCFG_RESERVED => access::control_only(dom)?,
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}
