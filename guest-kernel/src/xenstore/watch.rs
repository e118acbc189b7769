//! Watches: who is told when something in the tree changed.

use super::{Result, Xenstore, wire};
use crate::executor::{Notify, spawn};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use shared_abi::io::xs_wire::{XS_UNWATCH, XS_WATCH};

#[derive(Default)]
struct Events {
    paths: RefCell<VecDeque<String>>,
    arrived: Notify,
    closed: Cell<bool>,
}

/// The watches of a connection, by the token that the daemon returns with each event.
#[derive(Default)]
pub(super) struct Watches {
    by_token: BTreeMap<u64, Rc<Events>>,
    last: u64,
}

impl Watches {
    /// Hands on a watch event. A path that waits to be taken is not queued twice: the watcher
    /// will look at its newest value anyway, and the queue can't grow past the paths there are.
    pub fn event(&mut self, payload: &[u8]) {
        let mut parts = wire::strings(payload);
        let (Some(path), Some(token)) = (parts.next(), parts.next()) else { return };
        let Some(events) = token.parse().ok().and_then(|token: u64| self.by_token.get(&token)) else {
            return;
        };
        let mut paths = events.paths.borrow_mut();
        if !paths.iter().any(|waiting| waiting == path) {
            paths.push_back(path.to_string());
        }
        drop(paths);
        events.arrived.notify();
    }

    pub fn close(&mut self) {
        for events in self.by_token.values() {
            events.closed.set(true);
            events.arrived.notify();
        }
    }
}

/// A watch on a node and what is below it. Ends on drop.
pub struct Watch {
    store: Xenstore,
    path: String,
    token: u64,
    events: Rc<Events>,
}

fn payload(path: &str, token: u64) -> Vec<u8> {
    format!("{path}\0{token}\0").into_bytes()
}

impl Watch {
    pub(super) async fn new(store: Xenstore, path: &str) -> Result<Watch> {
        let events = Rc::new(Events::default());
        let token = {
            let mut watches = store.connection.watches.borrow_mut();
            watches.last += 1;
            let token = watches.last;
            watches.by_token.insert(token, events.clone());
            token
        };
        let watch = Watch { store, path: path.to_string(), token, events };
        watch.store.request(XS_WATCH, payload(path, token)).await?;
        Ok(watch)
    }

    /// The path that changed next. `None` when the connection is broken.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(path) = self.events.paths.borrow_mut().pop_front() {
                return Some(path);
            }
            if self.events.closed.get() {
                return None;
            }
            self.events.arrived.wait().await;
        }
    }

    /// Forgets the events that are waiting, and says whether there were any.
    pub fn take_all(&mut self) -> bool {
        !self.events.paths.take().is_empty()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.store.connection.watches.borrow_mut().by_token.remove(&self.token);
        if !self.events.closed.get() {
            let (store, payload) = (self.store.clone(), payload(&self.path, self.token));
            spawn(async move { store.request(XS_UNWATCH, payload).await });
        }
    }
}
