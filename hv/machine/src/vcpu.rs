//! Entering a guest is a function that returns a reason.
//!
//! [`VcpuState`] is what the CPU needs of a vcpu: its registers, in the block that traps fill in by
//! themselves (asm/entry.s), its vector state, segment selectors and bases. Whatever values stand in
//! the registers, entering is safe: ring 3, interrupts on and I/O privilege off are forced here, and
//! a frame that the CPU still refuses comes back as [`exit::BAD_RETURN`].

use crate::frame::{CLOCK, Frame, L4};
use crate::guest_mem::access_ok;
use crate::x86_64::{cpu, fpu::FpuState, paging, percpu, speculation};
use core::sync::atomic::AtomicU8;
use shared_abi::Errno;
use shared_abi::GuestAddr;

/// Why a guest stopped running. Below 32 an exception, below 256 an interrupt, else one of these.
pub mod exit {
    /// `syscall` from 64-bit code.
    pub const SYSCALL: u32 = 0x100;
    /// `sysenter`.
    pub const SYSENTER: u32 = 0x101;
    /// `syscall` from 32-bit code.
    pub const SYSCALL32: u32 = 0x102;
    /// The CPU refused the registers: rip, cs or ss can't be returned to.
    pub const BAD_RETURN: u32 = 0x103;
    /// A system call's frame can't be written to the kernel's stack. The vcpu is in kernel mode already.
    pub const NO_STACK: u32 = 0x104;
}

/// A guest's registers, in the order of xen.h `cpu_user_regs`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
#[allow(missing_docs)]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// Error code of the trap that left the guest.
    pub error_code: u32,
    /// What left the guest. While it is [`exit::SYSCALL`] the guest is entered by `sysret`, which takes
    /// rcx = rip and r11 = rflags: whoever changes rip, rcx, r11, rflags, cs or ss calls [`Regs::changed`].
    vector: u32,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<Regs>() == 168);

impl Regs {
    /// The next entry must load every register.
    #[inline(always)]
    pub fn changed(&mut self) {
        self.vector = 0;
    }
    /// What left the guest.
    #[inline(always)]
    pub fn vector(&self) -> u32 {
        self.vector
    }
}

/// Flags that a guest's real RFLAGS may hold: all arithmetic ones, TF, DF, RF, AC, ID, NT.
const RFLAGS_GUEST: u64 = 0x0025_4dd5;
const RFLAGS_FORCED: u64 = 0x202;

/// The register block. A fault on the way out pushes its frame below the guest's saved rip, over registers that
/// are loaded already (asm/entry.s `bad_iret`), and nothing below `regs`: no Rust runs on this stack. The word before
/// puts the block's end on the 16-byte border that the CPU pushes from.
#[repr(C, align(16))]
struct Block {
    border: u64,
    regs: Regs,
    mode: Mode,
}
const _: () = assert!((core::mem::offset_of!(Block, regs) + size_of::<Regs>()).is_multiple_of(16));
const _: () =
    assert!(core::mem::offset_of!(Block, mode) == core::mem::offset_of!(Block, regs) + size_of::<Regs>());

/// Whether a vcpu is in kernel or user mode, and what takes it to the other on a system call and back without the run
/// loop: read and changed by asm/syscall.s, which says what it needs of each.
#[repr(C)]
struct Mode {
    /// The kernel's entry, canonical; zero: the run loop is to see to all changes of mode.
    entry: u64,
    /// Where the frame goes: 56 bytes outside the hypervisor's range, 8 bytes below a 16-byte border.
    frame: u64,
    /// CR3 of kernel mode. Always that of `VcpuState::kernel_root`; while there is none, `entry` is zero.
    cr3: u64,
    /// GS base of the mode that the vcpu is not in.
    gs_base_other: u64,
    /// Bytes of the vcpu's vcpu_info.
    pending: Option<&'static AtomicU8>,
    mask: Option<&'static AtomicU8>,
    /// 1: kernel mode, 0: user mode.
    kernel: u64,
    /// For asm/syscall.s.
    saved: [u64; 6],
    /// CR3 of user mode. Always that of `VcpuState::user_root`; zero while there is none.
    user_cr3: u64,
}

