//! The decoder against a complete one (`iced-x86`): what we accept, it reads the same way; what it
//! reads as one of our instructions, we accept.

use std::vec::Vec;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use proptest::prelude::*;

use super::model::{CODE, Model};
use crate::emul::decode::{DecodeError, Insn, Op, decode};
use crate::emul::operand::{Operand, Reg, Segment};

fn reference(bytes: &[u8]) -> Option<Instruction> {
    let bytes = &bytes[..bytes.len().min(15)];
    let mut decoder = Decoder::with_ip(64, bytes, CODE, DecoderOptions::NONE);
    let insn = decoder.decode();
    (!insn.is_invalid()).then_some(insn)
}

/// Our name of a reference mnemonic.
fn op(insn: &Instruction) -> Option<Op> {
    Some(match insn.mnemonic() {
        Mnemonic::Add => Op::Add,
        Mnemonic::Or => Op::Or,
        Mnemonic::Adc => Op::Adc,
        Mnemonic::Sbb => Op::Sbb,
        Mnemonic::And => Op::And,
        Mnemonic::Sub => Op::Sub,
        Mnemonic::Xor => Op::Xor,
        Mnemonic::Inc => Op::Inc,
        Mnemonic::Dec => Op::Dec,
        Mnemonic::Not => Op::Not,
        Mnemonic::Neg => Op::Neg,
        Mnemonic::Mov => match (insn.op0_register(), insn.op1_register()) {
            (to, _) if to.is_cr() => Op::MovToCr,
            (to, _) if to.is_dr() => Op::MovToDr,
            (_, from) if from.is_cr() => Op::MovFromCr,
            (_, from) if from.is_dr() => Op::MovFromDr,
            _ => Op::Mov,
        },
        Mnemonic::Movnti => Op::Movnti,
        Mnemonic::Xchg => Op::Xchg,
        Mnemonic::Cmpxchg => Op::Cmpxchg,
        Mnemonic::Cmpxchg8b => Op::Cmpxchg8b,
        Mnemonic::Xadd => Op::Xadd,
        Mnemonic::Bts => Op::Bts,
        Mnemonic::Btr => Op::Btr,
        Mnemonic::Btc => Op::Btc,
        Mnemonic::Rol => Op::Rol,
        Mnemonic::Ror => Op::Ror,
        Mnemonic::Rcl => Op::Rcl,
        Mnemonic::Rcr => Op::Rcr,
        Mnemonic::Shl | Mnemonic::Sal => Op::Shl,
        Mnemonic::Shr => Op::Shr,
        Mnemonic::Sar => Op::Sar,
        Mnemonic::Pop => Op::Pop,
        Mnemonic::Seto => Op::Set(0),
        Mnemonic::Setno => Op::Set(1),
        Mnemonic::Setb => Op::Set(2),
        Mnemonic::Setae => Op::Set(3),
        Mnemonic::Sete => Op::Set(4),
        Mnemonic::Setne => Op::Set(5),
        Mnemonic::Setbe => Op::Set(6),
        Mnemonic::Seta => Op::Set(7),
        Mnemonic::Sets => Op::Set(8),
        Mnemonic::Setns => Op::Set(9),
        Mnemonic::Setp => Op::Set(10),
        Mnemonic::Setnp => Op::Set(11),
        Mnemonic::Setl => Op::Set(12),
        Mnemonic::Setge => Op::Set(13),
        Mnemonic::Setle => Op::Set(14),
        Mnemonic::Setg => Op::Set(15),
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => Op::Stos,
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsq => Op::Movs,
        Mnemonic::Movsd if insn.op1_kind() != OpKind::Register && insn.op0_kind() != OpKind::Register => {
            Op::Movs
        }
        Mnemonic::In => Op::In,
        Mnemonic::Out => Op::Out,
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => Op::Ins,
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => Op::Outs,
        Mnemonic::Cli => Op::Cli,
        Mnemonic::Sti => Op::Sti,
        Mnemonic::Clts => Op::Clts,
        Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => Op::Wbinvd,
        Mnemonic::Xsetbv => Op::Xsetbv,
        Mnemonic::Rdmsr => Op::Rdmsr,
        Mnemonic::Wrmsr => Op::Wrmsr,
        Mnemonic::Rdtsc => Op::Rdtsc,
        Mnemonic::Rdtscp => Op::Rdtscp,
        Mnemonic::Cpuid => Op::Cpuid,
        _ => return None,
    })
}

