//! Operands: registers, memory addresses, immediates, and access to them.

use super::{Base, Cpu};

/// A general-purpose register by its number in instruction encoding, 0 to 15.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Gpr(u8);

#[allow(missing_docs)]
impl Gpr {
    pub const RAX: Gpr = Gpr(0);
    pub const RCX: Gpr = Gpr(1);
    pub const RDX: Gpr = Gpr(2);
    pub const RBX: Gpr = Gpr(3);
    pub const RSP: Gpr = Gpr(4);
    pub const RBP: Gpr = Gpr(5);
    pub const RSI: Gpr = Gpr(6);
    pub const RDI: Gpr = Gpr(7);
}

impl Gpr {
    /// The register with the low four bits of `n` as its number.
    pub const fn new(n: u8) -> Gpr {
        Gpr(n & 15)
    }

    /// Its number, 0 to 15.
    pub const fn index(self) -> usize {
        (self.0 & 15) as usize
    }
}

/// A register operand; its size is the instruction's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reg {
    /// The register.
    pub gpr: Gpr,
    /// Bits 15:8 instead of 7:0 (AH, CH, DH, BH); only with an operand size of one byte.
    pub high: bool,
}

/// What a memory operand's displacement is added to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemBase {
    /// Nothing.
    None,
    /// The address behind the instruction.
    Rip,
    /// A register.
    Reg(Gpr),
}

/// The segment overrides that mean something in 64-bit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// FS.
    Fs,
    /// GS.
    Gs,
}

/// A memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mem {
    /// The base.
    pub base: MemBase,
    /// The index, never RSP.
    pub index: Option<Gpr>,
    /// What the index is multiplied with: 1, 2, 4 or 8.
    pub scale: u8,
    /// The displacement, sign-extended.
    pub disp: u64,
    /// The segment override.
    pub segment: Option<Segment>,
    /// The effective address is computed in 32 bits (prefix 67).
    pub addr32: bool,
}

impl Mem {
    /// The linear address, for an instruction of `len` bytes at the current `rip`.
    pub fn linear<C: Cpu>(&self, cpu: &C, len: u8) -> u64 {
        let base = match self.base {
            MemBase::None => 0,
            MemBase::Rip => cpu.rip().wrapping_add(u64::from(len)),
            MemBase::Reg(gpr) => cpu.gpr(gpr),
        };
        let index = self.index.map_or(0, |gpr| cpu.gpr(gpr));
        let effective = base.wrapping_add(index.wrapping_mul(u64::from(self.scale))).wrapping_add(self.disp);
        let effective = if self.addr32 { effective & 0xffff_ffff } else { effective };
        segment_base(cpu, self.segment).wrapping_add(effective)
    }
}

/// The base that a segment override adds; the other segments' is zero in 64-bit code.
pub fn segment_base<C: Cpu>(cpu: &C, segment: Option<Segment>) -> u64 {
    match segment {
        None => 0,
        Some(Segment::Fs) => cpu.base(Base::Fs),
        Some(Segment::Gs) => cpu.base(Base::Gs),
    }
}

/// An operand of a decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// No operand.
    None,
    /// A general-purpose register.
    Reg(Reg),
    /// Memory.
    Mem(Mem),
    /// An immediate, already sign- or zero-extended to 64 bits as the instruction demands.
    Imm(u64),
    /// A control register.
    Cr(u8),
    /// A debug register.
    Dr(u8),
}

/// All ones in the low `size` bytes, `size` 1, 2, 4 or 8.
pub const fn mask(size: u8) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (size * 8)) - 1 }
}

/// The value of a register operand, zero-extended.
pub fn read_reg<C: Cpu>(cpu: &C, reg: Reg, size: u8) -> u64 {
    let value = cpu.gpr(reg.gpr);
    if reg.high { (value >> 8) & 0xff } else { value & mask(size) }
}

/// Writes a register operand: one and two bytes leave the rest of the register, four clear it.
pub fn write_reg<C: Cpu>(cpu: &mut C, reg: Reg, size: u8, value: u64) {
    let old = cpu.gpr(reg.gpr);
    let new = match (size, reg.high) {
        (1, true) => old & !0xff00 | (value & 0xff) << 8,
        (1, false) => old & !0xff | value & 0xff,
        (2, _) => old & !0xffff | value & 0xffff,
        (4, _) => value & 0xffff_ffff,
        _ => value,
    };
    cpu.set_gpr(reg.gpr, new);
}
