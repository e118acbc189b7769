//! `physdev_op`: interrupts, I/O privilege and PCI devices, for a domain with hardware.

use crate::domain::{Current, Domain};
use crate::error::{HcResult, Stop};
use crate::irq::{msi::Msi, pci::Sbdf, pirq};
use crate::{access, acpi_setup, mm};
use core::mem::offset_of;
use hv_machine::guest_mem;
use hv_machine::x86_64::ioapic::{self, Trigger};
use shared_abi::errno::Errno;
use shared_abi::physdev::*;
use shared_abi::{GuestAddr, Mfn};

/// `physdev_op(cmd, arg)`.
pub fn physdev_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let arg = GuestAddr(a[1]);
    let dom = cur.dom;
    match a[0] as u32 {
        PHYSDEVOP_EOI => {
            let e: PhysdevEoi = guest_mem::read(arg)?;
            pirq::eoi(dom, e.irq)?;
            if dom.pirqs.unmasks()
                && let Some(port) = dom.ports.pirq_port(e.irq)
            {
                let told = dom.ports.unmask(&**dom, port)?;
                dom.told(port, told);
            }
        }
        cmd @ (PHYSDEVOP_PIRQ_EOI_GMFN_V1 | PHYSDEVOP_PIRQ_EOI_GMFN_V2) => {
            let g: PhysdevPirqEoiGmfn = guest_mem::read(arg)?;
            let frame = mm::hold_writable(dom, Mfn(g.gmfn.0))?;
            dom.pirqs.show(frame, cmd == PHYSDEVOP_PIRQ_EOI_GMFN_V1)?;
        }
        // The older form: the caller's every interrupt.
        PHYSDEVOP_IRQ_UNMASK_NOTIFY => pirq::eoi_all(dom),
        PHYSDEVOP_IRQ_STATUS_QUERY => {
            let mut q: PhysdevIrqStatusQuery = guest_mem::read(arg)?;
            if q.irq >= dom.ports.pirqs() {
                return Err(Errno::EINVAL.into());
            }
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
                MAP_PIRQ_TYPE_MSI_SEG if m.bus >> 16 != 0 => return Err(Errno::ENODEV.into()),
                // The vector is the hypervisor's to choose.
                MAP_PIRQ_TYPE_MSI | MAP_PIRQ_TYPE_MSI_SEG if m.index != -1 => {
                    return Err(Errno::EINVAL.into());
                }
                MAP_PIRQ_TYPE_MSI | MAP_PIRQ_TYPE_MSI_SEG => message(&target, &m, wanted)?,
                // Several messages need vectors side by side, or interrupt remapping. As Xen without the latter: one
                // at a time, and a driver that wants more takes MSI-X.
                MAP_PIRQ_TYPE_MULTI_MSI => match m.entry_nr {
                    1 => message(&target, &m, wanted)?,
                    2..=32 => return Err(Errno::EOPNOTSUPP.into()),
                    _ => return Err(Errno::EDOM.into()),
                },
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
            pirq::describe_line(dom, gsi, Trigger { level: s.triggering != 0, low: s.polarity != 0 })?;
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
        PHYSDEVOP_PREPARE_MSIX | PHYSDEVOP_RELEASE_MSIX => {
            let d: PhysdevPciDevice = guest_mem::read(arg)?;
            access::control_only(dom)?;
            if d.seg != 0 || !Msi::has_table(Sbdf { bus: d.bus, devfn: d.devfn }) {
                return Err(Errno::ENODEV.into());
            }
        }
        cmd @ (PHYSDEVOP_RESTORE_MSI | PHYSDEVOP_RESTORE_MSI_EXT) => {
            access::control_only(dom)?;
            let (segment, device) = if cmd == PHYSDEVOP_RESTORE_MSI {
                let r: PhysdevRestoreMsi = guest_mem::read(arg)?;
                (0, Sbdf { bus: r.bus, devfn: r.devfn })
            } else {
                let d: PhysdevPciDevice = guest_mem::read(arg)?;
                (d.seg, Sbdf { bus: d.bus, devfn: d.devfn })
            };
            if segment != 0 || !device.exists() {
                return Err(Errno::ENODEV.into());
            }
            pirq::restore_messages(device)?;
        }
        // The hypervisor's console is never behind a USB debug port: nobody needs warning of a reset.
        PHYSDEVOP_DBGP_OP => access::control_only(dom)?,
        // What devices there are, the hypervisor looks up itself when it needs one.
        PHYSDEVOP_MANAGE_PCI_ADD
        | PHYSDEVOP_MANAGE_PCI_REMOVE
        | PHYSDEVOP_MANAGE_PCI_ADD_EXT
        | PHYSDEVOP_PCI_DEVICE_ADD
        | PHYSDEVOP_PCI_DEVICE_REMOVE => access::control_only(dom)?,
        // The memory-mapped way to configuration space is the caller's own affair: what the hypervisor looks at there
        // are a device's MSI and MSI-X capabilities, which lie in the part that the ports reach. So it only has to be
        // one that the firmware tells of.
        PHYSDEVOP_PCI_MMCFG_RESERVED => {
            access::control_only(dom)?;
            let r: PhysdevPciMmcfgReserved = guest_mem::read(arg)?;
            if r.flags & !XEN_PCI_MMCFG_RESERVED != 0 {
                return Err(Errno::EINVAL.into());
            }
            let known = acpi_setup::mmcfg().any(|s| {
                (s.base, s.segment, s.first_bus, s.last_bus) == (r.address, r.segment, r.start_bus, r.end_bus)
            });
            if !known {
                return Err(Errno::ENODEV.into());
            }
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// `physdev_op_compat(op)`: the older form, with the command in front of its argument.
pub fn compat(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let at = GuestAddr(a[0]);
    match guest_mem::read::<u32>(at)? {
        cmd @ (PHYSDEVOP_IRQ_UNMASK_NOTIFY..=PHYSDEVOP_ALLOC_IRQ_VECTOR | PHYSDEVOP_EOI) => {
            physdev_op(cur, &mut [cmd.into(), at.0.wrapping_add(offset_of!(PhysdevOp, u) as u64), 0, 0, 0, 0])
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Sets one message-signalled interrupt of a device up; its pirq.
fn message(target: &Domain, m: &PhysdevMapPirq, wanted: Option<u32>) -> Result<u32, Stop> {
    let device = Sbdf { bus: m.bus as u8, devfn: m.devfn as u8 };
    if wanted.is_some_and(|pirq| pirq >= target.ports.pirqs()) {
        return Err(Errno::EINVAL.into());
    }
    let msi = Msi::find(device, m.entry_nr as u32, m.table_base)?;
    Ok(pirq::setup_message(target, wanted, msi)?)
}
