//! The hypervisor's binary.
#![no_std]
#![no_main]
use core::panic::PanicInfo;
#[panic_handler]
fn panic(i: &PanicInfo) -> ! { let _ = i; hv_machine::x86_64::cpu::halt_forever() }
// The symbol that asm/boot.s calls.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn hv_start(magic: u32, info: u32) -> ! {
    hv_machine::x86_64::uart::init(0x3f8, 115200);
    hv_machine::x86_64::uart::write(b"hello from oxen\n");
    let _ = (magic, info);
    hv_machine::x86_64::cpu::halt_forever()
}
