//! The interrupt table, and traps taken in ring 0 (asm/entry.s says which there can be).

use super::apic::vector;
use super::desc::{HOST_CS, Pointer};
use super::percpu;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

const SYSTEM_CALL: usize = vector::SYSTEM_CALL as usize;

#[repr(C, align(4096))]
struct Idt(UnsafeCell<[[u64; 2]; 256]>);
// SAFETY: written once by the BSP before any other CPU is up or an interrupt is on; read by CPUs only.
unsafe impl Sync for Idt {}
static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

unsafe extern "C" {
    static trap_stubs: [u64; 256];
    static ex_table_start: u8;
    static ex_table_end: u8;
}

/// Fills the interrupt table. Gates 3 (int3), 4 (into) and 0x80 (32-bit system calls) may be used by ring 3; every
/// other software interrupt of a guest arrives as #GP and is looked up in the guest's own table.
/// # Safety
/// Once, before interrupts are on.
pub(super) unsafe fn init_idt() {
    // SAFETY: nobody else looks yet (caller); the stubs are code.
    unsafe {
        let idt = &mut *IDT.0.get();
        for (v, gate) in idt.iter_mut().enumerate() {
            let at = trap_stubs[v];
            let dpl = if matches!(v, 3 | 4 | SYSTEM_CALL) { 3 } else { 0 };
            let ist = match v {
                2 => 1,
                8 => 2,
                18 => 3,
                1 => 4,
                _ => 0,
            };
            let kind: u64 = 0x8e | dpl << 5;
            gate[0] =
                at & 0xffff | u64::from(HOST_CS) << 16 | ist << 32 | kind << 40 | (at >> 16 & 0xffff) << 48;
            gate[1] = at >> 32;
        }
    }
}

/// Loads the interrupt table on this CPU.
/// # Safety
/// After [`init_idt`].
pub(super) unsafe fn load_idt() {
    let p = Pointer { limit: 4095, base: IDT.0.get() as u64 };
    // SAFETY: the table lives for ever.
    unsafe { core::arch::asm!("lidt [{}]", in(reg) &raw const p, options(readonly, nostack)) };
}

/// Registers as the stubs push them in ring 0 (the layout of `Regs`).
#[repr(C)]
pub struct HostFrame {
    gpr: [u64; 15],
    error: u32,
    vector: u32,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// A trap in ring 0 outside the IST stacks. GS may be the guest's here, so nothing per-CPU is used
/// before the frame was found to be an interrupt of the idle loop.
#[unsafe(no_mangle)]
extern "C" fn host_trap(f: &mut HostFrame) {
    if f.vector >= 32 {
        percpu::this().note_pending(f.vector as u8);
        return;
    }
    // SAFETY: the linker's table of (fault, fixup) pairs.
    let table = unsafe {
        let start = &raw const ex_table_start as *const [u64; 2];
        let end = &raw const ex_table_end as *const [u64; 2];
        core::slice::from_raw_parts(start, end.offset_from(start) as usize)
    };
    if let Some([_, fixup]) = table.iter().find(|[at, _]| *at == f.rip) {
        f.rip = *fixup;
        return;
    }
    fatal(f)
}

/// NMI, double fault, machine check, and a debug trap in ring 0: a guest's breakpoint on an address that the
/// hypervisor touched for it, or one that `mov ss` put off until the hypervisor was entered.
#[unsafe(no_mangle)]
extern "C" fn host_ist_trap(f: &mut HostFrame) {
    if f.vector == 1 {
        // Not again at this instruction, and no single steps through the hypervisor. What it was is nobody's
        // affair: left in DR6, the next guest with a #DB of its own would see it.
        super::cpu::take_dr6();
        f.rflags = f.rflags & !(1 << 8) | 1 << 16;
        return;
    }
    if f.vector == 2 {
        NMI.store(true, SeqCst);
        return;
    }
    fatal(f)
}

static NMI: AtomicBool = AtomicBool::new(false);

/// Whether an NMI came since the last call.
pub fn take_nmi() -> bool {
    NMI.load(SeqCst) && NMI.swap(false, SeqCst)
}

fn fatal(f: &HostFrame) -> ! {
    let cr2 = super::cpu::read_cr2();
    panic!(
        "trap {} error {:#x} in the hypervisor at {:#x} cs {:#x} rflags {:#x} rsp {:#x} cr2 {:#x} cr3 {:#x}\n\
         rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x} rsi {:#x} rdi {:#x} rbp {:#x}",
        f.vector,
        f.error,
        f.rip,
        f.cs,
        f.rflags,
        f.rsp,
        cr2,
        super::cpu::read_cr3(),
        f.gpr[10],
        f.gpr[5],
        f.gpr[11],
        f.gpr[12],
        f.gpr[13],
        f.gpr[14],
        f.gpr[4]
    )
}
