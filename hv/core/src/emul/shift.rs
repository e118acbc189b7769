//! Shifts and rotations, a bit at a time as the manuals tell them.

use super::decode::Op;
use super::flags;
use super::operand::mask;

/// What `op` makes of `value` by `count` bits, and `rflags` with its flags. Where the overflow flag is undefined, by
/// more than one bit, it is that of the last.
pub fn shift(op: Op, value: u64, count: u64, size: u8, rflags: u64) -> (u64, u64) {
    let top = 8 * u32::from(size) - 1;
    let count = count & if size == 8 { 0x3f } else { 0x1f };
    let (mut value, mut carry, mut overflow) = (value & mask(size), rflags & flags::CF, 0);
    for _ in 0..count {
        let (low, high) = (value & 1, value >> top);
        let (out, into) = match op {
            Op::Rol => (high, high),
            Op::Rcl => (high, carry),
            Op::Shl => (high, 0),
            Op::Ror => (low, low),
            Op::Rcr => (low, carry),
            Op::Sar => (low, high),
            _ => (low, 0),
        };
        let left = matches!(op, Op::Rol | Op::Rcl | Op::Shl);
        value = if left { value << 1 & mask(size) | into } else { value >> 1 | into << top };
        carry = out;
        overflow = high ^ value >> top;
    }
    if count == 0 {
        return (value, rflags);
    }
    let after =
        if matches!(op, Op::Shl | Op::Shr | Op::Sar) { flags::logic(value, size, rflags) } else { rflags };
    (value, flags::with_overflow(overflow != 0, flags::with_carry(carry != 0, after)))
}
