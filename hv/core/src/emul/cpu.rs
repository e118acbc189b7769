//! [`Cpu`]: everything the emulator asks of the machine and of the domain it works for.
//!
//! One implementation wires the emulator into the hypervisor, one (in `tests`) is a model. The
//! rule of the division: decisions that Xen's ABI fixes are in this directory, effects are in the
//! implementation. No method here is asked to judge an instruction.

use super::cpuid::{Policy, View};
use super::operand::Gpr;

/// A guest access that failed, as the page fault that it would raise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The linear address of the first byte that could not be accessed: CR2.
    pub address: u64,
    /// The page-fault error code, with the U bit as a PV guest sees it.
    pub error_code: u32,
}

/// The segment bases that a 64-bit guest has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// FS.
    Fs,
    /// GS as the running mode uses it.
    Gs,
    /// GS of the other mode: what a guest's `swapgs` would exchange with [`Base::Gs`]
    /// (`MSR_SHADOW_GS_BASE`; the user base of a guest in kernel mode).
    ShadowGs,
}

/// Why a debug register could not be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DebugRegError;

/// A store to an entry of a page table that the guest can read but not write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PtWrite {
    /// Linear address of the entry, a multiple of 8 within the page that faulted.
    pub address: u64,
    /// The entry to be written, as the guest composed it.
    pub new: u64,
    /// Write only if the entry still is this, in one atomic step; `None`: whatever it is.
    pub expected: Option<u64>,
}

/// Why a page-table entry was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PtWriteError {
    /// The entry was not [`PtWrite::expected`]: another vcpu, or the processor's accessed and
    /// dirty bits, came first.
    Mismatch,
    /// The frame is no page table of level 1, or the domain may not map what `new` names.
    Refused,
    /// Try again after a look at pending work (the frame's type is being changed).
    Busy,
}

/// What a domain may not do, or asked for wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlError {
    /// Not allowed, or no such value.
    Refused,
    /// Validation was preempted: resume and let the instruction fault again.
    Busy,
}

/// One vcpu, stopped at a fault, with its domain's permissions.
pub trait Cpu {
    // ---- registers

    /// A general-purpose register.
    fn gpr(&self, reg: Gpr) -> u64;
    /// Sets a general-purpose register, all 64 bits.
    fn set_gpr(&mut self, reg: Gpr, value: u64);
    /// The instruction pointer.
    fn rip(&self) -> u64;
    /// Sets the instruction pointer. The emulator passes canonical guest addresses only.
    fn set_rip(&mut self, rip: u64);
    /// The flags, IF and IOPL as the hardware holds them.
    fn rflags(&self) -> u64;
    /// Sets the flags. Only the arithmetic flags and RF are ever changed.
    fn set_rflags(&mut self, rflags: u64);
    /// A segment base.
    fn base(&self, base: Base) -> u64;
    /// Sets a segment base; the emulator passes canonical addresses only.
    fn set_base(&mut self, base: Base, value: u64);
    /// Whether CS is a 64-bit code segment.
    fn long_mode(&self) -> bool;
    /// Whether the vcpu is in guest kernel mode (else guest user mode; both are ring 3).
    fn kernel_mode(&self) -> bool;

    // ---- memory, through the page tables in use

