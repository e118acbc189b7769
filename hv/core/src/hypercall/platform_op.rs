//! `platform_op`: what the control domain tells the hypervisor of the machine, and asks of it.

use crate::domain::Current;
use crate::error::{HcResult, Stop};
use crate::{access, efi, power, run, time_of_day};
use hv_machine::guest_mem;
use hv_machine::x86_64::{clock, cpu, percpu, tlb};
use shared_abi::GuestAddr;
use shared_abi::errno::Errno;
use shared_abi::platform::*;

/// `platform_op(op)`.
pub fn platform_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    access::control_only(cur.dom)?;
    let at = GuestAddr(a[0]);
    let mut op: PlatformOp = guest_mem::read(at)?;
    if op.interface_version != XENPF_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    match op.cmd {
        XENPF_SETTIME32 => {
            let t = op.settime32();
            time_of_day::set(t.secs.into(), t.nsecs, t.system_time);
        }
        XENPF_SETTIME64 => {
            let t = op.settime64();
            if t.mbz != 0 {
                return Err(Errno::EOPNOTSUPP.into());
            }
            time_of_day::set(t.secs, t.nsecs, t.system_time);
        }
        XENPF_GET_CPUINFO => {
            let mut i = op.pcpu_info();
            let n = tlb::online().count_ones();
            i.max_present = n - 1;
            i.flags = if i.xen_cpuid < n { XEN_PCPU_FLAGS_ONLINE } else { XEN_PCPU_FLAGS_INVALID };
            (i.apic_id, i.acpi_id) = (i.xen_cpuid, i.xen_cpuid);
            op.set_pcpu_info(i);
        }
        XENPF_GET_CPU_VERSION => {
            let mut v = op.pcpu_version();
            let n = tlb::online().count_ones();
            if v.xen_cpuid >= n {
                return Err(Errno::EINVAL.into());
            }
            let (l0, l1) = (cpu::cpuid(0, 0), cpu::cpuid(1, 0).eax);
            for (i, r) in [l0.ebx, l0.edx, l0.ecx].into_iter().enumerate() {
                v.vendor_id[i * 4..][..4].copy_from_slice(&r.to_le_bytes());
            }
            v.max_present = n - 1;
            v.family = (l1 >> 8 & 15) + if l1 >> 8 & 15 == 15 { l1 >> 20 & 255 } else { 0 };
            v.model = (l1 >> 4 & 15) | (l1 >> 12 & 0xf0);
            v.stepping = l1 & 15;
            op.set_pcpu_version(v);
        }
        XENPF_FIRMWARE_INFO => {
            let mut i = op.firmware_info();
            firmware_info(&mut i)?;
            op.set_firmware_info(i);
        }
        // As Xen with `efi=no-rs`.
        XENPF_EFI_RUNTIME_CALL if efi::table().is_some() => return Err(Errno::EOPNOTSUPP.into()),
        XENPF_ENTER_ACPI_SLEEP => {
            let s = op.enter_acpi_sleep();
            if s.sleep_state != 5 {
                return Err(Errno::EOPNOTSUPP.into());
            }
            power::off()
        }
        XENPF_GETIDLETIME => {
            let mut g = op.getidletime();
            g.now = clock::now();
            for c in 0..percpu::MAX_CPUS.min(g.cpumap_nr_cpus as usize) {
                guest_mem::write_at(g.idletime, c as u64, &run::idle_ns(c))?;
            }
            op.set_getidletime(g);
        }
        // Power states are the processor's own affair here.
        XENPF_SET_PROCESSOR_PMINFO => return Err(Errno::ENODEV.into()),
        _ => return Err(Errno::ENOSYS.into()),
    }
    guest_mem::write(at, &op)?;
    Ok(0)
}

/// What the firmware said. Of a BIOS nobody asked anything.
fn firmware_info(i: &mut XenpfFirmwareInfo) -> Result<(), Stop> {
    match i.r#type {
        XEN_FW_DISK_INFO | XEN_FW_DISK_MBR_SIGNATURE | XEN_FW_VBEDDC_INFO | XEN_FW_KBD_SHIFT_FLAGS => {
            return Err(Errno::ESRCH.into());
        }
        XEN_FW_EFI_INFO => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    let efi = efi::table().ok_or(Errno::ENOSYS)?;
    match i.index {
        XEN_FW_EFI_VERSION => i.set_efi_version(efi.version),
        XEN_FW_EFI_RT_VERSION => return Err(Errno::EOPNOTSUPP.into()),
        XEN_FW_EFI_CONFIG_TABLE => i.set_efi_cfg(XenpfEfiCfg { addr: efi.tables, nent: efi.count, _pad: 0 }),
        XEN_FW_EFI_VENDOR => {
            let mut vendor = i.efi_vendor();
            vendor.revision = efi.revision;
            // as many characters as there is room for, and always a zero behind them
            let room = (vendor.bufsz as usize / 2).checked_sub(1);
            if let Some(room) = room.filter(|_| vendor.name.0 != 0) {
                let n = efi.vendor.len().min(room);
                for (at, c) in efi.vendor[..n].iter().chain(&[0]).enumerate() {
                    guest_mem::write_at(vendor.name, at as u64, c)?;
                }
            }
            i.set_efi_vendor(vendor);
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(())
}
