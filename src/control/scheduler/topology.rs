//! Which nodes are in the same domain, per label that somebody has asked about. Kept up to date node by node.

use std::collections::{BTreeMap, HashMap};

/// Domain of a node that does not have the label.
pub const NOWHERE: u32 = u32::MAX;
/// Labels that are remembered; each costs four bytes a node. Beyond it all are forgotten and those in use come again.
const LABELS_MAX: usize = 64;

/// One label: its values are the domains.
#[derive(Default)]
pub struct Topology {
    label: Box<str>,
    values: HashMap<Box<str>, u32>,
    of_slot: Vec<u32>,
}

impl Topology {
    /// The domain of a node, or [`NOWHERE`].
    pub fn domain(&self, slot: u32) -> u32 {
        self.of_slot.get(slot as usize).copied().unwrap_or(NOWHERE)
    }

    /// All domains are below this number.
    pub fn domains(&self) -> usize {
        self.values.len()
    }

    fn set(&mut self, slot: u32, labels: Option<&BTreeMap<String, String>>) {
        let value = labels.and_then(|l| l.get(&*self.label));
        let next = self.values.len() as u32;
        let domain = value.map_or(NOWHERE, |v| match self.values.get(v.as_str()) {
            Some(domain) => *domain,
            None => {
                self.values.insert(v.as_str().into(), next);
                next
            }
        });
        let slot = slot as usize;
        if self.of_slot.len() <= slot {
            self.of_slot.resize(slot + 1, NOWHERE);
        }
        self.of_slot[slot] = domain;
    }
}

#[derive(Default)]
pub struct Topologies(Vec<Topology>);

impl Topologies {
    /// The number of a label's topology, for [`Topologies::get`]; `nodes` are asked only for a new one. Call
    /// [`Topologies::bound`] before numbers are taken, not between.
    pub fn find<'n>(&mut self, label: &str, nodes: impl Iterator<Item = (u32, &'n BTreeMap<String, String>)>) -> usize {
        if let Some(at) = self.0.iter().position(|t| *t.label == *label) {
            return at;
        }
        let mut topology = Topology { label: label.into(), ..Topology::default() };
        for (slot, labels) in nodes {
            topology.set(slot, Some(labels));
        }
        self.0.push(topology);
        self.0.len() - 1
    }

    pub fn get(&self, number: usize) -> &Topology {
        &self.0[number]
    }

    /// A node's labels are these now; `None`: it is gone.
    pub fn set(&mut self, slot: u32, labels: Option<&BTreeMap<String, String>>) {
        for topology in &mut self.0 {
            topology.set(slot, labels);
        }
    }

    /// Forgets what has grown beyond its use: numbers taken before are void.
    pub fn bound(&mut self) {
        if self.0.len() > LABELS_MAX {
            self.0.clear();
        }
        // Values of nodes that are gone.
        self.0.retain(|t| t.values.len() <= 2 * t.of_slot.len() + 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_follow_labels() {
        let zone = |z: &str| BTreeMap::from([("zone".to_owned(), z.to_owned())]);
        let (a, b, none) = (zone("a"), zone("b"), BTreeMap::new());
        let mut all = Topologies::default();
        let at = all.find("zone", [(0, &a), (1, &b), (2, &none)].into_iter());
        assert_eq!(at, all.find("zone", std::iter::empty()));
        let domains = |all: &Topologies| [0, 1, 2, 3].map(|slot| all.get(at).domain(slot));
        assert_eq!(domains(&all), [0, 1, NOWHERE, NOWHERE]);
        all.set(2, Some(&b));
        all.set(0, None);
        assert_eq!(domains(&all), [NOWHERE, 1, 1, NOWHERE]);
        for i in 0..100 {
            all.set(3, Some(&zone(&format!("z{i}"))));
        }
        all.bound();
        assert_eq!(all.0.len(), 0, "values of the past are forgotten");
    }
}