    /// Reads instruction bytes at `va`, as many as are mapped (and executable), from the first on.
    /// Returns their number. The range is checked against the hypervisor's beforehand.
    fn fetch(&mut self, va: u64, buf: &mut [u8]) -> usize;
    /// Reads all of `buf`, or nothing. The range is checked beforehand.
    fn read(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault>;
    /// Writes all of `buf`, or nothing. The range is checked beforehand.
    fn write(&mut self, va: u64, buf: &[u8]) -> Result<(), Fault>;
    /// As [`Cpu::read`], through the guest kernel's page tables whichever mode runs: for the I/O
    /// bitmap.
    fn read_kernel(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault>;
    /// Commits a store to a page-table entry, after validating the new entry.
    fn pt_write(&mut self, write: PtWrite) -> Result<(), PtWriteError>;

    // ---- control and debug registers

    /// The hardware's CR0, TS excepted (it is replaced by [`Cpu::task_switched`]).
    fn cr0(&self) -> u64;
    /// The guest's CR0.TS.
    fn task_switched(&self) -> bool;
    /// Sets the guest's CR0.TS, as the hypercall `fpu_taskswitch` does.
    fn set_task_switched(&mut self, ts: bool);
    /// The guest's CR2.
    fn cr2(&self) -> u64;
    /// Sets the guest's CR2.
    fn set_cr2(&mut self, value: u64);
    /// The machine address of the kernel's L4 table: what a PV guest sees as CR3.
    fn cr3(&self) -> u64;
    /// Loads a new kernel L4 table, as `MMUEXT_NEW_BASEPTR` does with `value >> 12`.
    fn set_cr3(&mut self, value: u64) -> Result<(), ControlError>;
    /// The guest's CR4, as [`privop::guest_cr4`](super::privop::guest_cr4) composed it.
    fn cr4(&self) -> u64;
    /// The hardware's CR4 while the hypervisor runs.
    fn host_cr4(&self) -> u64;
    /// Makes `value`, already composed, the guest's CR4 (TSD, DE, FSGSBASE and OSXSAVE take
    /// effect).
    fn set_cr4(&mut self, value: u64);
    /// A debug register: 0 to 3, 6 or 7.
    fn dr(&self, n: u8) -> u64;
    /// Sets a debug register (0 to 3, 6 or 7) as the hypercall `set_debugreg` does, with its checks.
    fn set_dr(&mut self, n: u8, value: u64) -> Result<(), DebugRegError>;
    /// The extended control register `index` (only 0 exists) and its new value; already checked
    /// by [`privop::valid_xcr0`](super::privop::valid_xcr0) against the policy.
    fn set_xcr0(&mut self, value: u64);
    /// Writes back and invalidates caches: a domain with devices of its own asked.
    fn wbinvd(&mut self);

    // ---- model-specific registers

    /// The guest's time stamp counter.
    fn tsc(&mut self) -> u64;
    /// `MSR_TSC_AUX`, what RDTSCP leaves in ECX.
    fn tsc_aux(&self) -> u32;
    /// Sets `MSR_TSC_AUX`.
    fn set_tsc_aux(&mut self, value: u32);
    /// The hardware's register, `None` where it has none. Asked only for the registers in
    /// [`msr::HOST_READABLE`](super::msr::HOST_READABLE).
    fn host_msr(&mut self, msr: u32) -> Option<u64>;
    /// Writes the hypercall page into the guest frame `gfn`, which must be writable memory of the
    /// domain (the page of `HYPERCALL_PAGE` MSR writes).
    fn install_hypercall_page(&mut self, gfn: u64) -> Result<(), ControlError>;

    // ---- CPUID

    /// What the domain may see of the processor.
    fn policy(&self) -> &Policy;
    /// The state of this vcpu that shows in CPUID.
    fn cpuid_view(&self) -> View;

    // ---- ports

    /// The vcpu's virtual IOPL, 0 to 3 (`PHYSDEVOP_set_iopl`).
    fn iopl(&self) -> u8;
    /// Whether the domain enabled `VMASST_TYPE_architectural_iopl`.
    fn architectural_iopl(&self) -> bool;
    /// Linear address and number of ports of the vcpu's I/O bitmap (`PHYSDEVOP_set_iobitmap`).
    fn io_bitmap(&self) -> Option<(u64, u32)>;
    /// Whether the domain may access all of these ports directly.
    fn ports_permitted(&self, first: u16, last: u16) -> bool;
    /// Reads a port, `size` 1, 2 or 4.
    fn port_in(&mut self, port: u16, size: u8) -> u32;
    /// Writes a port, `size` 1, 2 or 4.
    fn port_out(&mut self, port: u16, size: u8, value: u32);
    /// Whether the domain has devices or I/O memory of its own (its WBINVD is obeyed).
    fn cache_flush_permitted(&self) -> bool;
    /// Whether this is the hardware domain.
    fn hardware_domain(&self) -> bool;
    /// The domain's latch of port 0xCF8.
    fn pci_latch(&self) -> u32;
    /// Sets the domain's latch of port 0xCF8.
    fn set_pci_latch(&mut self, value: u32);
    /// Reads PCI configuration space as ports 0xCF8/0xCFC do: `address` has the latch's format
    /// with its enable bit set; `offset` (0 to 3) and `size` stay within the dword. Asked for the
    /// hardware domain only.
    fn pci_config_read(&mut self, address: u32, offset: u8, size: u8) -> u32;
    /// Writes PCI configuration space, or drops the write to a device or register that the
    /// hypervisor keeps (serial console, MSI-X tables it owns).
    fn pci_config_write(&mut self, address: u32, offset: u8, size: u8, value: u32);
    /// The domain's latch of the CMOS index port 0x70.
    fn cmos_index(&self) -> u8;
    /// Sets the domain's latch of the CMOS index port.
    fn set_cmos_index(&mut self, index: u8);
    /// Reads the CMOS register `index` (0 to 127), index and data in one locked step.
    fn cmos_read(&mut self, index: u8) -> u8;
    /// Writes the CMOS register `index` (0 to 127).
    fn cmos_write(&mut self, index: u8, value: u8);
}
