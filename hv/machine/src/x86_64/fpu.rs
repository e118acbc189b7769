//! Vector and floating-point state of guests, saved and restored whole at every switch (eager), so
//! that no register of one guest is ever visible to another. The hypervisor itself has no such code.

use super::cpu;
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use shared_abi::Errno;

/// A vcpu's saved state: an XSAVE area (standard form), or an FXSAVE image on CPUs without XSAVE.
pub struct FpuState {
    area: *mut u8,
    len: usize,
    /// The guest's XCR0, loaded while it runs.
    pub xcr0: u64,
}

// SAFETY: the area is owned and plain memory.
unsafe impl Send for FpuState {}
// SAFETY: shared references only read it.
unsafe impl Sync for FpuState {}

/// Bytes of the save area: all components the hypervisor switches.
static AREA: AtomicUsize = AtomicUsize::new(512);

/// Whether a load leaves the x87 instruction and data pointers of whoever was here before, as AMD's processors before Zen
/// do unless an exception is pending (FXRSTOR and XRSTOR in APM volume 4 and 5; XSA-52).
static POINTERS_STAY: AtomicBool = AtomicBool::new(false);

/// Measures the save area, XCR0 being all that the hypervisor switches. Once, at boot: CPUID tells the size for the
/// XCR0 that is loaded, and in a hypercall that is the calling guest's. Asked there, as it once was, a caller
/// without AVX-512 would get its new domains areas that saving the whole state writes past the end of.
pub(super) fn measure() {
    AREA.store((cpu::cpuid(0xd, 0).ebx as usize).clamp(576, 16384), Relaxed);
}

/// Learns how this CPU loads.
pub(super) fn init() {
    let amd = matches!(&cpu::cpuid(0, 0).ebx.to_le_bytes(), b"Auth" | b"Hygo");
    let has_leaf = cpu::cpuid(0x8000_0000, 0).eax >= 0x8000_0008;
    // RstrFpErrPtrs
    let restored = has_leaf && cpu::cpuid(0x8000_0008, 0).ebx & 1 << 2 != 0;
    POINTERS_STAY.store(amd && !restored, Relaxed);
}

impl FpuState {
    /// The architecture's initial state.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<FpuState, Errno> {
        let len = AREA.load(Relaxed);
        let layout = Layout::from_size_align(len, 64).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: the size is not zero.
        let area = unsafe { alloc_zeroed(layout) };
        if area.is_null() {
            return Err(Errno::ENOMEM);
        }
        let mut f = FpuState { area, len, xcr0: 3 };
        f.reset();
        Ok(f)
    }

    /// Makes the saved image the architecture's initial state.
    fn reset(&mut self) {
        let image = self.bytes_mut();
        image.fill(0);
        image[0..2].copy_from_slice(&0x037f_u16.to_le_bytes());
        image[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    }

    /// The saved image.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `area` is `len` initialised bytes, owned.
        unsafe { core::slice::from_raw_parts(self.area, self.len) }
    }

    /// The saved image, to change it. What a guest supplies may be refused at [`FpuState::load`], which
    /// then loads the initial state.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.area, self.len) }
    }

    /// The first 512 bytes were replaced by a legacy image: its components count as in use.
    pub fn mark_legacy(&mut self) {
        if cpu::xcr0_all() != 0 {
            self.bytes_mut()[512] |= 3;
        }
    }

    /// Sets the guest's XCR0, it being the guest that runs. The value was checked against its CPUID.
    pub fn set_xcr0(&mut self, v: u64) {
        if cpu::xcr0_all() != 0 {
            self.xcr0 = v & cpu::xcr0_all() | 1;
            cpu::set_xcr0(self.xcr0);
        }
    }

    /// Saves this CPU's registers.
    pub fn save(&mut self) {
        let all = cpu::xcr0_all();
        // SAFETY: the area is 64-byte aligned and large enough for every component in `all`.
        unsafe {
            if all != 0 {
                if self.xcr0 != all {
                    cpu::set_xcr0(all);
                }
                asm!("xsave64 [{}]", in(reg) self.area, in("eax") all as u32, in("edx") (all >> 32) as u32, options(nostack));
            } else {
                asm!("fxsave64 [{}]", in(reg) self.area, options(nostack));
            }
        }
    }

    /// Loads the saved image into this CPU's registers.
    pub fn load(&mut self) {
        unsafe extern "C" {
            fn try_xrstor(area: *const u8, mask: u64) -> u64;
            fn try_fxrstor(area: *const u8) -> u64;
        }
        if POINTERS_STAY.load(Relaxed) {
            // SAFETY: the registers are about to be loaded anew; this clears the pointers too, and waits for no exception.
            unsafe { asm!("fninit", options(nomem, nostack)) };
        }
        let all = cpu::xcr0_all();
        if all == 0 {
            // SAFETY: a whole FXSAVE image, aligned; one with bits in MXCSR that the CPU hasn't faults and is caught.
            if unsafe { try_fxrstor(self.area) } != 0 {
                self.reset();
                // SAFETY: the initial state is always accepted.
                unsafe { try_fxrstor(self.area) };
            }
            return;
        }
        cpu::set_xcr0(all);
        // SAFETY: aligned, whole; a refused image faults and is caught.
        if unsafe { try_xrstor(self.area, all) } != 0 {
            self.reset();
            // SAFETY: the initial state is always accepted.
            unsafe { try_xrstor(self.area, all) };
        }
        if self.xcr0 != all {
            cpu::set_xcr0(self.xcr0);
        }
    }
}

impl Drop for FpuState {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.area, Layout::from_size_align_unchecked(self.len, 64)) }
    }
}
