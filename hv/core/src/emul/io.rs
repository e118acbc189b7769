//! Port I/O: IN, OUT, INS, OUTS.
//!
//! Two questions are asked of every access. May this code do port I/O at all (virtual IOPL, or the
//! I/O bitmap that the guest kernel gave)? If not, #GP. May this domain touch this port? If not,
//! a read gives ones and a write is dropped: a probe for an absent device must not kill a guest.
//!
//! Hardest decision: PCI's 0xCF8 is a latch per domain, never the hardware's, so that the
//! hypervisor's own configuration accesses and a guest's can't mix; the same for CMOS.

use super::decode::{Insn, Op};
use super::operand::{Gpr, Operand, mask, read_reg, segment_base, write_reg};
use super::{Cpu, Exception, Stop, guest_range};

/// Iterations of a repeated INS or OUTS per fault. A longer one faults again for its rest.
const REP_LIMIT: u64 = 64;

const PIT_CHANNEL_2: u16 = 0x42;
const PIT_MODE: u16 = 0x43;
const SPEAKER: u16 = 0x61;
const CMOS_INDEX: u16 = 0x70;
const CMOS_DATA: u16 = 0x71;
const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: u16 = 0xcfc;
const PCI_ENABLE: u32 = 1 << 31;

/// Executes a port instruction. `Err(Stop::Retry)`: a repeated one has iterations left.
pub fn execute<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let port = match (insn.op, insn.dst, insn.src) {
        (Op::In, _, Operand::Imm(port)) | (Op::Out, Operand::Imm(port), _) => port as u16,
        _ => cpu.gpr(Gpr::RDX) as u16,
    };
    if !allowed(cpu, port, insn.size) {
        return Err(Stop::Inject(Exception::GP));
    }
    match (insn.op, insn.dst, insn.src) {
        (Op::In, Operand::Reg(reg), _) => {
            let value = read(cpu, port, insn.size);
            write_reg(cpu, reg, insn.size, u64::from(value));
            Ok(())
        }
        (Op::Out, _, Operand::Reg(reg)) => {
            let value = read_reg(cpu, reg, insn.size) as u32;
            write(cpu, port, insn.size, value);
            Ok(())
        }
        (Op::Ins | Op::Outs, ..) => string(cpu, insn, port),
        _ => Err(Stop::Unhandled),
    }
}

/// INS and OUTS. Each iteration leaves the registers as after a completed one, so a fault in the
/// middle is restartable.
fn string<C: Cpu>(cpu: &mut C, insn: &Insn, port: u16) -> Result<(), Stop> {
    let address_mask = mask(if insn.addr32 { 4 } else { 8 });
    let pointer = if insn.op == Op::Ins { Gpr::RDI } else { Gpr::RSI };
    let step = u64::from(insn.size);
    let backward = cpu.rflags() & (1 << 10) != 0;
    let mut left = if insn.rep { cpu.gpr(Gpr::RCX) & address_mask } else { 1 };
    let single_step = cpu.rflags() & super::RFLAGS_TF != 0;
    let mut budget = if single_step { 1 } else { REP_LIMIT };
    while left != 0 {
        if budget == 0 {
            return Err(Stop::Retry);
        }
        budget -= 1;
        let offset = cpu.gpr(pointer) & address_mask;
        // INS always writes through ES, whose base is zero.
        let base = if insn.op == Op::Outs { segment_base(cpu, insn.segment) } else { 0 };
        let address = base.wrapping_add(offset);
        if !guest_range(address, usize::from(insn.size)) {
            return Err(Stop::Inject(Exception::GP));
        }
        let mut bytes = [0; 4];
        let data = &mut bytes[..usize::from(insn.size)];
        if insn.op == Op::Ins {
            let value = read(cpu, port, insn.size).to_le_bytes();
            data.copy_from_slice(&value[..usize::from(insn.size)]);
            cpu.write(address, data)?;
        } else {
            cpu.read(address, data)?;
            write(cpu, port, insn.size, u32::from_le_bytes(bytes));
        }
        let next = if backward { offset.wrapping_sub(step) } else { offset.wrapping_add(step) };
        set_counter(cpu, pointer, insn.addr32, next);
        if insn.rep {
            left -= 1;
            set_counter(cpu, Gpr::RCX, insn.addr32, left);
        } else {
            left = 0;
        }
    }
    Ok(())
}

/// Writes a pointer or counter as an instruction with 32- or 64-bit addresses does.
fn set_counter<C: Cpu>(cpu: &mut C, reg: Gpr, addr32: bool, value: u64) {
    cpu.set_gpr(reg, value & mask(if addr32 { 4 } else { 8 }));
}

/// Whether the vcpu's virtual IOPL gives the running mode CLI, STI and all ports. A guest kernel
/// counts as ring 1, unless its domain asked for architectural IOPL.
pub fn iopl_allows<C: Cpu>(cpu: &C) -> bool {
    let ring = match (cpu.kernel_mode(), cpu.architectural_iopl()) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 3,
    };
    cpu.iopl() >= ring
}

/// Whether the running mode may do I/O on `size` ports from `port` on: by IOPL, else by the I/O
/// bitmap, in which every port's bit must be clear.
fn allowed<C: Cpu>(cpu: &mut C, port: u16, size: u8) -> bool {
    if iopl_allows(cpu) {
        return true;
    }
    let Some((bitmap, ports)) = cpu.io_bitmap() else { return false };
    if u32::from(port) + u32::from(size) > ports.min(0x1_0000) {
        return false;
    }
    // The bits of up to four ports lie in at most two bytes. The second byte is only read where
    // it is needed, as it may be behind the bitmap's end.
    let bits = ((1u16 << size) - 1) << (port & 7);
    let len = if bits > 0xff { 2 } else { 1 };
    let mut bytes = [0; 2];
    let address = bitmap.wrapping_add(u64::from(port >> 3));
    guest_range(address, len)
        && cpu.read_kernel(address, &mut bytes[..len]).is_ok()
        && u16::from_le_bytes(bytes) & bits == 0
}

