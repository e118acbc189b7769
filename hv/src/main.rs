//! The hypervisor's binary: the entry that asm/boot.s calls, and what happens when all else fails.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::panic::PanicInfo;
use hv_core::{boot, console};
use hv_machine::x86_64::{cpu, start, uart};

// A symbol with a fixed name is the one thing here that the compiler calls unsafe.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn hv_start(magic: u32, info: u32) -> ! {
    uart::init(0x3f8, 115_200);
    match start::start(magic, info) {
        Ok(s) => boot::boot(s),
        Err(why) => panic!("{why}"),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(at) => console::panic_write(format_args!("{} ({at})", info.message())),
        None => console::panic_write(format_args!("{}", info.message())),
    }
    cpu::halt_forever()
}
