//! A guest's store to one of its page tables, which it can read but not write.
//!
//! The instruction is decoded, the 64-bit entry that it would leave is computed, and
//! [`Cpu::pt_write`] validates and commits it. Every form is one compare-and-exchange of a whole
//! entry: a narrow store is merged into the entry as it was read, a read-modify-write computes on
//! what it read; where the entry changed meanwhile nothing is written and the guest's instruction
//! faults again ([`Outcome::Retry`]). So an entry is never torn, and no loop is needed here.
//!
//! As in Xen, the store must be naturally aligned and lie in the page that faulted.

use super::decode::{Insn, Op, decode};
use super::fetch::Bytes;
use super::operand::{Gpr, Mem, MemBase, Operand, Reg, mask, read_reg, write_reg};
use super::shift::shift;
use super::{Cpu, Outcome, PtWrite, PtWriteError, Stop, flags, guest_range, retire};

const RFLAGS_DF: u64 = 1 << 10;

/// What an instruction leaves: the memory operand, the flags, and registers.
struct Effect {
    /// The operand's new value; `None`: nothing is stored (a CMPXCHG that compared unequal).
    memory: Option<u64>,
    rflags: u64,
    /// Each with its size and value.
    registers: [Option<(Reg, u8, u64)>; 2],
}

/// Emulates a write to the page-table page at `address` (CR2 of the page fault), made by the
/// guest's kernel.
///
/// [`Outcome::Unhandled`]: not such a write, or refused; the guest gets its page fault.
pub fn page_table_write<C: Cpu>(cpu: &mut C, address: u64) -> Outcome {
    if !cpu.long_mode() || !cpu.kernel_mode() {
        return Outcome::Unhandled;
    }
    let bytes = Bytes::at_rip(cpu);
    let Ok(insn) = decode(bytes.get()) else { return Outcome::Unhandled };
    if !super::privop::next_is_canonical(cpu, insn.len) {
        return Outcome::Unhandled;
    }
    let step = store(cpu, &insn, address);
    if step.is_ok() && matches!(insn.op, Op::Stos | Op::Movs) && !string_step(cpu, &insn) {
        // Elements are left: the instruction faults again for each.
        return match super::stepped(cpu) {
            Outcome::Emulated => Outcome::Retry,
            other => other,
        };
    }
    retire(cpu, insn.len, step)
}

/// Moves a string instruction's registers on by one element; whether that was the last.
fn string_step<C: Cpu>(cpu: &mut C, insn: &Insn) -> bool {
    let addresses = mask(if insn.addr32 { 4 } else { 8 });
    let step = u64::from(insn.size);
    let step = if cpu.rflags() & RFLAGS_DF != 0 { step.wrapping_neg() } else { step };
    cpu.set_gpr(Gpr::RDI, cpu.gpr(Gpr::RDI).wrapping_add(step) & addresses);
    if insn.op == Op::Movs {
        cpu.set_gpr(Gpr::RSI, cpu.gpr(Gpr::RSI).wrapping_add(step) & addresses);
    }
    if !insn.rep {
        return true;
    }
    let left = (cpu.gpr(Gpr::RCX) & addresses).wrapping_sub(1) & addresses;
    cpu.set_gpr(Gpr::RCX, left);
    left == 0
}

fn store<C: Cpu>(cpu: &mut C, insn: &Insn, fault: u64) -> Result<(), Stop> {
    // XCHG and XADD of two operands name the memory first; no form of the subset has it second.
    let Operand::Mem(mem) = insn.dst else { return Err(Stop::Unhandled) };
    let counter = cpu.gpr(Gpr::RCX) & mask(if insn.addr32 { 4 } else { 8 });
    if matches!(insn.op, Op::Stos | Op::Movs) && insn.rep && counter == 0 {
        return Err(Stop::Unhandled);
    }
    let target = target(cpu, insn, &mem);
    let same_page = target >> 12 == fault >> 12;
    if !same_page || target & u64::from(insn.size - 1) != 0 || !guest_range(target, 8) {
        return Err(Stop::Unhandled);
    }
    let entry_address = target & !7;
    let shift = 8 * (target & 7) as u32;
    let plain_store = matches!(insn.op, Op::Mov | Op::Movnti | Op::Stos | Op::Movs);
    let (entry, expected) = if plain_store && insn.size == 8 {
        (0, None)
    } else {
        let mut buf = [0; 8];
        cpu.read(entry_address, &mut buf).map_err(|_| Stop::Unhandled)?;
        let entry = u64::from_le_bytes(buf);
        (entry, Some(entry))
    };
    let old = entry >> shift & mask(insn.size);
    let effect = effect(cpu, insn, old)?;
    if let Some(value) = effect.memory {
        let field = mask(insn.size) << shift;
        let new = entry & !field | (value << shift) & field;
        cpu.pt_write(PtWrite { address: entry_address, new, expected }).map_err(|error| match error {
            PtWriteError::Mismatch | PtWriteError::Busy => Stop::Retry,
            PtWriteError::Refused => Stop::Unhandled,
        })?;
    }
    cpu.set_rflags(effect.rflags);
    for (reg, size, value) in effect.registers.into_iter().flatten() {
        write_reg(cpu, reg, size, value);
    }
    Ok(())
}

