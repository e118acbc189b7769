//! A structure of a device's registers, in one of its BARs.

use super::Error;
use crate::pci::{Capability, Config, Function};
use guest_kernel::memory::Mapping;
use shared_abi::{Mfn, PAGE_SIZE};

/// Bytes of a structure that are mapped at most. Queues' registers are what is large.
const MOST: u64 = 64 << 10;

/// Registers, mapped.
pub(super) struct Region {
    mapping: Mapping,
    offset: usize,
    len: usize,
}

impl Region {
    /// Maps what a virtio capability describes; at least `least` bytes.
    pub fn map(
        config: &impl Config,
        function: &Function,
        at: &Capability,
        least: u64,
    ) -> Result<Region, Error> {
        let [offset, len] = [8, 12].map(|register| u64::from(at.read(config, register)));
        let bar = function.bar(config, at.read(config, 4) as u8);
        let bar = bar.ok_or(Error::Device("registers without a BAR"))?;
        let len = len.min(MOST);
        let start = bar.range(offset, len).filter(|start| len >= least && start % 4 == 0);
        let start = start.ok_or(Error::Device("registers outside their BAR"))?;
        let page = PAGE_SIZE as u64;
        let (first, last) = (start / page, (start + len - 1) / page);
        let mapping = Mapping::device(Mfn(first), (last - first + 1) as usize)?;
        Ok(Region { mapping, offset: (start % page) as usize, len: len as usize })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The callers' offsets are constants within `least`, or were compared with `len`.
    fn at(&self, offset: usize, size: usize) -> usize {
        assert!(offset + size <= self.len, "{offset:#x} past the registers' {:#x}", self.len);
        self.offset + offset
    }

    pub fn read_u8(&self, offset: usize) -> u8 {
        self.mapping.load_u8(self.at(offset, 1))
    }

    pub fn write_u8(&self, offset: usize, value: u8) {
        self.mapping.store_u8(self.at(offset, 1), value);
    }

    pub fn read_u16(&self, offset: usize) -> u16 {
        self.mapping.load_u16(self.at(offset, 2))
    }

    pub fn write_u16(&self, offset: usize, value: u16) {
        self.mapping.store_u16(self.at(offset, 2), value);
    }

    pub fn read_u32(&self, offset: usize) -> u32 {
        self.mapping.load_u32(self.at(offset, 4))
    }

    pub fn write_u32(&self, offset: usize, value: u32) {
        self.mapping.store_u32(self.at(offset, 4), value);
    }
}
