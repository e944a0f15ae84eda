//! The nodes of the graph. There is one for each object of the cluster, so that they are as small as can be: most own nothing
//! and are owned by nobody.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use super::graph::{FOREGROUND, Meta, ORPHAN, Owner, Slot};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Uid, namespace and name, one after the other: one piece of memory instead of three.
    text: Box<str>,
    uid_end: u32,
    namespace_end: u32,
    pub owners: Box<[Owner]>,
    pub slot: Slot,
    pub deleting: bool,
    pub foreground: bool,
    pub orphan: bool,
}

impl Node {
    pub fn of(slot: Slot, meta: &Meta) -> Self {
        let has = |name: &str| meta.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| **f == *name));
        // Metadata has a few MiB at most.
        let end = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        Self {
            text: [&*meta.uid, &*meta.namespace, &*meta.name].concat().into(),
            uid_end: end(meta.uid.len()),
            namespace_end: end(meta.uid.len() + meta.namespace.len()),
            owners: meta.owners(),
            slot,
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    fn part(&self, start: u32, end: u32) -> &str {
        self.text.get(start as usize..end as usize).unwrap_or_default()
    }

    pub fn uid(&self) -> &str {
        self.part(0, self.uid_end)
    }

    pub fn namespace(&self) -> &str {
        self.part(self.uid_end, self.namespace_end)
    }

    pub fn name(&self) -> &str {
        self.text.get(self.namespace_end as usize..).unwrap_or_default()
    }

    /// Whether this object, as an owner, is in a namespace that is not the dependent's.
    pub fn is_elsewhere(&self, dependent: &Node) -> bool {
        !self.namespace().is_empty() && self.namespace() != dependent.namespace()
    }
}

/// Nodes by the uids that they have in themselves.
#[derive(Default)]
pub struct Nodes(HashSet<ByUid>);

struct ByUid(Node);

impl Borrow<str> for ByUid {
    fn borrow(&self) -> &str {
        self.0.uid()
    }
}

impl Hash for ByUid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.uid().hash(state);
    }
}

impl PartialEq for ByUid {
    fn eq(&self, other: &Self) -> bool {
        self.0.uid() == other.0.uid()
    }
}

impl Eq for ByUid {}

impl Nodes {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.0.get(uid).map(|node| &node.0)
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.0.contains(uid)
    }

    /// Returns the one that was there.
    pub fn insert(&mut self, node: Node) -> Option<Node> {
        self.0.replace(ByUid(node)).map(|node| node.0)
    }

    pub fn remove(&mut self, uid: &str) -> Option<Node> {
        self.0.take(uid).map(|node| node.0)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.0.iter().map(|node| &node.0)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}
