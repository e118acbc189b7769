//! The per-CPU loop: pick a vcpu, enter it, handle why it came back.
//!
//! One stack per CPU, interrupts off in the hypervisor; an interrupt is one more reason for a guest to come
//! back, or ends the idle wait. A vcpu's registers stay loaded until another vcpu (or idling) takes the
//! CPU, and its context is locked just as long.
//!
//! A vcpu that runs needs no timer queue: its CPU's timer is set for it. One that waits leaves its next
//! deadline in the queue of the CPU that it waited on last.
//!
//! A vcpu that blocks on a CPU with nothing else to run stays loaded while the CPU idles (`linger`): mostly it is the
//! next to run there. Whoever wants it off has it told by [`Vcpu::block`] or [`Vcpu::wait_stopped`].

use crate::domain::info::Info;
use crate::domain::vcpu::pause;
use crate::domain::{Context, Current, Domain, Vcpu};
use crate::event::virq::GlobalHandlers;
use crate::sched::{CpuSet, Credit, Names, Pick, Policy};
use crate::time::runstate::{self, RunstateArea};
use crate::time::{State, TimerQueue, VcpuTimer};
use crate::{keys, mm, trap};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::*};
use hv_machine::boot::BootInfo;
use hv_machine::frame::Work;
use hv_machine::guest_mem;
use hv_machine::lock::{ArcGuard, Mutex, rank};
use hv_machine::x86_64::{apic, clock, cpu, percpu, smp, speculation, tlb};
use shared_abi::vcpu::VcpuRunstateInfo;
use shared_abi::xen::{VIRQ_TIMER, VMASST_TYPE_RUNSTATE_UPDATE_FLAG, VcpuTimeInfo};
use shared_abi::{DomId, Errno, GuestAddr};
use spin::Once;

/// What the loader said.
pub static BOOT: Once<BootInfo> = Once::new();
/// Which domain handles each global VIRQ.
pub static VIRQ_HANDLERS: GlobalHandlers = GlobalHandlers::new(DomId(0));
static SCHED: Once<Credit> = Once::new();
static M2P: Once<core::ops::Range<u64>> = Once::new();

/// Vcpus by scheduler handle.
static VCPUS: Names<Vcpu> = Names::new();

/// A CPU's own state.
struct Cpu {
    /// The loop is to pick anew before it enters a guest.
    resched: AtomicBool,
    /// When the scheduler wants to be asked again.
    until: AtomicU64,
    /// Deadlines of vcpus that wait, by scheduler handle.
    timers: Mutex<TimerQueue<u32>>,
    /// Nanoseconds spent idle.
    idle_ns: AtomicU64,
}
static CPUS: [Cpu; percpu::MAX_CPUS] = [const {
    Cpu {
        resched: AtomicBool::new(false),
        until: AtomicU64::new(u64::MAX),
        timers: Mutex::new(rank::TIMER_QUEUE, TimerQueue::new()),
        idle_ns: AtomicU64::new(0),
    }
}; percpu::MAX_CPUS];

/// Sets the scheduler up for `cpus` CPUs; `m2p`: the frames of the machine-to-physical table.
pub fn init(cpus: usize, m2p: core::ops::Range<u64>) {
    SCHED.call_once(|| Credit::new(cpus as u32).expect("memory for the scheduler"));
    M2P.call_once(|| m2p);
}

/// The scheduler.
pub fn scheduler() -> &'static Credit {
    SCHED.get().expect("the scheduler is set up at boot")
}

/// Frames of devices that the hypervisor drives itself.
pub static KEPT: Once<Vec<core::ops::Range<u64>>> = Once::new();

/// The frames of the machine-to-physical table.
pub fn m2p_frames() -> core::ops::Range<u64> {
    M2P.get().cloned().unwrap_or(0..0)
}

/// Nanoseconds that a CPU was idle.
pub fn idle_ns(cpu: usize) -> u64 {
    CPUS[cpu].idle_ns.load(Relaxed)
}

/// Makes room for a vcpu's timers on every CPU, then makes it known by its scheduler handle.
///
/// # Errors
/// `ENOMEM`.
pub fn adopt(v: Arc<Vcpu>) -> Result<(), Errno> {
    let room = v.handle as usize + 1;
    for (c, cpu) in CPUS.iter().enumerate() {
        if tlb::online() & 1 << c != 0 {
            cpu.timers.lock().reserve(room)?;
        }
    }
    VCPUS.set(v.handle, v)
}

