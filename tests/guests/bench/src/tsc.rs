//! The processor's time-stamp counter, which under QEMU's instruction counting has counted since power-on.

/// Instructions since power-on.
pub fn read() -> u64 {
    // SAFETY: reads a counter and writes no memory; where a hypervisor forbids guests to read it, it
    // emulates the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}
