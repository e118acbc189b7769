//! Control registers, model-specific registers and CPU features: single instructions as functions.
//!
//! Everything here is reachable from safe code only through functions whose misuse can't break
//! memory safety, or is `unsafe` and says what the caller must hold.

use super::{layout, percpu};
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// MSR numbers used by the hypervisor (Intel SDM volume 4, AMD APM volume 2).
#[allow(missing_docs)]
pub mod msr {
    pub const APIC_BASE: u32 = 0x1b;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const PAT: u32 = 0x277;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// CR4 bits.
#[allow(missing_docs)]
pub mod cr4 {
    pub const DE: u64 = 1 << 3;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// What CPUID returned: eax, ebx, ecx, edx.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpuid {
    /// Register of the same name.
    pub eax: u32,
    /// Register of the same name.
    pub ebx: u32,
    /// Register of the same name.
    pub ecx: u32,
    /// Register of the same name.
    pub edx: u32,
}

/// Runs CPUID on this CPU.
pub fn cpuid(leaf: u32, subleaf: u32) -> Cpuid {
    let r = __cpuid_count(leaf, subleaf);
    Cpuid { eax: r.eax, ebx: r.ebx, ecx: r.ecx, edx: r.edx }
}

/// Whether the image has STAC and CLAC (the BSP has SMAP).
static SMAP: AtomicBool = AtomicBool::new(false);
static HAS_RDTSCP: AtomicBool = AtomicBool::new(false);
static FSGSBASE: AtomicBool = AtomicBool::new(false);
static XCR0_ALL: AtomicU64 = AtomicU64::new(0);

/// State components (XCR0 bits) that the hypervisor switches for guests: x87, SSE, AVX, AVX-512.
/// MPX and PKRU are not offered to PV guests; AMX is left out for its size.
const XCR0_WANTED: u64 = 0b1110_0111;

/// Whether RDFSBASE and its family may be used.
#[inline(always)]
pub fn has_fsgsbase() -> bool {
    FSGSBASE.load(Relaxed)
}
/// XCR0 as the hypervisor uses it; zero without XSAVE.
#[inline(always)]
pub fn xcr0_all() -> u64 {
    XCR0_ALL.load(Relaxed)
}

/// Turns on this CPU's features; `stack` is the end of a stack of its own. The BSP's call decides; an AP that lacks what the BSP has can't
/// be told from one that has it by guests, so it is an error (the caller leaves that CPU out).
pub(super) fn init(stack: u64) -> Result<(), &'static str> {
    let l1 = cpuid(1, 0);
    let l7 = if cpuid(0, 0).eax >= 7 { cpuid(7, 0) } else { Cpuid::default() };
    let need = |ok: bool, what| if ok { Ok(()) } else { Err(what) };
    need(l1.edx & (1 << 24) != 0, "no FXSR")?;
    need(cpuid(0x8000_0001, 0).edx & (1 << 11) != 0, "no SYSCALL")?;
    need(cpuid(0x8000_0001, 0).edx & (1 << 20) != 0, "no NX")?;
    let mut c = cr4::PAE | cr4::DE | cr4::MCE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    if l7.ebx & 1 != 0 {
        c |= cr4::FSGSBASE;
    }
    if l7.ebx & (1 << 7) != 0 {
        c |= cr4::SMEP;
    }
    // Whether STAC and CLAC stay is the image's, and so the same for all.
    let has_smap = l7.ebx & (1 << 20) != 0;
    if percpu::cpu_id() == 0 {
        SMAP.store(has_smap, Relaxed);
        if !has_smap {
            // SAFETY: this is the BSP, starting.
            unsafe { remove_smap_instructions() };
        }
    }
    if SMAP.load(Relaxed) {
        need(has_smap, "no SMAP, which the first processor has")?;
        c |= cr4::SMAP;
    }
    let xsave = l1.ecx & (1 << 26) != 0;
    if xsave {
        c |= cr4::OSXSAVE;
    }
    // SAFETY: PAE stays set; the other bits add protection or enable instructions which ring 0
    // code here uses knowingly (SMAP: guest_mem.rs opens it around each access).
    unsafe { asm!("mov cr4, {}", in(reg) c, options(nomem, nostack)) };
    HAS_RDTSCP.store(cpuid(0x8000_0001, 0).edx & 1 << 27 != 0, Relaxed);
    FSGSBASE.store(c & cr4::FSGSBASE != 0, Relaxed);
    if xsave {
        let d = cpuid(0xd, 0);
        let mut all = (u64::from(d.edx) << 32 | u64::from(d.eax)) & XCR0_WANTED;
        if all & 0b100 == 0 || all & 0b1110_0000 != 0b1110_0000 {
            all &= !0b1110_0000;
        }
        set_xcr0(all);
        XCR0_ALL.store(all, Relaxed);
        super::fpu::measure();
    }
    super::fpu::init();
    // SAFETY: the entry points exist for the life of the machine, switch to a stack of this CPU's
    // before they touch memory, and FMASK clears IF, TF, DF, NT and AC on the way in.
    unsafe {
        unsafe extern "C" {
            fn syscall_entry();
            fn syscall32_entry();
            fn sysenter_entry();
        }
        // sysenter takes its stack from here for the one instruction before it is exchanged.
        wrmsr(msr::SYSENTER_CS, 0xe008);
        wrmsr(msr::SYSENTER_EIP, sysenter_entry as *const () as u64);
        wrmsr(msr::SYSENTER_ESP, stack);
        wrmsr(msr::EFER, rdmsr(msr::EFER) | 1);
        // sysret: cs = 0xe023 + 16 = FLAT_RING3_CS64, ss = 0xe02b; syscall: cs = 0xe008, ss = 0xe010.
        wrmsr(msr::STAR, 0xe023_u64 << 48 | 0xe008_u64 << 32);
        wrmsr(msr::LSTAR, syscall_entry as *const () as u64);
        wrmsr(msr::CSTAR, syscall32_entry as *const () as u64);
        wrmsr(msr::FMASK, 0x0004_7700 | 0x1_0000 | 0x40);
    }
    super::speculation::init();
    // PAT as Xen gives it to PV guests (their kernels assume these eight types).
    // SAFETY: the hypervisor's own mappings use only entries 0 (write-back), 3 (uncached) and, from here on, 4 (write-combining).
    unsafe { wrmsr(msr::PAT, 0x0000_0501_0007_0406) };
    Ok(())
}

