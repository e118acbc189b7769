//! Stores to page tables: each instruction's result and flags against Rust's own arithmetic, and
//! the rules of what is not a page-table write.

use std::vec::Vec;

use proptest::prelude::*;

use super::model::{CODE, Done, Model};
use crate::emul::cpu::{PtWrite, PtWriteError};
use crate::emul::{Outcome, page_table_write};

/// An entry of the page table; RDI points to it.
const ENTRY: u64 = 0xffff_ffff_8015_fff8;
const OLD: u64 = 0x8010_0000_1eff_f027;

fn machine(code: &[u8], old: u64) -> Model {
    let mut cpu = Model::new(code);
    cpu.put(ENTRY - 8, &[0; 24]);
    cpu.put(ENTRY, &old.to_le_bytes());
    cpu.gprs[7] = ENTRY;
    cpu
}

/// Runs `code`, which must succeed; the entry it leaves.
fn store(cpu: &mut Model) -> u64 {
    assert_eq!(page_table_write(cpu, ENTRY), Outcome::Emulated);
    cpu.get64(ENTRY)
}

#[test]
fn a_plain_store_is_unconditional() {
    let mut cpu = machine(b"\x48\x89\x07", OLD);
    cpu.gprs[0] = 0x1234_5067;
    assert_eq!(store(&mut cpu), 0x1234_5067);
    assert_eq!(cpu.done, [Done::PtWrite(PtWrite { address: ENTRY, new: 0x1234_5067, expected: None })]);
    assert_eq!(cpu.rip, CODE + 3);
}

#[test]
fn immediates_are_sign_extended() {
    assert_eq!(store(&mut machine(b"\x48\xc7\x07\x10\x00\x00\x80", OLD)), 0xffff_ffff_8000_0010);
}

#[test]
fn narrow_stores_keep_the_rest_and_expect_it_unchanged() {
    let new = 0x0000_0007_1eff_f027;
    let mut cpu = machine(b"\xc7\x47\x04\x07\x00\x00\x00", OLD);
    assert_eq!(store(&mut cpu), new);
    assert_eq!(cpu.done, [Done::PtWrite(PtWrite { address: ENTRY, new, expected: Some(OLD) })]);
    assert_eq!(store(&mut machine(b"\xc6\x07\x41", OLD)), OLD & !0xff | 0x41);
    assert_eq!(store(&mut machine(b"\x66\xc7\x47\x06\x40\x00", OLD)), 0x0040_0000_1eff_f027);
}

#[test]
fn exchanges() {
    let mut cpu = machine(b"\x48\x87\x07", OLD);
    cpu.gprs[0] = 0x30;
    assert_eq!((store(&mut cpu), cpu.gprs[0]), (0x30, OLD));

    let mut cpu = machine(b"\xf0\x48\x0f\xb1\x17", OLD);
    (cpu.gprs[0], cpu.gprs[2]) = (OLD, 0x60);
    assert_eq!((store(&mut cpu), cpu.rflags & 0x40, cpu.gprs[0]), (0x60, 0x40, OLD));

    // Unequal: the accumulator gets the entry, and nothing is written.
    let mut cpu = machine(b"\xf0\x48\x0f\xb1\x17", OLD);
    (cpu.gprs[0], cpu.gprs[2]) = (1, 0x60);
    assert_eq!((store(&mut cpu), cpu.rflags & 0x40, cpu.gprs[0]), (OLD, 0, OLD));
    assert!(cpu.done.is_empty());
}

#[test]
fn pairs_are_exchanged() {
    let halves = |cpu: &mut Model, compared: u64, new: u64| {
        (cpu.gprs[0], cpu.gprs[2]) = (compared & 0xffff_ffff, compared >> 32);
        (cpu.gprs[3], cpu.gprs[1]) = (new & 0xffff_ffff, new >> 32);
    };
    let mut cpu = machine(b"\xf0\x0f\xc7\x0f", OLD);
    halves(&mut cpu, OLD, 0x1122_3344_5566_7788);
    assert_eq!((store(&mut cpu), cpu.rflags & 0x40), (0x1122_3344_5566_7788, 0x40));
    let mut cpu = machine(b"\x0f\xc7\x0f", OLD);
    halves(&mut cpu, OLD ^ 1 << 40, 5);
    assert_eq!((store(&mut cpu), cpu.rflags & 0x40), (OLD, 0));
    assert_eq!((cpu.gprs[0], cpu.gprs[2]), (OLD & 0xffff_ffff, OLD >> 32));
    assert!(cpu.done.is_empty());
}