/// The linear address that is written. A bit instruction with its bit number in a register may
/// address memory beyond its operand; POP counts from where the stack is after it.
fn target<C: Cpu>(cpu: &C, insn: &Insn, mem: &Mem) -> u64 {
    let address = mem.linear(cpu, insn.len);
    match (insn.op, insn.src) {
        (Op::Pop, _) if mem.base == MemBase::Reg(Gpr::RSP) => address.wrapping_add(u64::from(insn.size)),
        (Op::Bts | Op::Btr | Op::Btc, Operand::Reg(reg)) => {
            let bits = 8 * insn.size;
            let number = sign_extend(read_reg(cpu, reg, insn.size), insn.size) as i64;
            let words = number.div_euclid(i64::from(bits));
            address.wrapping_add((words as u64).wrapping_mul(u64::from(insn.size)))
        }
        _ => address,
    }
}

fn sign_extend(value: u64, size: u8) -> u64 {
    let shift = 64 - 8 * u32::from(size);
    ((value << shift) as i64 >> shift) as u64
}

/// Computes what the instruction leaves where its memory operand is `old`.
fn effect<C: Cpu>(cpu: &mut C, insn: &Insn, old: u64) -> Result<Effect, Stop> {
    let size = insn.size;
    let rflags = cpu.rflags();
    let src = match insn.src {
        Operand::Reg(reg) => read_reg(cpu, reg, size),
        Operand::Imm(value) => value & mask(size),
        Operand::Mem(mem) => read_memory(cpu, mem.linear(cpu, insn.len), size)?,
        _ => 0,
    };
    let carry = rflags & flags::CF != 0;
    let bit = src & (8 * u64::from(size) - 1);
    let was_set = old >> bit & 1 != 0;
    let stored = |memory, rflags| Effect { memory: Some(memory), rflags, registers: [None; 2] };
    let computed = |(memory, rflags)| stored(memory, rflags);
    let logic = |memory| stored(memory, flags::logic(memory, size, rflags));
    let bits = |memory| stored(memory, flags::with_carry(was_set, rflags));
    Ok(match insn.op {
        Op::Mov | Op::Movnti | Op::Stos | Op::Movs => stored(src, rflags),
        Op::Add => computed(flags::add(old, src, false, size, rflags)),
        Op::Adc => computed(flags::add(old, src, carry, size, rflags)),
        Op::Sub => computed(flags::sub(old, src, false, size, rflags)),
        Op::Sbb => computed(flags::sub(old, src, carry, size, rflags)),
        Op::Neg => computed(flags::sub(0, old, false, size, rflags)),
        Op::Inc => {
            let (memory, after) = flags::add(old, 1, false, size, rflags);
            stored(memory, flags::keep_carry(rflags, after))
        }
        Op::Dec => {
            let (memory, after) = flags::sub(old, 1, false, size, rflags);
            stored(memory, flags::keep_carry(rflags, after))
        }
        Op::And => logic(old & src),
        Op::Or => logic(old | src),
        Op::Xor => logic(old ^ src),
        Op::Not => stored(!old, rflags),
        Op::Bts => bits(old | 1 << bit),
        Op::Btr => bits(old & !(1 << bit)),
        Op::Btc => bits(old ^ 1 << bit),
        Op::Xchg => Effect { registers: [source_register(insn, old)?, None], ..stored(src, rflags) },
        Op::Xadd => Effect {
            registers: [source_register(insn, old)?, None],
            ..computed(flags::add(old, src, false, size, rflags))
        },
        Op::Cmpxchg => {
            let accumulator = whole(Gpr::RAX);
            let expected = read_reg(cpu, accumulator, size);
            let (_, rflags) = flags::sub(expected, old, false, size, rflags);
            if expected == old {
                stored(src, rflags)
            } else {
                Effect { memory: None, rflags, registers: [Some((accumulator, size, old)), None] }
            }
        }
        Op::Cmpxchg8b => {
            let pair = |high, low| read_reg(cpu, whole(high), 4) << 32 | read_reg(cpu, whole(low), 4);
            let equal = pair(Gpr::RDX, Gpr::RAX) == old;
            let rflags = flags::with_zero(equal, rflags);
            if equal {
                stored(pair(Gpr::RCX, Gpr::RBX), rflags)
            } else {
                let registers = [(Gpr::RAX, old & mask(4)), (Gpr::RDX, old >> 32)];
                Effect { memory: None, rflags, registers: registers.map(|(r, v)| Some((whole(r), 4, v))) }
            }
        }
        Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar => {
            computed(shift(insn.op, old, src, size, rflags))
        }
        Op::Pop => {
            let top = cpu.gpr(Gpr::RSP);
            let moved = (whole(Gpr::RSP), 8, top.wrapping_add(u64::from(size)));
            Effect { registers: [Some(moved), None], ..stored(read_memory(cpu, top, size)?, rflags) }
        }
        Op::Set(condition) => stored(flags::holds(condition, rflags).into(), rflags),
        _ => return Err(Stop::Unhandled),
    })
}

fn read_memory<C: Cpu>(cpu: &mut C, address: u64, size: u8) -> Result<u64, Stop> {
    let mut buf = [0; 8];
    let len = usize::from(size.min(8));
    if !guest_range(address, len) {
        return Err(Stop::Unhandled);
    }
    cpu.read(address, &mut buf[..len])?;
    Ok(u64::from_le_bytes(buf))
}

fn source_register(insn: &Insn, value: u64) -> Result<Option<(Reg, u8, u64)>, Stop> {
    match insn.src {
        Operand::Reg(reg) => Ok(Some((reg, insn.size, value))),
        _ => Err(Stop::Unhandled),
    }
}

/// A register, and not the second byte of one.
fn whole(gpr: Gpr) -> Reg {
    Reg { gpr, high: false }
}
