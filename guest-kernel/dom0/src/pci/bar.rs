//! Base address registers: where a function's own memory lies.

use super::{Address, COMMAND, Config, Function, MEMORY};

const FIRST: u8 = 0x10;
/// BARs of a function that is no bridge.
const COUNT: u8 = 6;

/// A range of machine addresses that a function answers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// The first machine address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl Bar {
    /// Machine address of `len` bytes at `offset`, if they lie inside.
    pub fn range(&self, offset: u64, len: u64) -> Option<u64> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.size);
        inside.then(|| self.base + offset)
    }
}

impl Function {
    /// The memory behind BAR `index`; none for an I/O BAR, an unused one, or one that the firmware
    /// did not place.
    pub fn bar(&self, config: &impl Config, index: u8) -> Option<Bar> {
        if index >= COUNT || self.secondary.is_some() {
            return None;
        }
        let register = FIRST + index * 4;
        let low = config.read(self.address, register);
        if low & 1 != 0 {
            return None;
        }
        let wide = low >> 1 & 3 == 2;
        if wide && index + 1 == COUNT {
            return None;
        }
        let high = if wide { config.read(self.address, register + 4) } else { 0 };
        let base = u64::from(high) << 32 | u64::from(low & !0xf);
        let mask = sized(config, self.address, |probe| {
            let mut mask = u64::from(probe(register, low)) & !0xf;
            mask |= if wide { u64::from(probe(register + 4, high)) << 32 } else { 0xffff_ffff << 32 };
            mask
        });
        let size = (!mask).wrapping_add(1);
        (base != 0 && size != 0 && base.checked_add(size).is_some()).then_some(Bar { base, size })
    }
}

/// Runs `read` with the function deaf to memory accesses: a BAR's size is found by moving it away.
/// `read` is given a function that writes ones to a register, reads it and puts a value back.
fn sized<T>(config: &impl Config, at: Address, read: impl FnOnce(&dyn Fn(u8, u32) -> u32) -> T) -> T {
    let command = config.read(at, COMMAND) & 0xffff;
    config.write(at, COMMAND, command & !MEMORY);
    let result = read(&|register, old| {
        config.write(at, register, !0);
        let mask = config.read(at, register);
        config.write(at, register, old);
        mask
    });
    config.write(at, COMMAND, command);
    result
}

#[cfg(test)]
mod tests {
    use super::super::enumerate;
    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn bars_have_their_size_and_are_left_where_they_were() {
        let at = Address { bus: 0, device: 4, function: 0 };
        let fake = Fake::default();
        fake.device(at, 0x1af4, 0x1041);
        fake.or(at, COMMAND, MEMORY);
        for (register, value, fixed) in [
            (0x10, 0xc041, 0x3f),
            (0x14, 0xfebd_1000, 0xfff),
            (0x18, 0x0000_000c, 0x3fff),
            (0x1c, 0x0000_00fe, 0),
            (0x20, 0, !0),
            (0x24, 0xf000_0004, 0xf),
        ] {
            fake.or(at, register, value);
            fake.fix(at, register, fixed);
        }
        let function = enumerate(&fake)[0];
        let bars: [_; 7] = core::array::from_fn(|index| function.bar(&fake, index as u8));
        let low = Bar { base: 0xfebd_1000, size: 0x1000 };
        let high = Bar { base: 0xfe_0000_0000, size: 0x4000 };
        // 0 is I/O, 3 is the upper half of 2, 4 unused, 5 a wide one without an upper half.
        assert_eq!(
            [bars[0], bars[1], bars[2], bars[4], bars[5], bars[6]],
            [None, Some(low), Some(high), None, None, None]
        );
        assert_eq!(fake.read(at, 0x1c), 0xfe);
        assert_eq!(fake.read(at, COMMAND), MEMORY);
        assert_eq!(high.range(0x3ffc, 4), Some(0xfe_0000_3ffc));
        assert_eq!(high.range(0x3ffd, 4), None);
        assert_eq!(high.range(u64::MAX, 2), None);
    }
}
