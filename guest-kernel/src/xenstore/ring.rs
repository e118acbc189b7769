//! Messages through the page that a guest shares with xenstored.

use super::{Message, Xenstore, in_process};
use crate::events::EventChannel;
use crate::executor::{Receiver, Sender, select, spawn};
use crate::memory::{Shared, full_fence};
use crate::start::Ring;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::pin::pin;
use shared_abi::io::ring::bytes;
use shared_abi::io::xs_wire::{XENSTORE_RING_SIZE, XenstoreDomainInterface};

const SIZE: u32 = XENSTORE_RING_SIZE as u32;
const REQ: usize = offset_of!(XenstoreDomainInterface, req);
const RSP: usize = offset_of!(XenstoreDomainInterface, rsp);
const REQ_CONS: usize = offset_of!(XenstoreDomainInterface, req_cons);
const REQ_PROD: usize = offset_of!(XenstoreDomainInterface, req_prod);
const RSP_CONS: usize = offset_of!(XenstoreDomainInterface, rsp_cons);
const RSP_PROD: usize = offset_of!(XenstoreDomainInterface, rsp_prod);

/// An index of the other side that cannot be true.
struct Broken;

/// A client over the domain's xenstore ring.
pub fn over_ring(ring: Ring) -> Xenstore {
    let (store, requests, replies) = in_process();
    spawn(async move {
        if serve(ring, requests, replies).await.is_err() {
            log::error!("the xenstore ring is corrupt: no more xenstore");
        }
        // Dropping the queues' ends tells every client.
    });
    store
}

/// Moves messages until the ring breaks or the clients are gone.
async fn serve(ring: Ring, mut requests: Receiver<Message>, replies: Sender<Message>) -> Result<(), Broken> {
    let channel = EventChannel::adopt(ring.port);
    let (mut out, mut incoming) = (Vec::new(), Vec::new());
    loop {
        let (sent, received) = (push(ring.page, &mut out)?, pull(ring.page, &mut incoming)?);
        if sent || received {
            channel.notify();
        }
        while let Some(message) = Message::take(&mut incoming).map_err(|_| Broken)? {
            if replies.send(message).await.is_err() {
                return Ok(());
            }
        }
        if received {
            continue;
        }
        if out.is_empty() {
            // A new request or an event, whichever comes first.
            let request = async { requests.receive().await };
            match select(pin!(request), channel.wait()).await {
                crate::executor::Either::Left(Some(message)) => out = message.encode(),
                crate::executor::Either::Left(None) => return Ok(()),
                crate::executor::Either::Right(()) => {}
            }
        } else {
            channel.wait().await;
        }
    }
}

/// Moves what there is room for from `out` into the ring.
fn push(page: &Shared, out: &mut Vec<u8>) -> Result<bool, Broken> {
    let prod = page.load_u32(REQ_PROD);
    let free = bytes::free(prod, page.load_u32(REQ_CONS), SIZE).ok_or(Broken)?;
    let count = out.len().min(free as usize);
    let (start, first, second) = bytes::split(prod, count as u32, SIZE);
    page.write_bytes(REQ + start, &out[..first]);
    page.write_bytes(REQ, &out[first..first + second]);
    full_fence();
    page.store_u32(REQ_PROD, prod.wrapping_add(count as u32));
    out.drain(..count);
    Ok(count > 0)
}

/// Moves what there is from the ring to the end of `incoming`.
fn pull(page: &Shared, incoming: &mut Vec<u8>) -> Result<bool, Broken> {
    let cons = page.load_u32(RSP_CONS);
    let used = bytes::used(page.load_u32(RSP_PROD), cons, SIZE).ok_or(Broken)?;
    let (start, first, second) = bytes::split(cons, used, SIZE);
    let mut chunk = [0; XENSTORE_RING_SIZE];
    page.read_bytes(RSP + start, &mut chunk[..first]);
    page.read_bytes(RSP, &mut chunk[first..first + second]);
    incoming.extend_from_slice(&chunk[..first + second]);
    full_fence();
    page.store_u32(RSP_CONS, cons.wrapping_add(used));
    Ok(used > 0)
}
