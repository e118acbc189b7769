//! `HPET`, the high-precision event timer.

use super::Table;

/// The parsed table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hpet {
    /// The physical address of its registers.
    pub address: u64,
    /// Its number.
    pub number: u8,
    /// The hardware id: revision, comparators, counter width, vendor.
    pub block_id: u32,
    /// The smallest period in main-counter ticks without lost interrupts.
    pub min_tick: u16,
}

impl Hpet {
    /// Parses the table. `None`: too short, or the registers are not in memory.
    pub fn parse(table: &Table) -> Option<Hpet> {
        let (space, address) = (table.u8(40)?, table.u64(44)?);
        let hpet =
            Hpet { address, number: table.u8(52)?, block_id: table.u32(36)?, min_tick: table.u16(53)? };
        (space == 0 && address != 0).then_some(hpet)
    }
}
