//! From a request to its reply and the events it causes. No ring and no hypercall here: what touches other
//! domains goes through [`Host`].

use super::conns::{ConnId, Conns};
use super::control;
use super::error::Error;
use super::path::{ABS_PATH_MAX, Path};
use super::perms::{Perms, Who};
use super::quota::{Quota, Quotas};
use super::store::{INTRODUCE_DOMAIN, RELEASE_DOMAIN, Store};
use super::transaction::{Change, Transaction, View};
use super::watches::{Event, Watches};
use super::wire::{Message, PAYLOAD_MAX, strings};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt;
use core::task::Waker;
use shared_abi::DomId;
use shared_abi::io::xs_wire;

/// Events that may wait for a guest that does not take them.
const EVENTS_MAX: usize = 1024;

/// What the daemon needs from the machine.
pub trait Host {
    /// Maps the xenstore page `gfn` of `domain` and binds its event channel `port`, to serve `conn`; again, with
    /// the same `conn`, if a domain that is known already is introduced anew. EINVAL or EIO if that fails.
    fn introduce(&mut self, domain: DomId, gfn: u64, port: u32, conn: ConnId) -> Result<(), Error>;
    /// Unmaps and unbinds what `introduce` made.
    fn release(&mut self, domain: DomId);
    /// Whether so little memory is left that guests must not take more of it.
    fn is_short_of_memory(&self) -> bool {
        false
    }
    /// One line for the administrator.
    fn log(&mut self, line: fmt::Arguments<'_>);
}

struct Domain {
    conn: ConnId,
    shut_down: bool,
}

/// The daemon's whole state.
pub struct Server {
    /// The tree.
    pub store: Store,
    /// The limits.
    pub quotas: Quotas,
    pub(super) watches: Watches,
    conns: Conns,
    domains: BTreeMap<DomId, Domain>,
    host: Box<dyn Host>,
}

impl Server {
    /// A daemon with an empty tree.
    pub fn new(host: Box<dyn Host>) -> Server {
        Server {
            store: Store::new(),
            quotas: Quotas::default(),
            watches: Watches::default(),
            conns: Conns::default(),
            domains: BTreeMap::new(),
            host,
        }
    }

    /// A connection for `who` that has no ring.
    pub fn connect(&mut self, who: Who) -> ConnId {
        self.conns.add(who)
    }

    /// Ends a connection, with its watches and transactions.
    pub fn disconnect(&mut self, conn: ConnId) {
        self.watches.remove_all(conn);
        if let Some(waker) = self.conns.remove(conn).and_then(|state| state.waker) {
            waker.wake();
        }
    }

    /// Stops listening to a connection whose peer broke the protocol; everybody else goes on. Logged once.
    pub fn ignore(&mut self, conn: ConnId, why: fmt::Arguments<'_>) {
        self.watches.remove_all(conn);
        let Some(state) = self.conns.get_mut(conn) else { return };
        if core::mem::replace(&mut state.closed, true) {
            return;
        }
        state.out.clear();
        state.out_bytes = 0;
        state.events.clear();
        state.transactions.clear();
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        self.host.log(format_args!("xenstored: dom{} ignored from now on: {why}", state.who.domain.0));
    }

    /// Whether the connection still exists and is served.
    pub fn is_open(&self, conn: ConnId) -> bool {
        self.conns.get(conn).is_some_and(|state| !state.closed)
    }

    /// The connection of an introduced domain.
    pub fn conn_of(&self, domain: DomId) -> Option<ConnId> {
        self.domains.get(&domain).map(|domain| domain.conn)
    }

    /// The next message for the peer.
    pub fn take_output(&mut self, conn: ConnId) -> Option<Message> {
        let state = self.conns.get_mut(conn)?;
        let message = state.out.pop_front()?;
        state.out_bytes = state.out_bytes.saturating_sub(message.encoded_len());
        if message.kind == xs_wire::XS_WATCH_EVENT {
            state.events.remove(&message.payload);
        }
        Some(message)
    }

