//! What each hypercall refuses, and with which error: operations with good memory and bad values.

mod events;
mod grants;
mod grants_v2;
mod hardware;
mod memory;
mod rare;
mod state;
mod vcpu;

/// Every question about refusals.
pub fn ask() {
    vcpu::ask();
    hardware::ask();
    memory::ask();
    state::ask();
    grants::ask();
    grants_v2::ask();
    events::ask();
    rare::ask();
}