/// Forgets a vcpu that will not run again; whether the scheduler has let it go.
pub fn forget(v: &Vcpu) -> bool {
    let gone = VCPUS.remove(v.handle, v, scheduler());
    if gone {
        // Not before: the CPU that it ran on leaves its deadline in the queue first.
        unqueue_timer(v);
    }
    gone
}

/// The vcpu with a scheduler handle.
pub fn by_handle(h: u32) -> Option<Arc<Vcpu>> {
    VCPUS.get(h)
}

/// Interrupts CPUs so that they pick anew.
pub fn kick(set: CpuSet) {
    let me = percpu::cpu_id();
    let mut left = set.0 & tlb::online();
    while left != 0 {
        let c = left.trailing_zeros() as usize;
        left &= left - 1;
        if c == me {
            resched();
        } else {
            apic::send(c, apic::vector::KICK);
        }
    }
}

/// A vcpu has become runnable.
pub fn wake(v: &Vcpu) {
    kick(scheduler().wake(v.handle, clock::now()));
}

/// The vcpu that this CPU runs gives way once.
pub fn yield_now() {
    resched();
    if let Some(h) = CURRENT[percpu::cpu_id()].load(Relaxed).checked_sub(1) {
        scheduler().yield_now(h as u32);
    }
}

/// Handle plus one of the vcpu that is loaded, per CPU.
static CURRENT: [AtomicU64; percpu::MAX_CPUS] = [const { AtomicU64::new(0) }; percpu::MAX_CPUS];

// ---- timers

/// Sets the single-shot timer of the vcpu that runs here as `set_timer_op` says (0: none).
pub fn set_timer(v: &Vcpu, at: i64) {
    v.timers.lock().timer.set_timer_op(at, clock::now());
    program(Some(v), true);
}

/// Changes the timers of the vcpu that runs here.
pub fn change_timer<R>(v: &Vcpu, f: impl FnOnce(&mut VcpuTimer, u64) -> R) -> R {
    let r = f(&mut v.timers.lock().timer, clock::now());
    program(Some(v), true);
    r
}

/// Raises what is due of a vcpu's timers.
fn fire(v: &Arc<Vcpu>, dom: &Domain, now: u64, running: bool) {
    let (virq, poll, watch) = {
        let mut t = v.timers.lock();
        let due = |at: &mut u64| *at <= now;
        (t.timer.expire(now, running), t.poll.take_if(due).is_some(), t.watchdog.take_if(due).is_some())
    };
    if virq {
        dom.raise_virq(v.id, VIRQ_TIMER);
    }
    if poll {
        v.unblock(pause::BLOCKED);
    }
    if watch {
        let next = crate::domain::lifecycle::watch(dom, now);
        v.timers.lock().watchdog = next;
    }
}

/// Has the vcpu that runs here look at its domain's watchdogs when the next of them is due.
pub fn set_watchdog(v: &Vcpu, at: Option<u64>) {
    v.timers.lock().watchdog = at;
    program(Some(v), true);
}

/// Fires the timers of waiting vcpus that are due on this CPU.
fn run_timers(c: usize, now: u64) {
    loop {
        let Some(handle) = CPUS[c].timers.lock().take_due(now) else { return };
        let Some(v) = by_handle(handle) else { continue };
        v.timers.lock().queued = None;
        if let Some(dom) = v.domain.upgrade() {
            fire(&v, &dom, now, false);
            queue_timer(&v);
        }
    }
}

/// Leaves a waiting vcpu's next deadline with this CPU. One that was just taken by another CPU needs none there;
/// should it be too late to notice, the deadline fires and finds nothing due.
fn queue_timer(v: &Arc<Vcpu>) {
    let mut t = v.timers.lock();
    let at = t.next(false);
    let c = percpu::cpu_id();
    if at != u64::MAX
        && t.queued.is_none()
        && v.running_on.load(SeqCst) == u32::MAX
        && CPUS[c].timers.lock().arm(at, v.handle)
    {
        t.queued = Some((c, at));
    }
}

