//! A guest that tries to break the hypervisor it runs on. Whatever it does, the hypervisor must go on, and
//! every other guest with it.
//!
//! `mode=` on its command line says how:
//!
//! | mode | what it does | how it ends |
//! | --- | --- | --- |
//! | `wild` | random arguments to every hypercall (`seed=`, `count=`) | `enemy done` |
//! | `tables` | pins, unpins, maps and forges entries of its own tables at random (`seed=`, `count=`) | `enemy done`, or `enemy wins` |
//! | `grants` | scribbles into its grant table and uses it, of one version or the other (`seed=`, `count=`) | `enemy done`, or `enemy wins` |
//! | `exhaust` | takes all ports, grant frames and memory there are, and gives them back | `enemy done` |
//! | `fifo` | writes at random over its event words and control block (`seed=`, `count=`) | `enemy done`, or `enemy wins` |
//! | `domains` | as the control domain: creates domains until memory is out, and destroys them | `enemy done`, or `enemy wins` |
//! | `triple` | takes an exception without a handler or a stack | the hypervisor ends it |
//! | `spin` | never gives the processor up, with events masked | it doesn't |
//! | `blk`, `net` | corrupts its disks' and network cards' rings, a device for each way | `enemy done` |
//! | `bytes` | corrupts the rings to xenstore and to its console | silently, for want of a console |
//! | `quota` | takes of xenstore all that it gets, and keeps it | it doesn't, after `enemy done` |
//!
//! The hardest decision is what `wild` leaves out: calls that would only end this guest (its own shutdown,
//! its own memory unmapped) teach nothing about the hypervisor, so the random words name only memory that the
//! guest can lose. See `wild::tame`.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod blk;
mod bytes;
mod device;
mod domains;
mod exhaust;
mod fifo;
mod grants;
mod net;
mod quota;
mod random;
#[allow(unsafe_code, reason = "raw calls and bad state are what is under test")]
mod raw;
mod tables;
mod wild;

use guest_kernel::lifecycle::stop_requested;
use guest_kernel::{System, println};

guest_kernel::main! {
    async fn main(sys: System) {
        let number = |name, otherwise| sys.boot.option(name).and_then(|v| v.parse().ok()).unwrap_or(otherwise);
        let (seed, count) = (number("seed", 1), number("count", 1_000_000));
        let mode = sys.boot.option("mode").unwrap_or("wild");
        println!("enemy {mode} seed {seed} count {count}");
        // The first wait sets the handler for events, which an attack may let through.
        guest_kernel::executor::sleep(core::time::Duration::from_millis(1)).await;
        match mode {
            "wild" => wild::attack(seed, count),
            "tables" => tables::attack(seed, count),
            "grants" => grants::attack(seed, count),
            "exhaust" => exhaust::attack(),
            "fifo" => fifo::attack(seed, count),
            "domains" => domains::attack(),
            "triple" => raw::triple_fault(),
            "spin" => raw::spin(),
            "bytes" => bytes::attack(&sys.boot).await,
            "quota" | "blk" | "net" => {
                let Some(store) = &sys.store else { return println!("enemy: needs a domain with a store") };
                let result = match mode {
                    "blk" => blk::attack(store).await,
                    "net" => net::attack(store).await,
                    _ => {
                        quota::attack(store).await;
                        Ok(())
                    }
                };
                if let Err(errno) = result {
                    return println!("enemy {mode}: {}", errno.name());
                }
            }
            _ => return println!("enemy: no such mode"),
        }
        println!("enemy done");
        if mode == "quota" {
            stop_requested().await;
        }
    }
}
