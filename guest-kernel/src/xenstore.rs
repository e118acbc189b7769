//! The xenstore client: a tree of small strings that all domains share.
//!
//! Many tasks use one connection: each request has a number, a dispatcher task hands each reply
//! to the task that waits for it and each watch event to its watch. The decision about transports
//! is that there is only one kind: a queue of messages each way. A guest's far ends are two tasks
//! that move the messages through the shared ring ([`ring`]); in the domain that runs xenstored
//! itself the daemon holds them ([`in_process`]).
//!
//! Errors are the daemon's, as [`Errno`]: `ENOENT` no such node, `EACCES` not permitted, `EAGAIN`
//! (inside a transaction) try again, `ENOSPC` and `EBUSY` a quota, `EIO` the connection is broken.

mod ring;
mod watch;
mod wire;

pub use ring::over_ring;
pub use watch::Watch;
pub use wire::{DirectoryPart, Message, Permission, Permissions};

use crate::executor::{Receiver, Sender, channel, spawn};
use crate::hypercall::Errno;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::str::FromStr;
use shared_abi::io::xs_wire::*;
use shared_abi::{DomId, Gfn, Port};
use watch::Watches;

/// What the store answers.
pub type Result<T> = core::result::Result<T, Errno>;

/// Messages that may wait in one direction.
const QUEUE: usize = 16;

/// How often a long directory is read from its beginning when it changes meanwhile.
const TRIES: usize = 16;

type Reply = core::result::Result<Vec<u8>, Errno>;

/// What all handles of a connection share.
struct Connection {
    requests: Sender<Message>,
    waiting: RefCell<BTreeMap<u32, Sender<Reply>>>,
    last_id: Cell<u32>,
    watches: RefCell<Watches>,
    broken: Cell<bool>,
}

/// A connection to xenstored, or a transaction on one. Cheap to clone; paths that don't start
/// with `/` are relative to the domain's own `/local/domain/N`.
#[derive(Clone)]
pub struct Xenstore {
    connection: Rc<Connection>,
    transaction: u32,
}

/// A connection whose other end is in this domain: the client, the requests it makes, and where
/// replies and watch events go. For the domain that runs xenstored.
pub fn in_process() -> (Xenstore, Receiver<Message>, Sender<Message>) {
    let (requests, taken) = channel(QUEUE);
    let (replies, mut arriving) = channel(QUEUE);
    let connection = Rc::new(Connection {
        requests,
        waiting: RefCell::default(),
        last_id: Cell::new(0),
        watches: RefCell::default(),
        broken: Cell::new(false),
    });
    let dispatcher = connection.clone();
    spawn(async move {
        while let Some(message) = arriving.receive().await {
            dispatcher.dispatch(message);
        }
        dispatcher.fail();
    });
    (Xenstore { connection, transaction: 0 }, taken, replies)
}

impl Connection {
    fn dispatch(&self, message: Message) {
        if message.kind == XS_WATCH_EVENT {
            self.watches.borrow_mut().event(&message.payload);
        } else if let Some(waiter) = self.waiting.borrow_mut().remove(&message.request) {
            // A task that gave up waiting is no error.
            let _ = waiter.try_send(message.into_reply());
        }
    }

    /// The other end is gone: nobody will get an answer any more.
    fn fail(&self) {
        self.broken.set(true);
        for (_, waiter) in self.waiting.take() {
            let _ = waiter.try_send(Err(Errno::EIO));
        }
        self.watches.borrow_mut().close();
    }
}

/// Forgets a request whose task no longer waits.
struct Pending<'a> {
    connection: &'a Connection,
    id: u32,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.connection.waiting.borrow_mut().remove(&self.id);
    }
}

/// Removes the zero that ends a text.
fn text(mut payload: Vec<u8>) -> String {
    if payload.last() == Some(&0) {
        payload.pop();
    }
    String::from_utf8_lossy(&payload).into_owned()
}

impl Xenstore {
    /// Sends a request (`XS_*`) and returns its reply's payload.
    pub async fn request(&self, kind: u32, payload: Vec<u8>) -> Result<Vec<u8>> {
        if payload.len() > XENSTORE_PAYLOAD_MAX {
            return Err(Errno::E2BIG);
        }
        if self.connection.broken.get() {
            return Err(Errno::EIO);
        }
        let id = self.connection.last_id.get().wrapping_add(1);
        self.connection.last_id.set(id);
        let (answer, mut answered) = channel(1);
        self.connection.waiting.borrow_mut().insert(id, answer);
        let _pending = Pending { connection: &self.connection, id };
        let message = Message { kind, request: id, transaction: self.transaction, payload };
        self.connection.requests.send(message).await.map_err(|_| Errno::EIO)?;
        answered.receive().await.unwrap_or(Err(Errno::EIO))
    }

    async fn path_request(&self, kind: u32, path: &str, rest: &[u8]) -> Result<Vec<u8>> {
        let mut payload = Vec::with_capacity(path.len() + 1 + rest.len());
        payload.extend_from_slice(path.as_bytes());
        payload.push(0);
        payload.extend_from_slice(rest);
        self.request(kind, payload).await
    }

    /// A node's value.
    pub async fn read_bytes(&self, path: &str) -> Result<Vec<u8>> {
        self.path_request(XS_READ, path, &[]).await
    }