/// Whether the domain may access these ports without the hypervisor in between. Never so for the
/// CMOS ports and for a dword at 0xCF8, which have latches.
fn direct<C: Cpu>(cpu: &C, port: u16, size: u8) -> bool {
    let last = u32::from(port) + u32::from(size) - 1;
    let cmos = port <= CMOS_DATA && last >= u32::from(CMOS_INDEX);
    let pci_latch = port == PCI_ADDRESS && size == 4;
    last <= 0xffff && !cmos && !pci_latch && cpu.ports_permitted(port, last as u16)
}

/// Reads `size` ports from `port` on.
fn read<C: Cpu>(cpu: &mut C, port: u16, size: u8) -> u32 {
    if direct(cpu, port, size) {
        return cpu.port_in(port, size) & mask(size) as u32;
    }
    if port == PCI_ADDRESS && size == 4 {
        return cpu.pci_latch();
    }
    let mut value = 0;
    let mut done = 0;
    while done < size {
        let (part, len) = match port.checked_add(u16::from(done)) {
            Some(at) => read_part(cpu, at, size - done),
            None => (u32::MAX, 1),
        };
        value |= (part & mask(len) as u32) << (8 * done);
        done += len;
    }
    value
}

/// One device's part of a read: its value and how many bytes it is.
fn read_part<C: Cpu>(cpu: &mut C, port: u16, left: u8) -> (u32, u8) {
    match port {
        CMOS_INDEX => (u32::from(cpu.cmos_index()), 1),
        CMOS_DATA if cpu.ports_permitted(CMOS_INDEX, CMOS_DATA) => {
            let index = cpu.cmos_index() & 0x7f;
            (u32::from(cpu.cmos_read(index)), 1)
        }
        _ if port & !3 == PCI_DATA => {
            let (offset, len) = pci_part(port, left);
            match pci_address(cpu) {
                Some(address) => (cpu.pci_config_read(address, offset, len), len),
                None => (u32::MAX, len),
            }
        }
        PIT_CHANNEL_2 | PIT_MODE | SPEAKER if cpu.hardware_domain() => (cpu.port_in(port, 1), 1),
        _ if cpu.ports_permitted(port, port) => (cpu.port_in(port, 1), 1),
        _ => (u32::MAX, 1),
    }
}

/// Writes `size` ports from `port` on.
fn write<C: Cpu>(cpu: &mut C, port: u16, size: u8, value: u32) {
    let value = value & mask(size) as u32;
    if direct(cpu, port, size) {
        return cpu.port_out(port, size, value);
    }
    if port == PCI_ADDRESS && size == 4 {
        return cpu.set_pci_latch(value);
    }
    let mut done = 0;
    while done < size {
        let Some(at) = port.checked_add(u16::from(done)) else { return };
        done += write_part(cpu, at, size - done, value >> (8 * done));
    }
}

/// One device's part of a write; how many bytes it took.
fn write_part<C: Cpu>(cpu: &mut C, port: u16, left: u8, value: u32) -> u8 {
    match port {
        CMOS_INDEX => cpu.set_cmos_index(value as u8),
        CMOS_DATA if cpu.ports_permitted(CMOS_INDEX, CMOS_DATA) => {
            let index = cpu.cmos_index() & 0x7f;
            cpu.cmos_write(index, value as u8);
        }
        _ if port & !3 == PCI_DATA => {
            let (offset, len) = pci_part(port, left);
            if let Some(address) = pci_address(cpu) {
                cpu.pci_config_write(address, offset, len, value & mask(len) as u32);
            }
            return len;
        }
        PIT_CHANNEL_2 | PIT_MODE | SPEAKER if cpu.hardware_domain() => write_timer(cpu, port, value as u8),
        _ if cpu.ports_permitted(port, port) => cpu.port_out(port, 1, value & 0xff),
        _ => {}
    }
    1
}

/// Channel 2 of the interval timer and the speaker are the hardware domain's; the other channels
/// and port 0x61's other bits are not.
fn write_timer<C: Cpu>(cpu: &mut C, port: u16, value: u8) {
    match (port, value >> 6) {
        (PIT_CHANNEL_2, _) | (PIT_MODE, 2) => cpu.port_out(port, 1, u32::from(value)),
        // A read-back command keeps its selection of channel 2 only.
        (PIT_MODE, 3) if value & 8 != 0 => cpu.port_out(port, 1, u32::from(value & 0xf8)),
        (SPEAKER, _) => {
            let others = cpu.port_in(port, 1) & 0xfc;
            cpu.port_out(port, 1, others | u32::from(value & 3));
        }
        _ => {}
    }
}

/// The offset in the PCI data dword and the size, 1, 2 or 4, of an access of `left` bytes at
/// `port`.
fn pci_part(port: u16, left: u8) -> (u8, u8) {
    let offset = (port & 3) as u8;
    let len = left.min(4 - offset);
    (offset, if len == 3 { 2 } else { len })
}

/// The latched configuration address, where it is enabled and the domain may use it.
fn pci_address<C: Cpu>(cpu: &C) -> Option<u32> {
    let latch = cpu.pci_latch();
    (cpu.hardware_domain() && latch & PCI_ENABLE != 0).then_some(latch)
}