    /// How many messages wait for the peer.
    pub fn output_len(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, |state| state.out.len())
    }

    /// Wakes `waker` once there is output for `conn` or its end.
    pub fn wake_on_output(&mut self, conn: ConnId, waker: &Waker) {
        match self.conns.get_mut(conn) {
            Some(state) => state.waker = Some(waker.clone()),
            None => waker.wake_by_ref(),
        }
    }

    /// Serves one request; reply and events go to the connections' output.
    pub fn handle(&mut self, conn: ConnId, request: &Message) {
        if !self.is_open(conn) {
            return;
        }
        let (reply, first_event) = self.process(conn, request);
        self.queue(conn, reply);
        self.queue_event(first_event);
    }

    /// Serves one request of a connection without a ring; the reply is returned, events go to its output.
    pub fn call(&mut self, conn: ConnId, request: &Message) -> Message {
        let (reply, first_event) = self.process(conn, request);
        self.queue_event(first_event);
        reply
    }

    fn process(&mut self, conn: ConnId, request: &Message) -> (Message, Option<Event>) {
        let mut first_event = None;
        let mut result = self.dispatch(conn, request, &mut first_event);
        if matches!(&result, Ok(payload) if payload.len() > PAYLOAD_MAX) {
            result = Err(Error::E2BIG);
        }
        let (kind, payload) = match result {
            Ok(payload) => (request.kind, payload),
            Err(error) => {
                self.log_quota(conn, error);
                (xs_wire::XS_ERROR, [error.wire().as_bytes(), b"\0"].concat())
            }
        };
        (Message { kind, payload, ..*request }, first_event)
    }

    fn log_quota(&mut self, conn: ConnId, error: Error) {
        let Error::Quota(quota) = error else { return };
        let Some(state) = self.conns.get_mut(conn) else { return };
        if !state.quotas_told.contains(&quota) {
            state.quotas_told.push(quota);
            let (name, limit) = (quota.name(), self.quotas.get(quota));
            self.host.log(format_args!(
                "xenstored: dom{} reached its quota \"{name}\" ({limit}): {}",
                state.who.domain.0,
                quota.wire()
            ));
        }
    }

    fn dispatch(
        &mut self,
        conn: ConnId,
        request: &Message,
        first: &mut Option<Event>,
    ) -> Result<Vec<u8>, Error> {
        let state = self.conns.get(conn).ok_or(Error::EINVAL)?;
        let who = state.who;
        if request.transaction != 0 && !state.transactions.contains_key(&request.transaction) {
            return Err(Error::ENOENT);
        }
        let payload = request.payload.as_slice();
        match request.kind {
            xs_wire::XS_TRANSACTION_START => self.transaction_start(conn, request),
            xs_wire::XS_TRANSACTION_END => self.transaction_end(conn, request),
            xs_wire::XS_WATCH => {
                let (event, reply) = self.watch(conn, who, payload)?;
                *first = Some(event);
                Ok(reply)
            }
            xs_wire::XS_UNWATCH => {
                let [name, token] = strings(payload).ok_or(Error::EINVAL)?;
                let path = self.path(&who, name)?;
                if self.watches.remove(conn, &path, token) { ok() } else { Err(Error::ENOENT) }
            }
            xs_wire::XS_RESET_WATCHES => {
                self.watches.remove_all(conn);
                if let Some(state) = self.conns.get_mut(conn) {
                    state.transactions.clear();
                }
                ok()
            }
            xs_wire::XS_GET_DOMAIN_PATH => {
                let domain = domain_number(payload)?;
                Ok(format!("{}\0", Path::home(domain)).into_bytes())
            }
            xs_wire::XS_CONTROL
            | xs_wire::XS_INTRODUCE
            | xs_wire::XS_RELEASE
            | xs_wire::XS_RESUME
            | xs_wire::XS_SET_TARGET
                if !who.privileged =>
            {
                Err(Error::EACCES)
            }
            xs_wire::XS_CONTROL => control::run(self, payload),
            xs_wire::XS_INTRODUCE => {
                let [domain, gfn, port] = strings(payload).ok_or(Error::EINVAL)?;
                self.introduce(number(domain)?, number(gfn)?, number(port)?)?;
                ok()
            }
            xs_wire::XS_RELEASE => {
                self.release(domain_number(payload)?)?;
                ok()
            }
            xs_wire::XS_RESUME => {
                let domain = domain_number(payload)?;
                self.domains.get_mut(&domain).ok_or(Error::ENOENT)?.shut_down = false;
                ok()
            }
            xs_wire::XS_SET_TARGET => {
                let [domain, target] = strings(payload).ok_or(Error::EINVAL)?;
                let conn = self.conn_of(DomId(number(domain)?)).ok_or(Error::ENOENT)?;
                let target = DomId(number(target)?);
                self.conn_of(target).ok_or(Error::ENOENT)?;
                self.conns.get_mut(conn).ok_or(Error::ENOENT)?.who.target = Some(target);
                ok()
            }
            xs_wire::XS_IS_DOMAIN_INTRODUCED => {
                let known = self.domains.contains_key(&domain_number(payload)?);
                Ok(if known { b"T\0".to_vec() } else { b"F\0".to_vec() })
            }
            _ => self.on_nodes(conn, who, request),
        }
    }

