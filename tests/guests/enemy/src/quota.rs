//! Everything in xenstore that a domain may have only so much of, until it is refused. What was taken is kept:
//! the store is to serve the others while this domain stands at its limits.
//!
//! The one quota left out is that on the daemon's memory, which the others keep out of reach.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use guest_kernel::println;
use guest_kernel::shared_abi::Errno;
use guest_kernel::shared_abi::io::xs_wire::{XS_SET_PERMS, XS_TRANSACTION_START};
use guest_kernel::xenstore::Xenstore;

/// No quota is larger than this.
const ENOUGH: usize = 4000;

/// Reaches each quota once, and prints after how many steps and with which error.
pub async fn attack(store: &Xenstore) {
    let told = |name: &str, steps: usize, end: Result<(), Errno>| match end {
        Ok(()) => println!("enemy wins: no quota \"{name}\" in {steps} steps"),
        Err(errno) => println!("enemy quota {name}: {} after {steps}", errno.name()),
    };

    told("node-size", 1, store.write("data/large", [b'x'; 2100]).await);
    told("path-max", 1, store.write(&format!("data/{}", "x".repeat(2100)), "").await);
    let me: u32 = store.read_parsed("domid").await.unwrap_or(0);
    let perms: String = (0..10).map(|domid| format!("r{}\0", domid + me)).collect();
    told(
        "node-permissions",
        10,
        store.request(XS_SET_PERMS, format!("data\0n{me}\0{perms}").into()).await.map(drop),
    );

    let (mut steps, mut watches, mut end) = (0, Vec::new(), Ok(()));
    while end.is_ok() && steps < ENOUGH {
        match store.watch(&format!("data/watched/{steps}")).await {
            Ok(watch) => watches.push(watch),
            Err(errno) => end = Err(errno),
        }
        steps += 1;
    }
    told("watches", steps, end);
    // Dropped watches would be taken back.
    core::mem::forget(watches);

    // It ends in the error, which is what was wanted.
    let _ = store
        .transaction(async |inside| {
            for step in 0..ENOUGH {
                let answer = inside.try_read(&format!("data/absent/{step}")).await;
                if let Err(errno) = answer {
                    told("transaction-nodes", step, Err(errno));
                    return Err(errno);
                }
            }
            told("transaction-nodes", ENOUGH, Ok(()));
            Ok(())
        })
        .await;

    let (mut steps, mut end) = (0, Ok(()));
    while end.is_ok() && steps < ENOUGH {
        end = store.request(XS_TRANSACTION_START, [0].into()).await.map(drop);
        steps += 1;
    }
    told("transactions", steps, end);

    let (mut steps, mut end) = (0, Ok(()));
    while end.is_ok() && steps < ENOUGH {
        end = store.write(&format!("data/many/{}/{steps}", steps / 100), "").await;
        steps += 1;
    }
    told("nodes", steps, end);
}