/// Where a system call enters a guest's kernel whose events it masks.
pub struct SyscallEntry {
    /// Address of the handler.
    pub address: u64,
    /// The kernel's stack.
    pub stack: u64,
    /// `evtchn_upcall_pending` and `evtchn_upcall_mask` of the vcpu.
    pub upcall: [&'static AtomicU8; 2],
}

/// Bytes of the frame of a system call: rcx, r11, rip, cs, rflags, rsp, ss.
const FRAME_BYTES: u64 = 56;

/// Segment selectors (their hidden parts are reloaded from the guest's tables).
#[derive(Clone, Copy, Default, Debug)]
#[allow(missing_docs)]
pub struct Selectors {
    pub ds: u16,
    pub es: u16,
    pub fs: u16,
    pub gs: u16,
}

/// The CPU's part of a vcpu.
pub struct VcpuState {
    block: Block,
    /// Vector and floating-point registers, while the vcpu does not run.
    pub fpu: FpuState,
    /// Selectors, while the vcpu does not run.
    pub selectors: Selectors,
    /// FS base, while the vcpu does not run.
    pub fs_base: u64,
    /// GS base of the mode (kernel or user) that the vcpu is in, while it does not run.
    pub gs_base: u64,
    /// Root table of kernel mode.
    kernel_root: Option<Frame<'static, L4>>,
    /// Root table of user mode.
    user_root: Option<Frame<'static, L4>>,
    /// DR0 to DR3, DR6, DR7.
    pub dr: [u64; 6],
}

unsafe extern "C" {
    fn enter_by_sysret(regs: *mut Regs) -> u64;
    fn enter_by_iret(regs: *mut Regs) -> u64;
    fn set_guest_frame(end: *mut u8);
    fn load_ds(selector: u64) -> u64;
    fn load_es(selector: u64) -> u64;
    fn load_fs(selector: u64) -> u64;
    fn load_gs(selector: u64) -> u64;
}

impl VcpuState {
    /// Debug registers at reset: the addresses, DR6, DR7.
    pub const DEBUG_REGISTERS: [u64; 6] = [0, 0, 0, 0, 0xffff_0ff0, 0x400];

    /// All registers zero, vector state as after reset.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<VcpuState, Errno> {
        Ok(VcpuState {
            block: Block {
                border: 0,
                regs: Regs::default(),
                mode: Mode {
                    entry: 0,
                    frame: 0,
                    cr3: 0,
                    gs_base_other: 0,
                    pending: None,
                    mask: None,
                    kernel: 1,
                    saved: [0; 6],
                    user_cr3: 0,
                },
            },
            fpu: FpuState::new()?,
            selectors: Selectors::default(),
            fs_base: 0,
            gs_base: 0,
            kernel_root: None,
            user_root: None,
            dr: Self::DEBUG_REGISTERS,
        })
    }

    /// The guest's registers.
    #[inline(always)]
    pub fn regs(&self) -> &Regs {
        &self.block.regs
    }
    /// The guest's registers, to change them; see [`Regs::changed`].
    #[inline(always)]
    pub fn regs_mut(&mut self) -> &mut Regs {
        &mut self.block.regs
    }

    /// Runs the guest until something needs the hypervisor, and says what ([`exit`]). The vcpu must be
    /// switched in, with its root table loaded.
    #[inline]
    pub fn enter(&mut self) -> u32 {
        // A flush that another CPU asks for comes as an interrupt, which the guest is left for at once.
        let block = &raw mut self.block;
        let r = &mut self.block.regs;
        speculation::before_guest();
        // SAFETY: GS is this CPU's block. The registers are entered in ring 3 with interrupts on: by sysret
        // from values that came by syscall (rflags as the CPU saved them, selectors constant), else forced
        // here. The block is exclusively borrowed while the guest runs, and has room for the frames.
        unsafe {
            if r.vector == exit::SYSCALL {
                return enter_by_sysret(&raw mut (*block).regs) as u32;
            }
            r.rflags = r.rflags & RFLAGS_GUEST | RFLAGS_FORCED;
            r.cs |= 3;
            r.ss |= 3;
            enter_by_iret(&raw mut (*block).regs) as u32
        }
    }

    /// Loads what this vcpu has in the CPU beside the general registers. Its descriptor tables and root must be in
    /// place before. False: a selector in [`VcpuState::selectors`] can't be loaded any more, and is null now.
    #[must_use]
    pub fn switch_in(&mut self) -> bool {
        // SAFETY: the block's end, in which this vcpu's traps are stored; the block stays where it is while the vcpu is
        // switched in, for its context is locked and lies on the heap.
        unsafe { set_guest_frame((&raw mut self.block.mode).cast()) };
        self.fpu.load();
        // SAFETY: a selector that can't be loaded faults and becomes null; ring 0 doesn't use these segments.
        let refused = unsafe {
            load_ds(self.selectors.ds.into())
                | load_es(self.selectors.es.into())
                | load_fs(self.selectors.fs.into())
                | load_gs(self.selectors.gs.into())
        };
        cpu::set_fs_base(self.fs_base);
        cpu::set_guest_gs_base(self.gs_base);
        if self.dr[5] & 0xff != 0 {
            cpu::set_debug_registers([self.dr[0], self.dr[1], self.dr[2], self.dr[3]], self.dr[5]);
        }
        refused == 0
    }

