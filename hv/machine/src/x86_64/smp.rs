//! Bringing up this CPU, then the others.

use super::percpu::{self, window};
use super::{apic, clock, cpu, desc, layout, paging, tlb, traps};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
    static mut ap_stack: u64;
    static mut ap_root: u64;
}

static AP_CPU: AtomicUsize = AtomicUsize::new(0);
static AP_MAIN: AtomicU64 = AtomicU64::new(0);

/// The BSP's own bring-up: descriptors, per-CPU block, features, local APIC, clock.
/// # Safety
/// Once, at boot, after [`paging::init`].
pub unsafe fn init_bsp(alloc: &mut dyn FnMut() -> u64) -> Result<(), &'static str> {
    let l1 = paging::make_window(0, alloc);
    // SAFETY: the BSP's first and only pass; its window was just mapped.
    unsafe {
        percpu::init_block(0, 0, l1);
        traps::init_idt();
        desc::load(0);
        percpu::load(0);
    }
    cpu::init(percpu::window_addr(0, window::STACK + window::STACK_PAGES))?;
    apic::init(true)?;
    // SAFETY: rewrites the block with the id now known; nothing has used it.
    unsafe { percpu::init_block(0, apic::id(), l1) };
    tlb::set_online(0);
    clock::calibrate();
    Ok(())
}

/// Starts CPU `n` with APIC id `apic_id`; `main` runs there on the CPU's own stack. `low_page` is a
/// page below 1 MiB that may be overwritten. Says whether the CPU came up.
pub fn start_ap(
    n: usize,
    apic_id: u32,
    low_page: u8,
    main: fn(usize) -> !,
    alloc: &mut dyn FnMut() -> u64,
) -> bool {
    let l1 = paging::make_window(n, alloc);
    AP_CPU.store(n, SeqCst);
    AP_MAIN.store(main as *const () as u64, SeqCst);
    // SAFETY: the window is new; the low page is RAM nobody uses (caller: from the memory map); the
    // trampoline is position-independent up to its jump below .boot.
    unsafe {
        percpu::init_block(n, apic_id, l1);
        let from = &raw const ap_trampoline;
        let len = (&raw const ap_trampoline_end).offset_from(from) as usize;
        let to = (layout::DIRECT + (u64::from(low_page) << 12)) as *mut u8;
        core::ptr::copy_nonoverlapping(from, to, len);
        (&raw mut ap_root).write_volatile(paging::idle_root());
        (&raw mut ap_stack).write_volatile(percpu::window_addr(n, window::STACK + window::STACK_PAGES));
    }
    apic::send_init(apic_id);
    clock::delay_us(10_000);
    for _ in 0..2 {
        apic::send_startup(apic_id, low_page);
        let end = clock::now() + 500_000_000;
        while clock::now() < end {
            if tlb::online() & 1 << n != 0 {
                return true;
            }
            core::hint::spin_loop();
        }
    }
    false
}

/// Where an AP's Rust begins: on its own stack.
#[unsafe(no_mangle)]
extern "C" fn hv_ap_start() -> ! {
    let n = AP_CPU.load(SeqCst);
    // SAFETY: this is CPU `n`, alone with its window and block (`start_ap` waits).
    unsafe {
        desc::load(n);
        percpu::load(n);
    }
    if cpu::init(percpu::window_addr(n, window::STACK + window::STACK_PAGES)).is_err()
        || apic::init(false).is_err()
    {
        cpu::halt_forever();
    }
    let main = AP_MAIN.load(SeqCst);
    // SAFETY: `start_ap` stored a `fn(usize) -> !` there.
    let main: fn(usize) -> ! =
        unsafe { core::mem::transmute::<*const (), fn(usize) -> !>(main as *const ()) };
    tlb::set_online(n);
    main(n)
}

/// Leaves the boot stack for this CPU's own, with unmapped pages around it.
pub fn run_on_own_stack(main: fn(usize) -> !) -> ! {
    let n = percpu::cpu_id();
    let top = percpu::window_addr(n, window::STACK + window::STACK_PAGES);
    // SAFETY: the stack is mapped and unused; nothing of the old one is needed again.
    unsafe {
        core::arch::asm!("mov rsp, {s}", "xor ebp, ebp", "call {f}", "ud2", s = in(reg) top, f = in(reg) main as *const (), in("rdi") n, options(noreturn))
    }
}
/// Waits for an interrupt with interrupts on; what came is in [`percpu::PerCpu::take_pending`].
pub fn idle() {
    unsafe extern "C" {
        fn idle_wait();
    }
    // SAFETY: interrupts in ring 0 only note their vector.
    unsafe { idle_wait() }
}
/// Lets waiting interrupts in.
pub fn poll_interrupts() {
    unsafe extern "C" {
        fn idle_poll();
    }
    // SAFETY: as for `idle`.
    unsafe { idle_poll() }
}
