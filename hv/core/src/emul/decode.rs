//! A decoder for the subset of 64-bit instructions that the emulator executes.
//!
//! Hardest decision: a decoder of our own, of a subset, instead of a complete library: a full
//! one costs the hypervisor 99 KB and a heap. It accepts nothing that the reference decoder
//! (`iced-x86`, in the tests) reads differently; whatever it does not know is
//! [`DecodeError::Unknown`], which sends the fault on to the guest.

use super::fetch::MAX_LEN;
use super::operand::{Gpr, Mem, MemBase, Operand, Reg, Segment};

/// What an instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Op {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Inc,
    Dec,
    Not,
    Neg,
    Mov,
    Movnti,
    Xchg,
    Cmpxchg,
    Cmpxchg8b,
    Xadd,
    Bts,
    Btr,
    Btc,
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
    Pop,
    /// SETcc, with its condition as the opcode has it.
    Set(u8),
    Stos,
    Movs,
    In,
    Out,
    Ins,
    Outs,
    Cli,
    Sti,
    Clts,
    Wbinvd,
    Xsetbv,
    MovFromCr,
    MovToCr,
    MovFromDr,
    MovToDr,
    Rdmsr,
    Wrmsr,
    Rdtsc,
    Rdtscp,
    Cpuid,
}

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insn {
    /// What it does.
    pub op: Op,
    /// Operand size in bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// The destination, or first operand.
    pub dst: Operand,
    /// The source, or second operand. `In` and `Out` without an immediate use DX.
    pub src: Operand,
    /// LOCK prefix, accepted only where the processor does.
    pub lock: bool,
    /// REP or REPNE prefix; means something for `Stos`, `Movs`, `Ins` and `Outs`.
    pub rep: bool,
    /// The segment override, for `Outs`; a memory operand has its own copy.
    pub segment: Option<Segment>,
    /// Address-size override, for `Ins` and `Outs`; a memory operand has its own copy.
    pub addr32: bool,
    /// Length in bytes, 1 to 15.
    pub len: u8,
}

/// Why bytes are no instruction of the subset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// The bytes end within the instruction.
    Truncated,
    /// The instruction is longer than 15 bytes.
    TooLong,
    /// None of the subset, or none at all.
    Unknown,
}

/// Decodes the instruction at the start of `bytes`, as 64-bit code.
pub fn decode(bytes: &[u8]) -> Result<Insn, DecodeError> {
    let mut decoder = Decoder { bytes, pos: 0, prefixes: Prefixes::default(), rex: 0 };
    let opcode = decoder.prefixes()?;
    let shape = match opcode {
        0x0f => {
            let second = decoder.byte()?;
            decoder.two_byte(second)?
        }
        _ => decoder.one_byte(opcode)?,
    };
    let Prefixes { lock, rep, repne, segment, addr32, .. } = decoder.prefixes;
    if lock && !(shape.lockable && matches!(shape.dst, Operand::Mem(_))) {
        return Err(DecodeError::Unknown);
    }
    Ok(Insn {
        op: shape.op,
        size: shape.size,
        dst: shape.dst,
        src: shape.src,
        lock,
        rep: rep || repne,
        segment,
        addr32,
        len: decoder.pos as u8,
    })
}

#[derive(Clone, Copy, Default)]
struct Prefixes {
    size16: bool,
    addr32: bool,
    lock: bool,
    rep: bool,
    repne: bool,
    segment: Option<Segment>,
}

/// An instruction without what the prefixes say of it.
struct Shape {
    op: Op,
    size: u8,
    dst: Operand,
    src: Operand,
    lockable: bool,
}

impl Shape {
    fn new(op: Op, size: u8, dst: Operand, src: Operand) -> Shape {
        Shape { op, size, dst, src, lockable: false }
    }

    fn plain(op: Op) -> Shape {
        Shape::new(op, 4, Operand::None, Operand::None)
    }

    fn locking(op: Op, size: u8, dst: Operand, src: Operand) -> Shape {
        Shape { op, size, dst, src, lockable: true }
    }
}

/// A ModRM byte, its register field extended by REX.R.
struct ModRm {
    mode: u8,
    reg: u8,
    rm: u8,
}

const REX_W: u8 = 8;
const REX_R: u8 = 4;
const REX_X: u8 = 2;
const REX_B: u8 = 1;

const ALU: [Option<Op>; 8] = [
    Some(Op::Add),
    Some(Op::Or),
    Some(Op::Adc),
    Some(Op::Sbb),
    Some(Op::And),
    Some(Op::Sub),
    Some(Op::Xor),
    None,
];

