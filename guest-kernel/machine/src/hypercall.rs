//! Hypercalls: the raw call, and the operations whose arguments cannot break memory safety.
//!
//! A hypercall that takes a guest address is only as safe as that address, so the raw call is
//! private to this crate. Each public operation passes memory that the caller lent it for the
//! duration of the call, of the type the command has in Xen's headers: the traits below tie
//! command and type together, and leave out the commands whose structure holds an address or that
//! change frames or mappings that Rust code relies on. Those have their own modules.

pub use shared_abi::Errno;
use shared_abi::event_channel::*;
use shared_abi::physdev::*;
use shared_abi::sched::{
    SCHEDOP_BLOCK, SCHEDOP_SHUTDOWN, SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT,
};
use shared_abi::vcpu::{VCPUOP_SET_SINGLESHOT_TIMER, VCPUOP_STOP_PERIODIC_TIMER, VcpuSetSingleshotTimer};
use shared_abi::xen::{CONSOLEIO_READ, CONSOLEIO_WRITE, hypercall as nr};

/// What a hypercall answers: a non-negative value or Xen's errno.
pub type Result<T> = core::result::Result<T, Errno>;

/// Issues hypercall `nr`.
///
/// # Safety
/// The arguments are valid for that hypercall: memory they name is the caller's to read or write
/// and the operation does not change mappings or frames that Rust code relies on.
#[cfg(target_os = "none")]
#[inline]
pub(crate) unsafe fn call(nr: u64, args: [usize; 5]) -> i64 {
    unsafe extern "C" {
        static hypercall_page: [u8; 4096];
    }
    let stub = (&raw const hypercall_page).addr() + nr as usize * shared_abi::xen::hypercall::STUB_SIZE;
    let result: i64;
    // SAFETY: the caller's promise; the stub clobbers rcx, r11 and the argument registers only.
    unsafe {
        core::arch::asm!(
            "call rax",
            inlateout("rax") stub => result,
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
pub(crate) unsafe fn call(_nr: u64, _args: [usize; 5]) -> i64 {
    Errno::ENOSYS.neg()
}

/// The value, or the errno; a number that is no errno of the ABI counts as `EIO`.
pub(crate) fn check(result: i64) -> Result<u64> {
    match Errno::from_result(result) {
        None => Ok(result as u64),
        Some(errno) => Err(errno.unwrap_or(Errno::EIO)),
    }
}

/// The address of a value whose memory a hypercall will read or write.
fn mut_addr<T>(arg: &mut T) -> usize {
    core::ptr::from_mut(arg).expose_provenance()
}

macro_rules! operations {
    ($(#[$meta:meta])* $trait:ident, $function:ident, $nr:expr, { $($ty:ident => $cmd:expr,)* }) => {
        $(#[$meta])*
        pub trait $trait: private::Sealed {
            /// The command that takes this structure.
            const CMD: u32;
        }
        $(
            impl private::Sealed for $ty {}
            impl $trait for $ty {
                const CMD: u32 = $cmd;
            }
        )*
        $(#[$meta])*
        pub fn $function<T: $trait>(arg: &mut T) -> Result<u64> {
            // SAFETY: the trait is implemented only for the structure of that command, which
            // holds no address.
            check(unsafe { call($nr, [T::CMD as usize, mut_addr(arg), 0, 0, 0]) })
        }
    };
}

mod private {
    pub trait Sealed {}
}

operations! {
    /// `event_channel_op` with the command that takes the argument's type.
    EventChannelOp, event_channel_op, nr::EVENT_CHANNEL_OP, {
        EvtchnAllocUnbound => EVTCHNOP_ALLOC_UNBOUND,
        EvtchnBindInterdomain => EVTCHNOP_BIND_INTERDOMAIN,
        EvtchnBindVirq => EVTCHNOP_BIND_VIRQ,
        EvtchnBindPirq => EVTCHNOP_BIND_PIRQ,
        EvtchnClose => EVTCHNOP_CLOSE,
        EvtchnSend => EVTCHNOP_SEND,
        EvtchnStatus => EVTCHNOP_STATUS,
        EvtchnUnmask => EVTCHNOP_UNMASK,
        EvtchnReset => EVTCHNOP_RESET,
    }
}

operations! {
    /// `physdev_op` with the command that takes the argument's type.
    PhysdevOperation, physdev_op, nr::PHYSDEV_OP, {
        PhysdevEoi => PHYSDEVOP_EOI,
        PhysdevIrqStatusQuery => PHYSDEVOP_IRQ_STATUS_QUERY,
        PhysdevMapPirq => PHYSDEVOP_MAP_PIRQ,
        PhysdevUnmapPirq => PHYSDEVOP_UNMAP_PIRQ,
        PhysdevSetupGsi => PHYSDEVOP_SETUP_GSI,
        PhysdevSetIopl => PHYSDEVOP_SET_IOPL,
        PhysdevManagePci => PHYSDEVOP_MANAGE_PCI_ADD,
        PhysdevPciDeviceAdd => PHYSDEVOP_PCI_DEVICE_ADD,
    }
}

/// Writes to the hypervisor's console (dom0, or a verbose build of the hypervisor).
pub fn console_write(text: &[u8]) -> Result<()> {
    let args = [CONSOLEIO_WRITE as usize, text.len(), text.as_ptr().expose_provenance(), 0, 0];
    // SAFETY: the command only reads `text`.
    check(unsafe { call(nr::CONSOLE_IO, args) }).map(drop)
}

/// Reads from the hypervisor's console: how many bytes were there, up to `buffer`'s length.
pub fn console_read(buffer: &mut [u8]) -> Result<usize> {
    let args = [CONSOLEIO_READ as usize, buffer.len(), buffer.as_mut_ptr().expose_provenance(), 0, 0];
    // SAFETY: the command writes at most the length given.
    let read = check(unsafe { call(nr::CONSOLE_IO, args) })?;
    Ok((read as usize).min(buffer.len()))
}

/// Why a domain stops: `SHUTDOWN_*` of sched.h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Shutdown {
    /// Clean end.
    Poweroff = SHUTDOWN_POWEROFF,
    /// Clean end, start again.
    Reboot = SHUTDOWN_REBOOT,
    /// The guest found itself broken.
    Crash = SHUTDOWN_CRASH,
}

/// Ends this domain (on the host: the process).
pub fn shutdown(reason: Shutdown) -> ! {
    let arg = reason as u32;
    #[cfg_attr(
        not(target_os = "none"),
        expect(clippy::never_loop, reason = "the process ends in the first round")
    )]
    loop {
        let args = [SCHEDOP_SHUTDOWN as usize, (&raw const arg).expose_provenance(), 0, 0, 0];
        // SAFETY: the command reads one u32.
        unsafe { call(nr::SCHED_OP, args) };
        #[cfg(not(target_os = "none"))]
        std::process::exit(reason as i32);
    }
}

/// Waits, with upcalls unmasked, until an event is pending.
pub(crate) fn block() {
    // SAFETY: takes no argument; the upcall handler it lets in touches no Rust state.
    unsafe { call(nr::SCHED_OP, [SCHEDOP_BLOCK as usize, 0, 0, 0, 0]) };
}

/// Arranges for VIRQ_TIMER at `deadline` (system time in ns). In the past means at once.
pub fn set_timer(deadline: u64) -> Result<()> {
    let arg = VcpuSetSingleshotTimer { timeout_abs_ns: deadline, flags: 0, _pad: 0 };
    let args = [VCPUOP_SET_SINGLESHOT_TIMER as usize, 0, (&raw const arg).expose_provenance(), 0, 0];
    // SAFETY: the command reads its structure; vcpu 0 is the only one.
    check(unsafe { call(nr::VCPU_OP, args) }).map(drop)
}

/// Stops the periodic timer that a vcpu starts with.
pub fn stop_periodic_timer() -> Result<()> {
    let args = [VCPUOP_STOP_PERIODIC_TIMER as usize, 0, 0, 0, 0];
    // SAFETY: takes no further argument.
    check(unsafe { call(nr::VCPU_OP, args) }).map(drop)
}