    /// The requests about nodes, in or outside a transaction.
    fn on_nodes(&mut self, conn: ConnId, who: Who, request: &Message) -> Result<Vec<u8>, Error> {
        let payload = request.payload.as_slice();
        let name = CStr::from_bytes_until_nul(payload).map_err(|_| Error::EINVAL)?;
        let rest = &payload[name.count_bytes() + 1..];
        let path = self.path(&who, name.to_str().map_err(|_| Error::EINVAL)?)?;
        let special_too = matches!(request.kind, xs_wire::XS_GET_PERMS | xs_wire::XS_SET_PERMS);
        let takes_more =
            matches!(request.kind, xs_wire::XS_WRITE | xs_wire::XS_SET_PERMS | xs_wire::XS_DIRECTORY_PART);
        if (path.is_special() && !special_too) || (!rest.is_empty() && !takes_more) {
            return Err(Error::EINVAL);
        }
        if matches!(request.kind, xs_wire::XS_WRITE | xs_wire::XS_MKDIR | xs_wire::XS_SET_PERMS)
            || request.transaction != 0
        {
            self.check_memory(conn, &who)?;
        }
        let state = self.conns.get_mut(conn).ok_or(Error::EINVAL)?;
        let transaction = state.transactions.get_mut(&request.transaction);
        let mut view =
            View { store: &mut self.store, transaction, who, quotas: &self.quotas, changes: Vec::new() };
        let reply = match request.kind {
            xs_wire::XS_READ => view.read(&path)?,
            xs_wire::XS_WRITE => view.write(&path, rest).and(ok())?,
            xs_wire::XS_MKDIR => view.mkdir(&path).and(ok())?,
            xs_wire::XS_RM => view.rm(&path).and(ok())?,
            xs_wire::XS_GET_PERMS => view.get_perms(&path)?.to_wire(),
            xs_wire::XS_SET_PERMS => view.set_perms(&path, Perms::parse(rest)?).and(ok())?,
            xs_wire::XS_DIRECTORY => names(view.directory(&path)?.children.iter()),
            xs_wire::XS_DIRECTORY_PART => {
                let [offset] = strings(rest).ok_or(Error::EINVAL)?;
                let node = view.directory(&path)?;
                directory_part(node.generation, &names(node.children.iter()), number(offset)?)?
            }
            _ => return Err(Error::ENOSYS),
        };
        let changes = core::mem::take(&mut view.changes);
        self.fire(&changes);
        Ok(reply)
    }

