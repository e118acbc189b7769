//! The root: RSDP, and the RSDT or XSDT that lists the tables.

use alloc::vec::Vec;

use super::table::checksum_ok;
use super::{Memory, Table};

/// More tables than this are not looked at.
const MAX_TABLES: usize = 256;

/// Where a BIOS puts the root pointer: the first KiB of the extended BIOS data area, whose segment
/// is at 0x40e, and the BIOS's own area.
const EBDA_SEGMENT: u64 = 0x40e;
const BIOS: core::ops::Range<u64> = 0xe_0000..0x10_0000;

/// The list of tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    rsdp: u64,
    tables: Vec<u64>,
}

/// The root pointer at `address`, if there is one: the addresses of RSDT and XSDT.
fn pointer(memory: &impl Memory, address: u64) -> Option<(u64, u64)> {
    let mut old = [0; 20];
    if !memory.read(address, &mut old) || old[..8] != *b"RSD PTR " || !checksum_ok(&old) {
        return None;
    }
    let rsdt = u64::from(u32::from_le_bytes([old[16], old[17], old[18], old[19]]));
    if old[15] < 2 {
        return Some((rsdt, 0));
    }
    let mut new = [0; 36];
    if !memory.read(address, &mut new) || new[..20] != old || !checksum_ok(&new) {
        return Some((rsdt, 0));
    }
    let (_, xsdt) = new[..32].split_last_chunk().unwrap_or((&[], &[0; 8]));
    Some((rsdt, u64::from_le_bytes(*xsdt)))
}

/// Scans for the root pointer where a BIOS puts it.
fn scan(memory: &impl Memory) -> Option<u64> {
    let mut segment = [0; 2];
    let ebda =
        if memory.read(EBDA_SEGMENT, &mut segment) { u64::from(u16::from_le_bytes(segment)) << 4 } else { 0 };
    let ebda = if (0x400..0xa_0000).contains(&ebda) { ebda..ebda + 1024 } else { 0..0 };
    ebda.chain(BIOS).step_by(16).find(|address| pointer(memory, *address).is_some())
}

impl Root {
    /// Finds the root: at `rsdp`, or, where the boot loader gave none or a wrong one, where a BIOS
    /// puts it.
    pub fn find(memory: &impl Memory, rsdp: Option<u64>) -> Option<Root> {
        let given = rsdp.filter(|address| pointer(memory, *address).is_some());
        let rsdp = given.or_else(|| scan(memory))?;
        let (rsdt, xsdt) = pointer(memory, rsdp)?;
        let wide = Table::read(memory, xsdt, Some(b"XSDT")).map(|table| list(&table, 8));
        let list = wide.or_else(|| Table::read(memory, rsdt, Some(b"RSDT")).map(|table| list(&table, 4)));
        Some(Root { rsdp, tables: list? })
    }

    /// The address of the root pointer.
    pub fn rsdp(&self) -> u64 {
        self.rsdp
    }

    /// The first valid table of this signature.
    pub fn table(&self, memory: &impl Memory, signature: &[u8; 4]) -> Option<Table> {
        self.tables(memory, signature).next()
    }

    /// All valid tables of this signature.
    pub fn tables(&self, memory: &impl Memory, signature: &[u8; 4]) -> impl Iterator<Item = Table> {
        self.tables.iter().filter_map(move |address| Table::read(memory, *address, Some(signature)))
    }
}

/// The addresses in a root table, each `size` bytes.
fn list(table: &Table, size: usize) -> Vec<u64> {
    let addresses = table.body().chunks_exact(size).take(MAX_TABLES);
    let address = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    addresses.map(address).filter(|address| *address != 0).collect()
}
