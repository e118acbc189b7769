//! A virtual CPU: what everybody may look at ([`Vcpu`]), and what only the CPU that runs it touches
//! ([`Context`], locked for as long as it runs).

use super::Domain;
use super::info::Info;
use crate::sched::CpuSet;
use crate::time::{Runstate, VcpuTimer};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use hv_machine::frame::Work;
use hv_machine::heap::try_arc;
use hv_machine::lock::{Mutex, rank};
use hv_machine::vcpu::{SyscallEntry, VcpuState};
use hv_machine::x86_64::{apic, clock, percpu};
use shared_abi::arch_x86::TrapInfo;
use shared_abi::{Errno, Mfn};

/// Why a vcpu may not run, as bits of [`Vcpu::blocked`]. It runs when none is set.
pub mod pause {
    /// It was never brought up, or went down (`VCPUOP_down`).
    pub const DOWN: u32 = 1 << 0;
    /// It waits for an event (`SCHEDOP_block`, `SCHEDOP_poll`).
    pub const BLOCKED: u32 = 1 << 1;
    /// Its domain is paused, shut down or dying.
    pub const DOMAIN: u32 = 1 << 2;
}

/// An entry point of the guest's kernel with its flag.
#[derive(Clone, Copy, Default, Debug)]
pub struct Callback {
    /// Address; zero: not set.
    pub address: u64,
    /// Events are masked when it is entered.
    pub mask_events: bool,
}

/// A vcpu.
pub struct Vcpu {
    /// Number within its domain.
    pub id: u32,
    /// Name for the scheduler: unique while it lives.
    pub handle: u32,
    /// Its domain (weak: the domain owns its vcpus).
    pub domain: Weak<Domain>,
    /// Locked by the CPU that runs it, for as long as it does.
    pub context: Arc<Mutex<Context>>,
    /// The CPU that runs it now or idles with it loaded, or `u32::MAX`.
    pub running_on: AtomicU32,
    /// The CPU that it last ran on.
    pub last_cpu: AtomicU32,
    /// Reasons of [`pause`].
    pub blocked: AtomicU32,
    /// Where its vcpu_info lies: mfn and byte offset in the frame.
    pub info: super::info::InfoSlot,
    /// How long it was in which state.
    pub runstate: Mutex<Runstate>,
    /// Guest address of the registered runstate area, or 0.
    pub runstate_area: AtomicU64,
    /// Guest address of the registered time area, or 0.
    pub time_area: AtomicU64,
    /// Its timers.
    pub timers: Mutex<Timers>,
    /// Set while an exit to the run loop is wanted before the guest is entered again. Whoever sets it has the CPU that
    /// runs the vcpu look (`percpu::look`, by an interrupt where that is another).
    pub attention: AtomicBool,
    /// An NMI waits to be delivered.
    pub nmi: AtomicBool,
    /// The CPU that has its registers is to log them.
    pub to_show: AtomicBool,
    /// While it is bound to one CPU (`SCHEDOP_pin_override`): where else it may run.
    pub affinity: Mutex<Option<CpuSet>>,
}

/// What may wake a vcpu at a certain time.
#[derive(Default)]
pub struct Timers {
    /// The single-shot and the periodic timer.
    pub timer: VcpuTimer,
    /// When its `SCHEDOP_poll` gives up.
    pub poll: Option<u64>,
    /// When to look at the domain's watchdogs, one of which it set.
    pub watchdog: Option<u64>,
    /// The CPU that watches for the next deadline while it doesn't run, and that deadline.
    pub queued: Option<(usize, u64)>,
}

impl Timers {
    /// The next deadline; `u64::MAX` when there is none.
    pub fn next(&self, running: bool) -> u64 {
        self.timer.next(running).min(self.poll.unwrap_or(u64::MAX)).min(self.watchdog.unwrap_or(u64::MAX))
    }
}

/// What the CPU that runs a vcpu owns.
pub struct Context {
    /// Registers and vector state.
    pub cpu: VcpuState,
    /// Whether the guest's registers were set (`VCPUOP_initialise`, `setvcpucontext`).
    pub initialised: bool,
    /// The guest's trap table. (`CALLBACKTYPE_nmi` is its gate 2.)
    pub traps: Box<[TrapInfo; 256]>,
    /// `CALLBACKTYPE_event`.
    pub event: u64,
    /// `CALLBACKTYPE_failsafe`.
    pub failsafe: Callback,
    /// `CALLBACKTYPE_syscall`.
    pub syscall: Callback,
    /// `CALLBACKTYPE_syscall32`.
    pub syscall32: Callback,
    /// `CALLBACKTYPE_sysenter`.
    pub sysenter: Callback,
    /// Stack of the kernel when it is entered from user mode (`stack_switch`).
    pub kernel_ss: u64,
    /// As above.
    pub kernel_sp: u64,
    /// Descriptor frames, held as such.
    pub gdt: ArrayVec<crate::mm::DescFrame, 14>,
    /// Entries of the descriptor table.
    pub gdt_entries: u32,
    /// Frames of the LDT, held as descriptor frames.
    pub ldt: ArrayVec<crate::mm::DescFrame, 16>,
    /// Its address, for `getvcpucontext`.
    pub ldt_base: u64,
    /// Entries of the LDT.
    pub ldt_entries: u32,
    /// Its `vcpu_info`, while it runs (`Vcpu::info` says where that is, and keeps it).
    pub info: Info,
    /// CR0.TS as the guest sees it.
    pub task_switched: bool,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// Virtual I/O privilege level.
    pub iopl: u8,
    /// Address and number of ports of the I/O bitmap.
    pub io_bitmap: Option<(u64, u32)>,
    /// `MSR_TSC_AUX`.
    pub tsc_aux: u32,
    /// NMIs are masked until the next iret.
    pub nmi_masked: bool,
    /// Budget and left-over work of page-table operations.
    pub work: Work<'static>,
}

