//! Watches: who hears of a change, and under which name.

use super::conns::ConnId;
use super::path::{Key, Path};
use super::path_map::PathMap;
use super::perms::{Rights, Who};
use super::store::{Node, Store};
use super::transaction::Change;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

/// One registration.
#[derive(Clone, Debug)]
struct Watch {
    conn: ConnId,
    token: Rc<str>,
    /// The home that the watcher's relative name counted from; events are named relative to it, too.
    home: Option<Path>,
}

/// An event for one connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Who gets it.
    pub conn: ConnId,
    /// What changed, in the watcher's terms.
    pub path: String,
    /// What the watcher called its watch.
    pub token: Rc<str>,
}

/// All watches, found by the path they are on, so that a change costs its depth in lookups, however many
/// domains watch something else.
#[derive(Default)]
pub struct Watches {
    by_path: PathMap<Vec<Watch>>,
    usage: BTreeMap<ConnId, Usage>,
}

/// What one connection has.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// Registrations.
    pub count: usize,
    /// Bytes, as the memory quota counts them.
    pub bytes: usize,
}

fn bytes(path: &Path, token: &str) -> usize {
    128 + path.as_str().len() + token.len()
}

impl Watches {
    /// Registers a watch; false if the connection has this path and token already.
    pub fn add(&mut self, conn: ConnId, path: Path, home: Option<Path>, token: &str) -> bool {
        let size = bytes(&path, token);
        let watch = Watch { conn, token: token.into(), home };
        match self.by_path.get_mut(&path) {
            Some(here) if here.iter().any(|watch| watch.conn == conn && &*watch.token == token) => {
                return false;
            }
            Some(here) => here.push(watch),
            None => drop(self.by_path.insert(path, Vec::from([watch]))),
        }
        let usage = self.usage.entry(conn).or_default();
        usage.count += 1;
        usage.bytes += size;
        true
    }

    /// Takes a watch back; false if there is none such.
    pub fn remove(&mut self, conn: ConnId, path: &Path, token: &str) -> bool {
        let Some(here) = self.by_path.get_mut(path) else { return false };
        let Some(at) = here.iter().position(|watch| watch.conn == conn && &*watch.token == token) else {
            return false;
        };
        here.remove(at);
        if here.is_empty() {
            self.by_path.remove(path);
        }
        if let Some(usage) = self.usage.get_mut(&conn) {
            usage.count -= 1;
            usage.bytes -= bytes(path, token);
        }
        true
    }

    /// Takes back all watches of a connection.
    pub fn remove_all(&mut self, conn: ConnId) {
        if self.usage.remove(&conn).is_some_and(|usage| usage.count > 0) {
            self.by_path.retain(|_, here| {
                here.retain(|watch| watch.conn != conn);
                !here.is_empty()
            });
        }
    }

    /// What `conn` has registered.
    pub fn usage(&self, conn: ConnId) -> Usage {
        self.usage.get(&conn).copied().unwrap_or_default()
    }

    /// The events that follow from `change`. `who` says who a connection is.
    pub fn events(&self, change: &Change, store: &Store, who: impl Fn(ConnId) -> Option<Who>) -> Vec<Event> {
        let mut events = Vec::new();
        let mut look = |path: &dyn Key| {
            for watch in self.by_path.get(path).into_iter().flatten().rev() {
                if who(watch.conn).is_some_and(|who| permitted(&who, change, store)) {
                    let name = match &watch.home {
                        Some(home) => change.path.relative_to(home),
                        None => change.path.as_str(),
                    };
                    events.push(Event { conn: watch.conn, path: name.into(), token: watch.token.clone() });
                }
            }
        };
        match change.exact {
            true => look(&change.path),
            false => change.path.way().for_each(|path| look(&path)),
        }
        // The nearest watch hears of it first; of several on one node the oldest.
        events.reverse();
        events
    }
}

/// A watcher hears of a node that it may read or might read before the change, or whose parent it may read.
fn permitted(who: &Who, change: &Change, store: &Store) -> bool {
    let reads = |node: &Rc<Node>| node.perms.rights(who).cover(Rights::READ);
    let node = store.get(&change.path);
    change.before.as_ref().is_some_and(|perms| perms.rights(who).cover(Rights::READ))
        || node.is_some_and(reads)
        || ((change.before.is_some() || node.is_some())
            && change.path.above().and_then(|parent| store.get(&parent)).is_some_and(reads))
}
