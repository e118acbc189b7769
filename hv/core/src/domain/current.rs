//! The vcpu that this CPU runs, as trap and hypercall handlers see it.

use super::{Context, Domain, Vcpu};
use crate::mm;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use hv_machine::x86_64::percpu;

/// The running vcpu with all that its handlers may touch.
pub struct Current<'a> {
    /// Its domain.
    pub dom: &'a Arc<Domain>,
    /// The vcpu.
    pub vcpu: &'a Arc<Vcpu>,
    /// What this CPU owns of it.
    pub cx: &'a mut Context,
}

impl Current<'_> {
    /// Goes from guest user to guest kernel mode: the other root table, the other GS base.
    pub fn to_kernel_mode(&mut self) {
        if !self.cx.cpu.kernel_mode() {
            self.cx.cpu.set_kernel_mode(true);
            self.cx.cpu.swap_gs();
            self.load_root();
        }
    }

    /// Goes to guest user mode. False: the guest has no root table for it.
    #[must_use]
    pub fn to_user_mode(&mut self) -> bool {
        if self.cx.cpu.user_root().is_none() {
            return false;
        }
        if self.cx.cpu.kernel_mode() {
            self.cx.cpu.set_kernel_mode(false);
            self.cx.cpu.swap_gs();
            self.load_root();
        }
        true
    }

    /// Loads the root table of the mode the vcpu is in (the idle root when it has none: the guest then
    /// faults at once).
    pub fn load_root(&mut self) {
        let root =
            if self.cx.cpu.kernel_mode() { self.cx.cpu.kernel_root() } else { self.cx.cpu.user_root() };
        mm::load_root(root);
    }

    /// Crashes the domain, with the registers of the first vcpu that does in the log. The vcpu does not run again.
    pub fn crash(&mut self, why: &str) {
        if !self.dom.crash_told.swap(true, Relaxed) {
            self.tell_of_crash(why);
        }
        super::lifecycle::shut_down(self.dom, shared_abi::sched::SHUTDOWN_CRASH);
    }

    fn tell_of_crash(&self, why: &str) {
        let r = self.cx.cpu.regs();
        log::error!(
            "d{}v{} crashed: {why}\n\
             rip {:04x}:{:016x} rflags {:08x} rsp {:04x}:{:016x} {} mode, vector {:#x} error {:#x}\n\
             rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x} rsi {:016x} rdi {:016x}\n\
             rbp {:016x} r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}\n\
             r13 {:016x} r14 {:016x} r15 {:016x} cr2 {:016x} cr3 {:016x}",
            self.dom.id,
            self.vcpu.id,
            r.cs,
            r.rip,
            r.rflags,
            r.ss,
            r.rsp,
            if self.cx.cpu.kernel_mode() { "kernel" } else { "user" },
            r.vector(),
            r.error_code,
            r.rax,
            r.rbx,
            r.rcx,
            r.rdx,
            r.rsi,
            r.rdi,
            r.rbp,
            r.r8,
            r.r9,
            r.r10,
            r.r11,
            r.r12,
            r.r13,
            r.r14,
            r.r15,
            self.vcpu.info.cr2(),
            self.cx.root().map_or(0, |m| m.address())
        );
    }

    /// Wants the run loop to look at this vcpu before the guest is entered again.
    pub fn attention(&self) {
        self.vcpu.attention.store(true, Relaxed);
        percpu::look();
    }
}