    /// A node's value as text (what is not UTF-8 replaced).
    pub async fn read(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read_bytes(path).await?).into_owned())
    }

    /// A node's value as text, `None` if there is no such node.
    pub async fn try_read(&self, path: &str) -> Result<Option<String>> {
        match self.read(path).await {
            Ok(value) => Ok(Some(value)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// A node's value as a number or whatever else is parsed from text; `EINVAL` if it is not one.
    pub async fn read_parsed<T: FromStr>(&self, path: &str) -> Result<T> {
        self.read(path).await?.trim().parse().map_err(|_| Errno::EINVAL)
    }

    /// Sets a node's value, making it and its parents where they are missing.
    pub async fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<()> {
        self.path_request(XS_WRITE, path, value.as_ref()).await.map(drop)
    }

    /// Sets a node's value to what `value` prints.
    pub async fn write_display(&self, path: &str, value: impl core::fmt::Display) -> Result<()> {
        self.write(path, value.to_string()).await
    }

    /// Makes a node with no value, unless it exists.
    pub async fn mkdir(&self, path: &str) -> Result<()> {
        self.path_request(XS_MKDIR, path, &[]).await.map(drop)
    }

    /// Removes a node and everything below it.
    pub async fn rm(&self, path: &str) -> Result<()> {
        self.path_request(XS_RM, path, &[]).await.map(drop)
    }

    /// The names of a node's children. More than fit into a message come in parts; `EAGAIN` if they
    /// change faster than they can be read.
    pub async fn directory(&self, path: &str) -> Result<Vec<String>> {
        match self.path_request(XS_DIRECTORY, path, &[]).await {
            Ok(payload) => Ok(wire::strings(&payload).map(String::from).collect()),
            Err(Errno::E2BIG) => self.long_directory(path).await,
            Err(errno) => Err(errno),
        }
    }

    async fn long_directory(&self, path: &str) -> Result<Vec<String>> {
        'again: for _ in 0..TRIES {
            let (mut names, mut generation) = (Vec::new(), None);
            loop {
                let offset = format!("{}\0", names.len());
                let reply = self.path_request(XS_DIRECTORY_PART, path, offset.as_bytes()).await?;
                let part = DirectoryPart::parse(&reply).ok_or(Errno::EIO)?;
                if generation.get_or_insert_with(|| part.generation.to_vec()) != part.generation {
                    continue 'again;
                }
                names.extend_from_slice(part.names);
                if part.last {
                    return Ok(wire::strings(&names).map(String::from).collect());
                }
                if part.names.is_empty() {
                    return Err(Errno::EIO);
                }
            }
        }
        Err(Errno::EAGAIN)
    }

    /// A node's permissions.
    pub async fn get_perms(&self, path: &str) -> Result<Permissions> {
        Permissions::parse(&self.path_request(XS_GET_PERMS, path, &[]).await?).ok_or(Errno::EIO)
    }

    /// Sets a node's permissions.
    pub async fn set_perms(&self, path: &str, permissions: &Permissions) -> Result<()> {
        self.path_request(XS_SET_PERMS, path, &permissions.encode()).await.map(drop)
    }

    /// Watches a node and everything below it. The first event comes at once.
    pub async fn watch(&self, path: &str) -> Result<Watch> {
        let outside = Xenstore { connection: self.connection.clone(), transaction: 0 };
        Watch::new(outside, path).await
    }

    /// Runs `body` in a transaction: all of its effects or none. It is run again when another
    /// client changed what it had read.
    pub async fn transaction<T>(&self, body: impl AsyncFn(&Xenstore) -> Result<T>) -> Result<T> {
        loop {
            // The daemon wants a payload of one zero.
            let id = text(self.request(XS_TRANSACTION_START, [0].into()).await?);
            let transaction = id.parse().ok().filter(|id| *id != 0).ok_or(Errno::EIO)?;
            let inside = Xenstore { connection: self.connection.clone(), transaction };
            let result = body(&inside).await;
            let commit: &[u8] = if result.is_ok() { b"T\0" } else { b"F\0" };
            let end = inside.request(XS_TRANSACTION_END, commit.into()).await;
            match (result, end) {
                (_, Err(Errno::EAGAIN)) | (Err(Errno::EAGAIN), _) => continue,
                (Ok(_), Err(errno)) => return Err(errno),
                (result, _) => return result,
            }
        }
    }

    /// The path of a domain's own part of the tree.
    pub async fn domain_path(&self, domid: DomId) -> Result<String> {
        let payload = format!("{}\0", domid.0).into_bytes();
        Ok(text(self.request(XS_GET_DOMAIN_PATH, payload).await?))
    }

    /// Tells xenstored of a new domain's ring (the control domain's right).
    pub async fn introduce(&self, domid: DomId, ring: Gfn, port: Port) -> Result<()> {
        let payload = format!("{}\0{}\0{}\0", domid.0, ring.0, port.0).into_bytes();
        self.request(XS_INTRODUCE, payload).await.map(drop)
    }

    /// Tells xenstored that a domain is gone (the control domain's right).
    pub async fn release(&self, domid: DomId) -> Result<()> {
        self.request(XS_RELEASE, format!("{}\0", domid.0).into_bytes()).await.map(drop)
    }
}

#[cfg(test)]
pub(crate) mod tests;