    fn path(&self, who: &Who, name: &str) -> Result<Path, Error> {
        let max = if who.privileged { ABS_PATH_MAX } else { self.quotas.get(Quota::PathLength) };
        Path::of(who.domain, name, max)
    }

    /// Bytes that the daemon keeps for a connection and its domain.
    pub(super) fn memory(&self, conn: ConnId) -> usize {
        let Some(state) = self.conns.get(conn) else { return 0 };
        let transactions: usize = state.transactions.values().map(Transaction::bytes).sum();
        self.store.usage(state.who.domain).bytes
            + self.watches.usage(conn).bytes
            + transactions
            + 2 * state.out_bytes
    }

    /// Refuses a guest that keeps too much, and any guest while all of them together do: their quotas
    /// add up to more than dom0 may have.
    fn check_memory(&self, conn: ConnId, who: &Who) -> Result<(), Error> {
        let over = !who.privileged
            && (self.memory(conn) > self.quotas.get(Quota::Memory) || self.host.is_short_of_memory());
        if over { Err(Error::Quota(Quota::Memory)) } else { Ok(()) }
    }

    fn watch(&mut self, conn: ConnId, who: Who, payload: &[u8]) -> Result<(Event, Vec<u8>), Error> {
        let [name, token] = strings(payload).ok_or(Error::EINVAL)?;
        let path = self.path(&who, name)?;
        if !who.privileged && self.watches.usage(conn).count >= self.quotas.get(Quota::Watches) {
            return Err(Error::Quota(Quota::Watches));
        }
        self.check_memory(conn, &who)?;
        let home = (!name.starts_with(['/', '@'])).then(|| Path::home(who.domain));
        if !self.watches.add(conn, path, home, token) {
            return Err(Error::EEXIST);
        }
        Ok((Event { conn, path: name.into(), token: token.into() }, ok()?))
    }

    fn transaction_start(&mut self, conn: ConnId, request: &Message) -> Result<Vec<u8>, Error> {
        let state = self.conns.get_mut(conn).ok_or(Error::EINVAL)?;
        if request.transaction != 0 {
            return Err(Error::EBUSY);
        }
        if !state.who.privileged && state.transactions.len() >= self.quotas.get(Quota::Transactions) {
            return Err(Error::Quota(Quota::Transactions));
        }
        let mut id = state.last_transaction.wrapping_add(1);
        while id == 0 || state.transactions.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        state.last_transaction = id;
        state.transactions.insert(id, Transaction::default());
        Ok(format!("{id}\0").into_bytes())
    }

    fn transaction_end(&mut self, conn: ConnId, request: &Message) -> Result<Vec<u8>, Error> {
        let commit = match request.payload.as_slice() {
            b"T\0" => true,
            b"F\0" => false,
            _ => return Err(Error::EINVAL),
        };
        let state = self.conns.get_mut(conn).ok_or(Error::EINVAL)?;
        let transaction = state.transactions.remove(&request.transaction).ok_or(Error::ENOENT)?;
        if commit {
            let changes = transaction.commit(&mut self.store, &state.who, &self.quotas)?;
            self.fire(&changes);
        }
        ok()
    }

    /// Makes a domain known and starts serving its ring.
    pub fn introduce(&mut self, domain: u16, gfn: u64, port: u32) -> Result<(), Error> {
        let domain = DomId(domain);
        if let Some(known) = self.domains.get(&domain) {
            return self.host.introduce(domain, gfn, port, known.conn);
        }
        let conn = self.connect(Who::guest(domain));
        if let Err(error) = self.host.introduce(domain, gfn, port, conn) {
            self.disconnect(conn);
            return Err(error);
        }
        self.domains.insert(domain, Domain { conn, shut_down: false });
        self.fire_special(INTRODUCE_DOMAIN);
        Ok(())
    }

