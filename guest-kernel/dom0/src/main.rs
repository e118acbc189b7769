//! The control domain.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use guest_kernel::{System, println};

guest_kernel::main! {
    async fn main(sys: System) {
        println!("dom0 of {} pages, command line {:?}", sys.boot.pages, sys.boot.cmdline());
    }
}