/// By the register field of ModRM; 6 is another name of 4.
const SHIFTS: [Op; 8] = [Op::Rol, Op::Ror, Op::Rcl, Op::Rcr, Op::Shl, Op::Shr, Op::Shl, Op::Sar];

fn alu(n: u8) -> Result<Op, DecodeError> {
    ALU[usize::from(n & 7)].ok_or(DecodeError::Unknown)
}

struct Decoder<'a> {
    bytes: &'a [u8],
    pos: usize,
    prefixes: Prefixes,
    rex: u8,
}

impl Decoder<'_> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        if self.pos == MAX_LEN {
            return Err(DecodeError::TooLong);
        }
        let byte = *self.bytes.get(self.pos).ok_or(DecodeError::Truncated)?;
        self.pos += 1;
        Ok(byte)
    }

    /// `n` (1, 2, 4 or 8) little-endian bytes, sign-extended.
    fn signed(&mut self, n: u8) -> Result<u64, DecodeError> {
        let mut value = 0;
        for i in 0..n {
            value |= u64::from(self.byte()?) << (8 * i);
        }
        let shift = 64 - 8 * u32::from(n);
        Ok(((value << shift) as i64 >> shift) as u64)
    }

    /// Takes the prefixes, in any order and number; returns the opcode's first byte. A REX prefix
    /// counts only right before the opcode.
    fn prefixes(&mut self) -> Result<u8, DecodeError> {
        loop {
            let byte = self.byte()?;
            let p = &mut self.prefixes;
            let mut rex = 0;
            match byte {
                0x26 | 0x2e | 0x36 | 0x3e => {}
                0x64 => p.segment = Some(Segment::Fs),
                0x65 => p.segment = Some(Segment::Gs),
                0x66 => p.size16 = true,
                0x67 => p.addr32 = true,
                0xf0 => p.lock = true,
                0xf2 => (p.repne, p.rep) = (true, false),
                0xf3 => (p.repne, p.rep) = (false, true),
                0x40..=0x4f => rex = byte,
                _ => return Ok(byte),
            }
            self.rex = rex;
        }
    }

    /// The operand size: one byte for opcodes with a clear low bit, else by the prefixes.
    fn size(&self, opcode: u8) -> u8 {
        if opcode & 1 == 0 { 1 } else { self.word() }
    }

    fn word(&self) -> u8 {
        match (self.rex & REX_W != 0, self.prefixes.size16) {
            (true, _) => 8,
            (false, true) => 2,
            (false, false) => 4,
        }
    }

    /// An immediate of the operand size, four bytes sign-extended for eight.
    fn imm(&mut self, size: u8) -> Result<Operand, DecodeError> {
        Ok(Operand::Imm(self.signed(size.min(4))?))
    }

    fn reg(&self, n: u8, size: u8) -> Operand {
        let high = size == 1 && self.rex == 0 && (4..8).contains(&n);
        Operand::Reg(Reg { gpr: Gpr::new(if high { n - 4 } else { n }), high })
    }

    fn accumulator(&self) -> Operand {
        Operand::Reg(Reg { gpr: Gpr::RAX, high: false })
    }

    fn string_operand(&self, pointer: Gpr, segment: Option<Segment>) -> Operand {
        Operand::Mem(Mem {
            base: MemBase::Reg(pointer),
            index: None,
            scale: 1,
            disp: 0,
            segment,
            addr32: self.prefixes.addr32,
        })
    }

    fn modrm(&mut self) -> Result<ModRm, DecodeError> {
        let byte = self.byte()?;
        let reg = (byte >> 3 & 7) | if self.rex & REX_R != 0 { 8 } else { 0 };
        Ok(ModRm { mode: byte >> 6, reg, rm: byte & 7 })
    }

    /// The register or memory operand of a ModRM byte, with SIB and displacement.
    fn rm(&mut self, modrm: &ModRm, size: u8) -> Result<Operand, DecodeError> {
        let b = if self.rex & REX_B != 0 { 8 } else { 0 };
        if modrm.mode == 3 {
            return Ok(self.reg(modrm.rm | b, size));
        }
        let mut mem = Mem {
            base: MemBase::Reg(Gpr::new(modrm.rm | b)),
            index: None,
            scale: 1,
            disp: 0,
            segment: self.prefixes.segment,
            addr32: self.prefixes.addr32,
        };
        let mut disp = [0, 1, 4][usize::from(modrm.mode)];
        if modrm.rm == 4 {
            let sib = self.byte()?;
            let index = (sib >> 3 & 7) | if self.rex & REX_X != 0 { 8 } else { 0 };
            mem.index = (index != 4).then(|| Gpr::new(index));
            mem.scale = 1 << (sib >> 6);
            mem.base = MemBase::Reg(Gpr::new((sib & 7) | b));
            if sib & 7 == 5 && modrm.mode == 0 {
                mem.base = MemBase::None;
                disp = 4;
            }
        } else if modrm.rm == 5 && modrm.mode == 0 {
            mem.base = MemBase::Rip;
            disp = 4;
        }
        if disp != 0 {
            mem.disp = self.signed(disp)?;
        }
        Ok(Operand::Mem(mem))
    }

    fn one_byte(&mut self, opcode: u8) -> Result<Shape, DecodeError> {
        let size = self.size(opcode);
        Ok(match opcode {
            0x00..=0x3f if opcode & 7 < 2 => {
                let op = alu(opcode >> 3)?;
                let modrm = self.modrm()?;
                Shape::locking(op, size, self.rm(&modrm, size)?, self.reg(modrm.reg, size))
            }
            0x6c..=0x6f => {
                let op = if opcode < 0x6e { Op::Ins } else { Op::Outs };
                Shape::new(op, size.min(4), Operand::None, Operand::None)
            }
            0x80 | 0x81 | 0x83 => {
                let modrm = self.modrm()?;
                let op = alu(modrm.reg)?;
                let rm = self.rm(&modrm, size)?;
                let imm = self.imm(if opcode == 0x83 { 1 } else { size })?;
                Shape::locking(op, size, rm, imm)
            }
            0x86 | 0x87 => {
                let modrm = self.modrm()?;
                Shape::locking(Op::Xchg, size, self.rm(&modrm, size)?, self.reg(modrm.reg, size))
            }
            0x88 | 0x89 => {
                let modrm = self.modrm()?;
                Shape::new(Op::Mov, size, self.rm(&modrm, size)?, self.reg(modrm.reg, size))
            }
            0x8f => {
                let modrm = self.modrm()?;
                if modrm.reg & 7 != 0 {
                    return Err(DecodeError::Unknown);
                }
                let size = if self.word() == 2 { 2 } else { 8 };
                Shape::new(Op::Pop, size, self.rm(&modrm, size)?, Operand::None)
            }
            0xa2 | 0xa3 => {
                let addr32 = self.prefixes.addr32;
                let disp = self.signed(if addr32 { 4 } else { 8 })?;
                let mem = Mem {
                    base: MemBase::None,
                    index: None,
                    scale: 1,
                    disp: if addr32 { disp & 0xffff_ffff } else { disp },
                    segment: self.prefixes.segment,
                    addr32,
                };
                Shape::new(Op::Mov, size, Operand::Mem(mem), self.accumulator())
            }
            0xa4 | 0xa5 => {
                let source = self.string_operand(Gpr::RSI, self.prefixes.segment);
                Shape::new(Op::Movs, size, self.string_operand(Gpr::RDI, None), source)
            }
            0xaa | 0xab => {
                Shape::new(Op::Stos, size, self.string_operand(Gpr::RDI, None), self.accumulator())
            }
            0xc0 | 0xc1 | 0xd0..=0xd3 => {
                let modrm = self.modrm()?;
                let rm = self.rm(&modrm, size)?;
                let count = match opcode {
                    0xd0 | 0xd1 => Operand::Imm(1),
                    0xd2 | 0xd3 => Operand::Reg(Reg { gpr: Gpr::RCX, high: false }),
                    _ => Operand::Imm(u64::from(self.byte()?)),
                };
                Shape::new(SHIFTS[usize::from(modrm.reg & 7)], size, rm, count)
            }
            0xc6 | 0xc7 => {
                let modrm = self.modrm()?;
                if modrm.reg & 7 != 0 {
                    return Err(DecodeError::Unknown);
                }
                let rm = self.rm(&modrm, size)?;
                Shape::new(Op::Mov, size, rm, self.imm(size)?)
            }
            0xe4 | 0xe5 => {
                let port = Operand::Imm(u64::from(self.byte()?));
                Shape::new(Op::In, size.min(4), self.accumulator(), port)
            }
            0xe6 | 0xe7 => {
                let port = Operand::Imm(u64::from(self.byte()?));
                Shape::new(Op::Out, size.min(4), port, self.accumulator())
            }
            0xec | 0xed => Shape::new(Op::In, size.min(4), self.accumulator(), Operand::None),
            0xee | 0xef => Shape::new(Op::Out, size.min(4), Operand::None, self.accumulator()),
            0xf6 | 0xf7 => {
                let modrm = self.modrm()?;
                let op = match modrm.reg & 7 {
                    2 => Op::Not,
                    3 => Op::Neg,
                    _ => return Err(DecodeError::Unknown),
                };
                Shape::locking(op, size, self.rm(&modrm, size)?, Operand::None)
            }
            0xfa => Shape::plain(Op::Cli),
            0xfb => Shape::plain(Op::Sti),
            0xfe | 0xff => {
                let modrm = self.modrm()?;
                let op = match modrm.reg & 7 {
                    0 => Op::Inc,
                    1 => Op::Dec,
                    _ => return Err(DecodeError::Unknown),
                };
                Shape::locking(op, size, self.rm(&modrm, size)?, Operand::None)
            }
            _ => return Err(DecodeError::Unknown),
        })
    }

    fn two_byte(&mut self, opcode: u8) -> Result<Shape, DecodeError> {
        Ok(match opcode {
            0x01 => {
                let modrm = self.modrm()?;
                match (modrm.mode, modrm.reg & 7, modrm.rm) {
                    (3, 2, 1) if !self.mandatory() => Shape::plain(Op::Xsetbv),
                    (3, 7, 1) => Shape::plain(Op::Rdtscp),
                    _ => return Err(DecodeError::Unknown),
                }
            }
            0x06 => Shape::plain(Op::Clts),
            // WBINVD and WBNOINVD are one to a guest. INVD would lose what others wrote: nobody's.
            0x09 => Shape::plain(Op::Wbinvd),
            0x20..=0x23 => self.control_or_debug(opcode)?,
            0x30 => Shape::plain(Op::Wrmsr),
            0x31 => Shape::plain(Op::Rdtsc),
            0x32 => Shape::plain(Op::Rdmsr),
            0x90..=0x9f => {
                let modrm = self.modrm()?;
                Shape::new(Op::Set(opcode & 0xf), 1, self.rm(&modrm, 1)?, Operand::None)
            }
            0xa2 => Shape::plain(Op::Cpuid),
            0xab | 0xb3 | 0xbb => {
                let op = match opcode {
                    0xab => Op::Bts,
                    0xb3 => Op::Btr,
                    _ => Op::Btc,
                };
                let size = self.word();
                let modrm = self.modrm()?;
                Shape::locking(op, size, self.rm(&modrm, size)?, self.reg(modrm.reg, size))
            }
            0xba => {
                let size = self.word();
                let modrm = self.modrm()?;
                let op = match modrm.reg & 7 {
                    5 => Op::Bts,
                    6 => Op::Btr,
                    7 => Op::Btc,
                    _ => return Err(DecodeError::Unknown),
                };
                let rm = self.rm(&modrm, size)?;
                Shape::locking(op, size, rm, Operand::Imm(u64::from(self.byte()?)))
            }
            0xb0 | 0xb1 | 0xc0 | 0xc1 => {
                let size = self.size(opcode);
                let modrm = self.modrm()?;
                let op = if opcode < 0xc0 { Op::Cmpxchg } else { Op::Xadd };
                Shape::locking(op, size, self.rm(&modrm, size)?, self.reg(modrm.reg, size))
            }
            // That of 16 bytes is of two entries at once.
            0xc7 if self.rex & REX_W == 0 => {
                let modrm = self.modrm()?;
                if modrm.mode == 3 || modrm.reg & 7 != 1 {
                    return Err(DecodeError::Unknown);
                }
                Shape::locking(Op::Cmpxchg8b, 8, self.rm(&modrm, 8)?, Operand::None)
            }
            0xc3 if !self.mandatory() => {
                let size = self.word();
                let modrm = self.modrm()?;
                if modrm.mode == 3 {
                    return Err(DecodeError::Unknown);
                }
                Shape::new(Op::Movnti, size, self.rm(&modrm, size)?, self.reg(modrm.reg, size))
            }
            _ => return Err(DecodeError::Unknown),
        })
    }

    /// A prefix that selects another instruction of the same opcode.
    fn mandatory(&self) -> bool {
        self.prefixes.size16 || self.prefixes.rep || self.prefixes.repne
    }

    /// MOV between a general and a control or debug register: always 64 bits, always registers,
    /// whatever ModRM.mod says.
    fn control_or_debug(&mut self, opcode: u8) -> Result<Shape, DecodeError> {
        let modrm = self.modrm()?;
        let general = self.reg(modrm.rm | if self.rex & REX_B != 0 { 8 } else { 0 }, 8);
        let special = match (opcode & 1, modrm.reg) {
            (0, 0 | 2 | 3 | 4 | 8) => Operand::Cr(modrm.reg),
            (1, 0..=7) => Operand::Dr(modrm.reg),
            _ => return Err(DecodeError::Unknown),
        };
        Ok(match opcode {
            0x20 => Shape::new(Op::MovFromCr, 8, general, special),
            0x21 => Shape::new(Op::MovFromDr, 8, general, special),
            0x22 => Shape::new(Op::MovToCr, 8, special, general),
            _ => Shape::new(Op::MovToDr, 8, special, general),
        })
    }
}
