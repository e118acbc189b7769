//! Keys of the hypervisor's console: what somebody looks at when a machine behaves oddly (`xl debug-keys`). A key
//! without a meaning is passed over, as on Xen.

use crate::domain::{Domain, next_from, vcpu::pause};
use crate::mm::frames;
use crate::run;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use hv_machine::heap;
use hv_machine::x86_64::{clock, tlb};
use shared_abi::DomId;

/// Each key, its purpose and what it does.
const KEYS: [(u8, &str, fn()); 8] = [
    (b'0', "dump Dom0 registers", dom0_registers),
    (b'd', "dump registers", registers),
    (b'e', "dump evtchn info", event_channels),
    (b'g', "print grant table usage", grants),
    (b'h', "show this message", help),
    (b'm', "memory info", memory),
    (b'q', "dump domain info", domains),
    (b't', "display multi-cpu clock info", clocks),
];

/// Presses a key.
pub fn press(key: u8) {
    if let Some((key, purpose, action)) = KEYS.iter().find(|k| k.0 == key) {
        log::warn!("'{}' pressed -> {purpose}", char::from(*key));
        action();
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

/// Those of a vcpu that runs are in its CPU.
fn registers_of(d: &Domain) {
    for v in d.vcpus() {
        let Some(context) = v.context.try_lock() else {
            log::warn!("d{}v{}: runs on CPU {}", d.id, v.id, v.last_cpu.load(Relaxed));
            continue;
        };
        let (r, root) = (context.cpu.regs(), context.root().map_or(0, |mfn| mfn.address()));
        log::warn!(
            "d{}v{}: rip {:04x}:{:016x} rflags {:08x} cr3 {root:012x}",
            d.id,
            v.id,
            r.cs,
            r.rip,
            r.rflags
        );
        log::warn!("  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx);
        log::warn!("  rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}", r.rsi, r.rdi, r.rbp, r.rsp);
        log::warn!("  r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}", r.r8, r.r9, r.r10, r.r11);
        log::warn!("  r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}", r.r12, r.r13, r.r14, r.r15);
    }
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
                log::warn!("  {:4}: {:?}, vcpu {}", port.0, channel.state, channel.vcpu);
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
            log::warn!(
                "  v{}: {state}, CPU {}, {} ms",
                v.id,
                v.last_cpu.load(Relaxed),
                run::cpu_time(v) / 1_000_000
            );
        }
    }
}

fn clocks() {
    log::warn!(
        "{} CPUs, TSC {} kHz, up {} ms",
        tlb::online().count_ones(),
        clock::tsc_hz() / 1000,
        clock::now() / 1_000_000
    );
}
