//! The state in memory. Never changes once it is published: the writer works on a clone and publishes that.

use crate::map::Map;
use crate::{Entry, Event, Revision, View};

/// The whole store at one revision.
pub(crate) struct MemoryView {
    pub revision: Revision,
    pub map: Map,
}

impl View for MemoryView {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn get(&self, key: &str) -> Option<Entry> {
        self.map.get(key).cloned()
    }

    fn range<'a>(&'a self, prefix: &str, from: Option<&str>) -> Box<dyn Iterator<Item = &'a Entry> + 'a> {
        let start = from.map_or(prefix, |from| from.max(prefix));
        let prefix: Box<[u8]> = prefix.as_bytes().into();
        Box::new(self.map.from(start).take_while(move |entry| entry.key_bytes().starts_with(&prefix)))
    }

    fn count(&self, prefix: &str) -> usize {
        if prefix.is_empty() { self.map.len() } else { self.range(prefix, None).count() }
    }
}

/// Takes one event back. Events must be taken back newest first.
pub(crate) fn undo(map: &mut Map, event: &Event) {
    match event {
        Event::Put { entry, previous: None } => map.remove(entry.key()),
        Event::Put { previous: Some(previous), .. } | Event::Delete { previous, .. } => map.insert(previous.clone()),
    }
}
