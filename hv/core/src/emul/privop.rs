//! Privileged instructions: what a PV kernel executes in ring 3 as if it were in ring 0.
//!
//! A guest's user mode gets the few instructions that the processor would give it too (RDTSC,
//! port I/O by bitmap, CPUID where that faults); the rest is for its kernel mode.

use super::cpu::ControlError;
use super::cpuid::{Origin, Policy};
use super::decode::{Insn, Op, decode};
use super::fetch::Bytes;
use super::operand::{Gpr, Operand, read_reg, write_reg};
use super::{Cpu, Exception, Outcome, Stop, canonical, io, msr, retire};

/// CR0.TS.
pub const CR0_TS: u64 = 1 << 3;
/// CR4.TSD.
pub const CR4_TSD: u64 = 1 << 2;
/// CR4.DE.
pub const CR4_DE: u64 = 1 << 3;
/// CR4.PAE.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.MCE.
pub const CR4_MCE: u64 = 1 << 6;
/// CR4.OSFXSR.
pub const CR4_OSFXSR: u64 = 1 << 9;
/// CR4.OSXMMEXCPT.
pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// CR4.FSGSBASE.
pub const CR4_FSGSBASE: u64 = 1 << 16;
/// CR4.OSXSAVE.
pub const CR4_OSXSAVE: u64 = 1 << 18;

/// `ud2a; .ascii "xen"; cpuid`: Xen's emulation prefix (xen.h, `XEN_EMULATE_PREFIX`) and the one
/// instruction that it may be put before.
const FORCED_CPUID: [u8; 7] = [0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2];

/// Offers a #GP with error code 0, raised at the guest's `rip`, to the emulator.
pub fn general_protection<C: Cpu>(cpu: &mut C) -> Outcome {
    if !cpu.long_mode() {
        return Outcome::Unhandled;
    }
    let bytes = Bytes::at_rip(cpu);
    let Ok(insn) = decode(bytes.get()) else { return Outcome::Unhandled };
    if !next_is_canonical(cpu, insn.len) {
        return Outcome::Unhandled;
    }
    let repeated = matches!(insn.op, Op::Ins | Op::Outs) && insn.rep;
    let step = execute(cpu, &insn);
    if repeated && step == Err(Stop::Retry) && cpu.rflags() & super::RFLAGS_TF != 0 {
        // The iteration that was done traps; the instruction goes on behind the #DB.
        return super::stepped(cpu);
    }
    retire(cpu, insn.len, step)
}

/// Offers a #UD, raised at the guest's `rip`, to the emulator.
pub fn invalid_opcode<C: Cpu>(cpu: &mut C) -> Outcome {
    let bytes = Bytes::at_rip(cpu);
    let len = FORCED_CPUID.len() as u8;
    if !bytes.get().starts_with(&FORCED_CPUID) || !next_is_canonical(cpu, len) {
        return Outcome::Unhandled;
    }
    cpuid(cpu, Origin::Forced);
    retire(cpu, len, Ok(()))
}

/// Whether the guest could go on behind an instruction of `len` bytes.
pub(super) fn next_is_canonical<C: Cpu>(cpu: &C, len: u8) -> bool {
    canonical(cpu.rip().wrapping_add(u64::from(len)))
}

fn execute<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    match insn.op {
        Op::In | Op::Out | Op::Ins | Op::Outs => return io::execute(cpu, insn),
        Op::Cli | Op::Sti => {
            // Ignored where IOPL allows them: the guest's real mask is evtchn_upcall_mask, and
            // POPF, which would pair with these, does not trap.
            return if io::iopl_allows(cpu) { Ok(()) } else { Err(Stop::Unhandled) };
        }
        Op::Cpuid => {
            cpuid(cpu, Origin::Faulted);
            return Ok(());
        }
        Op::Rdtsc | Op::Rdtscp => return rdtsc(cpu, insn.op == Op::Rdtscp),
        _ => {}
    }
    if !cpu.kernel_mode() {
        return Err(Stop::Unhandled);
    }
    match insn.op {
        Op::MovFromCr | Op::MovToCr => control(cpu, insn),
        Op::MovFromDr | Op::MovToDr => debug(cpu, insn),
        Op::Clts => {
            cpu.set_task_switched(false);
            Ok(())
        }
        Op::Wbinvd => {
            if cpu.cache_flush_permitted() {
                cpu.wbinvd();
            }
            Ok(())
        }
        Op::Xsetbv => xsetbv(cpu),
        Op::Rdmsr => {
            let value = msr::read(cpu, cpu.gpr(Gpr::RCX) as u32)?;
            set_pair(cpu, value);
            Ok(())
        }
        Op::Wrmsr => {
            let value = pair(cpu);
            msr::write(cpu, cpu.gpr(Gpr::RCX) as u32, value)
        }
        _ => Err(Stop::Unhandled),
    }
}

/// EDX:EAX.
fn pair<C: Cpu>(cpu: &C) -> u64 {
    cpu.gpr(Gpr::RDX) << 32 | cpu.gpr(Gpr::RAX) & 0xffff_ffff
}

fn set_pair<C: Cpu>(cpu: &mut C, value: u64) {
    cpu.set_gpr(Gpr::RAX, value & 0xffff_ffff);
    cpu.set_gpr(Gpr::RDX, value >> 32);
}

fn cpuid<C: Cpu>(cpu: &mut C, origin: Origin) {
    let (leaf, subleaf) = (cpu.gpr(Gpr::RAX) as u32, cpu.gpr(Gpr::RCX) as u32);
    let view = cpu.cpuid_view();
    let out = cpu.policy().query(leaf, subleaf, &view, origin, cpu.kernel_mode());
    cpu.set_gpr(Gpr::RAX, u64::from(out.eax));
    cpu.set_gpr(Gpr::RBX, u64::from(out.ebx));
    cpu.set_gpr(Gpr::RCX, u64::from(out.ecx));
    cpu.set_gpr(Gpr::RDX, u64::from(out.edx));
}