/// Reads an MSR that is known to exist.
/// # Safety
/// The MSR must exist on this CPU.
#[inline]
pub unsafe fn rdmsr(n: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: reading an existing MSR has no effect on memory.
    unsafe {
        asm!("rdmsr", in("ecx") n, out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags))
    };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes an MSR.
/// # Safety
/// The MSR must exist, the value be legal, and its effect be one that Rust code here can bear.
#[inline]
pub unsafe fn wrmsr(n: u32, v: u64) {
    // SAFETY: the caller's.
    unsafe {
        asm!("wrmsr", in("ecx") n, in("eax") v as u32, in("edx") (v >> 32) as u32, options(nostack, preserves_flags))
    };
}

/// Reads any MSR; `None` where the CPU refuses.
pub fn try_rdmsr(n: u32) -> Option<u64> {
    unsafe extern "C" {
        fn try_rdmsr(msr: u32, out: *mut u64) -> u64;
    }
    let mut v = 0;
    // SAFETY: the instruction's fault is caught by its .ex_table entry; `v` outlives the call.
    (unsafe { try_rdmsr(n, &mut v) } == 0).then_some(v)
}

/// Writes an MSR; false where the CPU refuses. For registers that change nothing for Rust code: what is predicted.
pub(super) fn try_wrmsr(n: u32, v: u64) -> bool {
    unsafe extern "C" {
        fn try_wrmsr(msr: u32, value: u64) -> u64;
    }
    // SAFETY: the instruction's fault is caught by its .ex_table entry; the callers name such registers.
    unsafe { try_wrmsr(n, v) == 0 }
}

