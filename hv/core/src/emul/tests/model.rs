//! A model of a vcpu and its domain: plain memory by byte, registers in arrays, and a log of what
//! was done to the machine.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::vec::Vec;

use crate::emul::cpu::{Base, ControlError, Cpu, DebugRegError, Fault, PtWrite, PtWriteError};
use crate::emul::cpuid::{Kind, Leaf, Policy, TimeInfo, View};
use crate::emul::operand::Gpr;
use crate::emul::privop::{CR4_OSXSAVE, guest_cr4};

/// Where tests put their code.
pub const CODE: u64 = 0xffff_ffff_8010_0000;
/// The CR4 of the model's hardware: PAE, MCE, PGE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE.
pub const HOST_CR4: u64 = 0x506e0;

/// What reached the machine, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    In(u16, u8),
    Out(u16, u8, u32),
    PciRead(u32, u8, u8),
    PciWrite(u32, u8, u8, u32),
    CmosRead(u8),
    CmosWrite(u8, u8),
    Wbinvd,
    HypercallPage(u64),
    PtWrite(PtWrite),
    Xcr0(u64),
}

#[derive(Debug)]
pub struct Model {
    pub gprs: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub bases: [u64; 3],
    pub long_mode: bool,
    pub kernel: bool,
    pub memory: BTreeMap<u64, u8>,
    /// Writes at or above this address fault.
    pub read_only_from: u64,
    pub crs: [u64; 5],
    pub task_switched: bool,
    pub drs: [u64; 8],
    pub tsc_aux: u32,
    pub policy: Policy,
    pub vcpu: u32,
    pub xcr0: u64,
    pub iopl: u8,
    pub architectural_iopl: bool,
    pub bitmap: Option<(u64, u32)>,
    pub permitted: Vec<(u16, u16)>,
    pub hardware_domain: bool,
    pub pci_latch: u32,
    pub cmos_index: u8,
    pub host_msrs: BTreeMap<u32, u64>,
    pub cr3_answer: Result<(), ControlError>,
    pub pt_answer: Result<(), PtWriteError>,
    pub done: Vec<Done>,
}

impl Model {
    /// A hardware domain's first vcpu in kernel mode, with `code` at [`CODE`].
    pub fn new(code: &[u8]) -> Model {
        static POLICY: OnceLock<Policy> = OnceLock::new();
        let policy = || Policy::new(super::cpuid::golden("max").native(), 0, Kind::HardwareDomain);
        let policy = POLICY.get_or_init(policy).clone();
        let cr4 = guest_cr4(&policy, HOST_CR4, 0);
        let mut model = Model {
            gprs: [0; 16],
            rip: CODE,
            rflags: 0x202,
            bases: [0; 3],
            long_mode: true,
            kernel: true,
            memory: BTreeMap::new(),
            read_only_from: u64::MAX,
            crs: [0x8005_0033, 0, 0, 0x1ed5_c000, cr4],
            task_switched: false,
            drs: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            tsc_aux: 0,
            policy,
            vcpu: 0,
            xcr0: 3,
            iopl: 0,
            architectural_iopl: false,
            bitmap: None,
            permitted: Vec::new(),
            hardware_domain: true,
            pci_latch: 0,
            cmos_index: 0,
            host_msrs: BTreeMap::new(),
            cr3_answer: Ok(()),
            pt_answer: Ok(()),
            done: Vec::new(),
        };
        model.put(CODE, code);
        model
    }

    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            self.memory.insert(at.wrapping_add(i as u64), *byte);
        }
    }

    pub fn get64(&self, at: u64) -> u64 {
        (0..8).map(|i| u64::from(*self.memory.get(&(at + i)).unwrap_or(&0)) << (8 * i)).sum()
    }

    fn peek(&self, va: u64, buf: &mut [u8]) -> Result<(), Fault> {
        for (i, byte) in buf.iter_mut().enumerate() {
            let address = va + i as u64;
            *byte = *self.memory.get(&address).ok_or(Fault { address, error_code: 4 })?;
        }
        Ok(())
    }
}

