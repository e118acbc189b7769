//! Emulation of what a 64-bit PV guest's kernel, running in ring 3, cannot execute itself.
//!
//! Why it exists: a PV kernel issues `mov %cr3`, `rdmsr`, `in`, `cpuid` as if it were in ring 0;
//! the processor answers with #GP or #UD, and a store to a page table that the guest may only
//! read answers with #PF. The three entry points below take such a fault and either do what the
//! instruction asked for, within what the domain is allowed, or say why not.
//!
//! Hardest decision: everything here is pure over the trait [`Cpu`]. The instruction bytes are
//! fetched once into a private buffer of at most 15 bytes and decided on there, every guest
//! access goes through one range check, and nothing loops longer than a fixed bound, so the whole
//! directory is tested on the host and fuzzed by bytes. The other side is hostile: other vcpus
//! rewrite the instruction while it is decoded, and register values are arbitrary.
//!
//! | entry point | called on |
//! | --- | --- |
//! | [`general_protection`] | #GP with error code 0 from a guest |
//! | [`invalid_opcode`] | #UD from a guest (the forced-emulation `cpuid`) |
//! | [`page_table_write`] | #PF, write to a present read-only page of type L1 |

pub mod cpu;
pub mod cpuid;
pub mod decode;
mod fetch;
mod flags;
pub mod io;
pub mod msr;
pub mod operand;
pub mod pagetable;
pub mod privop;
mod shift;

#[cfg(test)]
mod tests;

pub use cpu::{Base, Cpu, DebugRegError, Fault, PtWrite, PtWriteError};
pub use operand::Gpr;
pub use pagetable::page_table_write;
pub use privop::{general_protection, invalid_opcode};

/// An exception to give to the guest, through its trap table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// The vector, 0 to 31.
    pub vector: u8,
    /// The error code, for the vectors that push one.
    pub error_code: Option<u32>,
    /// The value of CR2, for a page fault.
    pub cr2: Option<u64>,
}

impl Exception {
    /// #UD.
    pub const UD: Exception = Exception { vector: 6, error_code: None, cr2: None };
    /// #SS(0).
    pub const SS: Exception = Exception { vector: 12, error_code: Some(0), cr2: None };
    /// #GP(0).
    pub const GP: Exception = Exception { vector: 13, error_code: Some(0), cr2: None };

    /// #PF as the failed guest access met it.
    pub const fn page_fault(fault: Fault) -> Exception {
        Exception { vector: 14, error_code: Some(fault.error_code), cr2: Some(fault.address) }
    }
}

/// What came of a fault that was offered to the emulator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outcome {
    /// The instruction took effect and `rip` stands behind it: resume the guest.
    Emulated,
    /// As [`Outcome::Emulated`], and the guest was single-stepping (RFLAGS.TF): give it #DB with
    /// DR6.BS set.
    EmulatedStep,
    /// Nothing, or only a completed part of a repeated instruction, took effect and `rip` stands
    /// on it: look at pending work (upcalls, preemption), then resume; it will fault again.
    Retry,
    /// Nothing took effect: give the guest this exception, `rip` on the instruction.
    Inject(Exception),
    /// Not an instruction of ours: give the guest the fault that the hardware raised.
    Unhandled,
}

/// Why an instruction did not retire. The error of every step inside this directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// See [`Outcome::Retry`].
    Retry,
    /// See [`Outcome::Inject`].
    Inject(Exception),
    /// See [`Outcome::Unhandled`].
    Unhandled,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Inject(Exception::page_fault(fault))
    }
}

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_RF: u64 = 1 << 16;

/// Retires an instruction of `len` bytes, or reports why it stays.
fn retire<C: Cpu>(cpu: &mut C, len: u8, step: Result<(), Stop>) -> Outcome {
    match step {
        Ok(()) => {
            cpu.set_rip(cpu.rip().wrapping_add(u64::from(len)));
            stepped(cpu)
        }
        Err(Stop::Retry) => Outcome::Retry,
        Err(Stop::Inject(exception)) => Outcome::Inject(exception),
        Err(Stop::Unhandled) => Outcome::Unhandled,
    }
}

/// The state after an instruction, or one iteration of a repeated one: RF is spent, TF traps.
fn stepped<C: Cpu>(cpu: &mut C) -> Outcome {
    let rflags = cpu.rflags();
    cpu.set_rflags(rflags & !RFLAGS_RF);
    if rflags & RFLAGS_TF != 0 { Outcome::EmulatedStep } else { Outcome::Emulated }
}

/// First byte of the address range that belongs to the hypervisor (xen-x86_64.h,
/// `HYPERVISOR_VIRT_START`).
pub const HYPERVISOR_START: u64 = 0xffff_8000_0000_0000;
/// First byte behind it (xen-x86_64.h, `HYPERVISOR_VIRT_END`).
pub const HYPERVISOR_END: u64 = 0xffff_8800_0000_0000;

/// Whether `address` is canonical with 48-bit virtual addresses.
pub const fn canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}

/// Whether `len` bytes at `address` are canonical, do not wrap, and are no hypervisor addresses.
pub fn guest_range(address: u64, len: usize) -> bool {
    let Some(last) = address.checked_add((len as u64).saturating_sub(1)) else { return false };
    let hypervisor = last >= HYPERVISOR_START && address < HYPERVISOR_END;
    canonical(address) && canonical(last) && (address >> 63) == (last >> 63) && !hypervisor
}