/// Whether the reference's instruction is one that the emulator wants: it stores to memory, or is
/// a privileged one.
fn wanted(insn: &Instruction) -> bool {
    let Some(op) = op(insn) else { return false };
    let stores = insn.op0_kind() == OpKind::Memory && !insn.op1_register().is_segment_register();
    match op {
        Op::MovFromCr => {
            ![1, 5, 6, 7].contains(&insn.op1_register().number()) && insn.op1_register().number() <= 8
        }
        Op::MovToCr => {
            ![1, 5, 6, 7].contains(&insn.op0_register().number()) && insn.op0_register().number() <= 8
        }
        Op::MovFromDr => insn.op1_register().number() < 8,
        Op::MovToDr => insn.op0_register().number() < 8,
        Op::Mov | Op::Add | Op::Or | Op::Adc | Op::Sbb | Op::And | Op::Sub | Op::Xor => stores,
        Op::Inc | Op::Dec | Op::Not | Op::Neg | Op::Movnti => stores,
        Op::Xchg | Op::Cmpxchg | Op::Cmpxchg8b | Op::Xadd | Op::Bts | Op::Btr | Op::Btc => stores,
        Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar | Op::Pop | Op::Set(_) => stores,
        _ => true,
    }
}

fn register(reg: Reg, size: u8) -> Register {
    let n = reg.gpr.index() as u32;
    match (size, reg.high) {
        (1, true) => Register::AH + n,
        (1, false) if n < 4 => Register::AL + n,
        (1, false) => Register::SPL + (n - 4),
        (2, _) => Register::AX + n,
        (4, _) => Register::EAX + n,
        _ => Register::RAX + n,
    }
}

fn is_shift(op: Op) -> bool {
    matches!(op, Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar)
}

/// Register values that tell every register, and every part of one, apart.
fn machine() -> Model {
    let mut cpu = Model::new(&[]);
    for (i, gpr) in cpu.gprs.iter_mut().enumerate() {
        *gpr = 0x0123_4567_89ab_cdefu64.rotate_left(7 * i as u32) ^ (0x9e37_79b9 * i as u64);
    }
    cpu.bases = [0x1111_2222_3333, 0x4444_5555_6666_7777, 0];
    cpu
}

/// Checks one operand of ours against the reference's; its index there is `n`.
fn check_operand(cpu: &Model, ours: &Insn, operand: Operand, theirs: &Instruction, n: u32) {
    match operand {
        Operand::None => {}
        // A count of bits is in CL, however wide what is shifted.
        Operand::Reg(_) if theirs.op_register(n) == Register::CL && is_shift(ours.op) && n == 1 => {}
        Operand::Reg(reg) => assert_eq!(register(reg, ours.size), theirs.op_register(n)),
        Operand::Cr(cr) => assert_eq!(Register::CR0 + u32::from(cr), theirs.op_register(n)),
        Operand::Dr(dr) => assert_eq!(Register::DR0 + u32::from(dr), theirs.op_register(n)),
        Operand::Imm(value) => {
            let mask = crate::emul::operand::mask(ours.size);
            assert_eq!(value & mask, theirs.immediate(n) & mask);
        }
        Operand::Mem(mem) => {
            let value = |reg: Register, _, _| {
                Some(match reg {
                    Register::FS => cpu.bases[0],
                    Register::GS => cpu.bases[1],
                    reg if reg.is_segment_register() => 0,
                    reg if reg.is_gpr32() => cpu.gprs[reg.number()] & 0xffff_ffff,
                    reg => cpu.gprs[reg.number()],
                })
            };
            assert_eq!(Some(mem.linear(cpu, ours.len)), theirs.virtual_address(n, 0, value));
            assert_eq!(usize::from(ours.size), theirs.memory_size().size());
        }
    }
}

