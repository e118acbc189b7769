//! The byte rings of xenstore and of the console: indices that can't be.

use core::mem::offset_of;
use core::time::Duration;

use guest_kernel::executor::sleep;
use guest_kernel::hypercall::event_channel_op;
use guest_kernel::println;
use guest_kernel::shared_abi::event_channel::EvtchnSend;
use guest_kernel::shared_abi::io::console::XenconsInterface;
use guest_kernel::shared_abi::io::xs_wire::{XENSTORE_ERROR_RINGIDX, XenstoreDomainInterface};
use guest_kernel::start::Boot;

/// First xenstore's, whose daemon says in the page what is wrong; then the console's, after which this guest
/// has no voice any more.
pub async fn attack(boot: &Boot) {
    let (Some(store), Some(console)) = (boot.store, boot.console) else {
        return println!("enemy: needs a domain with a store and a console");
    };
    store.page.store_u32(offset_of!(XenstoreDomainInterface, req_prod), 0x4000_0000);
    let _ = event_channel_op(&mut EvtchnSend { port: store.port });
    let error = offset_of!(XenstoreDomainInterface, error);
    for _ in 0..500 {
        if store.page.load_u32(error) != 0 {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    match store.page.load_u32(error) {
        XENSTORE_ERROR_RINGIDX => println!("enemy bytes: xenstore says that an index is wrong"),
        other => println!("enemy wins: xenstore says {other}"),
    }
    // What was printed has to be read before.
    sleep(Duration::from_millis(500)).await;
    console.page.store_u32(offset_of!(XenconsInterface, in_cons), 0x8000_0000);
    console.page.store_u32(offset_of!(XenconsInterface, out_prod), 0x4000_0000);
    let _ = event_channel_op(&mut EvtchnSend { port: console.port });
    sleep(Duration::from_millis(500)).await;
}
