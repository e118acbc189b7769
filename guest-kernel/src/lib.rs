//! The library OS: a paravirtual guest of Xen in Rust, without unsafe code.
//!
//! A program is one `async fn`, run on the guest's only vcpu:
//!
//! ```ignore
//! #![cfg_attr(target_os = "none", no_std, no_main)]
//! #![forbid(unsafe_code)]
//! guest_kernel::main! {
//!     async fn main(sys: guest_kernel::System) {
//!         guest_kernel::println!("hello, {}", sys.boot.cmdline());
//!     }
//! }
//! ```
//!
//! with `build = "../../build-guest.rs"` in its Cargo.toml. When `main` returns the domain powers
//! off; a panic or a trap prints its registers and ends the domain as crashed.
//!
//! # API overview
//!
//! Nothing here is `Send`: there is one vcpu, tasks are cooperative, and no code is interrupted by
//! other code. State shared by tasks is `Rc<RefCell<_>>`, or a `static` [`Local`].
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`System`] | `boot: Boot { initial, pages, cmdline(), option(name), ramdisk }`, `store: Option<Xenstore>` (none in the initial domain, which makes its own) |
//! | `executor` | `spawn(fut) -> JoinHandle<T>` (await it, `abort()`; dropping it detaches), `sleep(Duration)`, `sleep_until(Instant)`, `timeout(Duration, fut) -> Result<T, Elapsed>`, `yield_now()`, `select(a, b) -> Either`, `join(a, b)`, `Notify` (`notify()`, `async wait()`), `channel::<T>(capacity)` |
//! | `time` | `Instant::now()` (ns since the hypervisor's boot, monotonic), `wallclock() -> Duration` since 1970 |
//! | `memory` | `Pages::new(count)`: zeroed frames that may be shared, reached only by copying (`read_value::<T>(off)`, `write_value(off, &T)`, `read_bytes`, `write_bytes`, `load_u32`, `store_u32`); `Pages::contiguous(count, address_bits)` for DMA with `machine_address()`; `Mapping::{foreign, foreign_read_only, device, firmware}`; `free_frames()`, `m2p`/`p2m` |
//! | `events` | `EventChannel::{alloc_unbound(remote), bind_interdomain(remote, port), bind_virq(virq), bind_pirq(pirq)}`, `port()`, `notify()`, `async wait()`; closes on drop |
//! | `grants` | `Grant::offer(&Rc<Pages>, index, domid, Access)` with `reference()`, ends on drop (a frame that the peer still maps is kept back until it lets go); `GrantMapping::map(domid, &[GrantRef], Access)`; `CopyBatch` (`read`, `write`, `run`); `SharedPage` and `Peer` for the traits in `share` |
//! | `ring`, `share` | `FrontRing` / `BackRing` over shared pages: private indices, every request or response copied out once; the traits that drivers use and that the machine's types implement |
//! | `console` | `print!`, `println!`, `log` as backend of the `log` crate, `async read_line()`, raw input |
//! | `xenstore` | `Xenstore`: async `read/read_bytes/try_read/read_parsed/write/mkdir/rm/directory/get_perms/set_perms/introduce/release`, `watch(path) -> Watch` (`async next()`), `transaction(async \|t\| ..)` with retry; `in_process()` for the dom0 that runs xenstored itself: the client, its requests' `Receiver<Message>` and the replies' `Sender<Message>` |
//! | `xenbus` | `XenbusState`, `Device::{frontend, backend}` (`read_peer`, `publish`, `switch_state`, `watch_peer`, `wait_for_peer`), `frontends(kind)`, `backends(kind)` |
//! | `lifecycle` | `stop_requested()`: the toolstack's `control/shutdown`; the balloon follows `memory/target` by itself |
//! | `hypercall` | event channel and physdev operations by their structures; `shutdown` |
//!
//! The other side of every ring is hostile: read each index and request once into private
//! memory, bound it, then use it. `memory::Pages` makes that the only way.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod back;
pub mod block;
mod boot;
pub mod console;
pub mod domctl;
pub mod events;
pub mod executor;
#[cfg(test)]
mod fake;
pub mod front;
pub mod fs;
pub mod grants;
pub mod lifecycle;
pub mod memory;
pub mod net;
pub mod ring;
pub mod share;
pub mod sysctl;
pub mod time;
pub mod wait;
pub mod xenbus;
pub mod xenstore;

pub use boot::System;
#[doc(hidden)]
pub use boot::run;
pub use guest_machine::hypercall::{self, Shutdown};
pub use guest_machine::local::Local;
pub use guest_machine::port as pci_ports;
pub use guest_machine::start::{self, Boot};
pub use log;
pub use shared_abi;

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(format_args!($($arg)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::print!("{}\n", format_args!($($arg)*)) };
}

/// Ends this domain, after the console's text.
pub fn shutdown(reason: Shutdown) -> ! {
    console::flush();
    hypercall::shutdown(reason)
}

/// Defines a guest's program: `main! { async fn main(sys: System) { .. } }`. What it returns is
/// dropped. On the host the program is compiled but not run.
#[macro_export]
macro_rules! main {
    ($(#[$attr:meta])* async fn $name:ident($sys:ident : $ty:ty) $(-> $ret:ty)? $body:block) => {
        const _: () = {
            $(#[$attr])*
            async fn $name($sys: $ty) $(-> $ret)? $body

            #[cfg(target_os = "none")]
            #[unsafe(no_mangle)]
            extern "Rust" fn __oxen_main() {
                $crate::run($name)
            }

            #[cfg(not(target_os = "none"))]
            const _: fn() = || $crate::run($name);
        };

        #[cfg(not(target_os = "none"))]
        fn main() {
            panic!("a Xen guest: build it for x86_64-unknown-none and boot it");
        }
    };
}
