//! The arithmetic flags of the read-modify-write instructions.

use super::operand::mask;

/// Carry.
pub const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
/// Zero.
pub const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

fn sign(value: u64, size: u8) -> bool {
    value >> (8 * size - 1) & 1 != 0
}

/// ZF, SF and PF of a result.
fn of_result(result: u64, size: u8) -> u64 {
    let mut flags = 0;
    if result == 0 {
        flags |= ZF;
    }
    if sign(result, size) {
        flags |= SF;
    }
    if (result as u8).count_ones().is_multiple_of(2) {
        flags |= PF;
    }
    flags
}

/// `a + b + carry` and `rflags` with its flags.
pub fn add(a: u64, b: u64, carry: bool, size: u8, rflags: u64) -> (u64, u64) {
    let (a, b) = (a & mask(size), b & mask(size));
    let wide = u128::from(a) + u128::from(b) + u128::from(carry);
    let result = wide as u64 & mask(size);
    let mut flags = of_result(result, size);
    if wide > u128::from(mask(size)) {
        flags |= CF;
    }
    if (a ^ b ^ result) & 0x10 != 0 {
        flags |= AF;
    }
    if sign((a ^ result) & (b ^ result), size) {
        flags |= OF;
    }
    (result, rflags & !ARITHMETIC | flags)
}

/// `a - b - borrow` and `rflags` with its flags.
pub fn sub(a: u64, b: u64, borrow: bool, size: u8, rflags: u64) -> (u64, u64) {
    let (a, b) = (a & mask(size), b & mask(size));
    let result = a.wrapping_sub(b).wrapping_sub(u64::from(borrow)) & mask(size);
    let mut flags = of_result(result, size);
    if u128::from(a) < u128::from(b) + u128::from(borrow) {
        flags |= CF;
    }
    if (a ^ b ^ result) & 0x10 != 0 {
        flags |= AF;
    }
    if sign((a ^ b) & (a ^ result), size) {
        flags |= OF;
    }
    (result, rflags & !ARITHMETIC | flags)
}

/// `rflags` after AND, OR or XOR gave `result`.
pub fn logic(result: u64, size: u8, rflags: u64) -> u64 {
    rflags & !ARITHMETIC | of_result(result & mask(size), size)
}

/// `after` with the carry of `before`: INC and DEC leave it.
pub fn keep_carry(before: u64, after: u64) -> u64 {
    after & !CF | before & CF
}

/// `rflags` with OF set to `overflow`.
pub fn with_overflow(overflow: bool, rflags: u64) -> u64 {
    rflags & !OF | if overflow { OF } else { 0 }
}

/// `rflags` with ZF set to `zero`: CMPXCHG8B.
pub fn with_zero(zero: bool, rflags: u64) -> u64 {
    rflags & !ZF | if zero { ZF } else { 0 }
}

/// Whether a condition of SETcc holds; `condition` is as the opcode has it, 0 to 15.
pub fn holds(condition: u8, rflags: u64) -> bool {
    let set = |flag| rflags & flag != 0;
    let holds = match condition >> 1 & 7 {
        0 => set(OF),
        1 => set(CF),
        2 => set(ZF),
        3 => set(CF) || set(ZF),
        4 => set(SF),
        5 => set(PF),
        6 => set(SF) != set(OF),
        _ => set(ZF) || set(SF) != set(OF),
    };
    holds != (condition & 1 != 0)
}

/// `rflags` with CF set to `carry`: BTS, BTR, BTC.
pub fn with_carry(carry: bool, rflags: u64) -> u64 {
    rflags & !CF | u64::from(carry)
}
