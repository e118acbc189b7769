//! The hypervisor's own start, once the machine stands: options, ACPI, other CPUs, dom0.

use crate::domain::dom0::{self, Plan};
use crate::mm::frames;
use crate::{acpi_setup, console, irq, run, time_of_day};
use hv_machine::boot::BootInfo;
use hv_machine::heap;
use hv_machine::x86_64::start::{ModuleBytes, Started};
use hv_machine::x86_64::{apic, clock, smp, uart};

/// The serial console's settings: `console=none`, `com1=BAUD`, `com2=BAUD`.
fn serial(info: &BootInfo) {
    let baud = |name| info.option(name).and_then(|v| v.split(',').next()?.parse().ok());
    if let Some(b) = baud("com2").filter(|_| info.option("console").is_some_and(|c| c.contains("com2"))) {
        uart::init(0x2f8, b);
    } else {
        uart::init(0x3f8, baud("com1").unwrap_or(115_200));
    }
    if info.option("console") == Some("none") {
        console::set_serial(false);
    }
}

fn level(info: &BootInfo) -> log::LevelFilter {
    match info.option("loglvl").map(|v| v.rsplit('/').next().unwrap_or(v)) {
        Some("all" | "debug") => log::LevelFilter::Debug,
        Some("warning") => log::LevelFilter::Warn,
        Some("error" | "none") => log::LevelFilter::Error,
        _ => log::LevelFilter::Info,
    }
}

/// A size with a suffix (K, M, G; bytes without... in KiB as Xen has it).
fn size(s: &str) -> Option<u64> {
    let (digits, unit) = match s.as_bytes().last()? {
        b'K' | b'k' => (&s[..s.len() - 1], 1 << 10),
        b'M' | b'm' => (&s[..s.len() - 1], 1 << 20),
        b'G' | b'g' => (&s[..s.len() - 1], 1 << 30),
        b'B' | b'b' => (&s[..s.len() - 1], 1),
        _ => (s, 1 << 10),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Frames for dom0: `dom0_mem=SIZE` (`min:`, `max:` parts are limits), else all but a sixteenth, at least 128 MiB less.
fn dom0_frames(info: &BootInfo) -> u64 {
    let free = frames().free_frames();
    let all = free - (free / 16).min(128 << 8);
    let Some(option) = info.option("dom0_mem") else { return all };
    let (mut n, mut min, mut max) = (all, 0, all);
    for part in option.split(',') {
        let (name, value) = part.split_once(':').unwrap_or(("", part));
        if let Some(pages) = size(value).map(|b| b >> 12) {
            match name {
                "min" => min = pages,
                "max" => max = pages,
                _ => n = pages,
            }
        }
    }
    n.clamp(min.min(all), max.min(all).max(min.min(all)))
}

/// Starts everything; the BSP then joins the run loop.
pub fn boot(started: Started) -> ! {
    let info = run::BOOT.call_once(|| started.info);
    serial(info);
    console::init(level(info));
    console::init_ring();
    log::info!("Oxen {} ({}), {}", env!("CARGO_PKG_VERSION"), info.protocol, &*info.cmdline);
    log::info!(
        "memory: {} MiB in {} ranges, {} KiB kept; TSC {}.{:03} MHz",
        info.ram().map(|r| r.end - r.start).sum::<u64>() >> 20,
        info.ram().count(),
        started.kept >> 10,
        clock::tsc_hz() / 1_000_000,
        clock::tsc_hz() / 1000 % 1000
    );
    acpi_setup::init();
    time_of_day::init(0x32);
    run::init(1, started.m2p);
    irq::init_serial(4, apic::id());
    let free = frames().free_frames();
    log::info!("{} MiB free, heap {} KiB used", free / 256, heap::usage().0 >> 10);

    let kernel = ModuleBytes::take(info, 0).unwrap_or_else(|| panic!("no dom0 kernel: give one as the first module"));
    let ramdisk = ModuleBytes::take(info, 1);
    let built = dom0::build(&Plan {
        kernel: kernel.bytes(),
        cmdline: &info.modules[0].cmdline,
        ramdisk: ramdisk.as_ref().map(|r| r.bytes()),
        frames: dom0_frames(info),
        vcpus: 1,
        kept: &[0xfec0_0..0xfec0_1, 0xfee0_0..0xfee0_1],
    });
    if let Err(why) = built {
        panic!("dom0 can't be built: {why}");
    }
    kernel.free();
    if let Some(r) = ramdisk {
        r.free();
    }
    smp::run_on_own_stack(run::cpu_loop)
}
