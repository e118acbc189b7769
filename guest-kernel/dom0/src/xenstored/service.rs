//! xenstored's rings: one task per introduced domain. A guest that stalls its ring waits for itself; one that
//! breaks the protocol loses its connection, with one line in the log.

use super::error::Error;
use super::perms::Who;
use super::server::{ConnId, Host, Server};
use super::wire::{Decoder, Message, TooLong};
use crate::byte_ring::{Corrupt, Inward, Outward, Place};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;
use core::mem::offset_of;
use core::task::Poll;
use guest_kernel::events::EventChannel;
use guest_kernel::executor::{JoinHandle, select, spawn, yield_now};
use guest_kernel::memory::Mapping;
use guest_kernel::xenstore::{self, Xenstore, in_process};
use shared_abi::io::xs_wire::{
    XENSTORE_ERROR_PROTO, XENSTORE_ERROR_RINGIDX, XENSTORE_RING_SIZE, XENSTORE_SERVER_FEATURE_ERROR,
    XenstoreDomainInterface,
};
use shared_abi::{DomId, Gfn, Port};

const REQUESTS: Place = Place {
    data: offset_of!(XenstoreDomainInterface, req),
    size: XENSTORE_RING_SIZE as u32,
    prod: offset_of!(XenstoreDomainInterface, req_prod),
    cons: offset_of!(XenstoreDomainInterface, req_cons),
};
const RESPONSES: Place = Place {
    data: offset_of!(XenstoreDomainInterface, rsp),
    size: XENSTORE_RING_SIZE as u32,
    prod: offset_of!(XenstoreDomainInterface, rsp_prod),
    cons: offset_of!(XenstoreDomainInterface, rsp_cons),
};
/// Requests of one domain before the others get their turn.
const BURST: usize = 8;

/// Starts the daemon.
pub fn start() -> Rc<RefCell<Server>> {
    Rc::new_cyclic(|server| {
        let host = Rings { server: server.clone(), tasks: BTreeMap::new() };
        RefCell::new(Server::new(Box::new(host)))
    })
}

/// dom0's own connection, for code that is written for any domain: backends and their like.
pub fn connect(server: &Rc<RefCell<Server>>) -> Xenstore {
    let (store, mut requests, replies) = in_process();
    let conn = server.borrow_mut().connect(Who::DOM0);
    let (asked, answering) = (server.clone(), server.clone());
    spawn(async move {
        while let Some(request) = requests.receive().await {
            let xenstore::Message { kind, request, transaction, payload } = request;
            asked.borrow_mut().handle(conn, &Message { kind, request, transaction, payload });
        }
        asked.borrow_mut().disconnect(conn);
    });
    spawn(async move {
        loop {
            let next = poll_fn(|context| {
                let mut server = answering.borrow_mut();
                match server.take_output(conn) {
                    None if server.is_open(conn) => {
                        server.wake_on_output(conn, context.waker());
                        Poll::Pending
                    }
                    message => Poll::Ready(message),
                }
            });
            let Some(Message { kind, request, transaction, payload }) = next.await else { return };
            if replies.send(xenstore::Message { kind, request, transaction, payload }).await.is_err() {
                return;
            }
        }
    });
    store
}

struct Rings {
    server: Weak<RefCell<Server>>,
    tasks: BTreeMap<DomId, JoinHandle<()>>,
}

impl Host for Rings {
    fn introduce(&mut self, domain: DomId, gfn: u64, port: u32, conn: ConnId) -> Result<(), Error> {
        // A ring that is there already is replaced.
        self.release(domain);
        let page = Mapping::foreign(domain, &[Gfn(gfn)]).map_err(|_| Error::EINVAL)?;
        let channel = EventChannel::bind_interdomain(domain, Port(port)).map_err(|_| Error::EINVAL)?;
        page.store_u32(offset_of!(XenstoreDomainInterface, server_features), XENSTORE_SERVER_FEATURE_ERROR);
        let ring = Ring {
            requests: Inward::new(&page, REQUESTS),
            responses: Outward::new(&page, RESPONSES),
            decoder: Decoder::default(),
            output: Vec::new(),
            page,
            channel,
        };
        self.tasks.insert(domain, spawn(serve(self.server.clone(), conn, ring)));
        Ok(())
    }

    fn release(&mut self, domain: DomId) {
        if let Some(task) = self.tasks.remove(&domain) {
            task.abort();
        }
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        guest_kernel::log::warn!("{line}");
    }
}

struct Ring {
    page: Mapping,
    channel: EventChannel,
    requests: Inward,
    responses: Outward,
    decoder: Decoder,
    /// Encoded, and not in the ring yet.
    output: Vec<u8>,
}

enum Broken {
    Index,
    Length(u32),
}

impl From<Corrupt> for Broken {
    fn from(_: Corrupt) -> Broken {
        Broken::Index
    }
}

impl From<TooLong> for Broken {
    fn from(TooLong(length): TooLong) -> Broken {
        Broken::Length(length)
    }
}

async fn serve(server: Weak<RefCell<Server>>, conn: ConnId, mut ring: Ring) {
    loop {
        let Some(server) = server.upgrade() else { return };
        if !server.borrow().is_open(conn) {
            return;
        }
        match ring.turn(&server, conn) {
            Ok(true) => {
                ring.channel.notify();
                yield_now().await;
            }
            Ok(false) => {
                let output = poll_fn(|context| {
                    let mut server = server.borrow_mut();
                    if ring.output.is_empty() && (server.output_len(conn) > 0 || !server.is_open(conn)) {
                        return Poll::Ready(());
                    }
                    server.wake_on_output(conn, context.waker());
                    Poll::Pending
                });
                select(ring.channel.wait(), output).await;
            }
            Err(broken) => {
                let error = match broken {
                    Broken::Index => {
                        server.borrow_mut().ignore(conn, format_args!("corrupt ring indices"));
                        XENSTORE_ERROR_RINGIDX
                    }
                    Broken::Length(length) => {
                        server.borrow_mut().ignore(conn, format_args!("a message of {length} bytes"));
                        XENSTORE_ERROR_PROTO
                    }
                };
                ring.page.store_u32(offset_of!(XenstoreDomainInterface, error), error);
                ring.channel.notify();
                return;
            }
        }
    }
}

impl Ring {
    /// Moves what can be moved, up to a burst; whether that was anything. The next request is read once the
    /// last one's reply is in the ring, so a peer that does not read is not served either.
    fn turn(&mut self, server: &RefCell<Server>, conn: ConnId) -> Result<bool, Broken> {
        let mut moved = false;
        for _ in 0..BURST {
            while let Some(message) =
                self.output.is_empty().then(|| server.borrow_mut().take_output(conn)).flatten()
            {
                message.encode(&mut self.output);
            }
            let sent = self.responses.put(&self.page, &self.output)?;
            self.output.drain(..sent);
            moved |= sent > 0;
            if !self.output.is_empty() {
                return Ok(moved);
            }
            if let Some(request) = self.decoder.take()? {
                server.borrow_mut().handle(conn, &request);
                moved = true;
                continue;
            }
            let mut chunk = [0; XENSTORE_RING_SIZE];
            let wanted = self.decoder.wants().min(chunk.len());
            let count = self.requests.take(&self.page, &mut chunk[..wanted])?;
            if count == 0 && server.borrow().output_len(conn) == 0 {
                return Ok(moved);
            }
            moved |= count > 0;
            self.decoder.push(&chunk[..count]);
        }
        Ok(moved)
    }
}