/// Takes a vcpu's deadline out of whichever queue it is in.
fn unqueue_timer(v: &Vcpu) {
    let mut t = v.timers.lock();
    if let Some((c, at)) = t.queued.take() {
        CPUS[c].timers.lock().disarm(at, v.handle);
    }
}

/// Sets this CPU's timer to the next thing that it must do, also for the vcpu that is loaded and may be `running`.
fn program(loaded: Option<&Vcpu>, running: bool) {
    let c = &CPUS[percpu::cpu_id()];
    let at = c
        .until
        .load(Relaxed)
        .min(loaded.map_or(u64::MAX, |v| v.timers.lock().next(running)))
        .min(c.timers.lock().next());
    apic::set_timer((at != u64::MAX).then(|| clock::ns_to_tsc(at).saturating_add(1)));
}

// ---- the clock and runstates as guests see them

/// The clock's parameters for guests: the hypervisor's own, so that both always agree.
pub fn time_info() -> VcpuTimeInfo {
    let (mul, shift) = clock::guest_scale();
    VcpuTimeInfo {
        tsc_timestamp: clock::tsc_at_zero(),
        system_time: 0,
        tsc_to_system_mul: mul,
        tsc_shift: shift,
        ..Default::default()
    }
}

/// A vcpu's runstate as of now.
pub fn runstate(v: &Vcpu) -> VcpuRunstateInfo {
    v.runstate.lock().info(clock::now())
}

/// Nanoseconds that a vcpu has run.
pub fn cpu_time(v: &Vcpu) -> u64 {
    v.runstate.lock().cpu_time(clock::now())
}

/// The state of a vcpu that doesn't run.
fn waiting_state(v: &Vcpu) -> State {
    match v.blocked.load(Relaxed) {
        0 => State::Runnable,
        b if b & (pause::DOWN | pause::DOMAIN) != 0 => State::Offline,
        _ => State::Blocked,
    }
}

/// A guest's registered runstate area, its address space being loaded.
struct Area(u64);

impl RunstateArea for Area {
    type Error = guest_mem::Fault;
    fn set_entry_time(&self, value: u64) -> Result<(), guest_mem::Fault> {
        let at = core::mem::offset_of!(VcpuRunstateInfo, state_entry_time) as u64;
        guest_mem::write_u64(GuestAddr(self.0.wrapping_add(at)), value)
    }
    fn set_all(&self, info: &VcpuRunstateInfo) -> Result<(), guest_mem::Fault> {
        guest_mem::write(GuestAddr(self.0), info)
    }
}

/// Writes the clock's parameters to a registered area. They never change, so no version but the first is needed.
pub fn write_time(area: u64) {
    let _ = guest_mem::write(GuestAddr(area), &VcpuTimeInfo { version: 2, ..time_info() });
}

/// Writes the vcpu's registered areas, its address space being loaded. An area that the guest has unmapped is
/// left as it is.
fn update_areas(v: &Vcpu, dom: &Domain) {
    let area = v.time_area.load(Relaxed);
    if area != 0 {
        write_time(area);
    }
    let area = v.runstate_area.load(Relaxed);
    if area != 0 {
        let flagged = dom.assists.load(Relaxed) & 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG != 0;
        let _ = runstate::update_area(&Area(area), &v.runstate.lock(), flagged);
    }
}

// ---- the loop

/// The domain whose vcpu each CPU ran last.
static LAST: [AtomicU16; percpu::MAX_CPUS] = [const { AtomicU16::new(u16::MAX) }; percpu::MAX_CPUS];

/// Loads a vcpu's registers into this CPU, and with that lets go of the vcpu that is `leaving`. False: it has lost a data
/// segment.
fn load(vcpu: &Arc<Vcpu>, dom: &Domain, cx: &mut Context, c: usize, leaving: Option<Leaving>) -> bool {
    unqueue_timer(vcpu);
    vcpu.running_on.store(c as u32, SeqCst);
    vcpu.last_cpu.store(c as u32, Relaxed);
    cx.info = vcpu.info.get().copied().unwrap_or(Info::none());
    if LAST[c].swap(dom.id.0, Relaxed) != dom.id.0 {
        speculation::another_domain();
    }
    cx.arm_system_calls(dom);
    mm::load_gdt(cx);
    mm::load_ldt(cx);
    mm::load_root(if cx.cpu.kernel_mode() { cx.cpu.kernel_root() } else { cx.cpu.user_root() });
    if let Some(leaving) = leaving {
        leaving.end();
    }
    let whole = cx.cpu.switch_in();
    cpu::set_ts(cx.task_switched);
    cpu::set_guest_cr4(cx.cr4);
    cpu::set_tsc_aux(cx.tsc_aux);
    whole
}

