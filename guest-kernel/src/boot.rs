//! A program's life: from the machine's first call to the end of the domain.

use crate::xenstore::{Xenstore, over_ring};
use crate::{console, executor, lifecycle};
use guest_machine::hypercall::stop_periodic_timer;
use guest_machine::start::{self, Boot};
use shared_abi::xen::VIRQ_TIMER;

/// What a program is given at its start.
pub struct System {
    /// What the domain was started with.
    pub boot: Boot,
    /// The store. The initial domain has none until it makes one itself.
    pub store: Option<Xenstore>,
}

/// Runs a program to its end, then powers off: what [`crate::main!`] calls.
pub fn run<F: Future + 'static>(program: fn(System) -> F) {
    let boot = start::boot();
    executor::block_on(async move {
        console::start(boot.console);
        console::start_log(boot.option("loglevel"));
        // The timer's event only has to end a wait; nobody waits for the channel itself.
        let _timer = crate::events::EventChannel::bind_virq(VIRQ_TIMER);
        let _ = stop_periodic_timer();
        let store = boot.store.map(over_ring);
        if let Some(store) = &store {
            lifecycle::start(store);
        }
        program(System { boot, store }).await;
    });
    crate::shutdown(lifecycle::how_to_end())
}
