//! A configuration space in memory, for tests.

use super::{Address, Config, ID};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(crate) struct Fake {
    registers: RefCell<BTreeMap<(Address, u8), u32>>,
    /// Bits of a register that keep what they are when written: those of a BAR below its size.
    fixed: RefCell<BTreeMap<(Address, u8), u32>>,
    present: RefCell<BTreeSet<Address>>,
}

impl Fake {
    pub fn device(&self, at: Address, vendor: u16, device: u16) {
        self.present.borrow_mut().insert(at);
        self.or(at, ID, u32::from(device) << 16 | u32::from(vendor));
    }

    pub fn or(&self, at: Address, register: u8, bits: u32) {
        *self.registers.borrow_mut().entry((at, register)).or_default() |= bits;
    }

    pub fn fix(&self, at: Address, register: u8, mask: u32) {
        self.fixed.borrow_mut().insert((at, register), mask);
    }

    /// Writes bytes of a capability.
    pub fn bytes(&self, at: Address, register: u8, bytes: &[u8]) {
        for (offset, byte) in bytes.iter().enumerate() {
            let place = usize::from(register) + offset;
            self.or(at, place as u8 & 0xfc, u32::from(*byte) << (place % 4 * 8));
        }
    }
}

impl Config for Fake {
    fn read(&self, at: Address, register: u8) -> u32 {
        assert_eq!(register % 4, 0);
        if !self.present.borrow().contains(&at) {
            return !0;
        }
        self.registers.borrow().get(&(at, register)).copied().unwrap_or(0)
    }

    fn write(&self, at: Address, register: u8, value: u32) {
        assert_eq!(register % 4, 0);
        let fixed = self.fixed.borrow().get(&(at, register)).copied().unwrap_or(0);
        let mut registers = self.registers.borrow_mut();
        let old = registers.entry((at, register)).or_default();
        *old = *old & fixed | value & !fixed;
    }

    fn write_u16(&self, at: Address, register: u8, value: u16) {
        let (word, shift) = (register & !3, register % 4 * 8);
        let old = self.read(at, word) & !(0xffff << shift);
        self.write(at, word, old | u32::from(value) << shift);
    }
}