/// A vcpu that is loaded goes on.
fn resume(vcpu: &Vcpu, dom: &Domain) {
    vcpu.runstate.lock().change(State::Running, clock::now());
    vcpu.timers.lock().poll = None;
    dom.ports.pollers.done(vcpu.id);
    vcpu.attention.store(true, Relaxed);
    percpu::look();
    update_areas(vcpu, dom);
}

/// A vcpu that leaves this CPU: its registers are saved, and its root table is still loaded. The next one's takes that
/// one's place, or the hypervisor's own; only then may the vcpu run elsewhere, change its root, or die.
struct Leaving {
    vcpu: Arc<Vcpu>,
    dom: Arc<Domain>,
    context: ArcGuard<Context>,
}

impl Leaving {
    /// Saves the registers of a vcpu that is loaded.
    fn new(vcpu: Arc<Vcpu>, dom: Arc<Domain>, mut context: ArcGuard<Context>) -> Leaving {
        cpu::set_ts(false);
        context.cpu.switch_out();
        vcpu.runstate.lock().change(waiting_state(&vcpu), clock::now());
        Leaving { vcpu, dom, context }
    }

    /// Another root table is loaded: the vcpu is gone from here.
    fn end(self) {
        let Leaving { vcpu, dom, mut context } = self;
        context.work.leave();
        drop(context);
        vcpu.running_on.store(u32::MAX, SeqCst);
        queue_timer(&vcpu);
        kick(scheduler().descheduled(vcpu.handle));
        drop(dom);
    }

    /// Loads the hypervisor's own root table for the vcpu's.
    fn for_nobody(self) {
        mm::load_root(None);
        self.end();
    }
}

/// Enters the guest until this CPU is to pick anew.
fn enter(cur: &mut Current<'_>, c: usize) {
    loop {
        if !cur.cx.work.is_done() && !let_go(cur, c) {
            return;
        }
        if percpu::take_look() && look_around(cur, c) {
            return;
        }
        trap::deliver_upcall(cur);
        let why = cur.cx.cpu.enter();
        trap::handle(cur, why);
    }
}

/// Takes the page tables apart that the vcpu has given up, before it goes on or sleeps: nobody can use their frames until
/// then, and it may never come back to them. False: this CPU is to pick anew.
#[cold]
#[inline(never)]
fn let_go(cur: &mut Current<'_>, c: usize) -> bool {
    // (For one that is paused somebody waits.)
    while cur.vcpu.blocked.load(SeqCst) & pause::DOMAIN == 0 {
        cur.cx.work.refill(Work::BUDGET);
        if mm::frames().settle(&mut cur.cx.work).is_ok() {
            break;
        }
        smp::poll_interrupts();
        if CPUS[c].resched.load(Relaxed) || percpu::this().any_pending() {
            return false;
        }
    }
    true
}

/// What the run loop looks at when it was told to; true when this CPU is to pick anew.
#[inline(never)]
fn look_around(cur: &mut Current<'_>, c: usize) -> bool {
    if cur.vcpu.attention.load(Relaxed) {
        cur.vcpu.attention.store(false, SeqCst);
        fire(cur.vcpu, cur.dom, clock::now(), true);
        if !cur.vcpu.runnable() {
            kick(scheduler().sleep(cur.vcpu.handle));
            if cur.vcpu.runnable() {
                kick(scheduler().wake(cur.vcpu.handle, clock::now()));
            }
            return true;
        }
        program(Some(cur.vcpu), true);
        cur.cx.arm_system_calls(cur.dom);
        keys::show_if_asked(cur);
        trap::deliver_nmi(cur);
    }
    CPUS[c].resched.load(Relaxed) || percpu::this().any_pending()
}