    /// Forgets a domain: it has been destroyed, or the toolstack says so.
    pub fn release(&mut self, domain: DomId) -> Result<(), Error> {
        let known = self.domains.remove(&domain).ok_or(Error::ENOENT)?;
        self.host.release(domain);
        self.disconnect(known.conn);
        self.store.forget(domain);
        self.fire_special(RELEASE_DOMAIN);
        Ok(())
    }

    /// Tells that a domain has shut down but still exists; `@releaseDomain` fires once for it.
    pub fn shut_down(&mut self, domain: DomId) {
        if let Some(known) = self.domains.get_mut(&domain)
            && !core::mem::replace(&mut known.shut_down, true)
        {
            self.fire_special(RELEASE_DOMAIN);
        }
    }

    /// Whether a domain is known and has not shut down.
    pub fn goes_on(&self, domain: DomId) -> bool {
        self.domains.get(&domain).is_some_and(|known| !known.shut_down)
    }

    /// The domains that are known.
    pub fn introduced(&self) -> Vec<DomId> {
        self.domains.keys().copied().collect()
    }

    fn fire_special(&mut self, name: &str) {
        if let Ok(path) = Path::absolute(name) {
            self.fire(&[Change { path, exact: true, before: None }]);
        }
    }

    fn fire(&mut self, changes: &[Change]) {
        for change in changes {
            let who = |conn| self.conns.get(conn).map(|state| state.who);
            for event in self.watches.events(change, &self.store, who) {
                self.queue_event(Some(event));
            }
        }
    }

    fn queue_event(&mut self, event: Option<Event>) {
        let Some(Event { conn, path, token }) = event else { return };
        let payload = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"].concat();
        let Some(state) = self.conns.get(conn) else { return };
        // One that waits already says as much. So what waits for dom0, too, has a bound, whatever
        // guests do below the nodes that it watches: the nodes they own.
        if state.closed || state.events.contains(&payload) {
            return;
        }
        if !state.who.privileged
            && (state.out.len() >= EVENTS_MAX || self.memory(conn) > 2 * self.quotas.get(Quota::Memory))
        {
            return self.ignore(conn, format_args!("it does not take its watch events"));
        }
        if let Some(state) = self.conns.get_mut(conn) {
            state.events.insert(payload.clone());
        }
        let message = Message { kind: xs_wire::XS_WATCH_EVENT, request: 0, transaction: 0, payload };
        self.queue(conn, message);
    }

    fn queue(&mut self, conn: ConnId, message: Message) {
        let Some(state) = self.conns.get_mut(conn) else { return };
        if state.closed {
            return;
        }
        state.out_bytes += message.encoded_len();
        state.out.push_back(message);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

fn ok() -> Result<Vec<u8>, Error> {
    Ok(b"OK\0".to_vec())
}

fn number<T: core::str::FromStr>(text: &str) -> Result<T, Error> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().map_err(|_| Error::EINVAL)
    } else {
        Err(Error::EINVAL)
    }
}

fn domain_number(payload: &[u8]) -> Result<DomId, Error> {
    let [text] = strings(payload).ok_or(Error::EINVAL)?;
    number(text).map(DomId)
}

fn names<'a>(children: impl Iterator<Item = &'a alloc::rc::Rc<str>>) -> Vec<u8> {
    children.flat_map(|name| name.bytes().chain([0])).collect()
}

/// The generation, then as many whole names from `offset` on as fit; an empty name marks the end of the list.
fn directory_part(generation: u64, names: &[u8], offset: usize) -> Result<Vec<u8>, Error> {
    let mut reply = generation.to_string().into_bytes();
    reply.push(0);
    if offset > names.len() {
        return Err(Error::EINVAL);
    }
    let room = PAYLOAD_MAX - reply.len() - 1;
    let rest = &names[offset..];
    if rest.len() <= room {
        reply.extend_from_slice(rest);
        reply.push(0);
    } else {
        let whole = rest[..room].iter().rposition(|byte| *byte == 0).map_or(0, |at| at + 1);
        reply.extend_from_slice(&rest[..whole]);
    }
    Ok(reply)
}
