//! `MCFG`, memory-mapped PCI Express configuration space.

use alloc::vec::Vec;

use super::Table;
use super::table::field;

/// More segments than this are not taken.
const MAX_SEGMENTS: usize = 64;

/// The configuration space of one range of buses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The physical address at which bus 0, not the first bus, would be.
    pub base: u64,
    /// The PCI segment group.
    pub segment: u16,
    /// The first bus.
    pub first_bus: u8,
    /// The last bus.
    pub last_bus: u8,
}

impl Segment {
    /// The physical addresses of the buses' configuration space: 1 MiB each.
    pub fn range(&self) -> core::ops::Range<u64> {
        let at = |bus: u64| self.base.saturating_add(bus << 20);
        at(u64::from(self.first_bus))..at(u64::from(self.last_bus) + 1)
    }
}

/// The parsed table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mcfg {
    /// The segments.
    pub segments: Vec<Segment>,
}

impl Mcfg {
    /// Parses the table; entries without an address or with their buses in the wrong order are
    /// skipped.
    pub fn parse(table: &Table) -> Mcfg {
        // Eight reserved bytes lie between the header and the entries.
        let entries = table.body().get(8..).unwrap_or_default().chunks_exact(16);
        let segment = |entry: &[u8]| {
            let segment = Segment {
                base: field(entry, 0).map(u64::from_le_bytes)?,
                segment: field(entry, 8).map(u16::from_le_bytes)?,
                first_bus: entry[10],
                last_bus: entry[11],
            };
            (segment.base != 0 && segment.first_bus <= segment.last_bus).then_some(segment)
        };
        Mcfg { segments: entries.filter_map(segment).take(MAX_SEGMENTS).collect() }
    }
}