/// The faulting address of the last page fault.
#[inline(always)]
pub fn read_cr2() -> u64 {
    let v: u64;
    // SAFETY: no effect.
    unsafe { asm!("mov {}, cr2", out(reg) v, options(nomem, nostack, preserves_flags)) };
    v
}
/// The current root page table's physical address.
#[inline(always)]
pub fn read_cr3() -> u64 {
    let v: u64;
    // SAFETY: no effect.
    unsafe { asm!("mov {}, cr3", out(reg) v, options(nomem, nostack, preserves_flags)) };
    v
}
/// Loads a root page table.
/// # Safety
/// It must map the hypervisor as every root does, and stay valid while loaded.
#[inline(always)]
pub unsafe fn write_cr3(v: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("mov cr3, {}", in(reg) v, options(nostack, preserves_flags)) };
}
/// Reads CR0.
pub fn read_cr0() -> u64 {
    let v: u64;
    // SAFETY: no effect.
    unsafe { asm!("mov {}, cr0", out(reg) v, options(nomem, nostack, preserves_flags)) };
    v
}
/// Reads CR4.
pub fn read_cr4() -> u64 {
    let v: u64;
    // SAFETY: no effect.
    unsafe { asm!("mov {}, cr4", out(reg) v, options(nomem, nostack, preserves_flags)) };
    v
}
/// Sets or clears CR0.TS: whether FPU instructions trap.
pub fn set_ts(on: bool) {
    if on {
        // SAFETY: the hypervisor has no floating-point code (soft-float target).
        unsafe { asm!("mov {t}, cr0", "or {t}, 8", "mov cr0, {t}", t = out(reg) _, options(nomem, nostack)) };
    } else {
        // SAFETY: as above.
        unsafe { asm!("clts", options(nomem, nostack, preserves_flags)) };
    }
}
/// Sets XCR0 on this CPU. The value must be one the CPU accepts (a subset of [`xcr0_all`] with x87).
pub fn set_xcr0(v: u64) {
    // SAFETY: callers pass values checked against CPUID leaf 0xd; no Rust code here uses the state.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") v as u32, in("edx") (v >> 32) as u32, options(nomem, nostack, preserves_flags))
    };
}
/// The time-stamp counter.
#[inline(always)]
pub fn rdtsc() -> u64 {
    // SAFETY: no effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}
/// Opens ring 0's access to user pages, where SMAP closes it.
#[inline(always)]
pub fn stac() {
    // SAFETY: it changes EFLAGS.AC alone; where STAC doesn't exist `init` has put a nop in its place.
    unsafe {
        asm!("2: stac", ".pushsection .smap_sites, \"a\"", ".quad 2b", ".popsection", options(nomem, nostack))
    };
}
/// Closes ring 0's access to user pages again.
#[inline(always)]
pub fn clac() {
    // SAFETY: as for `stac`.
    unsafe {
        asm!("2: clac", ".pushsection .smap_sites, \"a\"", ".quad 2b", ".popsection", options(nomem, nostack))
    };
}
/// Puts a nop in the place of each STAC and CLAC.
///
/// # Safety
/// On the BSP, before another CPU is up or a guest's memory was touched.
unsafe fn remove_smap_instructions() {
    unsafe extern "C" {
        static smap_sites_start: u64;
        static smap_sites_end: u64;
    }
    const NOP: [u8; 3] = [0x0f, 0x1f, 0x00];
    // SAFETY: the linker's table of three-byte instructions in the image, none of which has run yet (caller). The
    // direct map has the image's frames writable; what is written is a whole instruction of the same length.
    unsafe {
        let (start, end) = (&raw const smap_sites_start, &raw const smap_sites_end);
        for site in core::slice::from_raw_parts(start, end.offset_from(start) as usize) {
            ((layout::DIRECT + (site - layout::IMAGE)) as *mut [u8; 3]).write_volatile(NOP);
        }
    }
    // CPUID serialises: nothing fetched before is run.
    cpuid(0, 0);
}
/// Drops this CPU's translation of one address.
#[inline(always)]
pub fn invlpg(va: u64) {
    // SAFETY: dropping a translation can only cost time.
    unsafe { asm!("invlpg [{}]", in(reg) va, options(nostack, preserves_flags)) };
}
/// Writes back and drops all caches (a dom0 with a device may ask for it).
pub fn wbinvd() {
    // SAFETY: no effect on contents.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
}
/// FS base, by the fast instruction where there is one.
#[inline]
pub fn fs_base() -> u64 {
    // SAFETY: FS is not used by the hypervisor.
    unsafe { rdmsr(msr::FS_BASE) }
}
/// Sets the FS base; `v` must be canonical, else it is ignored.
#[inline]
pub fn set_fs_base(v: u64) {
    if is_canonical(v) {
        // SAFETY: FS is not used by the hypervisor, and the value can't fault.
        unsafe { wrmsr(msr::FS_BASE, v) }
    }
}
/// The GS base that the guest sees (the hypervisor's own is swapped in meanwhile).
#[inline]
pub fn guest_gs_base() -> u64 {
    // SAFETY: the MSR exists in long mode.
    unsafe { rdmsr(msr::KERNEL_GS_BASE) }
}
/// Sets the guest's GS base; `v` must be canonical, else it is ignored.
#[inline]
pub fn set_guest_gs_base(v: u64) {
    if is_canonical(v) {
        // SAFETY: swapped in only on the way to the guest; the value can't fault.
        unsafe { wrmsr(msr::KERNEL_GS_BASE, v) }
    }
}
/// Sets the guest's GS base and gives the one before; `v` must be canonical, else nothing changes.
#[inline]
pub fn exchange_guest_gs_base(v: u64) -> u64 {
    if !has_fsgsbase() {
        let old = guest_gs_base();
        set_guest_gs_base(v);
        return old;
    }
    if !is_canonical(v) {
        return guest_gs_base();
    }
    let old: u64;
    // SAFETY: between the two swapgs GS is the guest's and nothing uses it: interrupts are off, and NMI and #MC
    // find their per-CPU block without it. The instructions exist with FSGSBASE; the value can't fault.
    unsafe {
        asm!("swapgs", "rdgsbase {o}", "wrgsbase {n}", "swapgs", o = out(reg) old, n = in(reg) v,
            options(nomem, nostack, preserves_flags));
    }
    old
}
/// Whether bits 63 to 47 are all alike.
#[inline(always)]
pub const fn is_canonical(v: u64) -> bool {
    ((v as i64) << 16 >> 16) as u64 == v
}
/// Loads DR0–DR3 and DR7 for a guest, or clears them (`dr7 == 0`). Addresses in the hypervisor's range
/// must have been refused before.
pub fn set_debug_registers(dr: [u64; 4], dr7: u64) {
    // SAFETY: breakpoints hit only in the guest: DR7's enables are for guest addresses (caller) and
    // a #DB taken in ring 0 is ignored by host_trap.
    unsafe {
        asm!("mov dr7, {}", in(reg) 0x400_u64, options(nomem, nostack, preserves_flags));
        if dr7 & 0xff != 0 {
            asm!("mov dr0, {}", in(reg) dr[0], options(nomem, nostack, preserves_flags));
            asm!("mov dr1, {}", in(reg) dr[1], options(nomem, nostack, preserves_flags));
            asm!("mov dr2, {}", in(reg) dr[2], options(nomem, nostack, preserves_flags));
            asm!("mov dr3, {}", in(reg) dr[3], options(nomem, nostack, preserves_flags));
            asm!("mov dr7, {}", in(reg) dr7 | 0x400, options(nomem, nostack, preserves_flags));
        }
    }
}
/// Reads DR6 and resets it.
pub fn take_dr6() -> u64 {
    let v: u64;
    // SAFETY: no effect beyond the register.
    unsafe {
        asm!("mov {}, dr6", out(reg) v, options(nomem, nostack, preserves_flags));
        asm!("mov dr6, {}", in(reg) 0xffff_0ff0_u64, options(nomem, nostack, preserves_flags));
    }
    v
}
/// Stops this CPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: nothing runs after.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Makes those bits of CR4 that a guest may choose (TSD, DE) what it chose.
pub fn set_guest_cr4(guest: u64) {
    const CHOICE: u64 = 1 << 2 | cr4::DE;
    let now = read_cr4();
    let new = now & !CHOICE | guest & CHOICE;
    if now != new {
        // SAFETY: whether ring 3 may read the TSC, and how debug registers 4 and 5 answer.
        unsafe { asm!("mov cr4, {}", in(reg) new, options(nomem, nostack)) };
    }
}

/// Sets the value that RDTSCP gives beside the TSC, where there is RDTSCP.
pub fn set_tsc_aux(v: u32) {
    if HAS_RDTSCP.load(Relaxed) {
        // SAFETY: the MSR exists with the instruction; nothing here uses it.
        unsafe { wrmsr(msr::TSC_AUX, v.into()) };
    }
}

/// Whether a selector names a 64-bit code segment now.
pub fn is_long_code(selector: u16) -> bool {
    let (access, ok): (u32, u8);
    // SAFETY: LAR only reads the descriptor tables.
    unsafe {
        asm!("lar {0:e}, {1:e}", "setz {2}", out(reg) access, in(reg) u32::from(selector), out(reg_byte) ok, options(nomem, nostack))
    };
    ok != 0 && access & (1 << 21) != 0
}
