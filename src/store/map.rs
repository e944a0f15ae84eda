//! The ordered map of a state: persistent, so that a snapshot costs one reference count.
//!
//! ```text
//! OrdMap: first key of each leaf ──▶ leaf: a handful of entries in the order of their keys
//! ```
//!
//! Entries have their keys in themselves. A tree that copies keys into its inner nodes would keep whole entries there, also
//! those that were replaced long ago; therefore only leaves hold entries, and each leaf is of exactly its size.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use crate::Entry;

/// Entries of a leaf. A write copies one (16 bytes and a reference count an entry), and the tree above has one key for each.
const LEAF_MAX: usize = 24;
/// A leaf with fewer joins its neighbour when both fit into one.
const LEAF_MIN: usize = LEAF_MAX / 4;

type Leaf = Arc<[Entry]>;

/// Entries by key. A clone is as good as a copy.
#[derive(Clone, Default)]
pub(crate) struct Map {
    /// By a key that is not after the first of the leaf, and after the last of the leaf before. There is one for the empty
    /// key if there is any; none is empty.
    leaves: OrdMap<Arc<str>, Leaf>,
    len: usize,
}

impl Map {
    pub fn len(&self) -> usize {
        self.len
    }

    /// The leaf where `key` is if it is anywhere, under its name.
    fn leaf(&self, key: &str) -> Option<(&Arc<str>, &Leaf)> {
        self.leaves.get_prev(key)
    }

    pub fn get(&self, key: &str) -> Option<&Entry> {
        let (_, leaf) = self.leaf(key)?;
        find(leaf, key).ok().map(|at| &leaf[at])
    }

    /// Puts an entry in the place of the one with its key, if there is one.
    pub fn insert(&mut self, entry: Entry) {
        let Some((name, leaf)) = self.leaf(entry.key()) else {
            self.leaves.insert("".into(), [entry].into());
            self.len += 1;
            return;
        };
        let name = name.clone();
        match find(leaf, entry.key()) {
            Ok(at) => {
                let leaf = leaf[..at].iter().chain([&entry]).chain(&leaf[at + 1..]).cloned().collect();
                self.leaves.insert(name, leaf);
            }
            Err(at) => {
                let all: Vec<&Entry> = leaf[..at].iter().chain([&entry]).chain(&leaf[at..]).collect();
                // Who writes in the order of keys leaves full leaves behind.
                let split = match all.len() {
                    ..=LEAF_MAX => all.len(),
                    len if at + 1 == len => LEAF_MAX,
                    len => len / 2,
                };
                let (left, right) = all.split_at(split);
                let (left, right): (Leaf, Leaf) = (copied(left), copied(right));
                self.len += 1;
                if let Some(first) = right.first() {
                    self.leaves.insert(first.key().into(), right);
                }
                self.leaves.insert(name, left);
            }
        }
    }

    pub fn remove(&mut self, key: &str) {
        let Some((name, leaf)) = self.leaf(key) else { return };
        let Ok(at) = find(leaf, key) else { return };
        let (name, leaf) = (name.clone(), leaf.clone());
        self.len -= 1;
        let left = || leaf[..at].iter().chain(&leaf[at + 1..]).cloned();
        let mut joined: Option<(Arc<str>, Leaf)> = None;
        if leaf.len() <= LEAF_MIN {
            let after: (Bound<&str>, Bound<&str>) = (Bound::Excluded(&name), Bound::Unbounded);
            if let Some((next_name, next)) = self.leaves.range::<_, str>(after).next()
                && leaf.len() - 1 + next.len() <= LEAF_MAX
            {
                joined = Some((next_name.clone(), left().chain(next.iter().cloned()).collect()));
            }
        }
        match joined {
            Some((next_name, both)) => {
                self.leaves.remove(&next_name);
                self.leaves.insert(name, both);
            }
            None if leaf.len() > 1 => {
                self.leaves.insert(name, left().collect());
            }
            // The last leaf: any other would have been joined with the one after it.
            None => {
                self.leaves.remove(&name);
            }
        }
    }

    /// In the order of keys.
    pub fn values(&self) -> impl Iterator<Item = &Entry> {
        self.leaves.values().flat_map(|leaf| leaf.iter())
    }

