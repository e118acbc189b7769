//! The operations on nodes, with their permission checks, over a [`View`].

use super::error::Error;
use super::path::Path;
use super::perms::{Perms, Rights};
use super::quota::Quota;
use super::store::Node;
use super::transaction::{Change, View};
use alloc::rc::Rc;
use alloc::vec::Vec;

impl View<'_> {
    /// The node at `path`, if the caller has the rights that it needs.
    ///
    /// Somebody who could not see the nearest node above learns EACCES whether or not `path` exists.
    pub fn lookup(&mut self, path: &Path, need: Rights) -> Result<Rc<Node>, Error> {
        if let Some(node) = self.get(path)? {
            return if node.perms.rights(&self.who).cover(need) { Ok(node) } else { Err(Error::EACCES) };
        }
        let mut above = path.parent();
        while let Some(path) = above {
            if let Some(node) = self.get(&path)? {
                let known = node.perms.rights(&self.who).cover(need);
                return Err(if known { Error::ENOENT } else { Error::EACCES });
            }
            above = path.parent();
        }
        Err(Error::ENOENT)
    }

    /// READ: the value.
    pub fn read(&mut self, path: &Path) -> Result<Vec<u8>, Error> {
        Ok(self.lookup(path, Rights::READ)?.value.clone())
    }

    /// DIRECTORY: the node whose children are asked for.
    pub fn directory(&mut self, path: &Path) -> Result<Rc<Node>, Error> {
        self.lookup(path, Rights::READ)
    }

    /// GET_PERMS.
    pub fn get_perms(&mut self, path: &Path) -> Result<Perms, Error> {
        Ok(self.lookup(path, Rights::READ)?.perms.clone())
    }

    /// WRITE: sets the value, and creates the node and those above it as needed.
    pub fn write(&mut self, path: &Path, value: &[u8]) -> Result<(), Error> {
        if path.is_special() {
            return Err(Error::EINVAL);
        }
        match self.lookup(path, Rights::WRITE) {
            Ok(mut node) => {
                Rc::make_mut(&mut node).value = value.to_vec();
                self.check_size(&node)?;
                self.put(path, node);
            }
            Err(Error::ENOENT) => self.create(path, value)?,
            Err(error) => return Err(error),
        }
        self.changed(Change { path: path.clone(), exact: false, before: None });
        Ok(())
    }

    /// MKDIR: creates an empty node; one that exists is left as it is.
    pub fn mkdir(&mut self, path: &Path) -> Result<(), Error> {
        if path.is_special() {
            return Err(Error::EINVAL);
        }
        match self.lookup(path, Rights::WRITE) {
            Ok(_) => Ok(()),
            Err(Error::ENOENT) => {
                self.create(path, &[])?;
                self.changed(Change { path: path.clone(), exact: false, before: None });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Creates `path` and the missing nodes above it. All checks come before the first change.
    fn create(&mut self, path: &Path, value: &[u8]) -> Result<(), Error> {
        let mut missing: Vec<Path> = Vec::from([path.clone()]);
        let (base, mut parent) = loop {
            // The root always exists, so the walk ends there at the latest.
            let above = missing.last().and_then(Path::parent).ok_or(Error::EINVAL)?;
            match self.get(&above)? {
                Some(node) => break (above, node),
                None => missing.push(above),
            }
        };
        let perms =
            if self.who.privileged { parent.perms.clone() } else { parent.perms.owned_by(self.who.domain) };
        if !self.who.privileged {
            let owned = self.owned(self.who.domain);
            if owned.saturating_add(missing.len()) > self.quotas.get(Quota::Nodes) {
                return Err(Error::Quota(Quota::Nodes));
            }
        }
        let mut nodes: Vec<(Path, Node)> = Vec::new();
        let mut below: Option<&Path> = None;
        for path in &missing {
            let mut node =
                Node::new(if below.is_none() { value.to_vec() } else { Vec::new() }, perms.clone());
            node.children.extend(below.map(|child| Rc::from(child.leaf())));
            self.check_size(&node)?;
            nodes.push((path.clone(), node));
            below = Some(path);
        }
        if let Some(top) = below {
            Rc::make_mut(&mut parent).children.insert(top.leaf().into());
        }
        self.check_size(&parent)?;
        self.put(&base, parent);
        for (path, node) in nodes {
            self.put(&path, Rc::new(node));
        }
        Ok(())
    }

    fn check_size(&self, node: &Node) -> Result<(), Error> {
        if !self.who.privileged && node.size() > self.quotas.get(Quota::NodeSize) {
            return Err(Error::Quota(Quota::NodeSize));
        }
        Ok(())
    }

    /// RM: removes a node and all below it. No such node is fine if the one above exists.
    pub fn rm(&mut self, path: &Path) -> Result<(), Error> {
        let Some(above) = path.parent() else { return Err(Error::EINVAL) };
        match self.lookup(path, Rights::WRITE) {
            Ok(_) => {}
            Err(Error::ENOENT) if self.get(&above)?.is_some() => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut parent = self.get(&above)?.ok_or(Error::EINVAL)?;

        // Look everything up first: a transaction's limit on nodes must not leave half a removal behind.
        let mut doomed: Vec<(Path, Rc<Node>)> = Vec::new();
        let mut pending: Vec<Path> = Vec::from([path.clone()]);
        while let Some(path) = pending.pop() {
            if let Some(node) = self.get(&path)? {
                pending.extend(node.children.iter().map(|name| path.child(name)));
                doomed.push((path, node));
            }
        }
        for (doomed, node) in doomed.into_iter().rev() {
            self.remove(&doomed);
            let exact = doomed != *path;
            self.changed(Change { path: doomed, exact, before: Some(node.perms.clone()) });
        }
        Rc::make_mut(&mut parent).children.remove(path.leaf());
        self.put(&above, parent);
        Ok(())
    }

    /// SET_PERMS. Only the owner may; only a privileged domain may give the node to another owner.
    pub fn set_perms(&mut self, path: &Path, perms: Perms) -> Result<(), Error> {
        if !self.who.privileged && perms.entries() > self.quotas.get(Quota::NodePermissions) {
            return Err(Error::Quota(Quota::NodePermissions));
        }
        let mut node = self.lookup(path, Rights::CONTROL)?;
        if !self.who.privileged && perms.owner() != node.perms.owner() {
            return Err(Error::EPERM);
        }
        let before = core::mem::replace(&mut Rc::make_mut(&mut node).perms, perms);
        self.check_size(&node)?;
        self.put(path, node);
        self.changed(Change { path: path.clone(), exact: false, before: Some(before) });
        Ok(())
    }
}