impl Cpu for Model {
    fn gpr(&self, reg: Gpr) -> u64 {
        self.gprs[reg.index()]
    }
    fn set_gpr(&mut self, reg: Gpr, value: u64) {
        self.gprs[reg.index()] = value;
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn set_rip(&mut self, rip: u64) {
        assert!(crate::emul::canonical(rip), "rip {rip:#x}");
        self.rip = rip;
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, rflags: u64) {
        assert_eq!((rflags ^ self.rflags) & !0x1_08d5, 0, "a flag that is not arithmetic, nor RF");
        self.rflags = rflags;
    }
    fn base(&self, base: Base) -> u64 {
        self.bases[base as usize]
    }
    fn set_base(&mut self, base: Base, value: u64) {
        assert!(crate::emul::canonical(value));
        self.bases[base as usize] = value;
    }
    fn long_mode(&self) -> bool {
        self.long_mode
    }
    fn kernel_mode(&self) -> bool {
        self.kernel
    }
    fn fetch(&mut self, va: u64, buf: &mut [u8]) -> usize {
        assert!(crate::emul::guest_range(va, buf.len()));
        let mut len = 0;
        while len < buf.len() && self.peek(va + len as u64, &mut buf[len..=len]).is_ok() {
            len += 1;
        }
        len
    }
    fn read(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault> {
        assert!(crate::emul::guest_range(va, buf.len()));
        self.peek(va, buf)
    }
    fn write(&mut self, va: u64, buf: &[u8]) -> Result<(), Fault> {
        assert!(crate::emul::guest_range(va, buf.len()));
        if va.saturating_add(buf.len() as u64) > self.read_only_from {
            return Err(Fault { address: va.max(self.read_only_from), error_code: 7 });
        }
        self.put(va, buf);
        Ok(())
    }
    fn read_kernel(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault> {
        self.read(va, buf)
    }
    fn pt_write(&mut self, write: PtWrite) -> Result<(), PtWriteError> {
        assert_eq!(write.address % 8, 0);
        assert!(crate::emul::guest_range(write.address, 8));
        self.pt_answer?;
        if write.expected.is_some_and(|expected| expected != self.get64(write.address)) {
            return Err(PtWriteError::Mismatch);
        }
        self.done.push(Done::PtWrite(write));
        self.put(write.address, &write.new.to_le_bytes());
        Ok(())
    }
    fn cr0(&self) -> u64 {
        self.crs[0]
    }
    fn task_switched(&self) -> bool {
        self.task_switched
    }
    fn set_task_switched(&mut self, ts: bool) {
        self.task_switched = ts;
    }
    fn cr2(&self) -> u64 {
        self.crs[2]
    }
    fn set_cr2(&mut self, value: u64) {
        self.crs[2] = value;
    }
    fn cr3(&self) -> u64 {
        self.crs[3]
    }
    fn set_cr3(&mut self, value: u64) -> Result<(), ControlError> {
        self.cr3_answer?;
        self.crs[3] = value;
        Ok(())
    }
    fn cr4(&self) -> u64 {
        self.crs[4]
    }
    fn host_cr4(&self) -> u64 {
        HOST_CR4
    }
    fn set_cr4(&mut self, value: u64) {
        self.crs[4] = value;
    }
    fn dr(&self, n: u8) -> u64 {
        self.drs[usize::from(n)]
    }
    fn set_dr(&mut self, n: u8, value: u64) -> Result<(), DebugRegError> {
        assert!(!matches!(n, 4 | 5));
        if value >> 48 == 0xffff {
            return Err(DebugRegError);
        }
        self.drs[usize::from(n)] = value;
        Ok(())
    }
    fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
        self.done.push(Done::Xcr0(value));
    }
    fn wbinvd(&mut self) {
        self.done.push(Done::Wbinvd);
    }
    fn tsc(&mut self) -> u64 {
        0x1234_5678_9abc
    }
    fn tsc_aux(&self) -> u32 {
        self.tsc_aux
    }
    fn set_tsc_aux(&mut self, value: u32) {
        self.tsc_aux = value;
    }
    fn host_msr(&mut self, msr: u32) -> Option<u64> {
        assert!(crate::emul::msr::HOST_READABLE.contains(&msr));
        self.host_msrs.get(&msr).copied()
    }
    fn install_hypercall_page(&mut self, gfn: u64) -> Result<(), ControlError> {
        self.done.push(Done::HypercallPage(gfn));
        Ok(())
    }
    fn policy(&self) -> &Policy {
        &self.policy
    }
    fn cpuid_view(&self) -> View {
        View {
            vcpu: self.vcpu,
            cr4: self.crs[4],
            xcr0: self.xcr0,
            host_osxsave: HOST_CR4 & CR4_OSXSAVE != 0,
            time: TimeInfo { host_khz: 2_596_147, ..TimeInfo::default() },
            machine_address_width: 29,
        }
    }
    fn iopl(&self) -> u8 {
        self.iopl
    }
    fn architectural_iopl(&self) -> bool {
        self.architectural_iopl
    }
    fn io_bitmap(&self) -> Option<(u64, u32)> {
        self.bitmap
    }
    fn ports_permitted(&self, first: u16, last: u16) -> bool {
        self.permitted.iter().any(|(low, high)| *low <= first && last <= *high)
    }
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        self.done.push(Done::In(port, size));
        0xa5a5_0000 | u32::from(port)
    }
    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        self.done.push(Done::Out(port, size, value));
    }
    fn cache_flush_permitted(&self) -> bool {
        self.hardware_domain
    }
    fn hardware_domain(&self) -> bool {
        self.hardware_domain
    }
    fn pci_latch(&self) -> u32 {
        self.pci_latch
    }
    fn set_pci_latch(&mut self, value: u32) {
        self.pci_latch = value;
    }
    fn pci_config_read(&mut self, address: u32, offset: u8, size: u8) -> u32 {
        assert!(offset + size <= 4 && size.is_power_of_two());
        self.done.push(Done::PciRead(address, offset, size));
        0x1237_8086 >> (8 * offset)
    }
    fn pci_config_write(&mut self, address: u32, offset: u8, size: u8, value: u32) {
        assert!(offset + size <= 4 && size.is_power_of_two());
        self.done.push(Done::PciWrite(address, offset, size, value));
    }
    fn cmos_index(&self) -> u8 {
        self.cmos_index
    }
    fn set_cmos_index(&mut self, index: u8) {
        self.cmos_index = index;
    }
    fn cmos_read(&mut self, index: u8) -> u8 {
        self.done.push(Done::CmosRead(index));
        index ^ 0xff
    }
    fn cmos_write(&mut self, index: u8, value: u8) {
        self.done.push(Done::CmosWrite(index, value));
    }
}

/// What CPUID leaves, for tests that write it down.
pub fn leaf(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Leaf {
    Leaf { eax, ebx, ecx, edx }
}
