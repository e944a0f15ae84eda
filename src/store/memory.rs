//! The state in memory: a persistent ordered map whose clone costs one reference count.
//!
//! Never changes once it is published: the writer works on a clone and publishes that.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use crate::{Entry, Event, Revision, View};

pub(crate) type Map = OrdMap<Arc<str>, Arc<Entry>>;

/// The whole store at one revision.
pub(crate) struct MemoryView {
    pub revision: Revision,
    pub map: Map,
}

impl View for MemoryView {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.map.get(key).cloned()
    }

    fn range<'a>(&'a self, prefix: &str, from: Option<&str>) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + 'a> {
        let start = from.map_or(prefix, |from| from.max(prefix));
        let prefix: Box<str> = prefix.into();
        Box::new(
            self.map
                .range::<_, str>((Bound::Included(start), Bound::Unbounded))
                .map(|(_, entry)| entry)
                .take_while(move |entry| entry.key.starts_with(&*prefix)),
        )
    }

    fn count(&self, prefix: &str) -> usize {
        if prefix.is_empty() { self.map.len() } else { self.range(prefix, None).count() }
    }
}

/// Takes one event back. Events must be taken back newest first.
pub(crate) fn undo(map: &mut Map, event: &Event) {
    match event {
        Event::Put { entry, previous: None } => {
            map.remove(&entry.key);
        }
        Event::Put { previous: Some(previous), .. } | Event::Delete { previous, .. } => {
            map.insert(previous.key.clone(), previous.clone());
        }
    }
}
