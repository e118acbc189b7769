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
//! | [`System`] | `boot: Boot { initial, pages, cmdline(), ramdisk }`, `xenstore() -> Xenstore` |
//! | `executor` | `spawn(fut) -> JoinHandle<T>` (await it, `abort()`; dropping it detaches), `sleep(Duration)`, `sleep_until(Instant)`, `timeout(Duration, fut) -> Result<T, Elapsed>`, `yield_now()`, `select(a, b) -> Either`, `join(a, b)`, `Notify` (`notify()`, `async wait()`), `channel::<T>(capacity)` |
//! | `time` | `Instant::now()` (ns since the hypervisor's boot, monotonic), `wallclock() -> Duration` since 1970 |
//! | `memory` | `Page::new()`/`Pages::new(count)`: zeroed frames that may be shared, reached only by copying (`read::<T>(off)`, `write(off, &T)`, `read_bytes`, `write_bytes`, `load_u32`, `store_u32`); `Pages::contiguous(count, address_bits)` for DMA with `machine_address()`; `map_io(mfn, count) -> Mapping`; `map_foreign(domid, &[Gfn]) -> Mapping`; `free_frames()`, `m2p`/`p2m` |
//! | `events` | `EventChannel::{alloc_unbound(remote), bind_interdomain(remote, port), bind_virq(virq), bind_pirq(pirq)}`, `port()`, `notify()`, `async wait()`; closes on drop |
//! | `grants` | `Grant::offer(&Rc<Pages>, index, domid, Access)` with `reference()`, ends on drop (a frame that the peer still maps is kept back until it lets go); `GrantMapping::map(domid, &[GrantRef], Access)`; `copy(&mut [Copy])` |
//! | `ring` | `FrontRing<Req, Rsp>` / `BackRing<Req, Rsp>` over one or more shared pages: private indices, every request or response copied out once |
//! | `console` | `print!`, `println!`, `log` as backend of the `log` crate, `async read_line()`, raw input |
//! | `xenstore` | `Xenstore`: async `read/write/mkdir/rm/directory/get_perms/set_perms`, `watch(path) -> Watch` (`async next()`), `transaction(async |t| ...)` with retry; one client over any transport (the shared ring, or in-process for the dom0 that runs xenstored itself) |
//! | `xenbus` | `XenbusState`, `Device` (own and other end's paths), `switch_state`, `wait_for_peer`, enumeration of frontends and backends |
//! | `balloon` | follows `memory/target` |
//! | `hypercall` | domctl, sysctl, memory_op and the like for the toolstack, with buffers instead of addresses |
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
#[cfg(test)]
mod fake;
pub mod front;
pub mod net;
pub mod ring;
pub mod share;
mod wait;

#[doc(hidden)]
pub use guest_machine as machine;
pub use guest_machine::local::Local;
pub use guest_machine::start::Boot;

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::machine::emergency::print(format_args!($($arg)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::print!("{}\n", format_args!($($arg)*)) };
}

/// What a program is given at its start.
pub struct System {
    /// What the domain was started with.
    pub boot: Boot,
}

/// Defines a guest's program.
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

/// Runs a program to its end: what [`main!`] calls.
pub fn run<F: Future>(program: fn(System) -> F) {
    let system = System { boot: machine::start::boot() };
    let mut future = core::pin::pin!(program(system));
    let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
    while future.as_mut().poll(&mut cx).is_pending() {}
}
