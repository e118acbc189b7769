//! `physdev_op` and the parts of `sched_op` that only a domain with hardware may use.

use crate::answer;
use crate::raw::{buffer, call, config, fill, nr, set_config, word};

const PHYSDEV_OP: usize = 33;
const WATCHDOG: usize = 6;
const PIN_OVERRIDE: usize = 7;
const PIRQ_EOI_GMFN_V1: usize = 17;
const PIRQ_EOI_GMFN_V2: usize = 28;
const PCI_MMCFG_RESERVED: usize = 24;
const MAP_PIRQ: usize = 13;

fn op(call_nr: usize, command: usize, words: &[u64]) -> i64 {
    fill(words);
    call(call_nr, [command, buffer(0), 0, 0, 0])
}

/// Every question; what was taken is given back.
pub fn ask() {
    let watchdog = |id: u64, seconds: u64| op(nr::SCHED_OP, WATCHDOG, &[id | seconds << 32]);
    answer(format_args!("watchdog not taken"), watchdog(1, 1000));
    answer(format_args!("watchdog 3"), watchdog(3, 1000));
    answer(format_args!("watchdog 2^32 - 1"), watchdog(0xffff_ffff, 1000));
    for n in 0..3 {
        answer(format_args!("watchdog taken, {n} before it"), watchdog(0, 1000));
    }
    answer(format_args!("watchdog poked"), watchdog(2, 2000));
    answer(format_args!("watchdog let go"), watchdog(1, 0));
    answer(format_args!("watchdog let go again"), watchdog(1, 0));
    answer(format_args!("watchdog taken anew"), watchdog(0, 1000));
    for id in 1..3 {
        answer(format_args!("watchdog {id} let go at last"), watchdog(id, 0));
    }

    for (step, cpu) in [-1i32, 999, i32::MAX, 0, 0, -1, -1].into_iter().enumerate() {
        let pin = op(nr::SCHED_OP, PIN_OVERRIDE, &[cpu as u32 as u64]);
        answer(format_args!("pin_override {cpu}, step {step}"), pin);
    }

    for (name, command) in [("v1", PIRQ_EOI_GMFN_V1), ("v2", PIRQ_EOI_GMFN_V2)] {
        answer(format_args!("pirq_eoi_gmfn_{name} of no frame"), op(PHYSDEV_OP, command, &[u64::MAX]));
        answer(format_args!("pirq_eoi_gmfn_{name} of frame 0"), op(PHYSDEV_OP, command, &[0]));
        // A page table is no frame that may be written.
        let l4 = crate::raw::l4_frame();
        answer(format_args!("pirq_eoi_gmfn_{name} of a page table"), op(PHYSDEV_OP, command, &[l4]));
    }

    answer(
        format_args!("pci_mmcfg_reserved of nothing"),
        op(PHYSDEV_OP, PCI_MMCFG_RESERVED, &[0x1234_5000, 1 << 32]),
    );
    answer(
        format_args!("pci_mmcfg_reserved, wild flags"),
        op(PHYSDEV_OP, PCI_MMCFG_RESERVED, &[0x1234_5000, 6 << 32]),
    );

    // domid and type; index and pirq; bus and devfn; entry and its count, table. A device that is not there, and one
    // without message-signalled interrupts (00:00.0).
    for (device, devfn) in [("no device", 0xf8u64), ("the host bridge", 0)] {
        for (kind, count) in [(1u64, 0u64), (3, 0), (4, 0), (4, 1), (4, 2), (4, 33), (9, 0)] {
            let none = 0xffff_ffffu64;
            let words = [0x7ff0 | kind << 32, none | none << 32, devfn << 32, count, 0];
            answer(
                format_args!("map_pirq type {kind} count {count} of {device}"),
                op(PHYSDEV_OP, MAP_PIRQ, &words),
            );
        }
    }
    messages();
}

/// The MSI-X capability of a device, as its register.
fn message_table(device: u8) -> Option<u8> {
    if config(device, 0) == 0xffff || config(device, 6) & 0x10 == 0 {
        return None;
    }
    let mut at = config(device, 0x34) as u8 & 0xfc;
    for _ in 0..48 {
        match config(device, at) {
            _ if at == 0 => return None,
            head if head & 0xff == 0x11 => return Some(at),
            head => at = (head >> 8) as u8 & 0xfc,
        }
    }
    None
}

/// What a device forgets in a reset is written again.
fn messages() {
    const SET_IOPL: usize = 6;
    const UNMAP_PIRQ: usize = 14;
    const RESTORE: usize = 19;
    const DEVICE_ADD: usize = 25;
    const RESTORE_EXT: usize = 27;
    const ENABLE: u16 = 1 << 15;
    op(PHYSDEV_OP, SET_IOPL, &[1]);
    let found = (1..32).find_map(|device| Some((device, message_table(device)?)));
    answer(format_args!("a device with MSI-X"), found.is_some().into());
    if let Some((device, at)) = found {
        let long = |register: u8| {
            u64::from(config(device, register)) | u64::from(config(device, register + 2)) << 16
        };
        let table = long(at + 4);
        let bar = 0x10 + 4 * (table & 7) as u8;
        let low = long(bar);
        let high = if low & 6 == 4 { long(bar + 4) << 32 } else { 0 };
        let base = (low & !0xf | high) + (table & !7);
        let (none, devfn) = (0xffff_ffff, u64::from(device) << 3);
        let words = [0x7ff0 | 3 << 32, none | none << 32, devfn << 32, 0, base];
        // Xen knows of a device by this.
        op(PHYSDEV_OP, DEVICE_ADD, &[devfn << 24]);
        answer(format_args!("a message mapped"), op(PHYSDEV_OP, MAP_PIRQ, &words));
        let pirq = word(1) >> 32;
        let control = at + 2;
        for (name, restore, address) in
            [("restore_msi", RESTORE, devfn << 8), ("restore_msi_ext", RESTORE_EXT, devfn << 24)]
        {
            set_config(device, control, config(device, control) & !ENABLE);
            answer(format_args!("{name} of a device that was reset"), op(PHYSDEV_OP, restore, &[address]));
            answer(format_args!("  enabled"), (config(device, control) >> 15).into());
        }
        answer(format_args!("a message unmapped"), op(PHYSDEV_OP, UNMAP_PIRQ, &[0x7ff0 | pirq << 32]));
    }
    op(PHYSDEV_OP, SET_IOPL, &[0]);
}
