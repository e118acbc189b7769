//! A guest that tests its disks and its network against the backends it was given.
//!
//! Its first disk holds an ext4 filesystem: every file is read and its name, length and sum are
//! printed, to be compared with the files the image was made from. Its second disk is written all
//! over by several tasks at once and read back. Its network echoes what comes to port 7 and counts
//! what it reads on port 9. Each part prints a line that starts with its name; without a disk or
//! an interface its part is left out.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

mod disk;
mod files;
mod network;

use guest_kernel::front::blk;
use guest_kernel::lifecycle::stop_requested;
use guest_kernel::{System, println};

guest_kernel::main! {
    async fn main(sys: System) {
        let Some(store) = &sys.store else { return println!("devices: needs a domain with a store") };
        let disks = blk::disks(store).await.unwrap_or_default();
        if let Some(&first) = disks.first() {
            match blk::attach(store, first, blk::Options::default()).await {
                Ok(disk) => files::print(disk).await,
                Err(errno) => println!("files: no disk {first}: {errno}"),
            }
        }
        if let Some(&second) = disks.get(1) {
            match blk::attach(store, second, blk::Options { ring_order: 2, ..Default::default() }).await {
                Ok(disk) => disk::exercise(disk).await,
                Err(errno) => println!("disk: no disk {second}: {errno}"),
            }
        }
        network::serve(&sys).await;
        println!("devices: serving");
        stop_requested().await;
    }
}