#[test]
fn a_pop_stores_what_the_stack_has() {
    let mut cpu = machine(b"\x8f\x07", OLD);
    cpu.put(0x2000, &0x1122_3344_5566_7788u64.to_le_bytes());
    cpu.gprs[4] = 0x2000;
    assert_eq!((store(&mut cpu), cpu.gprs[4]), (0x1122_3344_5566_7788, 0x2008));
    // By the stack pointer itself: as it is after the pop.
    let mut cpu = machine(b"\x8f\x44\x24\xf8", OLD);
    cpu.gprs[4] = ENTRY;
    assert_eq!((store(&mut cpu), cpu.gprs[4]), (OLD, ENTRY + 8));
    // Of two bytes the stack moves by two, and its pointer whole.
    let mut cpu = machine(b"\x66\x8f\x07", OLD);
    cpu.put(0x1_fffe, &[0x34, 0x12, 0, 0]);
    cpu.gprs[4] = 0x1_fffe;
    assert_eq!((store(&mut cpu), cpu.gprs[4]), (OLD & !0xffff | 0x1234, 0x2_0000));
}

#[test]
fn conditions() {
    // Carry 1, parity 4, zero 0x40, sign 0x80, overflow 0x800: when each of the even conditions holds.
    let even = [0x800, 1, 0x40, 0x41, 0x80, 4, 0x80, 0xc0];
    for (n, flag) in even.into_iter().enumerate() {
        for (flags, holds) in [(flag, true), (0, false)] {
            for negated in 0..2u8 {
                let mut cpu = machine(&[0x0f, 0x90 + 2 * n as u8 + negated, 0x07], OLD);
                cpu.rflags |= flags;
                let value = u64::from(holds != (negated == 1));
                assert_eq!(store(&mut cpu), OLD & !0xff | value, "condition {n}, {flags:#x}");
            }
        }
    }
    for (condition, flags, value) in [(12, 0x880, 0), (14, 0x880, 0), (14, 0x800, 1), (6, 1, 1), (6, 0x40, 1)]
    {
        let mut cpu = machine(&[0x0f, 0x90 + condition, 0x07], OLD);
        cpu.rflags |= flags;
        assert_eq!(store(&mut cpu), OLD & !0xff | value);
    }
}

/// A BTS whose bit number points beyond its operand, as Xen 4.17 executes it.
#[test]
fn bit_numbers_may_be_negative() {
    let mut cpu = machine(b"\x48\x0f\xab\x07", 0);
    (cpu.gprs[0], cpu.gprs[7]) = (u64::MAX, ENTRY + 8);
    assert_eq!(store(&mut cpu), 1 << 63);
    let mut cpu = machine(b"\xf0\x48\x0f\xb3\x07", OLD);
    (cpu.gprs[0], cpu.gprs[7]) = (64 * 511 + 1, ENTRY & !0xfff);
    assert_eq!((store(&mut cpu), cpu.rflags & 1), (OLD & !2, 1));
}

#[test]
fn string_stores_fault_once_an_element() {
    let mut cpu = machine(b"\xf3\x48\xab", OLD);
    (cpu.gprs[0], cpu.gprs[1], cpu.gprs[7]) = (0x70, 2, ENTRY - 8);
    assert_eq!(page_table_write(&mut cpu, ENTRY), Outcome::Retry);
    assert_eq!((cpu.rip, cpu.gprs[1], cpu.gprs[7]), (CODE, 1, ENTRY));
    assert_eq!(page_table_write(&mut cpu, ENTRY), Outcome::Emulated);
    assert_eq!((cpu.rip, cpu.gprs[1], cpu.get64(ENTRY - 8), cpu.get64(ENTRY)), (CODE + 3, 0, 0x70, 0x70));

    let mut cpu = machine(b"\x48\xa5", OLD);
    cpu.put(0x1000, &0x1122_3344_5566_7788u64.to_le_bytes());
    (cpu.gprs[6], cpu.rflags) = (0x1000, 0x602);
    assert_eq!(store(&mut cpu), 0x1122_3344_5566_7788);
    assert_eq!((cpu.gprs[6], cpu.gprs[7]), (0xff8, ENTRY - 8));
}

#[test]
fn a_change_in_between_is_a_retry_and_a_refusal_the_guests_fault() {
    for (answer, outcome) in [
        (PtWriteError::Mismatch, Outcome::Retry),
        (PtWriteError::Busy, Outcome::Retry),
        (PtWriteError::Refused, Outcome::Unhandled),
    ] {
        // XADD: neither the register nor the flags may change.
        let mut cpu = machine(b"\x48\x0f\xc1\x07", OLD);
        (cpu.gprs[0], cpu.pt_answer) = (5, Err(answer));
        assert_eq!(page_table_write(&mut cpu, ENTRY), outcome);
        assert_eq!((cpu.gprs[0], cpu.rflags, cpu.rip, cpu.get64(ENTRY)), (5, 0x202, CODE, OLD));
    }
}

