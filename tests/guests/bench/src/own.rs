//! What a measured operation takes in this guest itself, so that it can be taken off.
//!
//! A measured loop runs twice: its calls go to the hypercall page, then to `local_page`, whose entries are the
//! same instructions with a `nop` in `syscall`'s place. The difference is what ran in the hypervisor.
//! The upcall of the event rows is entered by a handler of its own, which leaves like Linux's: by the
//! `iret` hypercall. It runs in the first loop alone, so its instructions are told by [`UPCALL`].

/// Instructions of the upcall handler, the `iret` entry of the hypercall page included.
pub const UPCALL: u64 = 5 + 5;

/// Which page calls go to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Page {
    Hypercalls,
    Local,
}

#[cfg(not(target_os = "none"))]
pub use host::*;
#[cfg(target_os = "none")]
pub use target::*;

#[cfg(target_os = "none")]
mod target {
    use super::Page;
    use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

    /// Bytes of a hypercall page's entry: push rcx; push r11; mov eax, number; syscall; pop r11; pop rcx; ret.
    const ENTRY: [u8; 14] = [0x51, 0x41, 0x53, 0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3];
    /// Bytes of the `iret` entry: push rcx; push r11; push rax; mov eax, 23; syscall.
    const IRET: [u8; 11] = [0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05];
    const IRET_NUMBER: usize = 23;
    const SET_CALLBACKS: usize = 4;

    core::arch::global_asm!(
        ".balign 4096",
        "local_page:",
        ".rept 128",
        ".balign 32",
        "push rcx",
        "push r11",
        "mov eax, 0",
        "nop",
        "pop r11",
        "pop rcx",
        "ret",
        ".endr",
        // Nothing is pending any more, else the upcall would come again: al is zero, a send's result. iret takes
        // the frame without the rcx and r11 on top, and with flags there.
        "bench_upcall:",
        "movabs byte ptr [{shared_info}], al",
        "pop rcx",
        "pop r11",
        "push 0",
        "jmp hypercall_page + {iret} * 32",
        shared_info = const SHARED_INFO,
        iret = const IRET_NUMBER,
    );

    /// Where the library OS maps the shared_info page (guest-kernel/machine/src/paging.rs).
    const SHARED_INFO: usize = 0xffff_ffff_0000_0000;
    static PAGE: AtomicUsize = AtomicUsize::new(0);

    unsafe extern "C" {
        static hypercall_page: [u8; 4096];
        static local_page: [u8; 4096];
        static bench_upcall: u8;
        static event_upcall: u8;
        static failsafe_upcall: u8;
    }

    /// Has calls go to a page.
    ///
    /// # Errors
    /// The hypercall page isn't what [`local_page`] was made after.
    pub fn use_page(page: Page) -> Result<(), &'static str> {
        // SAFETY: the hypervisor filled the page before this program began; only bytes are looked at.
        let real = unsafe { &hypercall_page };
        let shape = |number: usize| {
            let mut entry: [u8; 14] = core::array::from_fn(|i| real[number * 32 + i]);
            entry[4..8].fill(0);
            entry == ENTRY
        };
        if (0..40).any(|n| n != IRET_NUMBER && !shape(n)) || real[IRET_NUMBER * 32..][..IRET.len()] != IRET {
            return Err("the hypercall page is of another shape than the local one");
        }
        let at = match page {
            Page::Hypercalls => real.as_ptr().addr(),
            // SAFETY: only the address is taken.
            Page::Local => unsafe { local_page.as_ptr().addr() },
        };
        PAGE.store(at, Relaxed);
        Ok(())
    }

    /// Issues hypercall `nr`, or does all of it but that, and gives what it returned.
    pub fn call(nr: usize, args: [usize; 5]) -> i64 {
        let result: i64;
        // SAFETY: as in raw.rs: the arguments name the buffer and frames that are lent to these rows.
        unsafe {
            core::arch::asm!(
                "call rax",
                inlateout("rax") PAGE.load(Relaxed) + nr * 32 => result,
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

    /// A word of the shared_info page.
    pub fn shared(offset: usize) -> &'static AtomicU64 {
        // SAFETY: the library OS maps the page at this address for good, and uses it by atomic operations; `offset` is
        // one of this program's constants, within the page and aligned.
        unsafe { AtomicU64::from_ptr(core::ptr::with_exposed_provenance_mut(SHARED_INFO + offset)) }
    }

    /// Has upcalls come to the handler above (`set_callbacks`), or to the library OS's own again.
    pub fn upcalls_here(here: bool) -> i64 {
        let event = if here { &raw const bench_upcall } else { &raw const event_upcall };
        crate::raw::call(SET_CALLBACKS, [event.addr(), (&raw const failsafe_upcall).addr(), 0, 0, 0])
    }
}

/// On the host there is no hypervisor.
#[cfg(not(target_os = "none"))]
mod host {
    use super::Page;
    use core::sync::atomic::AtomicU64;

    pub fn use_page(_: Page) -> Result<(), &'static str> {
        Err("no hypervisor")
    }
    pub fn call(_: usize, _: [usize; 5]) -> i64 {
        -38
    }
    pub fn shared(_: usize) -> &'static AtomicU64 {
        static WORD: AtomicU64 = AtomicU64::new(0);
        &WORD
    }
    pub fn upcalls_here(_: bool) -> i64 {
        -38
    }
}
