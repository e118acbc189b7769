//! xenstored's rings: one task per introduced domain. A guest that stalls its ring waits for itself; one that
//! breaks the protocol loses its connection, with one line in the log.

use super::conns::ConnId;
use super::error::Error;
use super::perms::Who;
use super::server::{Host, Server};
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
use core::ops::Deref;
use core::task::Poll;
use guest_kernel::events::EventChannel;
use guest_kernel::executor::{JoinHandle, select, spawn, yield_now};
use guest_kernel::memory::{Mapping, Shared, free_frames};
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
/// Frames of dom0 that guests' nodes, watches and transactions leave alone: 2 MiB.
const RESERVE: usize = 512;
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
        let ring = Ring::new(page, channel);
        self.tasks.insert(domain, spawn(serve(self.server.clone(), conn, ring)));
        Ok(())
    }

    fn release(&mut self, domain: DomId) {
        if let Some(task) = self.tasks.remove(&domain) {
            task.abort();
        }
    }

    fn is_short_of_memory(&self) -> bool {
        free_frames() < RESERVE
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        guest_kernel::log::warn!("{line}");
    }
}

/// One domain's ring. `P` is the mapped page; a page of the host's in tests.
struct Ring<P> {
    page: P,
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

async fn serve<P: Deref<Target = Shared>>(server: Weak<RefCell<Server>>, conn: ConnId, mut ring: Ring<P>) {
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

impl<P: Deref<Target = Shared>> Ring<P> {
    fn new(page: P, channel: EventChannel) -> Ring<P> {
        Ring {
            requests: Inward::new(&page, REQUESTS),
            responses: Outward::new(&page, RESPONSES),
            decoder: Decoder::default(),
            output: Vec::new(),
            page,
            channel,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::super::model::FakeHost;
    use super::*;
    use alloc::string::String;
    use guest_kernel::executor::block_on;
    use guest_kernel::memory::Pages;
    use proptest::prelude::*;
    use shared_abi::io::xs_wire::{XS_ERROR, XS_READ, XS_WATCH, XS_WATCH_EVENT, XS_WRITE};

    /// A guest with its end of a ring, and the daemon that serves it.
    struct Guest {
        page: Rc<PageRef>,
        port: Port,
        server: Rc<RefCell<Server>>,
        conn: ConnId,
        requests: Outward,
        responses: Inward,
        decoder: Decoder,
    }

    struct PageRef(Pages);

    impl Deref for PageRef {
        type Target = Shared;
        fn deref(&self) -> &Shared {
            &self.0
        }
    }

    struct Held(Rc<PageRef>);

    impl Deref for Held {
        type Target = Shared;
        fn deref(&self) -> &Shared {
            &self.0.0
        }
    }

    fn guest(host: FakeHost, port: Port) -> Guest {
        let server = Rc::new(RefCell::new(Server::new(Box::new(host))));
        server.borrow_mut().introduce(1, 0, 0).unwrap();
        let conn = server.borrow().conn_of(DomId(1)).unwrap();
        let page = Rc::new(PageRef(Pages::new(1).unwrap()));
        let ring = Ring::new(Held(page.clone()), EventChannel::adopt(port));
        let (requests, responses) = (Outward::new(&page, REQUESTS), Inward::new(&page, RESPONSES));
        spawn(serve(Rc::downgrade(&server), conn, ring));
        Guest { page, port, server, conn, requests, responses, decoder: Decoder::default() }
    }

    impl Guest {
        async fn ring_bell(&self) {
            guest_machine::shared_info::raise(self.port);
            for _ in 0..20 {
                yield_now().await;
            }
        }

        /// Sends bytes as the ring takes them, and collects what comes back.
        async fn exchange(&mut self, mut bytes: &[u8]) -> Vec<Message> {
            let mut messages = Vec::new();
            let mut idle = 0;
            while idle < 3 {
                let sent = self.requests.put(&self.page, bytes).unwrap();
                bytes = &bytes[sent..];
                self.ring_bell().await;
                let mut chunk = [0; XENSTORE_RING_SIZE];
                let wanted = self.decoder.wants().min(chunk.len());
                let count = self.responses.take(&self.page, &mut chunk[..wanted]).unwrap();
                self.decoder.push(&chunk[..count]);
                messages.extend(self.decoder.take().unwrap());
                idle = if sent + count > 0 { 0 } else { idle + 1 };
            }
            messages
        }
    }

    fn request(kind: u32, number: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Message { kind, request: number, transaction: 0, payload: payload.into() }.encode(&mut bytes);
        bytes
    }

    #[test]
    fn requests_larger_than_the_ring_and_their_replies_come_through_in_order() {
        block_on(async {
            let mut guest = guest(FakeHost::default(), Port(21));
            let dom0 = guest.server.borrow_mut().connect(Who::DOM0);
            let set_up = [(XS_WRITE, &b"/local/domain/1\0"[..]), (14, b"/local/domain/1\0n1\0")];
            for (kind, payload) in set_up {
                guest
                    .server
                    .borrow_mut()
                    .call(dom0, &Message { kind, request: 0, transaction: 0, payload: payload.into() });
            }
            let value = [b'v'; 1900];
            let write = request(XS_WRITE, 1, &[&b"data/x\0"[..], &value].concat());
            let stream =
                [request(XS_WATCH, 0, b"data\0t\0"), write, request(XS_READ, 2, b"data/x\0")].concat();
            let answers = guest.exchange(&stream).await;
            let kinds: Vec<(u32, u32)> =
                answers.iter().map(|message| (message.kind, message.request)).collect();
            assert_eq!(
                kinds,
                [(XS_WATCH, 0), (XS_WATCH_EVENT, 0), (XS_WATCH_EVENT, 0), (XS_WRITE, 1), (XS_READ, 2)]
            );
            assert_eq!(answers[4].payload, value);
        });
    }

    #[test]
    fn an_impossible_index_or_length_ends_the_connection_with_one_line() {
        block_on(async {
            for (n, (error, text)) in
                [(XENSTORE_ERROR_RINGIDX, "ring indices"), (XENSTORE_ERROR_PROTO, "5000 bytes")]
                    .into_iter()
                    .enumerate()
            {
                let host = FakeHost::default();
                let mut guest = guest(host.clone(), Port(22 + n as u32));
                if n == 0 {
                    guest.page.store_u32(REQUESTS.prod, 5000);
                } else {
                    let header: Vec<u8> = [2u32, 0, 0, 5000].into_iter().flat_map(u32::to_le_bytes).collect();
                    guest.requests.put(&guest.page, &header).unwrap();
                }
                for _ in 0..3 {
                    guest.ring_bell().await;
                }
                assert!(!guest.server.borrow().is_open(guest.conn));
                assert_eq!(guest.page.load_u32(offset_of!(XenstoreDomainInterface, error)), error);
                let log: Vec<String> = host.lines();
                assert!(log.len() == 1 && log[0].contains(text), "{log:?}");
            }
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        /// A guest that scribbles over its page, indices included, and one request of somebody else after that.
        #[test]
        fn scribbling_over_the_page_harms_nobody_else(writes in prop::collection::vec((0usize..2076, any::<u8>()), 0..60)) {
            block_on(async move {
                let guest = guest(FakeHost::default(), Port(24));
                for (at, byte) in writes {
                    guest.page.write_bytes(at, &[byte]);
                    guest.ring_bell().await;
                }
                let dom0 = guest.server.borrow_mut().connect(Who::DOM0);
                let message = Message { kind: XS_READ, request: 1, transaction: 0, payload: b"/tool\0".to_vec() };
                assert_ne!(guest.server.borrow_mut().call(dom0, &message).kind, XS_ERROR);
                guest.server.borrow_mut().disconnect(guest.conn);
            });
        }
    }
}
