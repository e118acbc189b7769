//! Tells xenstored which domains have stopped: the hypervisor says only that some domain has.

use crate::toolstack::hypervisor::Hypervisor;
use crate::toolstack::xen::Xen;
use crate::xenstored::Server;
use alloc::rc::Rc;
use core::cell::RefCell;
use guest_kernel::events::EventChannel;
use guest_kernel::log::error;
use shared_abi::xen::VIRQ_DOM_EXC;

/// Runs for good, as a task.
pub async fn tell_store(store: Rc<RefCell<Server>>) {
    let channel = match EventChannel::bind_virq(VIRQ_DOM_EXC) {
        Ok(channel) => channel,
        Err(errno) => return error!("no news of dying domains: {}", errno.name()),
    };
    loop {
        channel.wait().await;
        let introduced = store.borrow().introduced();
        let Ok(infos) = Xen.list() else { continue };
        for domain in introduced {
            // The list is by number.
            match infos.binary_search_by_key(&domain, |info| info.domain).map(|at| &infos[at]) {
                Ok(info) if !info.dying => {
                    if info.shutdown.is_some() {
                        store.borrow_mut().shut_down(domain);
                    }
                }
                // It may have been released meanwhile; then there is nothing to do.
                _ => drop(store.borrow_mut().release(domain)),
            }
        }
    }
}
