//! What EFI's system table says, for dom0: where ACPI's and other tables are. The firmware's services are not called:
//! to dom0 this is a machine as Xen has it with `efi=no-rs`.

use alloc::string::String;
use arrayvec::ArrayVec;
use hv_machine::x86_64::firmware;
use spin::Once;

static EFI: Once<Efi> = Once::new();

/// EFI's system table.
pub struct Efi {
    /// EFI's version.
    pub version: u32,
    /// The firmware's own version.
    pub revision: u32,
    /// Who made it, in UTF-16.
    pub vendor: ArrayVec<u16, 100>,
    /// Physical address of the list of tables.
    pub tables: u64,
    /// Its length.
    pub count: u32,
}

/// Reads it from physical memory.
pub fn init(address: u64) {
    match read(address) {
        Some(efi) => {
            let (version, vendor) = (efi.version, String::from_utf16_lossy(&efi.vendor));
            log::info!(
                "EFI {}.{} at {address:#x}: {vendor}, {} tables",
                version >> 16,
                version as u16 / 10,
                efi.count
            );
            EFI.call_once(|| efi);
        }
        None => log::warn!("no EFI system table at {address:#x}"),
    }
}

/// The table, on a machine that has one.
pub fn table() -> Option<&'static Efi> {
    EFI.get()
}

fn read(at: u64) -> Option<Efi> {
    if word::<8>(at)? != *b"IBI SYST" {
        return None;
    }
    let u32_at = |offset| Some(u32::from_le_bytes(word(at.checked_add(offset)?)?));
    let u64_at = |offset| Some(u64::from_le_bytes(word(at.checked_add(offset)?)?));
    let name = u64_at(24)?;
    let mut vendor = ArrayVec::new();
    while let Some(c) = word(name.checked_add(2 * vendor.len() as u64)?).map(u16::from_le_bytes) {
        if c == 0 || vendor.try_push(c).is_err() {
            break;
        }
    }
    let count = u32::try_from(u64_at(104)?).ok()?;
    Some(Efi { version: u32_at(8)?, revision: u32_at(32)?, vendor, tables: u64_at(112)?, count })
}

fn word<const N: usize>(at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    firmware::read(at, &mut bytes).then_some(bytes)
}
