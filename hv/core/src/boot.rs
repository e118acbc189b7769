//! The hypervisor's own start, once the machine stands: options, ACPI, other CPUs, dom0.

use crate::console_switch::Switch;
use crate::domain::dom0::{self, Plan};
use crate::log_levels::Levels;
use crate::mm::frames;
use crate::{acpi_setup, console, dom0_size, efi, irq, run};
use hv_machine::boot::{BootInfo, Screen};
use hv_machine::heap;
use hv_machine::x86_64::start::{self, ModuleBytes, Started};
use hv_machine::x86_64::{apic, clock, smp, speculation, uart};
use log::LevelFilter;

/// The options that mean something here. Xen has more, and ignores those that it doesn't know after a word in the log.
const OPTIONS: [&str; 12] = [
    "com1",
    "com2",
    "console",
    "conswitch",
    "dom0_max_vcpus",
    "dom0_mem",
    "dom0_vcpus_pin",
    "guest_loglvl",
    "loglvl",
    "maxcpus",
    "noreboot",
    "vga",
];

fn log_unknown(info: &BootInfo) {
    for word in info.cmdline.split_ascii_whitespace() {
        let name = word.split('=').next().unwrap_or(word);
        if !OPTIONS.contains(&name) {
            log::warn!("parameter \"{name}\" unknown!");
        }
    }
}

/// Whether the console is (also) there: all of these without `console=LIST`, as on Xen.
fn console_has(info: &BootInfo, name: &str) -> bool {
    info.option("console").is_none_or(|list| list.split(',').any(|word| word.starts_with(name)))
}

/// The screen. Loaders that tell of none left the text mode of a PC on, unless the firmware is EFI.
fn screen(info: &BootInfo) -> Option<Screen> {
    const TEXT: Screen =
        Screen { address: 0xb8000, pitch: 160, width: 80, height: 25, depth: 16, colours: None };
    info.screen.clone().or_else(|| info.efi.is_none().then_some(TEXT))
}

/// The serial console's settings: `com1=BAUD`, `com2=BAUD`.
fn serial(info: &BootInfo) {
    let baud = |name| info.option(name).and_then(|v| v.split(',').next()?.parse().ok());
    if let Some(b) = baud("com2").filter(|_| info.option("console").is_some_and(|c| c.contains("com2"))) {
        uart::init(0x2f8, b);
    } else {
        uart::init(0x3f8, baud("com1").unwrap_or(115_200));
    }
    console::set_serial(console_has(info, "com"));
    console::set_switch(Switch::new(info.option("conswitch")));
}

/// What is logged: of the hypervisor (`loglvl=`) and of guests (`guest_loglvl=`).
fn levels(info: &BootInfo) -> [Levels; 2] {
    let own = Levels { always: LevelFilter::Info, limited: LevelFilter::Info };
    let guests = Levels { always: LevelFilter::Off, limited: LevelFilter::Warn };
    [Levels::parse(info.option("loglvl"), own), Levels::parse(info.option("guest_loglvl"), guests)]
}

/// Brings the other CPUs up, each by the trampoline in a page below 1 MiB. One that doesn't come is left out.
fn start_others(cpus: &[u32]) {
    let info = run::BOOT.get().expect("set before");
    let low = info.ram().find_map(|r| {
        let page = r.start.max(0x1000) >> 12;
        (page < 0x9f && (page + 1) << 12 <= r.end).then_some(page as u8)
    });
    let mut n = 1;
    for apic_id in &cpus[1..] {
        match low {
            Some(page) if smp::start_ap(n, *apic_id, page, run::cpu_loop, &mut start::permanent_frame) => {
                n += 1
            }
            _ => log::error!("the CPU with APIC id {apic_id} did not start"),
        }
    }
    if cpus.len() > 1 {
        log::info!("{n} CPUs up");
    }
}

/// Starts everything; the BSP then joins the run loop.
pub fn boot(started: Started) -> ! {
    let info = run::BOOT.call_once(|| started.info);
    serial(info);
    let [own, guests] = levels(info);
    console::init(own, guests);
    console::init_ring();
    let screen = screen(info);
    let shown = console::set_screen(screen.as_ref().filter(|_| console_has(info, "vga")));
    log::info!("Oxen {} ({}), {}", env!("CARGO_PKG_VERSION"), info.protocol, &*info.cmdline);
    log::info!(
        "memory: {} MiB in {} ranges, {} KiB kept; TSC {}.{:03} MHz",
        info.ram().map(|r| r.end - r.start).sum::<u64>() >> 20,
        info.ram().count(),
        started.kept >> 10,
        clock::tsc_hz() / 1_000_000,
        clock::tsc_hz() / 1000 % 1000
    );
    log_unknown(info);
    log::debug!("entered at TSC {}", started.entered);
    log::info!("speculation: {}", speculation::found());
    if let Some(table) = info.efi {
        efi::init(table);
    }
    let found = acpi_setup::init(info.rsdp, info.option("noreboot").is_some());
    let limit = info.option("maxcpus").and_then(|v| v.parse().ok()).unwrap_or(usize::MAX).max(1);
    let cpus = &found.cpus[..found.cpus.len().min(limit)];
    run::init(cpus.len(), started.m2p);
    start_others(cpus);
    irq::init_serial(acpi_setup::isa_gsi(if uart::base() == 0x2f8 { 3 } else { 4 }), apic::id());
    let free = frames().free_frames();
    log::info!("{} MiB free, heap {} KiB used", free / 256, heap::usage().0 >> 10);

    let kernel =
        ModuleBytes::take(info, 0).unwrap_or_else(|| panic!("no dom0 kernel: give one as the first module"));
    let ramdisk = ModuleBytes::take(info, 1);
    let option = |name| info.option(name).unwrap_or("");
    let (frames, max_frames) = dom0_size::frames(option("dom0_mem"), frames().free_frames());
    let built = dom0::build(&Plan {
        kernel: kernel.bytes(),
        cmdline: &info.modules[0].cmdline,
        ramdisk: ramdisk.as_ref().map(|r| r.bytes()),
        frames,
        max_frames,
        vcpus: dom0_size::vcpus(option("dom0_max_vcpus"), cpus.len() as u32),
        is_pinned: info.option("dom0_vcpus_pin").is_some(),
        screen: screen.as_ref(),
        is_efi: efi::table().is_some(),
        kept: run::KEPT.call_once(|| found.kept),
    });
    if let Err(why) = built {
        panic!("dom0 can't be built: {why}");
    }
    kernel.free();
    if let Some(r) = ramdisk {
        r.free();
    }
    if shown && !info.option("vga").is_some_and(|words| words.split(',').any(|word| word == "keep")) {
        log::info!("the screen is dom0's from here on");
        console::set_screen(None);
    }
    smp::run_on_own_stack(run::cpu_loop)
}
