//! Restates `arch-x86/xen.h` and `arch-x86/xen-x86_64.h`: what x86-64 adds to the common ABI.

mod bounce;
pub mod xen_mca;
pub use bounce::{BounceFrame, BounceFrameError, CS_UPCALL_MASK_SHIFT, FailsafeFrame};

abi_constants! {
    "A flat ring-3 selector of the hypervisor's GDT, where PV kernels and their programs both run.": u16 {
        FLAT_RING3_CS32 = 0xe023,
        FLAT_RING3_CS64 = 0xe033,
        FLAT_RING3_DS32 = 0xe02b,
        FLAT_RING3_DS64 = 0x0000,
        FLAT_RING3_SS32 = 0xe02b,
        FLAT_RING3_SS64 = 0xe02b,
        FLAT_KERNEL_DS64 = FLAT_RING3_DS64,
        FLAT_KERNEL_DS32 = FLAT_RING3_DS32,
        FLAT_KERNEL_DS = FLAT_KERNEL_DS64,
        FLAT_KERNEL_CS64 = FLAT_RING3_CS64,
        FLAT_KERNEL_CS32 = FLAT_RING3_CS32,
        FLAT_KERNEL_CS = FLAT_KERNEL_CS64,
        FLAT_KERNEL_SS64 = FLAT_RING3_SS64,
        FLAT_KERNEL_SS32 = FLAT_RING3_SS32,
        FLAT_KERNEL_SS = FLAT_KERNEL_SS64,
        FLAT_USER_DS64 = FLAT_RING3_DS64,
        FLAT_USER_DS32 = FLAT_RING3_DS32,
        FLAT_USER_DS = FLAT_USER_DS64,
        FLAT_USER_CS64 = FLAT_RING3_CS64,
        FLAT_USER_CS32 = FLAT_RING3_CS32,
        FLAT_USER_CS = FLAT_USER_CS64,
        FLAT_USER_SS64 = FLAT_RING3_SS64,
        FLAT_USER_SS32 = FLAT_RING3_SS32,
        FLAT_USER_SS = FLAT_USER_SS64,
    }
    "The address range reserved to the hypervisor (L4 slots 256 to 271) and the machine-to-physical table in it.": u64 {
        HYPERVISOR_VIRT_START = 0xffff_8000_0000_0000,
        HYPERVISOR_VIRT_END = 0xffff_8800_0000_0000,
        MACH2PHYS_VIRT_START = 0xffff_8000_0000_0000,
        MACH2PHYS_VIRT_END = 0xffff_8040_0000_0000,
        MACH2PHYS_NR_ENTRIES = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3,
    }
    "`set_segment_base`: which base.": u32 {
        SEGBASE_FS = 0,
        SEGBASE_GS_USER = 1,
        SEGBASE_GS_KERNEL = 2,
        /// Sets the user GS selector instead of a base.
        SEGBASE_GS_USER_SEL = 3,
    }
    "`VcpuGuestContext::flags`; `VGCF_IN_SYSCALL` also `IretContext::flags`.": u64 {
        VGCF_I387_VALID = 1 << 0,
        VGCF_IN_KERNEL = 1 << 2,
        VGCF_FAILSAFE_DISABLES_EVENTS = 1 << 3,
        VGCF_SYSCALL_DISABLES_EVENTS = 1 << 4,
        VGCF_ONLINE = 1 << 5,
        VGCF_IN_SYSCALL = 1 << 8,
    }
    "Where the guest's descriptors end in a GDT: the pages, bytes, entries from here on are the hypervisor's.": usize {
        FIRST_RESERVED_GDT_PAGE = 14,
        FIRST_RESERVED_GDT_BYTE = FIRST_RESERVED_GDT_PAGE * 4096,
        FIRST_RESERVED_GDT_ENTRY = FIRST_RESERVED_GDT_BYTE / 8,
    }
    "Vcpus that have their `VcpuInfo` in the shared info page.": usize {
        XEN_LEGACY_MAX_VCPUS = 32,
    }
    "`ArchDomainconfig::emulation_flags`: a device the hypervisor emulates.": u32 {
        XEN_X86_EMU_LAPIC = 1 << 0,
        XEN_X86_EMU_HPET = 1 << 1,
        XEN_X86_EMU_PM = 1 << 2,
        XEN_X86_EMU_RTC = 1 << 3,
        XEN_X86_EMU_IOAPIC = 1 << 4,
        XEN_X86_EMU_PIC = 1 << 5,
        XEN_X86_EMU_VGA = 1 << 6,
        XEN_X86_EMU_IOMMU = 1 << 7,
        /// The only one a PV domain may have.
        XEN_X86_EMU_PIT = 1 << 8,
        XEN_X86_EMU_USE_PIRQ = 1 << 9,
        XEN_X86_EMU_VPCI = 1 << 10,
        XEN_X86_EMU_ALL = 0x7ff,
    }
    "`ArchDomainconfig::misc_flags`.": u32 {
        /// Reads of unknown MSRs give zero instead of a fault.
        XEN_X86_MSR_RELAXED = 1 << 0,
        XEN_X86_MISC_FLAGS_MAX = XEN_X86_MSR_RELAXED,
    }
    "`CpuidLeaf::subleaf` of a leaf that has none.": u32 {
        XEN_CPUID_NO_SUBLEAF = 0xffff_ffff,
    }
    "The debug console's port in a translated guest.": u16 {
        XEN_HVM_DEBUGCONS_IOPORT = 0xe9,
    }
}