fn check(bytes: &[u8]) {
    let theirs = reference(bytes);
    let ours = match (decode(bytes), theirs) {
        (Ok(ours), _) => ours,
        (Err(_), Some(theirs)) if !wanted(&theirs) => return,
        (Err(error), Some(theirs)) => panic!("{bytes:02x?}: {error:?}, but {:?}", theirs.code()),
        (Err(_), None) => return,
    };
    let theirs = theirs.unwrap_or_else(|| panic!("{bytes:02x?}: accepted as {ours:?}"));
    assert_eq!((usize::from(ours.len), Some(ours.op)), (theirs.len(), op(&theirs)), "{bytes:02x?}");
    assert_eq!(ours.lock, theirs.has_lock_prefix(), "{bytes:02x?}");
    let cpu = machine();
    check_operand(&cpu, &ours, ours.dst, &theirs, 0);
    check_operand(&cpu, &ours, ours.src, &theirs, 1);
    if matches!(ours.op, Op::Ins | Op::Outs | Op::Stos | Op::Movs) {
        assert_eq!(ours.rep, theirs.has_rep_prefix() || theirs.has_repne_prefix(), "{bytes:02x?}");
        assert_eq!(usize::from(ours.size), theirs.memory_size().size());
    }
    if matches!(ours.op, Op::Ins | Op::Outs) {
        let kind = if ours.op == Op::Ins { theirs.op0_kind() } else { theirs.op1_kind() };
        assert_eq!(ours.addr32, matches!(kind, OpKind::MemoryESEDI | OpKind::MemorySegESI), "{bytes:02x?}");
    }
    if ours.op == Op::Outs {
        let segment = match theirs.memory_segment() {
            Register::FS => Some(Segment::Fs),
            Register::GS => Some(Segment::Gs),
            _ => None,
        };
        assert_eq!(ours.segment, segment, "{bytes:02x?}");
    }
}

/// Every opcode of both maps, with every ModRM byte alone, and with a fifth of them under every
/// prefix, and REX with some.
#[test]
fn every_opcode_and_modrm_as_the_reference() {
    let prefixes: &[&[u8]] = &[
        b"",
        b"\x66",
        b"\x67",
        b"\xf0",
        b"\xf2",
        b"\xf3",
        b"\x2e",
        b"\x64",
        b"\x65",
        b"\x40",
        b"\x48",
        b"\x4f",
        b"\x66\x48",
        b"\xf0\x48",
        b"\xf0\x66",
        b"\xf3\x48",
        b"\xf3\x66",
        b"\x67\x64\x47",
        b"\x48\x66",
    ];
    let tail = [0x91, 0x82, 0x73, 0x64, 0x55, 0x46, 0x37, 0x28, 0x19];
    let mut accepted = 0;
    for prefix in prefixes {
        for map in [&b""[..], b"\x0f"] {
            for opcode in 0..=255 {
                for modrm in (0..=255).step_by(if prefix.is_empty() { 1 } else { 5 }) {
                    let mut bytes = Vec::from(*prefix);
                    bytes.extend_from_slice(map);
                    bytes.extend_from_slice(&[opcode, modrm]);
                    bytes.extend_from_slice(&tail);
                    check(&bytes);
                    accepted += u32::from(decode(&bytes).is_ok());
                }
            }
        }
    }
    assert!(accepted > 25_000, "{accepted}");
}

#[test]
fn fifteen_bytes_are_the_limit() {
    let mut bytes = [0x66; 16];
    bytes[13..15].copy_from_slice(b"\x0f\xa2");
    assert_eq!(decode(&bytes).map(|insn| insn.len), Ok(15));
    bytes[13] = 0x66;
    bytes[14..16].copy_from_slice(b"\x0f\xa2");
    assert_eq!(decode(&bytes), Err(DecodeError::TooLong));
    assert_eq!(decode(&bytes[..14]), Err(DecodeError::Truncated));
    assert_eq!(decode(&[]), Err(DecodeError::Truncated));
}

/// Prefixes, an opcode biased to the subset, then anything.
fn code() -> impl Strategy<Value = Vec<u8>> {
    const PREFIXES: [u8; 11] = [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];
    let prefix = prop_oneof![prop::sample::select(&PREFIXES[..]), 0x40u8..=0x4f];
    let opcode =
        prop_oneof![any::<u8>().prop_map(|b| Vec::from([b])), any::<u8>().prop_map(|b| Vec::from([0x0f, b]))];
    let parts = (prop::collection::vec(prefix, 0..5), opcode, prop::collection::vec(any::<u8>(), 0..13));
    parts.prop_map(|(prefixes, opcode, tail)| [prefixes, opcode, tail].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn random_code_as_the_reference(bytes in code()) {
        check(&bytes);
    }

    #[test]
    fn random_bytes_as_the_reference(bytes in prop::collection::vec(any::<u8>(), 0..18)) {
        check(&bytes);
    }

    /// Cut short anywhere, an instruction is truncated: never another one.
    #[test]
    fn a_prefix_of_an_instruction_is_none(bytes in code()) {
        if let Ok(insn) = decode(&bytes) {
            for len in 0..usize::from(insn.len) {
                prop_assert_eq!(decode(&bytes[..len]), Err(DecodeError::Truncated));
            }
        }
    }
}