/// Runs a vcpu, whose root table takes the place of the one's that is `leaving`, until another is picked: what was, and
/// the vcpu, which leaves.
fn run_vcpu(vcpu: Arc<Vcpu>, dom: Arc<Domain>, c: usize, leaving: Option<Leaving>) -> (Pick, Leaving) {
    let (mut context, leaving) = match leaving {
        None => (vcpu.context.lock_arc(), None),
        Some(leaving) => match vcpu.context.try_lock_arc() {
            Some(context) => (context, Some(leaving)),
            // Whoever has it may wait for the vcpu that leaves.
            None => {
                leaving.for_nobody();
                (vcpu.context.lock_arc(), None)
            }
        },
    };
    let whole = load(&vcpu, &dom, &mut context, c, leaving);
    resume(&vcpu, &dom);
    let mut cur = Current { dom: &dom, vcpu: &vcpu, cx: &mut context };
    if !whole {
        trap::lost_segments(&mut cur);
    }
    let next = loop {
        fire(&vcpu, &dom, clock::now(), true);
        program(Some(&vcpu), true);
        enter(&mut cur, c);
        let mut next = pick(c);
        if next.run == Some(vcpu.handle) {
            continue;
        }
        while next.run.is_none() && vcpu.blocked.load(SeqCst) == pause::BLOCKED {
            next = linger(&vcpu, &dom, c);
            keys::show_if_asked(&cur);
        }
        if next.run != Some(vcpu.handle) {
            break next;
        }
        resume(&vcpu, &dom);
    };
    (next, Leaving::new(vcpu, dom, context))
}

/// Idles with a vcpu loaded that only waits for an event; what was picked then.
fn linger(vcpu: &Arc<Vcpu>, dom: &Domain, c: usize) -> Pick {
    vcpu.runstate.lock().change(waiting_state(vcpu), clock::now());
    program(Some(vcpu), false);
    rest(c);
    fire(vcpu, dom, clock::now(), false);
    pick(c)
}

fn pick(c: usize) -> Pick {
    while let Some(vector) = percpu::this().take_pending() {
        crate::irq::interrupt(vector);
    }
    CPUS[c].resched.store(false, SeqCst);
    tlb::poll();
    let now = clock::now();
    run_timers(c, now);
    let pick = scheduler().pick(c as u32, now);
    kick(pick.kick);
    CPUS[c].until.store(pick.until, Relaxed);
    CURRENT[c].store(pick.run.map_or(0, |h| u64::from(h) + 1), Relaxed);
    pick
}

/// Clears free memory until an interrupt comes, and waits for one when there is no more to clear. The clearing
/// looks for interrupts every few microseconds.
fn idle() {
    while mm::frames().scrub() {
        smp::poll_interrupts();
        if percpu::this().any_pending() {
            return;
        }
    }
    smp::idle();
}

/// Tidies up, or idles until there may be something to run.
fn rest(c: usize) {
    if !crate::domain::lifecycle::reap() && !CPUS[c].resched.load(SeqCst) {
        let from = clock::now();
        idle();
        CPUS[c].idle_ns.fetch_add(clock::now() - from, Relaxed);
    }
}

/// What every CPU does for ever.
pub fn cpu_loop(c: usize) -> ! {
    let (mut next, mut leaving) = (pick(c), None);
    loop {
        let vcpu = next.run.and_then(by_handle);
        if let Some(vcpu) = vcpu
            && let Some(dom) = vcpu.domain.upgrade()
        {
            let (picked, left) = run_vcpu(vcpu, dom, c, leaving.take());
            (next, leaving) = (picked, Some(left));
            continue;
        }
        if let Some(leaving) = leaving.take() {
            leaving.for_nobody();
        }
        next = match next.run {
            // Its domain is gone: it must not be picked again, and is bound to this CPU until something else is.
            Some(h) => {
                kick(scheduler().sleep(h));
                let next = pick(c);
                kick(scheduler().descheduled(h));
                next
            }
            None => {
                program(None, false);
                rest(c);
                pick(c)
            }
        };
    }
}

/// This CPU's loop picks anew before it enters a guest again.
pub fn resched() {
    CPUS[percpu::cpu_id()].resched.store(true, Relaxed);
    percpu::look();
}
