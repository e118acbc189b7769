//! A physical memory made of pieces, and tables built field by field.

use std::collections::BTreeMap;
use std::vec::Vec;

use crate::acpi::Memory;

#[derive(Clone, Debug, Default)]
pub struct Ram {
    pub pieces: BTreeMap<u64, Vec<u8>>,
}

impl Memory for Ram {
    fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        let Some((start, piece)) = self.pieces.range(..=address).next_back() else { return false };
        let offset = (address - start) as usize;
        let Some(bytes) = piece.get(offset..).and_then(|rest| rest.get(..buf.len())) else { return false };
        buf.copy_from_slice(bytes);
        true
    }
}

fn seal(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    bytes[at] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}

/// A table with a correct length and checksum.
pub fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes =
        [&signature[..], &(36 + body.len() as u32).to_le_bytes(), &[1, 0], &[0; 26], body].concat();
    seal(&mut bytes, 9);
    bytes
}

/// A root pointer, revision 2 if there is an XSDT.
pub fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut bytes = Vec::from(*b"RSD PTR \0OXEN  ");
    bytes.push(if xsdt == 0 { 0 } else { 2 });
    bytes.extend_from_slice(&rsdt.to_le_bytes());
    seal(&mut bytes, 8);
    if xsdt != 0 {
        bytes.extend_from_slice(&36u32.to_le_bytes());
        bytes.extend_from_slice(&xsdt.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        seal(&mut bytes, 32);
    }
    bytes
}

/// A memory with a root pointer at 0xf0000 and an XSDT of these tables, from 0x10_0000 on.
pub fn with_tables(tables: &[Vec<u8>]) -> Ram {
    let mut ram = Ram::default();
    let mut addresses = Vec::new();
    for (i, table) in tables.iter().enumerate() {
        let address = 0x20_0000 + 0x1_0000 * i as u64;
        addresses.extend_from_slice(&address.to_le_bytes());
        ram.pieces.insert(address, table.clone());
    }
    ram.pieces.insert(0x10_0000, table(b"XSDT", &addresses));
    ram.pieces.insert(0xf_0000, rsdp(0, 0x10_0000));
    ram
}
