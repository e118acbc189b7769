//! Restates `xen.h`: hypercall numbers, page-table updates, and the pages a domain shares with the
//! hypervisor.

use crate::arch_x86::{ArchSharedInfo, ArchVcpuInfo, XEN_LEGACY_MAX_VCPUS};
use crate::{DomId, GuestAddr, Mfn};

pub mod hypercall;

abi_constants! {
    "A virtual interrupt: global ones (marked) go to one vcpu of one domain, the rest to each vcpu.": u32 {
        VIRQ_TIMER = 0,
        VIRQ_DEBUG = 1,
        /// Global: input on the emergency console.
        VIRQ_CONSOLE = 2,
        /// Global: a domain shut down or died.
        VIRQ_DOM_EXC = 3,
        /// Global: the trace buffer has records.
        VIRQ_TBUF = 4,
        /// Global: a domain paused for debugging.
        VIRQ_DEBUGGER = 6,
        VIRQ_XENOPROF = 7,
        /// Global: the console ring has new text.
        VIRQ_CON_RING = 8,
        /// Global: a physical CPU went on- or offline.
        VIRQ_PCPU_STATE = 9,
        /// Global: a memory event.
        VIRQ_MEM_EVENT = 10,
        VIRQ_ARGO = 11,
        /// Global: low on heap memory.
        VIRQ_ENOMEM = 12,
        VIRQ_XENPMU = 13,
        /// Machine check, on x86.
        VIRQ_ARCH_0 = 16,
        VIRQ_ARCH_1 = 17,
        VIRQ_ARCH_2 = 18,
        VIRQ_ARCH_3 = 19,
        VIRQ_ARCH_4 = 20,
        VIRQ_ARCH_5 = 21,
        VIRQ_ARCH_6 = 22,
        VIRQ_ARCH_7 = 23,
        NR_VIRQS = 24,
    }
    "The two low bits of `MmuUpdate::ptr`: what is to be updated.": u64 {
        /// Write a page-table entry.
        MMU_NORMAL_PT_UPDATE = 0,
        /// Set the machine-to-pseudo-physical entry of a frame.
        MMU_MACHPHYS_UPDATE = 1,
        /// Write a page-table entry, keeping the accessed and dirty bits the processor may have set.
        MMU_PT_UPDATE_PRESERVE_AD = 2,
        /// Write a page-table entry without translating the frame in it.
        MMU_PT_UPDATE_NO_TRANSLATE = 3,
    }
    "`MmuextOp::cmd`.": u32 {
        MMUEXT_PIN_L1_TABLE = 0,
        MMUEXT_PIN_L2_TABLE = 1,
        MMUEXT_PIN_L3_TABLE = 2,
        MMUEXT_PIN_L4_TABLE = 3,
        MMUEXT_UNPIN_TABLE = 4,
        MMUEXT_NEW_BASEPTR = 5,
        MMUEXT_TLB_FLUSH_LOCAL = 6,
        MMUEXT_INVLPG_LOCAL = 7,
        MMUEXT_TLB_FLUSH_MULTI = 8,
        MMUEXT_INVLPG_MULTI = 9,
        MMUEXT_TLB_FLUSH_ALL = 10,
        MMUEXT_INVLPG_ALL = 11,
        MMUEXT_FLUSH_CACHE = 12,
        MMUEXT_SET_LDT = 13,
        MMUEXT_NEW_USER_BASEPTR = 15,
        MMUEXT_CLEAR_PAGE = 16,
        MMUEXT_COPY_PAGE = 17,
        MMUEXT_FLUSH_CACHE_GLOBAL = 18,
        MMUEXT_MARK_SUPER = 19,
        MMUEXT_UNMARK_SUPER = 20,
    }
    "Flags of `update_va_mapping`: what to flush, and on which vcpus (a bitmap's address in the other bits).": u64 {
        UVMF_NONE = 0,
        UVMF_TLB_FLUSH = 1,
        UVMF_INVLPG = 2,
        UVMF_FLUSHTYPE_MASK = 3,
        UVMF_MULTI = 0,
        UVMF_LOCAL = 0,
        UVMF_ALL = 1 << 2,
    }
    "`console_io` command.": u32 {
        CONSOLEIO_WRITE = 0,
        CONSOLEIO_READ = 1,
    }
    "`vm_assist` command.": u32 {
        VMASST_CMD_ENABLE = 0,
        VMASST_CMD_DISABLE = 1,
    }
    "`vm_assist` type: a bit number.": u32 {
        VMASST_TYPE_4GB_SEGMENTS = 0,
        VMASST_TYPE_4GB_SEGMENTS_NOTIFY = 1,
        VMASST_TYPE_WRITABLE_PAGETABLES = 2,
        VMASST_TYPE_PAE_EXTENDED_CR3 = 3,
        VMASST_TYPE_ARCHITECTURAL_IOPL = 4,
        VMASST_TYPE_RUNSTATE_UPDATE_FLAG = 5,
        VMASST_TYPE_M2P_STRICT = 32,
    }
    "`VcpuTimeInfo::flags`.": u8 {
        /// The scaled TSC is the same on every vcpu.
        XEN_PVCLOCK_TSC_STABLE_BIT = 1 << 0,
        /// The guest was stopped from outside.
        XEN_PVCLOCK_GUEST_STOPPED = 1 << 1,
    }
    "Bytes of `StartInfo::cmd_line`.": usize {
        MAX_GUEST_CMDLINE = 1024,
    }
    "`StartInfo::flags`.": u32 {
        /// The domain may use control operations.
        SIF_PRIVILEGED = 1 << 0,
        /// The domain is the initial one.
        SIF_INITDOMAIN = 1 << 1,
        /// `mod_start` is a list of `MultibootModList`.
        SIF_MULTIBOOT_MOD = 1 << 2,
        /// `mod_start` is a pfn, not a virtual address.
        SIF_MOD_START_PFN = 1 << 3,
        /// The domain keeps a virtually mapped p2m for the toolstack.
        SIF_VIRT_P2M_4TOOLS = 1 << 4,
        /// Power-management options handed to the initial domain.
        SIF_PM_MASK = 0xff << 8,
    }
    "`Dom0VgaConsoleInfo::video_type`.": u8 {
        XEN_VGATYPE_TEXT_MODE_3 = 0x03,
        XEN_VGATYPE_VESA_LFB = 0x23,
        XEN_VGATYPE_EFI_LFB = 0x70,
    }
}