    /// In the order of keys, from `start` on.
    pub fn from<'a>(&'a self, start: &str) -> impl Iterator<Item = &'a Entry> + use<'a> {
        let (name, skip) = match self.leaf(start) {
            Some((name, leaf)) => (&**name, find(leaf, start).unwrap_or_else(|at| at)),
            None => ("", 0),
        };
        let range: (Bound<&str>, Bound<&str>) = (Bound::Included(name), Bound::Unbounded);
        self.leaves.range::<_, str>(range).flat_map(|(_, leaf)| leaf.iter()).skip(skip)
    }

    /// A map of entries that are in order and have each another key.
    pub fn of_sorted(entries: &[Entry]) -> Self {
        let named = |(at, leaf): (usize, &[Entry])| {
            let name: Arc<str> = if at == 0 { "".into() } else { leaf[0].key().into() };
            (name, Leaf::from(leaf))
        };
        Self { leaves: entries.chunks(LEAF_MAX).enumerate().map(named).collect(), len: entries.len() }
    }
}

/// Where `key` is in a leaf, or would be.
fn find(leaf: &[Entry], key: &str) -> Result<usize, usize> {
    leaf.binary_search_by(|entry| entry.key_bytes().cmp(key.as_bytes()))
}

fn copied(entries: &[&Entry]) -> Leaf {
    entries.iter().map(|entry| (*entry).clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::Revision;

    fn entry(key: &str, revision: u64) -> Entry {
        Entry::new(key, b"", Revision(revision), Revision(revision), None, &[])
    }

    /// What must be true of the leaves, whatever they hold.
    fn check(map: &Map) {
        let names: Vec<&Arc<str>> = map.leaves.keys().collect();
        assert_eq!(names.first().is_some_and(|name| name.is_empty()), !names.is_empty());
        for (at, (name, leaf)) in map.leaves.iter().enumerate() {
            assert!((1..=LEAF_MAX).contains(&leaf.len()), "a leaf of {}", leaf.len());
            assert!(leaf.windows(2).all(|pair| pair[0].key() < pair[1].key()));
            assert!(leaf[0].key() >= &**name);
            assert!(names.get(at + 1).is_none_or(|next| leaf[leaf.len() - 1].key() < &***next));
        }
        assert_eq!(map.values().count(), map.len());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u16),
        Remove(u16),
        /// All keys of a range, upwards or downwards, which is how leaves fill and empty.
        Fill(u16, u16, bool),
        Clear(u16, u16, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || 0u16..600;
        let run = || (key(), 0u16..120, any::<bool>());
        prop_oneof![
            key().prop_map(Step::Insert),
            key().prop_map(Step::Remove),
            run().prop_map(|(from, count, up)| Step::Fill(from, count, up)),
            run().prop_map(|(from, count, up)| Step::Clear(from, count, up)),
        ]
    }

    fn keys(from: u16, count: u16, up: bool) -> Vec<u16> {
        let mut keys: Vec<u16> = (from..from + count).collect();
        if !up {
            keys.reverse();
        }
        keys
    }

    proptest! {
        #[test]
        fn is_an_ordered_map(steps in proptest::collection::vec(step(), 0..16), starts in proptest::collection::vec(0u16..700, 2)) {
            let name = |key: u16| if key == 0 { String::new() } else { format!("key/{key:03}") };
            let (mut map, mut model) = (Map::default(), BTreeMap::new());
            let mut revision = 0;
            let mut snapshots: Vec<(Map, BTreeMap<String, u64>)> = Vec::new();
            for step in steps {
                snapshots.push((map.clone(), model.clone()));
                let (inserts, keys) = match step {
                    Step::Insert(key) => (true, vec![key]),
                    Step::Remove(key) => (false, vec![key]),
                    Step::Fill(from, count, up) => (true, keys(from, count, up)),
                    Step::Clear(from, count, up) => (false, keys(from, count, up)),
                };
                for key in keys.into_iter().map(name) {
                    if inserts {
                        revision += 1;
                        map.insert(entry(&key, revision));
                        model.insert(key, revision);
                    } else {
                        map.remove(&key);
                        model.remove(&key);
                    }
                }
                check(&map);
            }
            snapshots.push((map, model));
            for (map, model) in snapshots {
                let shown = |e: &Entry| (e.key().to_owned(), e.modified().0);
                let all: Vec<_> = model.clone().into_iter().collect();
                prop_assert_eq!(map.values().map(shown).collect::<Vec<_>>(), all.clone());
                for start in starts.iter().copied().map(name) {
                    let expected: Vec<_> = model.range(start.clone()..).map(|(k, v)| (k.clone(), *v)).collect();
                    prop_assert_eq!(map.from(&start).map(shown).collect::<Vec<_>>(), expected);
                    prop_assert_eq!(map.get(&start).map(|e| e.modified().0), model.get(&start).copied());
                }
                let sorted: Vec<Entry> = map.values().cloned().collect();
                let made = Map::of_sorted(&sorted);
                check(&made);
                prop_assert!(made.values().zip(map.values()).all(|(a, b)| a.is(b)) && made.len() == map.len());
            }
        }
    }
}
