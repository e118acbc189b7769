//! Transactions: a connection's private changes, checked for conflicts when it commits.
//!
//! A transaction copies a node on its first access to it, and remembers the node's generation then (or that
//! there was no such node). Reads and writes after that use the copy. The commit succeeds if each of those
//! generations is still the tree's; otherwise something that the transaction saw has changed, and the client
//! gets EAGAIN. As every write looks its node up first, reads alone decide. A node's generation changes
//! with its value, its permissions and its list of children, not with what happens inside the children.

use super::error::Error;
use super::path::Path;
use super::path_map::PathMap;
use super::perms::{Perms, Who};
use super::quota::{Quota, Quotas};
use super::store::{Node, Store};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use shared_abi::DomId;

/// A change that watches may hear of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The node that changed.
    pub path: Path,
    /// Only watches on this very path hear of it; otherwise those above it do, too.
    pub exact: bool,
    /// The permissions before the change, if it took the node or its permissions away.
    pub before: Option<Perms>,
}

struct Accessed {
    path: Path,
    node: Option<Rc<Node>>,
    seen: Option<u64>,
    modified: bool,
    change: Option<Change>,
}

/// One open transaction.
#[derive(Default)]
pub struct Transaction {
    /// In the order of the first accesses.
    accessed: Vec<Accessed>,
    places: PathMap<usize>,
    created: BTreeMap<DomId, isize>,
    bytes: usize,
}

impl Transaction {
    /// Bytes that it keeps, for the memory quota.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn find(&mut self, path: &Path) -> Option<&mut Accessed> {
        self.accessed.get_mut(*self.places.get(path)?)
    }
}

/// The tree as one request sees and changes it: directly, or through a transaction.
pub struct View<'a> {
    /// The tree.
    pub store: &'a mut Store,
    /// The transaction that the request names.
    pub transaction: Option<&'a mut Transaction>,
    /// Who asks.
    pub who: Who,
    /// The limits.
    pub quotas: &'a Quotas,
    /// What changed in the tree, in order.
    pub changes: Vec<Change>,
}

impl View<'_> {
    /// The node at `path`.
    pub fn get(&mut self, path: &Path) -> Result<Option<Rc<Node>>, Error> {
        let Some(transaction) = &mut self.transaction else {
            return Ok(self.store.get(path).cloned());
        };
        if let Some(accessed) = transaction.find(path) {
            return Ok(accessed.node.clone());
        }
        let order = transaction.accessed.len();
        if !self.who.privileged && order >= self.quotas.get(Quota::TransactionNodes) {
            return Err(Error::Quota(Quota::TransactionNodes));
        }
        let node = self.store.get(path).cloned();
        let seen = node.as_ref().map(|node| node.generation);
        transaction.bytes += 256 + path.as_str().len() + node.as_ref().map_or(0, |node| node.size());
        let accessed =
            Accessed { path: path.clone(), node: node.clone(), seen, modified: false, change: None };
        transaction.accessed.push(accessed);
        transaction.places.insert(path.clone(), order);
        Ok(node)
    }

    /// Sets the node at `path`, which the caller has looked up before.
    pub fn put(&mut self, path: &Path, mut node: Rc<Node>) {
        let Some(transaction) = &mut self.transaction else {
            return self.store.put(path.clone(), node);
        };
        Rc::make_mut(&mut node).generation = self.store.next_generation();
        *transaction.created.entry(node.perms.owner()).or_default() += 1;
        transaction.bytes += node.value.len();
        Self::replace(transaction, path, Some(node));
    }

    /// Takes the node at `path` away, which the caller has looked up before.
    pub fn remove(&mut self, path: &Path) {
        match &mut self.transaction {
            None => self.store.remove(path),
            Some(transaction) => Self::replace(transaction, path, None),
        }
    }

    fn replace(transaction: &mut Transaction, path: &Path, node: Option<Rc<Node>>) {
        let Some(accessed) = transaction.find(path) else { return };
        accessed.modified = true;
        if let Some(old) = core::mem::replace(&mut accessed.node, node) {
            *transaction.created.entry(old.perms.owner()).or_default() -= 1;
        }
    }

    /// Notes that watches are to hear of `change`, now or at the commit.
    pub fn changed(&mut self, change: Change) {
        match &mut self.transaction {
            None => self.changes.push(change),
            Some(transaction) => {
                if let Some(accessed) = transaction.find(&change.path) {
                    accessed.change = Some(change);
                }
            }
        }
    }

    /// How many nodes `domain` owns in this view.
    pub fn owned(&self, domain: DomId) -> usize {
        let created = self.transaction.as_ref().and_then(|t| t.created.get(&domain).copied()).unwrap_or(0);
        self.store.usage(domain).nodes.saturating_add_signed(created)
    }
}

impl Transaction {
    /// Makes the changes real, or none of them. Returns what watches are to hear of.
    ///
    /// EAGAIN: something that the transaction read has changed. A quota error: with what happened since it
    /// started, the domain would own too many nodes.
    pub fn commit(self, store: &mut Store, who: &Who, quotas: &Quotas) -> Result<Vec<Change>, Error> {
        let current = |path: &Path| store.get(path).map(|node| node.generation);
        if self.accessed.iter().any(|accessed| current(&accessed.path) != accessed.seen) {
            return Err(Error::EAGAIN);
        }
        let created = self.created.get(&who.domain).copied().unwrap_or(0);
        let owned = store.usage(who.domain).nodes.saturating_add_signed(created);
        if !who.privileged && created > 0 && owned > quotas.get(Quota::Nodes) {
            return Err(Error::Quota(Quota::Nodes));
        }
        let mut changes = Vec::new();
        for Accessed { path, node, modified, change, .. } in self.accessed {
            match node {
                _ if !modified => {}
                Some(node) => store.put(path, node),
                None => store.remove(&path),
            }
            changes.extend(change);
        }
        Ok(changes)
    }
}
