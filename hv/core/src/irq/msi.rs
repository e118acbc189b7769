//! A device's message-signalled interrupts: the hypervisor writes address and data, for the vector is its
//! own; the control domain says which device and which entry.

use super::pci::Sbdf;
use hv_machine::x86_64::mmio;
use shared_abi::errno::Errno;

const CAP_MSI: u8 = 5;
const CAP_MSIX: u8 = 0x11;
const INTX_DISABLE: u32 = 1 << 10;

/// One message-signalled interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Msi {
    /// By the MSI capability at this register.
    Msi(Sbdf, u8),
    /// By an entry of the MSI-X table: capability's register, physical address of the entry.
    MsiX(Sbdf, u8, u64),
}

fn address(apic_id: u32) -> u32 {
    0xfee0_0000 | (apic_id & 0xff) << 12
}

impl Msi {
    /// Finds a device's MSI (`table_base` 0) or an entry of its MSI-X table.
    ///
    /// # Errors
    /// `ENODEV`: no such device or capability; `EINVAL`: no such entry.
    pub fn find(dev: Sbdf, entry: u32, table_base: u64) -> Result<Msi, Errno> {
        if table_base == 0 {
            return Ok(Msi::Msi(dev, dev.capability(CAP_MSI).ok_or(Errno::ENODEV)?));
        }
        let cap = dev.capability(CAP_MSIX).ok_or(Errno::ENODEV)?;
        let entries = (dev.read(cap + 2, 2) & 0x7ff) + 1;
        if entry >= entries {
            return Err(Errno::EINVAL);
        }
        // Where the table is, the device says; the caller's address is only a hint that it is MSI-X.
        let table = dev.read(cap + 4, 4);
        let bar = 0x10 + 4 * (table & 7) as u8;
        if bar > 0x24 {
            return Err(Errno::EINVAL);
        }
        let low = dev.read(bar, 4);
        let mut base = u64::from(low & !0xf);
        if low & 0b110 == 0b100 && bar < 0x24 {
            base |= u64::from(dev.read(bar + 4, 4)) << 32;
        }
        if base == 0 || low & 1 != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Msi::MsiX(dev, cap, base + u64::from(table & !7) + u64::from(entry) * 16))
    }

    /// Whether a device has an MSI-X table.
    pub fn has_table(dev: Sbdf) -> bool {
        dev.capability(CAP_MSIX).is_some()
    }

    /// The device.
    pub fn device(self) -> Sbdf {
        match self {
            Msi::Msi(d, _) | Msi::MsiX(d, ..) => d,
        }
    }

    /// Directs it to a vector of a CPU and turns it on.
    pub fn enable(self, vector: u8, apic_id: u32) -> Result<(), Errno> {
        let dev = self.device();
        dev.write(4, 2, dev.read(4, 2) | INTX_DISABLE);
        match self {
            Msi::Msi(d, cap) => {
                let control = d.read(cap + 2, 2);
                d.write(cap + 4, 4, address(apic_id));
                let data = if control & 0x80 != 0 {
                    d.write(cap + 8, 4, 0);
                    cap + 12
                } else {
                    cap + 8
                };
                d.write(data, 2, vector.into());
                if control & 0x100 != 0 {
                    d.write(data + 4, 4, 0);
                }
                // One message, on.
                d.write(cap + 2, 2, control & !0x70 | 1);
            }
            Msi::MsiX(d, cap, entry) => {
                // Decoding on, so that the table answers.
                d.write(4, 2, d.read(4, 2) | 2);
                let va = mmio::map(entry, 16).ok_or(Errno::ENOMEM)?;
                va.write_u32(12, 1);
                va.write_u32(0, address(apic_id));
                va.write_u32(4, 0);
                va.write_u32(8, vector.into());
                d.write(cap + 2, 2, d.read(cap + 2, 2) & !0x4000 | 0x8000);
                va.write_u32(12, 0);
            }
        }
        Ok(())
    }

    /// Turns it off.
    pub fn disable(self) {
        match self {
            Msi::Msi(d, cap) => d.write(cap + 2, 2, d.read(cap + 2, 2) & !1),
            Msi::MsiX(_, _, entry) => {
                if let Some(va) = mmio::map(entry, 16) {
                    va.write_u32(12, 1);
                }
            }
        }
    }
}
