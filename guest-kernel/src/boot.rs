//! A program's life: from the machine's first call to the end of the domain.

use crate::{console, executor};
use guest_machine::hypercall::{Shutdown, stop_periodic_timer};
use guest_machine::start::{self, Boot};
use shared_abi::xen::VIRQ_TIMER;

/// What a program is given at its start.
pub struct System {
    /// What the domain was started with.
    pub boot: Boot,
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
        program(System { boot }).await;
    });
    crate::shutdown(Shutdown::Poweroff)
}