#[test]
fn what_is_no_page_table_write() {
    let unhandled = |cpu: &mut Model| {
        assert_eq!(page_table_write(cpu, ENTRY), Outcome::Unhandled);
        assert_eq!((cpu.rip, cpu.done.len()), (CODE, 0));
    };
    // Not aligned, or across entries; a register; another page than the one that faulted.
    unhandled(&mut machine(b"\xc7\x47\x02\0\0\0\0", OLD));
    unhandled(&mut machine(b"\x48\xc7\x47\x04\0\0\0\0", OLD));
    unhandled(&mut machine(b"\x48\x89\xc7", OLD));
    unhandled(&mut machine(b"\x48\x89\x47\x08", OLD));
    // A load, a compare, a call, a vector store, a privileged instruction.
    for code in [&b"\x48\x8b\x07"[..], b"\x48\x39\x07", b"\xff\x17", b"\x66\x0f\xd6\x07", b"\x0f\x22\xd8"] {
        unhandled(&mut machine(code, OLD));
    }
    let mut cpu = machine(b"\x48\x89\x07", OLD);
    cpu.kernel = false;
    unhandled(&mut cpu);
    // A repeated store of nothing did not fault, so another vcpu changed the code.
    unhandled(&mut machine(b"\xf3\x48\xab", OLD));
}

/// The hypervisor's page tables are not a guest's, whatever CR2 says.
#[test]
fn hypervisor_addresses_are_refused() {
    for address in [0xffff_8000_0000_0000, 0xffff_87ff_ffff_fff8, 0x7fff_ffff_fffc] {
        let mut cpu = machine(b"\x48\x89\x07", OLD);
        cpu.gprs[7] = address;
        assert_eq!(page_table_write(&mut cpu, address), Outcome::Unhandled);
        assert!(cpu.done.is_empty());
    }
}

/// The read-modify-write instructions on memory with a source, as opcode bytes for 8-byte
/// operands `[rdi], rax`.
const RMW: [(&[u8], &str); 11] = [
    (b"\x48\x01\x07", "add"),
    (b"\x48\x09\x07", "or"),
    (b"\x48\x11\x07", "adc"),
    (b"\x48\x19\x07", "sbb"),
    (b"\x48\x21\x07", "and"),
    (b"\x48\x29\x07", "sub"),
    (b"\x48\x31\x07", "xor"),
    (b"\x48\xff\x07", "inc"),
    (b"\x48\xff\x0f", "dec"),
    (b"\x48\xf7\x17", "not"),
    (b"\x48\xf7\x1f", "neg"),
];

