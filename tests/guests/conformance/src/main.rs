//! A guest that asks the hypervisor hard questions and prints its answers, one line each.
//!
//! It boots as dom0 on Debian's Xen and on Oxen, and the two lists must be the same: two independent
//! implementations of one interface have to agree, on what they refuse above all. So a row prints
//! error numbers and small values, never an address or a frame number, which may differ.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod calls;
#[cfg(target_os = "none")]
mod context;
mod events;
mod fifo;
mod grants;
mod hardware;
mod paging;
#[allow(unsafe_code, reason = "the raw call is what is under test")]
mod raw;
mod tables;
#[cfg(target_os = "none")]
#[allow(unsafe_code, reason = "traps are raised on purpose, and handled in assembly")]
mod traps;
#[cfg(target_os = "none")]
#[allow(unsafe_code, reason = "what a vcpu begins with is assembly")]
mod vcpus;
mod wild;

use guest_kernel::{System, println};

guest_kernel::main! {
    async fn main(_sys: System) {
        wild::ask();
        events::ask();
        grants::ask();
        tables::ask();
        paging::ask();
        hardware::ask();
        calls::ask();
        #[cfg(target_os = "none")]
        vcpus::ask();
        #[cfg(target_os = "none")]
        traps::ask();
        fifo::ask();
        println!("answers end");
    }
}

/// Prints the answer to the question called `name`.
fn answer(name: core::fmt::Arguments, result: i64) {
    println!("answer {name}: {result}");
}