/// `XEN_EMULATE_PREFIX`: `ud2` and "xen" before an instruction ask the hypervisor to emulate it.
pub const XEN_EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, b'x', b'e', b'n'];
/// Slots of an L4 table that hold the hypervisor's own mappings in every address space.
pub const HYPERVISOR_L4_SLOTS: core::ops::Range<usize> = 256..272;
/// `TrapInfo::flags`: the ring from which software may raise the trap.
pub const TI_DPL_MASK: u8 = 3;
/// `TrapInfo::flags`: events are masked on entry to the handler.
pub const TI_IF: u8 = 4;

abi_structs! {
    /// One entry of a trap table.
    pub struct TrapInfo("struct trap_info", 16) {
        vector: u8,
        /// `TI_DPL_MASK`, `TI_IF`.
        flags: u8,
        cs: u16,
        _pad: u32,
        address: u64,
    }

    /// A vcpu's general registers. An event upcall's and trap's frames are other, smaller things.
    pub struct CpuUserRegs("struct cpu_user_regs", 200) {
        r15: u64,
        r14: u64,
        r13: u64,
        r12: u64,
        rbp: u64,
        rbx: u64,
        r11: u64,
        r10: u64,
        r9: u64,
        r8: u64,
        rax: u64,
        rcx: u64,
        rdx: u64,
        rsi: u64,
        rdi: u64,
        error_code: u32,
        entry_vector: u32,
        rip: u64,
        cs: u16,
        _pad0: [u16; 1],
        saved_upcall_mask: u8,
        _pad1: [u8; 3],
        rflags: u64,
        rsp: u64,
        ss: u16,
        _pad2: [u16; 3],
        es: u16,
        _pad3: [u16; 3],
        ds: u16,
        _pad4: [u16; 3],
        fs: u16,
        _pad5: [u16; 3],
        gs: u16,
        _pad6: [u16; 3],
    }

    /// The frame on the guest's stack that the `iret` hypercall returns through.
    pub struct IretContext("struct iret_context", 72) {
        rax: u64,
        r11: u64,
        rcx: u64,
        /// `VGCF_IN_SYSCALL`: restore `rcx` and `r11` as `sysret` would.
        flags: u64,
        rip: u64,
        cs: u64,
        rflags: u64,
        rsp: u64,
        ss: u64,
    }

    /// A PV vcpu's whole state: `VCPUOP_INITIALISE`, `XEN_DOMCTL_SETVCPUCONTEXT`.
    pub struct VcpuGuestContext("struct vcpu_guest_context", 5168) {
        /// In `fxsave` form.
        fpu_ctxt: [u8; 512],
        flags: u64,
        user_regs: CpuUserRegs,
        trap_ctxt: [TrapInfo; 256],
        ldt_base: u64,
        ldt_ents: u64,
        gdt_frames: [u64; 16],
        gdt_ents: u64,
        kernel_ss: u64,
        kernel_sp: u64,
        /// CR0 to CR7; a 64-bit guest's user page tables are in CR1.
        ctrlreg: [u64; 8],
        debugreg: [u64; 8],
        event_callback_eip: u64,
        failsafe_callback_eip: u64,
        syscall_callback_eip: u64,
        /// A bit for each `VMASST_TYPE_*`.
        vm_assist: u64,
        fs_base: u64,
        gs_base_kernel: u64,
        gs_base_user: u64,
    }

    /// x86's part of the shared info page.
    pub struct ArchSharedInfo("struct arch_shared_info", 48) {
        max_pfn: u64,
        pfn_to_mfn_frame_list_list: u64,
        nmi_reason: u64,
        p2m_cr3: u64,
        p2m_vaddr: u64,
        p2m_generation: u64,
    }

    /// x86's part of a vcpu's info.
    pub struct ArchVcpuInfo("struct arch_vcpu_info", 16) {
        /// The faulting address of the last page fault delivered.
        cr2: u64,
        pad: u64,
    }

    /// x86's part of `DomctlCreatedomain`.
    pub struct ArchDomainconfig("struct xen_arch_domainconfig", 8) {
        emulation_flags: u32,
        misc_flags: u32,
    }

    /// One leaf of a CPUID policy.
    pub struct CpuidLeaf("struct xen_cpuid_leaf", 24) {
        leaf: u32,
        subleaf: u32,
        a: u32,
        b: u32,
        c: u32,
        d: u32,
    }

    /// One register of an MSR policy.
    pub struct MsrEntry("struct xen_msr_entry", 16) {
        idx: u32,
        flags: u32,
        val: u64,
    }
}

impl TrapInfo {
    /// The ring from which software may raise this trap (`int n`).
    pub const fn dpl(&self) -> u8 {
        self.flags & TI_DPL_MASK
    }

    /// Whether events are masked on entry to the handler.
    pub const fn masks_events(&self) -> bool {
        self.flags & TI_IF != 0
    }
}
