//! The events of one watched prefix: what its watchers read, each at its own pace. [`history`](crate::history) fills and trims it.

use std::sync::atomic::AtomicUsize;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::chunks::Chunks;
use crate::{Event, Revision};

/// The events of one watched prefix.
pub(crate) struct Log {
    pub prefix: Box<str>,
    pub kept: RwLock<Kept>,
    /// Woken when something was appended, and at close.
    pub wake: watch::Sender<()>,
    /// How many watchers there are; changed under the history's lock only.
    pub watchers: AtomicUsize,
}

pub(crate) struct Kept {
    pub events: Chunks<Event>,
    /// All events after this revision are here.
    pub floor: Revision,
}

/// What a watcher finds in its log.
pub(crate) enum Read {
    /// Some were appended; complete up to this revision.
    Some(Revision),
    None,
    Compacted(Revision),
}

impl Log {
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }

    pub fn wake(&self) {
        self.wake.send_replace(());
    }

    /// Appends events after `position` to `into`, at most `events_max`. `published` must have been read before the call.
    pub fn read(&self, position: Revision, published: Revision, events_max: usize, into: &mut Vec<Event>) -> Read {
        let kept = self.kept.read();
        if position < kept.floor {
            return Read::Compacted(kept.floor);
        }
        let start = kept.events.partition_point(|event| event.revision() <= position);
        let end = kept.events.len().min(start.saturating_add(events_max));
        if start == end {
            return Read::None;
        }
        into.extend(kept.events.from(start).take(end - start).cloned());
        let last = into.last().map_or(position, Event::revision);
        Read::Some(if end == kept.events.len() { last.max(published) } else { last })
    }

    /// Whether there is something after `position` that has not been read.
    pub fn unread(&self, position: Revision) -> bool {
        let kept = self.kept.read();
        position < kept.floor || kept.events.back().is_some_and(|event| event.revision() > position)
    }
}
