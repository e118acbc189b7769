//! Hypercalls: the raw call, and the operations whose arguments cannot break memory safety.
//!
//! A hypercall that takes a guest address is only as safe as that address, so the raw call is
//! private to this crate. Each public operation passes memory that the caller lent it for the
//! duration of the call.

/// The hypervisor's answer: a non-negative value, or Xen's error number.
pub type Result<T> = core::result::Result<T, i64>;

/// `__HYPERVISOR_*` of xen.h, those that this crate issues.
#[allow(missing_docs)]
pub mod nr {
    pub const CONSOLE_IO: usize = 18;
    pub const SCHED_OP: usize = 29;
}

/// Issues hypercall `nr`.
///
/// # Safety
/// The arguments are valid for that hypercall: memory they name is the caller's to read or write
/// and the operation does not change mappings or frames that Rust code relies on.
#[cfg(target_os = "none")]
#[inline]
pub(crate) unsafe fn call(nr: usize, args: [usize; 5]) -> i64 {
    unsafe extern "C" {
        static hypercall_page: [u8; 4096];
    }
    let result: i64;
    // SAFETY: the caller's promise; the stub clobbers rcx, r11 and the argument registers only.
    unsafe {
        core::arch::asm!(
            "call rax",
            inlateout("rax") hypercall_page.as_ptr().addr() + nr * 32 => result,
            inlateout("rdi") args[0] => _,
            inlateout("rsi") args[1] => _,
            inlateout("rdx") args[2] => _,
            inlateout("r10") args[3] => _,
            inlateout("r8") args[4] => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// On the host there is no hypervisor: `-ENOSYS`.
#[cfg(not(target_os = "none"))]
pub(crate) unsafe fn call(_nr: usize, _args: [usize; 5]) -> i64 {
    -38
}

pub(crate) fn check(result: i64) -> Result<u64> {
    u64::try_from(result).map_err(|_| result)
}

/// Writes to the hypervisor's console (dom0, or a debug build of the hypervisor).
pub fn console_write(text: &[u8]) -> Result<()> {
    // SAFETY: CONSOLEIO_write (0) only reads `text`.
    check(unsafe { call(nr::CONSOLE_IO, [0, text.len(), text.as_ptr().addr(), 0, 0]) }).map(drop)
}

/// Reads from the hypervisor's console: how many bytes were there, up to `buffer`'s length.
pub fn console_read(buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: CONSOLEIO_read (1) writes at most the length given.
    let n = check(unsafe { call(nr::CONSOLE_IO, [1, buffer.len(), buffer.as_mut_ptr().addr(), 0, 0]) })?;
    Ok((n as usize).min(buffer.len()))
}

/// Why a domain stops: `SHUTDOWN_*` of sched.h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Shutdown {
    /// Clean end.
    Poweroff = 0,
    /// Clean end, start again.
    Reboot = 1,
    /// The guest found itself broken.
    Crash = 3,
}

/// Ends this domain.
pub fn shutdown(reason: Shutdown) -> ! {
    let arg = reason as u32;
    loop {
        // SAFETY: SCHEDOP_shutdown (2) reads one u32.
        unsafe { call(nr::SCHED_OP, [2, core::ptr::from_ref(&arg).addr(), 0, 0, 0]) };
        #[cfg(not(target_os = "none"))]
        std::process::exit(reason as i32);
    }
}
