//! dom0's own connection: the same requests with the same meaning, without a ring. Requests are answered at
//! once; only events are waited for.

use super::conns::ConnId;
use super::error::Error;
use super::perms::{Perms, Who};
use super::quota::Quota;
use super::server::Server;
use super::wire::{Message, PAYLOAD_MAX};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::Poll;
use guest_kernel::xenstore::DirectoryPart;
use shared_abi::io::xs_wire;

/// A privileged connection. Dropping it ends it, with its watches and transactions.
pub struct Client {
    server: Rc<RefCell<Server>>,
    conn: ConnId,
    transaction: Cell<u32>,
}

/// Something that a watch saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchEvent {
    /// The path that changed.
    pub path: String,
    /// The token the watch was registered with.
    pub token: String,
}

impl Client {
    /// Connects to the daemon.
    pub fn new(server: &Rc<RefCell<Server>>) -> Client {
        let conn = server.borrow_mut().connect(Who::DOM0);
        Client { server: server.clone(), conn, transaction: Cell::new(0) }
    }

    /// Sends one request as it would go over a ring and returns the reply's payload.
    pub fn request(&self, kind: u32, payload: Vec<u8>) -> Result<Vec<u8>, Error> {
        if payload.len() > PAYLOAD_MAX {
            return Err(Error::E2BIG);
        }
        let message = Message { kind, request: 0, transaction: self.transaction.get(), payload };
        let reply = self.server.borrow_mut().call(self.conn, &message);
        if reply.kind == xs_wire::XS_ERROR { Err(error_named(&reply.payload)) } else { Ok(reply.payload) }
    }

    fn on(&self, kind: u32, path: &str, rest: &[u8]) -> Result<Vec<u8>, Error> {
        self.request(kind, [path.as_bytes(), b"\0", rest].concat())
    }

    /// The value at `path`.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.on(xs_wire::XS_READ, path, b"")
    }

    /// The value at `path`, if it is there and is text.
    pub fn read_text(&self, path: &str) -> Option<String> {
        String::from_utf8(self.read(path).ok()?).ok()
    }

    /// Sets the value at `path`.
    pub fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.on(xs_wire::XS_WRITE, path, value.as_ref()).map(drop)
    }

    /// Creates an empty node.
    pub fn mkdir(&self, path: &str) -> Result<(), Error> {
        self.on(xs_wire::XS_MKDIR, path, b"").map(drop)
    }

    /// Removes a node and all below it.
    pub fn rm(&self, path: &str) -> Result<(), Error> {
        self.on(xs_wire::XS_RM, path, b"").map(drop)
    }

    /// Names of the nodes below `path`.
    pub fn directory(&self, path: &str) -> Result<Vec<String>, Error> {
        let names = match self.on(xs_wire::XS_DIRECTORY, path, b"") {
            Err(Error::E2BIG) => self.long_directory(path)?,
            names => names?,
        };
        Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(text).collect())
    }

    /// The names, each ended by a zero, that are too long for one message. Nothing changes between the
    /// parts: nobody else runs.
    fn long_directory(&self, path: &str) -> Result<Vec<u8>, Error> {
        let mut names = Vec::new();
        loop {
            let offset = format!("{}\0", names.len());
            let reply = self.on(xs_wire::XS_DIRECTORY_PART, path, offset.as_bytes())?;
            let part = DirectoryPart::parse(&reply).ok_or(Error::EIO)?;
            names.extend_from_slice(part.names);
            if part.last || part.names.is_empty() {
                return Ok(names);
            }
        }
    }

    /// Sets the permissions of `path`.
    pub fn set_perms(&self, path: &str, perms: &Perms) -> Result<(), Error> {
        self.on(xs_wire::XS_SET_PERMS, path, &perms.to_wire()).map(drop)
    }

    /// Registers a watch; its first event comes at once.
    pub fn watch(&self, path: &str, token: &str) -> Result<(), Error> {
        self.on(xs_wire::XS_WATCH, path, &[token.as_bytes(), b"\0"].concat()).map(drop)
    }

    /// Takes a watch back.
    pub fn unwatch(&self, path: &str, token: &str) -> Result<(), Error> {
        self.on(xs_wire::XS_UNWATCH, path, &[token.as_bytes(), b"\0"].concat()).map(drop)
    }

    /// Runs `body` in a transaction, again as long as it conflicts with others' changes; an error of `body`
    /// abandons it. `body` does not wait, so no other task of dom0 runs in between.
    pub fn transaction<T>(&self, mut body: impl FnMut(&Client) -> Result<T, Error>) -> Result<T, Error> {
        loop {
            let id = text(&self.request(xs_wire::XS_TRANSACTION_START, b"\0".to_vec())?);
            self.transaction.set(id.trim_end_matches('\0').parse().map_err(|_| Error::EINVAL)?);
            let result = body(self);
            let end: &[u8] = if result.is_ok() { b"T\0" } else { b"F\0" };
            let ended = self.request(xs_wire::XS_TRANSACTION_END, end.to_vec());
            self.transaction.set(0);
            let value = result?;
            match ended {
                Ok(_) => return Ok(value),
                Err(Error::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next event of any of this connection's watches, if one waits.
    pub fn try_event(&self) -> Option<WatchEvent> {
        let message = self.server.borrow_mut().take_output(self.conn)?;
        let mut parts = message.payload.split(|byte| *byte == 0).map(text);
        Some(WatchEvent { path: parts.next()?, token: parts.next()? })
    }

    /// Waits for the next event of any of this connection's watches.
    pub async fn event(&self) -> WatchEvent {
        poll_fn(|context| match self.try_event() {
            Some(event) => Poll::Ready(event),
            None => {
                self.server.borrow_mut().wake_on_output(self.conn, context.waker());
                Poll::Pending
            }
        })
        .await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.server.borrow_mut().disconnect(self.conn);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn error_named(payload: &[u8]) -> Error {
    let name = text(payload);
    let plain = [
        Error::EACCES,
        Error::EEXIST,
        Error::ENOENT,
        Error::EIO,
        Error::ENOSYS,
        Error::EBUSY,
        Error::EAGAIN,
        Error::E2BIG,
        Error::EPERM,
        // A privileged connection has no quota of its own but the node size in a full store.
        Error::Quota(Quota::Nodes),
        Error::Quota(Quota::Memory),
    ];
    plain.into_iter().find(|error| error.wire() == name.trim_end_matches('\0')).unwrap_or(Error::EINVAL)
}
