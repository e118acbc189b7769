//! Keys of the hypervisor's console: what somebody looks at when a machine behaves oddly (`xl debug-keys`). A key
//! without a meaning is passed over, as on Xen.

use crate::domain::{next_from, vcpu::pause};
use crate::mm::frames;
use crate::run;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use hv_machine::heap;
use hv_machine::x86_64::{clock, tlb};
use shared_abi::DomId;

/// Each key, its purpose and what it does.
const KEYS: [(u8, &str, fn()); 4] = [
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

fn domains() {
    let mut next = DomId(0);
    while let Some(d) = next_from(next) {
        next = DomId(d.id.0 + 1);
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