/// Result, carry and overflow by Rust's arithmetic; `None`: the flag stays.
fn expected(name: &str, a: i64, b: i64, carry: bool) -> (i64, Option<bool>, Option<bool>) {
    let (ua, ub) = (a as u64, b as u64);
    let c = i128::from(carry);
    let fits = |wide: i128| i64::try_from(wide).is_err();
    match name {
        "add" => (a.wrapping_add(b), Some(ua.checked_add(ub).is_none()), Some(a.checked_add(b).is_none())),
        "adc" => (
            a.wrapping_add(b).wrapping_add(i64::from(carry)),
            Some(u64::try_from(i128::from(ua) + i128::from(ub) + c).is_err()),
            Some(fits(i128::from(a) + i128::from(b) + c)),
        ),
        "sub" => (a.wrapping_sub(b), Some(ua < ub), Some(a.checked_sub(b).is_none())),
        "sbb" => (
            a.wrapping_sub(b).wrapping_sub(i64::from(carry)),
            Some(i128::from(ua) - i128::from(ub) - c < 0),
            Some(fits(i128::from(a) - i128::from(b) - c)),
        ),
        "and" => (a & b, Some(false), Some(false)),
        "or" => (a | b, Some(false), Some(false)),
        "xor" => (a ^ b, Some(false), Some(false)),
        "inc" => (a.wrapping_add(1), None, Some(a == i64::MAX)),
        "dec" => (a.wrapping_sub(1), None, Some(a == i64::MIN)),
        "not" => (!a, None, None),
        _ => (a.wrapping_neg(), Some(a != 0), Some(a == i64::MIN)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn read_modify_write(
        which in 0..RMW.len(),
        a in prop_oneof![any::<i64>(), prop::sample::select(Vec::from([0, 1, -1, i64::MIN, i64::MAX]))],
        b in prop_oneof![any::<i64>(), prop::sample::select(Vec::from([0, 1, -1, i64::MIN, i64::MAX]))],
        carry: bool,
    ) {
        let (code, name) = RMW[which];
        let mut cpu = machine(code, a as u64);
        cpu.gprs[0] = b as u64;
        cpu.rflags |= u64::from(carry);
        let before = cpu.rflags;
        let result = store(&mut cpu);
        let (value, cf, of) = expected(name, a, b, carry);
        prop_assert_eq!(result, value as u64);
        prop_assert_eq!(cpu.rflags & 1 != 0, cf.unwrap_or(carry), "carry of {}", name);
        prop_assert_eq!(cpu.rflags & 0x800 != 0, of.unwrap_or(false), "overflow of {}", name);
        if name == "not" {
            prop_assert_eq!(cpu.rflags, before);
        } else {
            prop_assert_eq!(cpu.rflags & 0x40 != 0, value == 0);
            prop_assert_eq!(cpu.rflags & 0x80 != 0, value < 0);
            prop_assert_eq!(cpu.rflags & 4 != 0, (value as u8).count_ones().is_multiple_of(2));
        }
    }

    /// A narrow operation is the wide one on its bytes, and leaves the others.
    #[test]
    fn narrow_read_modify_write(old: u64, value: u64, byte in 0u8..8, which in 0usize..3) {
        let opcode = [0x00, 0x28, 0x30][which];
        let mut cpu = machine(&[opcode, 0x47, byte], old);
        cpu.gprs[0] = value;
        let result = store(&mut cpu);
        let shift = 8 * u32::from(byte);
        let (a, b) = ((old >> shift) as u8, value as u8);
        let (new, carry) = match which {
            0 => a.overflowing_add(b),
            1 => a.overflowing_sub(b),
            _ => (a ^ b, false),
        };
        prop_assert_eq!(result, old & !(0xff << shift) | u64::from(new) << shift);
        prop_assert_eq!(cpu.rflags & 1 != 0, carry);
    }

    /// Each shift and rotation of each size, by Rust's own.
    #[test]
    fn shifts(old: u64, count: u8, kind in 0u8..8, size in 0usize..4, carry: bool) {
        let bits = [8u32, 16, 32, 64][size];
        let (prefix, opcode): (&[u8], u8) = [(&b""[..], 0xc0), (b"\x66", 0xc1), (b"", 0xc1), (b"\x48", 0xc1)][size];
        let code = [prefix, &[opcode, 0x07 | kind << 3, count]].concat();
        let mut cpu = machine(&code, old);
        cpu.rflags |= u64::from(carry);
        let before = cpu.rflags;
        let result = store(&mut cpu);
        let field = u64::MAX >> (64 - bits);
        let n = u32::from(count) & if bits == 64 { 63 } else { 31 };
        let value = u128::from(old & field);
        let signed = ((old & field) << (64 - bits)) as i64 >> (64 - bits);
        let wide = |n: u32, width: u32, value: u128| {
            let n = n % width;
            (value << n | value >> (width - n)) & (u128::MAX >> (128 - width))
        };
        // With the carry above it, as RCL and RCR turn it.
        let with_carry = value | u128::from(carry) << bits;
        let (expected, out) = match kind {
            0 => (wide(n, bits, value), wide(n, bits, value) & 1),
            1 => (wide(bits - n % bits, bits, value), wide(bits - n % bits, bits, value) >> (bits - 1)),
            2 => (wide(n, bits + 1, with_carry), wide(n, bits + 1, with_carry) >> bits),
            3 => {
                let turned = wide(bits + 1 - n % (bits + 1), bits + 1, with_carry);
                (turned, turned >> bits)
            }
            4 | 6 => (value << n, value << n >> bits),
            5 => (value >> n, if n == 0 { 0 } else { value >> (n - 1) }),
            _ => (signed as i128 as u128 >> n, if n == 0 { 0 } else { (i128::from(signed) >> (n - 1)) as u128 }),
        };
        prop_assert_eq!(result, old & !field | expected as u64 & field);
        if n == 0 {
            prop_assert_eq!(cpu.rflags, before);
        } else {
            prop_assert_eq!(u128::from(cpu.rflags & 1), out & 1, "carry of {} by {} in {} bits", kind, n, bits);
            if kind > 3 {
                prop_assert_eq!(cpu.rflags & 0x40 != 0, expected as u64 & field == 0);
            }
            if n == 1 {
                let changed = (result ^ old) >> (bits - 1) & 1;
                prop_assert_eq!(cpu.rflags >> 11 & 1, changed, "overflow");
            }
        }
    }

    #[test]
    fn bit_instructions(old: u64, bit in 0u8..64, which in 0usize..3) {
        let mut cpu = machine(&[0xf0, 0x48, 0x0f, 0xba, [0x2f, 0x37, 0x3f][which], bit], old);
        let mask = 1u64 << bit;
        let result = store(&mut cpu);
        prop_assert_eq!(result, [old | mask, old & !mask, old ^ mask][which]);
        prop_assert_eq!(cpu.rflags & 1 != 0, old & mask != 0);
    }
}
