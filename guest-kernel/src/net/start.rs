//! A guest's network from nothing: interface, stack, address.

use super::{Addressing, Nic, Stack};
use crate::executor::{Either, select, sleep_until, spawn, timeout};
use crate::front::net::{Options, VirtualInterface, attach};
use crate::hypercall::Errno;
use crate::time::{Instant, wallclock};
use crate::{System, xenstore};
use alloc::boxed::Box;
use alloc::rc::Rc;
use core::future::poll_fn;
use core::time::Duration;

/// Brings up the guest's first interface and a stack on it: [`interface`], then [`run`]. Returns at
/// once when the interface is connected; [`Stack::configured`] waits for an address.
pub async fn start(system: &System) -> xenstore::Result<Rc<Stack>> {
    let (nic, addressing) = interface(system).await?;
    Ok(run(Box::new(nic), addressing))
}

/// Connects the guest's first interface. Its address is what the command line gives (`ip=`, see
/// [`Addressing::parse`]), or else the toolstack (`ip=` of the `vif`), or else a DHCP server.
pub async fn interface(system: &System) -> xenstore::Result<(Rc<VirtualInterface>, Addressing)> {
    let store = system.store.as_ref().ok_or(Errno::ENODEV)?;
    let id = *crate::xenbus::frontends(store, "vif").await?.first().ok_or(Errno::ENODEV)?;
    let nic = attach(store, id, Options::default()).await?;
    let addressing = match Addressing::from_cmdline(system.boot.cmdline()) {
        Some(addressing) => addressing,
        None => match store.try_read(&alloc::format!("device/vif/{id}/ip")).await? {
            Some(text) => Addressing::parse(text.trim()),
            None => Ok(Addressing::Dhcp),
        },
    };
    Ok((nic, addressing.map_err(|_| Errno::EINVAL)?))
}

/// A stack on `nic`, and the task that moves its packets.
pub fn run(nic: Box<dyn Nic>, addressing: Addressing) -> Rc<Stack> {
    let mac = nic.mac().iter().fold(0, |seed, &byte| seed << 8 | u64::from(byte));
    let now = Instant::now().as_nanos();
    let seed = mac.rotate_left(16) ^ now.rotate_left(32) ^ wallclock().as_nanos() as u64;
    let stack = Stack::new(nic, addressing, seed, now);
    if addressing == Addressing::Dhcp {
        spawn(tell(stack.clone()));
    }
    let moving = stack.clone();
    spawn(async move {
        loop {
            let next = moving.poll(Instant::now().as_nanos());
            let event = poll_fn(|cx| moving.poll_event(cx));
            match next {
                Some(next) => match select(event, sleep_until(Instant::from_nanos(next))).await {
                    Either::Left(()) | Either::Right(()) => {}
                },
                None => event.await,
            }
        }
    });
    stack
}

/// Tells on the console what becomes of the address: a network without a DHCP server looks like a
/// guest that hangs.
async fn tell(stack: Rc<Stack>) {
    loop {
        let (mut waited, mut patience) = (Duration::ZERO, Duration::from_secs(10));
        let address = loop {
            match timeout(patience, stack.configured()).await {
                Ok(address) => break address,
                Err(_) => waited += patience,
            }
            log::warn!("net: no DHCP server has answered for {} s; asking on", waited.as_secs());
            patience = (patience * 2).min(Duration::from_secs(600));
        };
        log::info!("net: {address}, by DHCP");
        let mut known = Some(address);
        while known.is_some() {
            known = stack.readdressed(known).await;
            match known {
                Some(address) => log::info!("net: {address} from now on, by DHCP"),
                None => log::warn!("net: the DHCP server has taken the address back, or is gone"),
            }
        }
    }
}
