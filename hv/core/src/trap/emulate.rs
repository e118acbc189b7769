//! The emulator's view of the running vcpu: its registers, its memory, and what its domain may do.

use crate::domain::Current;
use crate::emul::cpu::ControlError;
use crate::emul::cpuid::{Policy, TimeInfo, View};
use crate::emul::{Base, Cpu, DebugRegError, Fault, Gpr, PtWrite, PtWriteError};
use crate::error::Stop;
use crate::hypercall::{cpu_state, mmuext_op};
use crate::irq::pci;
use crate::mm::{frames, with_rights};
use alloc::sync::Arc;
use core::cell::OnceCell;
use core::sync::atomic::Ordering::Relaxed;
use hv_machine::frame::{Store, Table, Work};
use hv_machine::guest_mem;
use hv_machine::x86_64::{clock, cpu, port};
use shared_abi::{GuestAddr, Mfn};

/// The running vcpu, stopped at a fault.
pub struct GuestCpu<'a, 'b> {
    cur: &'a mut Current<'b>,
    /// Taken when it is asked for: few instructions do.
    policy: OnceCell<Arc<Policy>>,
    /// The page table that the fault's address is mapped onto.
    table: Option<Table<'static>>,
}

impl<'a, 'b> GuestCpu<'a, 'b> {
    pub fn new(cur: &'a mut Current<'b>) -> Self {
        GuestCpu { cur, policy: OnceCell::new(), table: None }
    }

    /// Stopped at a write to the L1 `table`.
    pub fn at_table(cur: &'a mut Current<'b>, table: Table<'static>) -> Self {
        GuestCpu { table: Some(table), ..Self::new(cur) }
    }

    /// Gives the table back.
    pub fn release_table(self) {
        if let Some(table) = self.table {
            table.release(&mut self.cur.cx.work);
        }
    }

    /// Page-fault error code of a failed access of the guest's: not present as far as we can say, by the
    /// mode it is in.
    fn fault(&self, address: u64, write: bool) -> Fault {
        let user = if self.cur.cx.cpu.kernel_mode() { 0 } else { 4 };
        Fault { address, error_code: user | if write { 2 } else { 0 } }
    }
}

fn control(r: Result<(), Stop>) -> Result<(), ControlError> {
    r.map_err(|e| if e == Stop::Retry { ControlError::Busy } else { ControlError::Refused })
}

impl Cpu for GuestCpu<'_, '_> {
    fn gpr(&self, reg: Gpr) -> u64 {
        let r = self.cur.cx.cpu.regs();
        match reg.index() {
            0 => r.rax,
            1 => r.rcx,
            2 => r.rdx,
            3 => r.rbx,
            4 => r.rsp,
            5 => r.rbp,
            6 => r.rsi,
            7 => r.rdi,
            8 => r.r8,
            9 => r.r9,
            10 => r.r10,
            11 => r.r11,
            12 => r.r12,
            13 => r.r13,
            14 => r.r14,
            _ => r.r15,
        }
    }
    fn set_gpr(&mut self, reg: Gpr, value: u64) {
        let r = self.cur.cx.cpu.regs_mut();
        *match reg.index() {
            0 => &mut r.rax,
            1 => &mut r.rcx,
            2 => &mut r.rdx,
            3 => &mut r.rbx,
            4 => &mut r.rsp,
            5 => &mut r.rbp,
            6 => &mut r.rsi,
            7 => &mut r.rdi,
            8 => &mut r.r8,
            9 => &mut r.r9,
            10 => &mut r.r10,
            11 => &mut r.r11,
            12 => &mut r.r12,
            13 => &mut r.r13,
            14 => &mut r.r14,
            _ => &mut r.r15,
        } = value;
    }
    fn rip(&self) -> u64 {
        self.cur.cx.cpu.regs().rip
    }
    fn set_rip(&mut self, rip: u64) {
        self.cur.cx.cpu.regs_mut().rip = rip;
    }
    fn rflags(&self) -> u64 {
        self.cur.cx.cpu.regs().rflags
    }
    fn set_rflags(&mut self, rflags: u64) {
        self.cur.cx.cpu.regs_mut().rflags = rflags;
    }
    fn base(&self, base: Base) -> u64 {
        match base {
            Base::Fs => cpu::fs_base(),
            Base::Gs => cpu::guest_gs_base(),
            Base::ShadowGs => self.cur.cx.cpu.gs_base_other(),
        }
    }
    fn set_base(&mut self, base: Base, value: u64) {
        match base {
            Base::Fs => cpu::set_fs_base(value),
            Base::Gs => cpu::set_guest_gs_base(value),
            Base::ShadowGs => self.cur.cx.cpu.set_gs_base_other(value),
        }
    }
    fn long_mode(&self) -> bool {
        // A selector of the guest's own table may be either; the flat one says so by itself.
        let cs = self.cur.cx.cpu.regs().cs & 0xffff;
        cs == u64::from(shared_abi::arch_x86::FLAT_RING3_CS64) || cpu::is_long_code(cs as u16)
    }
    fn kernel_mode(&self) -> bool {
        self.cur.cx.cpu.kernel_mode()
    }