impl Context {
    /// As at creation: nothing set, kernel mode.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Context, Errno> {
        Ok(Context {
            cpu: VcpuState::new()?,
            initialised: false,
            traps: <[TrapInfo; 256] as zerocopy::FromZeros>::new_box_zeroed().map_err(|_| Errno::ENOMEM)?,
            event: 0,
            failsafe: Callback::default(),
            syscall: Callback::default(),
            syscall32: Callback::default(),
            sysenter: Callback::default(),
            kernel_ss: 0,
            kernel_sp: 0,
            gdt: ArrayVec::new(),
            gdt_entries: 0,
            ldt: ArrayVec::new(),
            ldt_base: 0,
            ldt_entries: 0,
            info: Info::none(),
            task_switched: false,
            cr4: 0,
            iopl: 0,
            io_bitmap: None,
            tsc_aux: 0,
            nmi_masked: false,
            work: Work::new(crate::mm::frames(), Work::BUDGET),
        })
    }

    /// The root table of the mode the vcpu is in.
    pub fn root(&self) -> Option<Mfn> {
        if self.cpu.kernel_mode() { self.cpu.kernel_root() } else { self.cpu.user_root() }.map(|r| r.mfn())
    }

    /// Has system calls of user mode enter the kernel, and its `iret` go back, without the run loop where that comes to
    /// the same. To be called after any of what decides it has changed.
    pub fn arm_system_calls(&mut self, dom: &Domain) {
        let callback = self.syscall.mask_events && self.syscall.address != 0;
        let here = callback && !dom.architectural_iopl() && !self.nmi_masked;
        self.cpu.set_syscall_entry(here.then(|| SyscallEntry {
            address: self.syscall.address,
            stack: self.kernel_sp,
            upcall: self.info.upcall(),
        }));
    }
}

impl Vcpu {
    /// Whether a CPU runs it now.
    pub fn runs(&self) -> bool {
        self.runnable() && self.running_on.load(SeqCst) != u32::MAX
    }

    /// Whether it may run.
    pub fn runnable(&self) -> bool {
        self.blocked.load(SeqCst) == 0
    }

    /// Makes the CPU that runs it, if one does, come to the hypervisor and look at `attention`, events and
    /// pauses before it goes on.
    pub fn kick(&self) {
        self.attention.store(true, SeqCst);
        let cpu = self.running_on.load(SeqCst);
        if cpu as usize == percpu::cpu_id() {
            percpu::look();
        } else if cpu != u32::MAX {
            apic::send(cpu as usize, apic::vector::KICK);
        }
    }

    /// Adds a reason not to run. The CPU that runs it is told; see [`Vcpu::wait_stopped`].
    pub fn block(&self, why: u32) {
        self.blocked.fetch_or(why, SeqCst);
        self.kick();
    }

    /// Takes a reason away; the scheduler hears of it when it was the last.
    pub fn unblock(self: &Arc<Self>, why: u32) {
        let before = self.blocked.fetch_and(!why, SeqCst);
        if before != 0 && before & !why == 0 {
            crate::run::wake(self);
        }
    }

    /// Waits until no CPU runs it. The caller has blocked it and is not running it.
    pub fn wait_stopped(&self) {
        // (That CPU may idle.)
        self.kick();
        while self.running_on.load(SeqCst) != u32::MAX {
            hv_machine::x86_64::tlb::poll();
            core::hint::spin_loop();
        }
    }

    /// A fresh vcpu of `domain`, down.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(domain: &Arc<Domain>, id: u32, handle: u32) -> Result<Arc<Vcpu>, Errno> {
        try_arc(Vcpu {
            id,
            handle,
            domain: Arc::downgrade(domain),
            context: try_arc(Mutex::new(rank::VCPU, Context::new()?))?,
            running_on: AtomicU32::new(u32::MAX),
            last_cpu: AtomicU32::new(0),
            blocked: AtomicU32::new(pause::DOWN),
            info: super::info::InfoSlot::in_shared_info(domain, id),
            runstate: Mutex::new(rank::TIMER, Runstate::new(clock::now())),
            runstate_area: AtomicU64::new(0),
            time_area: AtomicU64::new(0),
            timers: Mutex::new(rank::TIMER, Timers::default()),
            attention: AtomicBool::new(false),
            nmi: AtomicBool::new(false),
            to_show: AtomicBool::new(false),
            affinity: Mutex::new(rank::SCHED, None),
        })
    }
}