    /// Saves what [`VcpuState::switch_in`] loaded.
    pub fn switch_out(&mut self) {
        self.fpu.save();
        self.selectors = read_selectors();
        self.fs_base = cpu::fs_base();
        self.gs_base = cpu::guest_gs_base();
        if self.dr[5] & 0xff != 0 {
            cpu::set_debug_registers([0; 4], 0);
        }
        // Nothing of this guest's may stay loaded: its descriptor tables are about to go.
        // SAFETY: null selectors can always be loaded.
        unsafe {
            load_ds(0);
            load_es(0);
            load_fs(0);
            load_gs(0);
        }
    }

    /// Exchanges the GS bases of kernel and user mode, while running.
    #[inline]
    pub fn swap_gs(&mut self) {
        let mode = &mut self.block.mode;
        mode.gs_base_other = cpu::exchange_guest_gs_base(mode.gs_base_other);
    }

    /// Whether it is in guest kernel mode (else guest user mode).
    #[inline(always)]
    pub fn kernel_mode(&self) -> bool {
        self.block.mode.kernel != 0
    }
    /// Says which mode it is in.
    #[inline(always)]
    pub fn set_kernel_mode(&mut self, kernel: bool) {
        self.block.mode.kernel = kernel.into();
    }
    /// GS base of the mode that it is not in.
    #[inline]
    pub fn gs_base_other(&self) -> u64 {
        self.block.mode.gs_base_other
    }
    /// Sets it.
    #[inline]
    pub fn set_gs_base_other(&mut self, base: u64) {
        self.block.mode.gs_base_other = base;
    }
    /// Root table of kernel mode.
    #[inline(always)]
    pub fn kernel_root(&self) -> Option<&Frame<'static, L4>> {
        self.kernel_root.as_ref()
    }
    /// Another root table for kernel mode, which shows the machine-to-physical table, or none; the one before.
    pub fn replace_kernel_root(&mut self, root: Option<Frame<'static, L4>>) -> Option<Frame<'static, L4>> {
        let mode = &mut self.block.mode;
        match &root {
            Some(root) => {
                root.show_m2p(true);
                mode.cr3 = root.mfn().address();
            }
            None => (mode.entry, mode.cr3) = (0, 0),
        }
        core::mem::replace(&mut self.kernel_root, root)
    }

    /// Root table of user mode.
    #[inline(always)]
    pub fn user_root(&self) -> Option<&Frame<'static, L4>> {
        self.user_root.as_ref()
    }
    /// Another root table for user mode, or none; the one before.
    pub fn replace_user_root(&mut self, root: Option<Frame<'static, L4>>) -> Option<Frame<'static, L4>> {
        self.block.mode.user_cr3 = root.as_ref().map_or(0, |root| root.mfn().address());
        core::mem::replace(&mut self.user_root, root)
    }

    /// Has system calls of user mode enter the kernel at once, and its `iret` go back (asm/syscall.s), where they can;
    /// `None`: has both come out of [`VcpuState::enter`].
    pub fn set_syscall_entry(&mut self, entry: Option<SyscallEntry>) {
        let mode = &mut self.block.mode;
        mode.entry = 0;
        let Some(entry) = entry else { return };
        let frame = (entry.stack & !15).wrapping_sub(FRAME_BYTES);
        // What is to be done before each entry of a guest is done by `enter` alone.
        let good = cpu::has_fsgsbase()
            && !speculation::acts_before_guest()
            && self.kernel_root.is_some()
            && cpu::is_canonical(entry.address)
            && access_ok(GuestAddr(frame), FRAME_BYTES as usize);
        if good {
            let [pending, mask] = entry.upcall;
            (mode.frame, mode.pending, mode.mask) = (frame, Some(pending), Some(mask));
            mode.entry = entry.address;
        }
    }

    /// Loads a selector into GS of user mode (`SEGBASE_GS_USER_SEL`), the vcpu being in kernel mode.
    pub fn load_user_gs_selector(&mut self, selector: u16) {
        self.swap_gs();
        // A guest names its own descriptors only; null selectors have no privilege.
        let selector = if selector > 3 { selector | 3 } else { selector };
        // SAFETY: as in `switch_in`.
        unsafe { load_gs(u64::from(selector)) };
        self.swap_gs();
    }
}

/// The selectors now loaded.
pub fn read_selectors() -> Selectors {
    let (ds, es, fs, gs): (u16, u16, u16, u16);
    // SAFETY: no effect.
    unsafe {
        core::arch::asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags))
    };
    Selectors { ds, es, fs, gs }
}

fn load_cr3(root: u64) {
    let tick = CLOCK.begin();
    // SAFETY: the callers below pass roots that map the hypervisor as all do.
    unsafe { cpu::write_cr3(root) };
    CLOCK.end(percpu::cpu_id(), tick);
}

/// Loads a validated root table on this CPU. The caller keeps the handle until something else is loaded here.
#[inline]
pub fn load_root(root: &Frame<'static, L4>) {
    load_cr3(root.mfn().address());
}

/// Loads the hypervisor's own root table, which maps no guest.
#[inline]
pub fn load_idle_root() {
    load_cr3(paging::idle_root());
}