/// Every domain number from here on is reserved.
pub const DOMID_FIRST_RESERVED: DomId = DomId::FIRST_RESERVED;
/// The calling domain.
pub const DOMID_SELF: DomId = DomId::SELF;
/// Owner of device memory.
pub const DOMID_IO: DomId = DomId::IO;
/// Owner of the hypervisor's own frames.
pub const DOMID_XEN: DomId = DomId::XEN;
/// Owner of shared copy-on-write frames.
pub const DOMID_COW: DomId = DomId::COW;
/// No domain.
pub const DOMID_INVALID: DomId = DomId::INVALID;
/// The idle domain.
pub const DOMID_IDLE: DomId = DomId::IDLE;
/// The bits a domain number may use.
pub const DOMID_MASK: DomId = DomId::MASK;

/// A domain's UUID: `xen_domain_handle_t`.
pub type DomainHandle = [u8; 16];

abi_structs! {
    /// One operation of the `mmuext_op` hypercall.
    pub struct MmuextOp("struct mmuext_op", 24) {
        cmd: u32,
        _pad: u32,
        /// Union: `mfn` or `linear_addr`.
        arg1: u64,
        /// Union: `nr_ents` (its low half), `vcpumask` or `src_mfn`.
        arg2: u64,
    }

    /// One entry of the `mmu_update` hypercall.
    pub struct MmuUpdate("struct mmu_update", 16) {
        /// The machine address of the entry; its two low bits say what to do.
        ptr: u64,
        val: u64,
    }

    /// One call of a `multicall`.
    pub struct MulticallEntry("struct multicall_entry", 64) {
        op: u64,
        result: u64,
        args: [u64; 6],
    }

    /// How to turn a TSC value into system time. An odd `version` means an update is going on.
    pub struct VcpuTimeInfo("struct vcpu_time_info", 32) {
        version: u32,
        _pad0: u32,
        tsc_timestamp: u64,
        /// Nanoseconds since boot at `tsc_timestamp`.
        system_time: u64,
        tsc_to_system_mul: u32,
        tsc_shift: i8,
        flags: u8,
        _pad1: [u8; 2],
    }

    /// What one vcpu shares with the hypervisor.
    pub struct VcpuInfo("struct vcpu_info", 64) {
        /// Nonzero: an event is pending for this vcpu.
        evtchn_upcall_pending: u8,
        /// Nonzero: no upcall is to be delivered.
        evtchn_upcall_mask: u8,
        _pad0: [u8; 6],
        /// A bit for each word of `SharedInfo::evtchn_pending` to look at.
        evtchn_pending_sel: u64,
        arch: ArchVcpuInfo,
        time: VcpuTimeInfo,
    }

    /// What a domain shares with the hypervisor.
    pub struct SharedInfo("struct shared_info", 3136) {
        vcpu_info: [VcpuInfo; XEN_LEGACY_MAX_VCPUS],
        evtchn_pending: [u64; 64],
        evtchn_mask: [u64; 64],
        /// Odd while the wall clock is being written.
        wc_version: u32,
        wc_sec: u32,
        wc_nsec: u32,
        wc_sec_hi: u32,
        arch: ArchSharedInfo,
    }

    /// What a PV domain finds at boot, pointed to by `rsi`.
    pub struct StartInfo("struct start_info", 1168) {
        /// `xen-3.0-x86_64`, NUL-terminated.
        magic: [u8; 32],
        nr_pages: u64,
        /// Machine *address* of the shared info frame.
        shared_info: u64,
        flags: u32,
        _pad0: u32,
        store_mfn: Mfn,
        store_evtchn: u32,
        _pad1: u32,
        /// Union: see `console_domu` and `console_dom0`.
        console: [u64; 2],
        pt_base: u64,
        nr_pt_frames: u64,
        mfn_list: u64,
        mod_start: u64,
        mod_len: u64,
        cmd_line: [u8; MAX_GUEST_CMDLINE],
        first_p2m_pfn: u64,
        nr_p2m_frames: u64,
    }

    /// `StartInfo::console` of an unprivileged domain.
    pub struct StartInfoConsoleDomu("__typeof__(((struct start_info *)0)->console.domU)", 16) {
        mfn: Mfn,
        evtchn: u32,
        _pad: u32,
    }

    /// `StartInfo::console` of the initial domain.
    pub struct StartInfoConsoleDom0("__typeof__(((struct start_info *)0)->console.dom0)", 8) {
        /// Bytes from the start info to a `Dom0VgaConsoleInfo`.
        info_off: u32,
        info_size: u32,
    }

    /// A module, where `SIF_MULTIBOOT_MOD` is set.
    pub struct MultibootModList("struct xen_multiboot_mod_list", 16) {
        mod_start: u32,
        mod_end: u32,
        cmdline: u32,
        pad: u32,
    }

    /// The initial domain's screen.
    pub struct Dom0VgaConsoleInfo("struct dom0_vga_console_info", 40) {
        video_type: u8,
        _pad: [u8; 3],
        /// Union: see `text_mode_3` and `vesa_lfb`.
        u: [u32; 9],
    }

    /// `Dom0VgaConsoleInfo::u` for `XEN_VGATYPE_TEXT_MODE_3`.
    pub struct VgaTextMode3("__typeof__(((struct dom0_vga_console_info *)0)->u.text_mode_3)", 10) {
        font_height: u16,
        cursor_x: u16,
        cursor_y: u16,
        rows: u16,
        columns: u16,
    }

    /// `Dom0VgaConsoleInfo::u` for a linear frame buffer.
    pub struct VgaVesaLfb("__typeof__(((struct dom0_vga_console_info *)0)->u.vesa_lfb)", 36) {
        width: u16,
        height: u16,
        bytes_per_line: u16,
        bits_per_pixel: u16,
        lfb_base: u32,
        lfb_size: u32,
        red_pos: u8,
        red_size: u8,
        green_pos: u8,
        green_size: u8,
        blue_pos: u8,
        blue_size: u8,
        rsvd_pos: u8,
        rsvd_size: u8,
        gbl_caps: u32,
        mode_attrs: u16,
        pad: u16,
        ext_lfb_base: u32,
    }

    /// A bitmap a toolstack passes: CPUs or NUMA nodes.
    pub struct CtlBitmap("struct xenctl_bitmap", 16) {
        bitmap: GuestAddr,
        nr_bits: u32,
        _pad: u32,
    }
}

