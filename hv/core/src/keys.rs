//! Keys of the hypervisor's console: what somebody looks at when a machine behaves oddly (`xl debug-keys`, or typed
//! after three times Ctrl-A). A key without a meaning is passed over, as on Xen.

use crate::console::{self, Key};
use crate::domain::vcpu::{Context, Vcpu, pause};
use crate::domain::{Current, Domain, next_from};
use crate::mm::frames;
use crate::sched::{Handle, Policy};
use crate::{power, run};
use alloc::sync::Arc;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use hv_machine::heap;
use hv_machine::x86_64::{clock, tlb};
use shared_abi::DomId;

/// Each key, its purpose and what it does.
const KEYS: [(u8, &str, fn()); 10] = [
    (b'0', "dump Dom0 registers", dom0_registers),
    (b'R', "reboot machine", reboot),
    (b'd', "dump registers", registers),
    (b'e', "dump evtchn info", event_channels),
    (b'g', "print grant table usage", grants),
    (b'h', "show this message", help),
    (b'm', "memory info", memory),
    (b'q', "dump domain info", domains),
    (b'r', "dump run queues", run_queues),
    (b't', "display multi-cpu clock info", clocks),
];

/// Presses a key.
pub fn press(key: u8) {
    if let Some((key, purpose, action)) = KEYS.iter().find(|k| k.0 == key) {
        log::warn!("'{}' pressed -> {purpose}", char::from(*key));
        action();
    }
}

/// Does what was typed for the hypervisor on the serial line.
pub fn press_typed() {
    while let Some(key) = console::next_key() {
        match key {
            Key::Press(key) => press(key),
            Key::Switched { own: true } => log::warn!("serial input is the hypervisor's: 'h' shows its keys"),
            Key::Switched { own: false } => log::warn!("serial input is dom0's"),
        }
    }
}

fn help() {
    for (key, purpose, _) in KEYS {
        log::warn!(" key '{}' (ascii '{key:02x}') => {purpose}", char::from(key));
    }
}

fn memory() {
    let (used, all) = heap::usage();
    log::warn!(
        "{} frames, {} of them free; heap {} KiB, {} used",
        frames().frames(),
        frames().free_frames(),
        all >> 10,
        used >> 10
    );
}

/// All domains, by number.
fn all_domains() -> impl Iterator<Item = Arc<Domain>> {
    let mut next = DomId(0);
    core::iter::from_fn(move || {
        let d = next_from(next)?;
        next = DomId(d.id.0 + 1);
        Some(d)
    })
}

fn dom0_registers() {
    all_domains().take(1).for_each(|d| registers_of(&d));
}

fn registers() {
    all_domains().for_each(|d| registers_of(&d));
}

/// Those of a vcpu that a CPU has are shown by that CPU, soon.
fn registers_of(d: &Domain) {
    for v in d.vcpus() {
        match v.context.try_lock() {
            Some(context) => show(d, v, &context),
            None => {
                v.to_show.store(true, SeqCst);
                v.kick();
            }
        }
    }
}

/// Shows the registers of the vcpu that this CPU has, if somebody asked for them.
pub fn show_if_asked(cur: &Current<'_>) {
    if cur.vcpu.to_show.load(Relaxed) && cur.vcpu.to_show.swap(false, SeqCst) {
        show(cur.dom, cur.vcpu, cur.cx);
    }
}

fn show(d: &Domain, v: &Vcpu, context: &Context) {
    let (r, root) = (context.cpu.regs(), context.root().map_or(0, |mfn| mfn.address()));
    log::warn!("d{}v{}: rip {:04x}:{:016x} rflags {:08x} cr3 {root:012x}", d.id, v.id, r.cs, r.rip, r.rflags);
    log::warn!("  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx);
    log::warn!("  rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}", r.rsi, r.rdi, r.rbp, r.rsp);
    log::warn!("  r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}", r.r8, r.r9, r.r10, r.r11);
    log::warn!("  r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}", r.r12, r.r13, r.r14, r.r15);
}

/// A guest may have very many: of each domain the first are shown.
fn event_channels() {
    const SHOWN: u32 = 64;
    for d in all_domains() {
        let used = d.event_lock.lock().in_use();
        log::warn!("d{}: {used} event channels", d.id);
        let mut from = 0;
        for _ in 0..SHOWN {
            let Some(port) = d.event_lock.lock().next_used(from) else { break };
            from = port.0 + 1;
            if let Ok(channel) = d.ports.channel(port) {
                let (pending, masked) = d.ports.marks(&*d, port);
                let marks = match (pending, masked) {
                    (true, true) => " pending masked",
                    (true, false) => " pending",
                    (false, true) => " masked",
                    (false, false) => "",
                };
                log::warn!("  {:4}: {:?}, vcpu {}{marks}", port.0, channel.state, channel.vcpu);
            }
        }
        if used > SHOWN {
            log::warn!("  and {} more", used - SHOWN);
        }
    }
}

fn grants() {
    for d in all_domains() {
        let table = d.grants.table.lock();
        let (version, used, max, pinned) =
            (table.version(), table.frame_count(), table.max_frames(), table.pinned());
        drop(table);
        log::warn!("d{}: version {version}, {used} of {max} frames, {pinned} grants in use", d.id);
    }
}

fn domains() {
    for d in all_domains() {
        log::warn!(
            "d{}: {} of {} frames, paused {}, dying {}, shutdown {}",
            d.id,
            d.memory.total(),
            d.memory.max(),
            d.pauses.load(SeqCst),
            d.dying.load(SeqCst),
            d.shutdown.load(SeqCst)
        );
        for v in d.vcpus() {
            let blocked = v.blocked.load(SeqCst);
            let state = match v.running_on.load(SeqCst) {
                u32::MAX if blocked & pause::DOWN != 0 => "down",
                u32::MAX if blocked != 0 => "blocked",
                u32::MAX => "ready",
                _ => "running",
            };
            let timer = Deadline(v.timers.lock().next(v.runs()));
            let [pending, masked] =
                v.info.get().map_or([0; 2], |info| info.upcall().map(|byte| byte.load(SeqCst)));
            log::warn!(
                "  v{}: {state}, CPU {}, {} ms, upcall pending {pending} masked {masked}, timer {timer}",
                v.id,
                v.last_cpu.load(Relaxed),
                run::cpu_time(v) / 1_000_000
            );
        }
    }
}

/// When a vcpu's next timer fires.
struct Deadline(u64);

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("off"),
            at => write!(f, "in {} us", at as i64 / 1000 - clock::now() as i64 / 1000),
        }
    }
}

/// A vcpu by its scheduler handle.
struct Named(Handle);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match run::by_handle(self.0).and_then(|v| Some((v.domain.upgrade()?.id, v.id))) {
            Some((domain, id)) => write!(f, " d{domain}v{id}"),
            None => write!(f, " #{}", self.0),
        }
    }
}

fn run_queues() {
    for cpu in 0..tlb::online().count_ones() {
        let (current, waiting) = run::scheduler().queue_of(cpu);
        // what has no room is left out
        let mut line = heapless::String::<256>::new();
        let _ = match current {
            Some(handle) => write!(line, "runs{}", Named(handle)),
            None => write!(line, "idle"),
        };
        for handle in waiting {
            let _ = write!(line, ", then{}", Named(handle));
        }
        log::warn!("  CPU {cpu}: {line}");
    }
}

fn reboot() {
    power::reset();
}

fn clocks() {
    log::warn!(
        "{} CPUs, TSC {} kHz, up {} ms",
        tlb::online().count_ones(),
        clock::tsc_hz() / 1000,
        clock::now() / 1_000_000
    );
}