/// RDTSC and RDTSCP fault because the hypervisor set CR4.TSD to emulate them, or because the
/// guest's kernel did, to keep its user mode from them.
fn rdtsc<C: Cpu>(cpu: &mut C, with_aux: bool) -> Result<(), Stop> {
    if !cpu.kernel_mode() && cpu.cr4() & CR4_TSD != 0 {
        return Err(Stop::Unhandled);
    }
    if with_aux && !cpu.policy().features().rdtscp {
        return Err(Stop::Inject(Exception::UD));
    }
    let tsc = cpu.tsc();
    set_pair(cpu, tsc);
    if with_aux {
        let aux = cpu.tsc_aux();
        cpu.set_gpr(Gpr::RCX, u64::from(aux));
    }
    Ok(())
}

fn control<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    match (insn.dst, insn.src) {
        (Operand::Reg(reg), Operand::Cr(n)) => {
            let ts = if cpu.task_switched() { CR0_TS } else { 0 };
            let value = match n {
                0 => cpu.cr0() & !CR0_TS | ts,
                2 => cpu.cr2(),
                3 => cpu.cr3(),
                4 => cpu.cr4(),
                _ => return Err(Stop::Unhandled),
            };
            write_reg(cpu, reg, 8, value);
            Ok(())
        }
        (Operand::Cr(n), Operand::Reg(reg)) => {
            let value = read_reg(cpu, reg, 8);
            set_control(cpu, n, value)
        }
        _ => Err(Stop::Unhandled),
    }
}

fn set_control<C: Cpu>(cpu: &mut C, n: u8, value: u64) -> Result<(), Stop> {
    match n {
        0 if (value ^ cpu.cr0()) & !CR0_TS == 0 => cpu.set_task_switched(value & CR0_TS != 0),
        2 => cpu.set_cr2(value),
        3 => cpu.set_cr3(value).map_err(control_error)?,
        4 => {
            let composed = guest_cr4(cpu.policy(), cpu.host_cr4(), value);
            cpu.set_cr4(composed);
        }
        _ => return Err(Stop::Unhandled),
    }
    Ok(())
}

/// What a control register's or MSR's backend answered, as the instruction's fate.
pub(super) fn control_error(error: ControlError) -> Stop {
    match error {
        ControlError::Refused => Stop::Unhandled,
        ControlError::Busy => Stop::Retry,
    }
}

/// The CR4 that a PV guest sees after it wrote `wanted`: its own choice of TSD, DE, FSGSBASE and
/// OSXSAVE as far as the policy has them, the hardware's PAE, MCE, OSFXSR and OSXMMEXCPT, and
/// nothing else. `guest_cr4(policy, host, 0)` is the value of a new vcpu.
pub fn guest_cr4(policy: &Policy, host: u64, wanted: u64) -> u64 {
    let features = policy.features();
    let mut own = 0;
    for (has, bit) in [
        (features.tsc, CR4_TSD),
        (features.de, CR4_DE),
        (features.fsgsbase, CR4_FSGSBASE),
        (features.xsave, CR4_OSXSAVE),
    ] {
        if has {
            own |= bit;
        }
    }
    wanted & own | host & (CR4_PAE | CR4_MCE | CR4_OSFXSR | CR4_OSXMMEXCPT)
}

fn debug<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    // DR4 and DR5 are other names of DR6 and DR7 while CR4.DE is clear, and undefined otherwise.
    let extensions = cpu.cr4() & CR4_DE != 0;
    let number = |n: u8| match n {
        4 | 5 if extensions => Err(Stop::Inject(Exception::UD)),
        4 | 5 => Ok(n + 2),
        _ => Ok(n),
    };
    match (insn.dst, insn.src) {
        (Operand::Reg(reg), Operand::Dr(n)) => {
            let value = cpu.dr(number(n)?);
            write_reg(cpu, reg, 8, value);
            Ok(())
        }
        (Operand::Dr(n), Operand::Reg(reg)) => {
            let value = read_reg(cpu, reg, 8);
            let n = number(n)?;
            if n >= 6 && value >> 32 != 0 {
                return Err(Stop::Unhandled);
            }
            cpu.set_dr(n, value).map_err(|_| Stop::Unhandled)
        }
        _ => Err(Stop::Unhandled),
    }
}

fn xsetbv<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if cpu.cr4() & CR4_OSXSAVE == 0 {
        return Err(Stop::Inject(Exception::UD));
    }
    let value = pair(cpu);
    if cpu.gpr(Gpr::RCX) as u32 != 0 || !valid_xcr0(value, cpu.policy().xcr0_mask()) {
        return Err(Stop::Inject(Exception::GP));
    }
    cpu.set_xcr0(value);
    Ok(())
}

/// Whether `value` may be XCR0 where `supported` are the policy's states: within it, x87 on, AVX
/// only with SSE, the states of MPX, of AVX-512 (which need AVX) and of AMX only together.
pub fn valid_xcr0(value: u64, supported: u64) -> bool {
    const X87: u64 = 1 << 0;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const MPX: u64 = 3 << 3;
    const AVX512: u64 = 7 << 5;
    const AMX: u64 = 3 << 17;
    let whole = |group: u64| value & group == 0 || value & group == group;
    value & !supported == 0
        && value & X87 != 0
        && (value & AVX == 0 || value & SSE != 0)
        && whole(MPX)
        && whole(AVX512)
        && (value & AVX512 == 0 || value & AVX != 0)
        && whole(AMX)
}