union_views!(StartInfo.console {
    /// The console ring's frame and port, in an unprivileged domain.
    console_domu, set_console_domu: StartInfoConsoleDomu,
    /// Where the screen's description is, in the initial domain.
    console_dom0, set_console_dom0: StartInfoConsoleDom0,
});

union_views!(Dom0VgaConsoleInfo.u {
    /// A text screen.
    text_mode_3, set_text_mode_3: VgaTextMode3,
    /// A linear frame buffer.
    vesa_lfb, set_vesa_lfb: VgaVesaLfb,
});

impl MmuextOp {
    /// `arg1.mfn`.
    pub const fn mfn(&self) -> Mfn {
        Mfn(self.arg1)
    }

    /// `arg1.linear_addr`.
    pub const fn linear_addr(&self) -> u64 {
        self.arg1
    }

    /// `arg2.nr_ents`.
    pub const fn nr_ents(&self) -> u32 {
        self.arg2 as u32
    }

    /// `arg2.vcpumask`.
    pub const fn vcpumask(&self) -> GuestAddr {
        GuestAddr(self.arg2)
    }

    /// `arg2.src_mfn`.
    pub const fn src_mfn(&self) -> Mfn {
        Mfn(self.arg2)
    }
}

impl VcpuTimeInfo {
    /// System time in nanoseconds at `tsc`, by this (consistently read) record. A TSC before the
    /// record's counts as the record's. Before and after wrap around: a guest whose TSC began at
    /// zero after the record was made has a record of a little less than 2^64.
    pub const fn system_time_at(&self, tsc: u64) -> u64 {
        let passed = tsc.wrapping_sub(self.tsc_timestamp);
        let passed = if passed > i64::MAX as u64 { 0 } else { passed };
        self.system_time.wrapping_add(scale_tsc(passed, self.tsc_to_system_mul, self.tsc_shift))
    }
}

/// Nanoseconds that `delta` TSC ticks are: `delta` shifted by `shift`, times `mul` / 2^32. Shifts of
/// 64 and more, which no sound record has, give what shifting bit by bit would: zero.
pub const fn scale_tsc(delta: u64, mul: u32, shift: i8) -> u64 {
    let amount = shift.unsigned_abs() as u32;
    let shifted = match (amount < 64, shift < 0) {
        (false, _) => 0,
        (true, true) => delta >> amount,
        (true, false) => delta << amount,
    };
    ((shifted as u128 * mul as u128) >> 32) as u64
}