    fn fetch(&mut self, va: u64, buf: &mut [u8]) -> usize {
        guest_mem::copy_in_some(buf, GuestAddr(va))
    }
    fn read(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault> {
        guest_mem::copy_in(buf, GuestAddr(va)).map_err(|_| self.fault(va, false))
    }
    fn write(&mut self, va: u64, buf: &[u8]) -> Result<(), Fault> {
        guest_mem::copy_out(GuestAddr(va), buf).map_err(|_| self.fault(va, true))
    }
    fn read_kernel(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault> {
        // The kernel's table maps the user's half as well; CR3 alone is exchanged for the read.
        crate::mm::load_root(self.cur.cx.cpu.kernel_root());
        let r = guest_mem::copy_in(buf, GuestAddr(va)).map_err(|_| self.fault(va, false));
        self.cur.load_root();
        r
    }
    fn pt_write(&mut self, w: PtWrite) -> Result<(), PtWriteError> {
        let cx = &mut *self.cur.cx;
        cx.work.refill(Work::BUDGET);
        if frames().settle(&mut cx.work).is_err() {
            return Err(PtWriteError::Busy);
        }
        // It is in the page whose fault this is (`page_table_write`).
        let table = self.table.as_ref().ok_or(PtWriteError::Refused)?;
        let store = w.expected.map_or(Store::Set, Store::IfIs);
        let index = (w.address & 0xfff) as usize / 8;
        let done = with_rights(self.cur.dom, self.cur.dom.id, |r| {
            frames().update_entry(table, index, w.new, store, r, &mut cx.work)
        });
        match done {
            Ok(old) if w.expected.is_none_or(|e| e == old) => Ok(()),
            Ok(_) => Err(PtWriteError::Mismatch),
            Err(hv_machine::frame::Stop::Again) => Err(PtWriteError::Busy),
            Err(_) => Err(PtWriteError::Refused),
        }
    }

    fn cr0(&self) -> u64 {
        cpu::read_cr0()
    }
    fn task_switched(&self) -> bool {
        self.cur.cx.task_switched
    }
    fn set_task_switched(&mut self, ts: bool) {
        cpu_state::set_task_switched(self.cur, ts);
    }
    fn cr2(&self) -> u64 {
        self.cur.vcpu.info.cr2()
    }
    fn set_cr2(&mut self, value: u64) {
        self.cur.cx.info.set_cr2(value);
    }
    fn cr3(&self) -> u64 {
        self.cur.cx.cpu.kernel_root().map_or(0, |r| r.mfn().address())
    }
    fn set_cr3(&mut self, value: u64) -> Result<(), ControlError> {
        self.cur.cx.work.refill(Work::BUDGET);
        control(mmuext_op::new_base(self.cur, Mfn(value >> 12)))
    }
    fn cr4(&self) -> u64 {
        self.cur.cx.cr4
    }
    fn host_cr4(&self) -> u64 {
        cpu::read_cr4()
    }
    fn set_cr4(&mut self, value: u64) {
        self.cur.cx.cr4 = value;
        cpu::set_guest_cr4(value);
    }
    fn dr(&self, n: u8) -> u64 {
        match n {
            0..=3 => self.cur.cx.cpu.dr[n as usize],
            6 => self.cur.cx.cpu.dr[4],
            _ => self.cur.cx.cpu.dr[5],
        }
    }
    fn set_dr(&mut self, n: u8, value: u64) -> Result<(), DebugRegError> {
        cpu_state::set_dr(self.cur, n.into(), value).map_err(|_| DebugRegError)
    }
    fn set_xcr0(&mut self, value: u64) {
        self.cur.cx.cpu.fpu.set_xcr0(value);
    }
    fn wbinvd(&mut self) {
        cpu::wbinvd();
    }

    fn tsc(&mut self) -> u64 {
        cpu::rdtsc()
    }
    fn tsc_aux(&self) -> u32 {
        self.cur.cx.tsc_aux
    }
    fn set_tsc_aux(&mut self, value: u32) {
        self.cur.cx.tsc_aux = value;
        cpu::set_tsc_aux(value);
    }
    fn host_msr(&mut self, msr: u32) -> Option<u64> {
        cpu::try_rdmsr(msr)
    }
    fn install_hypercall_page(&mut self, gfn: u64) -> Result<(), ControlError> {
        let f = crate::mm::hold_writable(self.cur.dom, Mfn(gfn))
            .map_err(|e| if e == Stop::Retry { ControlError::Busy } else { ControlError::Refused })?;
        crate::domain::dom0::write_hypercall_page(&f.page());
        Ok(())
    }

    fn policy(&self) -> &Policy {
        self.policy.get_or_init(|| self.cur.dom.policy.lock().clone())
    }
    fn cpuid_view(&self) -> View {
        let (mul, shift) = clock::guest_scale();
        View {
            vcpu: self.cur.vcpu.id,
            cr4: self.cur.cx.cr4,
            xcr0: self.cur.cx.cpu.fpu.xcr0,
            host_osxsave: cpu::xcr0_all() != 0,
            time: TimeInfo {
                khz: (clock::tsc_hz() / 1000) as u32,
                to_system_mul: mul,
                shift,
                host_khz: (clock::tsc_hz() / 1000) as u32,
                ..Default::default()
            },
            machine_address_width: (64 - (frames().frames() << 12).leading_zeros()) as u8,
        }
    }

    fn iopl(&self) -> u8 {
        self.cur.cx.iopl
    }
    fn architectural_iopl(&self) -> bool {
        self.cur.dom.architectural_iopl()
    }
    fn io_bitmap(&self) -> Option<(u64, u32)> {
        self.cur.cx.io_bitmap
    }
    fn ports_permitted(&self, first: u16, last: u16) -> bool {
        self.cur.dom.rights.lock().may_use_ports(first, last)
    }
    fn port_in(&mut self, p: u16, size: u8) -> u32 {
        port::read(p, size)
    }
    fn port_out(&mut self, p: u16, size: u8, value: u32) {
        crate::power::about_to_write(p, value);
        port::write(p, value, size);
    }
    fn cache_flush_permitted(&self) -> bool {
        self.cur.dom.control
    }
    fn hardware_domain(&self) -> bool {
        self.cur.dom.control
    }
    fn pci_latch(&self) -> u32 {
        self.cur.dom.pci_latch.load(Relaxed)
    }
    fn set_pci_latch(&mut self, value: u32) {
        self.cur.dom.pci_latch.store(value, Relaxed);
    }
    fn pci_config_read(&mut self, address: u32, offset: u8, size: u8) -> u32 {
        pci::read_by_latch(address, offset, size)
    }
    fn pci_config_write(&mut self, address: u32, offset: u8, size: u8, value: u32) {
        pci::write_by_latch(address, offset, size, value);
    }
    fn cmos_index(&self) -> u8 {
        self.cur.dom.cmos_index.load(Relaxed)
    }
    fn set_cmos_index(&mut self, index: u8) {
        self.cur.dom.cmos_index.store(index, Relaxed);
    }
    fn cmos_read(&mut self, index: u8) -> u8 {
        crate::time_of_day::cmos_read(index)
    }
    fn cmos_write(&mut self, index: u8, value: u8) {
        crate::time_of_day::cmos_write(index, value);
    }
}
