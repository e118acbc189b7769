//! The tree itself, kept flat: a map from path to node. Each node has a generation that changes with its
//! value, permissions or list of children; a transaction's conflicts are decided by it.

use super::path::{Key, Path};
use super::path_map::PathMap;
use super::perms::{Perms, Rights};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use shared_abi::DomId;

/// Fires when a domain has been introduced.
pub const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// Fires when a domain has died or has been released.
pub const RELEASE_DOMAIN: &str = "@releaseDomain";

/// What the daemon needs for a node besides its contents, in bytes: an estimate for the memory quota.
const NODE_OVERHEAD: usize = 192;

/// One node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// The value; any bytes.
    pub value: Vec<u8>,
    /// Who may do what.
    pub perms: Perms,
    /// Names of the nodes below.
    pub children: BTreeSet<Rc<str>>,
    /// When this record last changed; unique over the life of the daemon.
    pub generation: u64,
}

impl Node {
    /// A node without children.
    pub fn new(value: Vec<u8>, perms: Perms) -> Node {
        Node { value, perms, children: BTreeSet::new(), generation: 0 }
    }

    /// Size against the quota for one node: as Xen's daemon counts its record.
    pub fn size(&self) -> usize {
        let names: usize = self.children.iter().map(|name| name.len() + 1).sum();
        24 + 8 * self.perms.entries() + self.value.len() + names
    }

    fn footprint(&self, path: &Path) -> usize {
        // A child's name is counted with the child, by its path, so that adding one does not cost the parent's
        // owner anything.
        NODE_OVERHEAD + 2 * path.as_str().len() + self.value.len() + 8 * self.perms.entries()
    }
}

/// What one domain owns in the tree.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Nodes.
    pub nodes: usize,
    /// Bytes, as far as they count.
    pub bytes: usize,
    /// Nodes of others that name this domain in their permissions.
    pub named: usize,
}

/// All nodes.
pub struct Store {
    nodes: PathMap<Rc<Node>>,
    usage: BTreeMap<DomId, Usage>,
    generation: u64,
}

impl Store {
    /// A tree with the nodes that xenstored makes itself: the root, `/tool/xenstored` and the two special ones,
    /// all dom0's.
    pub fn new() -> Store {
        let mut store = Store { nodes: PathMap::default(), usage: BTreeMap::new(), generation: 0 };
        let private = Perms::new(DomId(0), Rights::default());
        let mut root = Node::new(Vec::new(), private.clone());
        root.children.insert("tool".into());
        let mut tool = Node::new(Vec::new(), private.clone());
        tool.children.insert("xenstored".into());
        let leaf = Node::new(Vec::new(), private);
        for (name, node) in [
            ("/", root),
            ("/tool", tool),
            ("/tool/xenstored", leaf.clone()),
            (INTRODUCE_DOMAIN, leaf.clone()),
            (RELEASE_DOMAIN, leaf),
        ] {
            if let Ok(path) = Path::absolute(name) {
                store.put(path, Rc::new(node));
            }
        }
        store
    }

    /// The node at `path`.
    pub fn get(&self, path: &dyn Key) -> Option<&Rc<Node>> {
        self.nodes.get(path)
    }

    /// A generation that no record has had.
    pub fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Sets the record at `path`, with a new generation. The caller keeps parents' child lists right.
    pub fn put(&mut self, path: Path, mut node: Rc<Node>) {
        let generation = self.next_generation();
        Rc::make_mut(&mut node).generation = generation;
        match self.nodes.insert(path.clone(), node.clone()) {
            Some(old) if old.perms == node.perms && old.value.len() == node.value.len() => {}
            old => {
                self.account(&path, &node, true);
                if let Some(old) = old {
                    self.account(&path, &old, false);
                }
            }
        }
    }

    /// Takes the record at `path` out.
    pub fn remove(&mut self, path: &Path) {
        if let Some(old) = self.nodes.remove(path) {
            self.account(path, &old, false);
        }
    }

    fn account(&mut self, path: &Path, node: &Node, adding: bool) {
        let step = |value: &mut usize, by: usize| {
            *value = if adding { value.saturating_add(by) } else { value.saturating_sub(by) };
        };
        let owner = self.usage.entry(node.perms.owner()).or_default();
        step(&mut owner.nodes, 1);
        step(&mut owner.bytes, node.footprint(path));
        for domain in node.perms.named() {
            step(&mut self.usage.entry(domain).or_default().named, 1);
        }
    }

    /// What `domain` owns.
    pub fn usage(&self, domain: DomId) -> Usage {
        self.usage.get(&domain).copied().unwrap_or_default()
    }

    /// Every node, in no order that means something.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Rc<Node>)> {
        self.nodes.iter()
    }

    /// Forgets a domain that is gone: its nodes with all below them go, and its number is taken out of other
    /// nodes' permissions, so that a later domain of the same number inherits nothing.
    pub fn forget(&mut self, domain: DomId) {
        let usage = self.usage(domain);
        if usage.nodes > 0 {
            let owned: Vec<Path> = self.paths(|node| node.perms.owner() == domain);
            for path in owned {
                self.remove_subtree(&path);
            }
        }
        if usage.named > 0 {
            for path in self.paths(|node| node.perms.names(domain)) {
                if let Some(mut node) = self.nodes.get(&path).cloned() {
                    let perms = node.perms.without(domain);
                    Rc::make_mut(&mut node).perms = perms;
                    self.put(path, node);
                }
            }
        }
        self.usage.remove(&domain);
    }

    fn paths(&self, wanted: impl Fn(&Node) -> bool) -> Vec<Path> {
        self.nodes.iter().filter(|(_, node)| wanted(node)).map(|(path, _)| path.clone()).collect()
    }

    fn remove_subtree(&mut self, path: &Path) {
        let Some(parent) = path.parent() else { return };
        if self.nodes.get(path).is_none() {
            return;
        }
        let mut doomed = Vec::from([path.clone()]);
        let mut next = 0;
        while let Some(path) = doomed.get(next).cloned() {
            let names = self.nodes.get(&path).into_iter().flat_map(|node| node.children.iter());
            doomed.extend(names.map(|name| path.child(name)));
            next += 1;
        }
        for path in &doomed {
            self.remove(path);
        }
        if let Some(mut node) = self.nodes.get(&parent).cloned() {
            Rc::make_mut(&mut node).children.remove(path.leaf());
            self.put(parent, node);
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Store::new()
    }
}
