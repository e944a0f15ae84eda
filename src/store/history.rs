//! The recent past, shared by all watchers: every event once, bounded by bytes, count and age.
//!
//! ```text
//! writer ── publish ──▶ ring of all events ──▶ snapshot_at (undo from a kept root)
//!                  └──▶ one log per watched prefix ──▶ Watcher … Watcher   (each reads at its own pace)
//! ```
//!
//! Nothing is buffered for a single watcher. A log holds the events of its prefix as long as the ring holds them, so that a
//! watcher of a quiet prefix costs nothing and never falls behind because others are busy.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::chunks::Chunks;
use crate::log::{Kept, Log};
use crate::memory::{MemoryView, undo};
use crate::{Error, Event, Revision};

/// How far back the store remembers.
#[derive(Debug, Clone)]
pub struct HistoryLimits {
    /// Bytes that history may hold beyond the current state. The hard bound.
    pub bytes_max: usize,
    /// Bytes that may be held of events older than `age`: a quiet cluster remembers hours, at the price of this.
    pub quiet_bytes_max: usize,
    /// Events younger than this are kept unless `bytes_max` forbids it.
    pub age: Duration,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        HistoryLimits {
            // About 16,000 updates of 1 KiB objects: more than a second of the fastest writing there is, so that a watcher
            // which is merely slow is not thrown out, and still no burden on a machine with 512 MB.
            bytes_max: 16 << 20,
            // Some thousand Lease renewals.
            quiet_bytes_max: 1 << 20,
            // What etcd keeps for kube-apiserver. Source: kube-apiserver, --etcd-compaction-interval.
            age: Duration::from_secs(5 * 60),
        }
    }
}

/// What an event costs beside the values: entry, key, the slots in ring and logs.
const EVENT_OVERHEAD_BYTES: usize = 256;

/// Old states that were asked for and are kept, because the other pages of a chunked list ask for the same one. A state pins
/// the tree nodes that have changed since, which may be all of them, so it is a handful; who asks for another one pays 0.6 µs
/// for each event that is taken back.
const ROOTS_MAX: usize = 4;

struct Remembered {
    event: Event,
    /// Seconds since the history began.
    at: u32,
}

impl Remembered {
    /// What the event alone keeps alive: the current value is the map's.
    fn cost(&self) -> usize {
        EVENT_OVERHEAD_BYTES
            + match &self.event {
                Event::Put { previous, .. } => previous.as_ref().map_or(0, |previous| previous.value().len()),
                Event::Delete { entry, previous } => entry.value().len() + previous.value().len(),
            }
    }
}

/// The logs of one folder: prefixes that are equal up to their last `/`.
#[derive(Default)]
struct Folder {
    whole: Option<Arc<Log>>,
    /// Prefixes that go on after the last `/`, most often the key of one object.
    partial: Vec<Arc<Log>>,
}

pub(crate) struct History {
    limits: HistoryLimits,
    began: Instant,
    ring: Chunks<Remembered>,
    bytes: usize,
    /// All events after this revision are here.
    floor: Revision,
    folders: HashMap<Box<str>, Folder>,
    /// By revision, oldest first.
    roots: VecDeque<Arc<MemoryView>>,
}

/// Length of the folder of a key or prefix: up to and with its last `/`.
fn folder_len(text: &str) -> usize {
    text.rfind('/').map_or(0, |at| at + 1)
}

/// Calls `visit` for each log whose prefix `key` begins with.
fn matching(folders: &HashMap<Box<str>, Folder>, key: &str, mut visit: impl FnMut(&Arc<Log>)) {
    if folders.is_empty() {
        return;
    }
    let ends = key.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at + 1);
    for end in std::iter::once(0).chain(ends) {
        let Some(folder) = folders.get(&key[..end]) else { continue };
        if let Some(log) = &folder.whole {
            visit(log);
        }
        for log in folder.partial.iter().filter(|log| key.starts_with(&*log.prefix)) {
            visit(log);
        }
    }
}

impl History {
    pub fn new(floor: Revision, limits: HistoryLimits) -> Self {
        History {
            limits,
            began: Instant::now(),
            ring: Chunks::new(),
            bytes: 0,
            floor,
            folders: HashMap::default(),
            roots: VecDeque::new(),
        }
    }

    /// Remembers events. Returns the logs whose watchers must be woken.
    pub fn append(&mut self, events: Vec<Event>, now: Instant) -> Vec<Arc<Log>> {
        let mut touched: Vec<Arc<Log>> = Vec::new();
        let at = u32::try_from(now.saturating_duration_since(self.began).as_secs()).unwrap_or(u32::MAX);
        for event in events {
            matching(&self.folders, event.entry().key(), |log| {
                log.kept.write().events.push_back(event.clone());
                if !touched.iter().any(|other| Arc::ptr_eq(other, log)) {
                    touched.push(log.clone());
                }
            });
            let remembered = Remembered { event, at };
            self.bytes += remembered.cost();
            self.ring.push_back(remembered);
        }
        self.forget(at);
        touched
    }

    fn forget(&mut self, at: u32) {
        while let Some(oldest) = self.ring.front() {
            let old = u64::from(at.saturating_sub(oldest.at)) >= self.limits.age.as_secs();
            let bytes_max = if old { self.limits.quiet_bytes_max } else { self.limits.bytes_max };
            if self.bytes <= bytes_max {
                break;
            }
            let Some(forgotten) = self.ring.pop_front() else { break };
            self.bytes -= forgotten.cost();
            let event = forgotten.event;
            self.floor = event.revision();
            matching(&self.folders, event.entry().key(), |log| {
                let mut kept = log.kept.write();
                if kept.events.front().is_some_and(|first| first.revision() == event.revision()) {
                    kept.events.pop_front();
                    kept.floor = event.revision();
                }
            });
        }
        while self.roots.front().is_some_and(|root| root.revision < self.floor) {
            self.roots.pop_front();
        }
    }

    /// The state at `revision`, which must not be later than `current`.
    pub fn view_at(&self, revision: Revision, current: &Arc<MemoryView>) -> Result<Rewind, Error> {
        if revision < self.floor {
            return Err(Error::Compacted { requested: revision, oldest: self.floor });
        }
        let at = self.roots.partition_point(|root| root.revision < revision);
        let from = self.roots.get(at).unwrap_or(current).clone();
        let start = self.ring.partition_point(|kept| kept.event.revision() <= revision);
        let end = self.ring.partition_point(|kept| kept.event.revision() <= from.revision);
        Ok(Rewind {
            revision,
            from,
            events: self.ring.from(start).take(end - start).map(|kept| kept.event.clone()).collect(),
        })
    }

    /// The log of `prefix`, complete after `after`; made if there is none. The caller must give it back with
    /// [`leave`](History::leave).
    pub fn join(&mut self, prefix: &str, after: Revision) -> Result<Arc<Log>, Error> {
        let folder_prefix = &prefix[..folder_len(prefix)];
        let existing = self.folders.get(folder_prefix).and_then(|folder| {
            if folder_prefix.len() == prefix.len() {
                folder.whole.as_ref()
            } else {
                folder.partial.iter().find(|log| *log.prefix == *prefix)
            }
        });
        if let Some(log) = existing {
            let mut kept = log.kept.write();
            if after < kept.floor {
                // The log began later than this watcher wants to: fetch what lies between from the ring.
                if after < self.floor {
                    return Err(Error::Compacted { requested: after, oldest: self.floor });
                }
                let between = self.recall(prefix, after, kept.floor);
                kept.events = between.chain(kept.events.from(0).cloned()).collect();
                kept.floor = after;
            }
            log.watchers.fetch_add(1, Ordering::Relaxed);
            drop(kept);
            return Ok(log.clone());
        }
        if after < self.floor {
            return Err(Error::Compacted { requested: after, oldest: self.floor });
        }
        let log = Arc::new(Log {
            prefix: prefix.into(),
            kept: RwLock::new(Kept { events: self.recall(prefix, after, Revision(u64::MAX)).collect(), floor: after }),
            wake: watch::Sender::new(()),
            watchers: AtomicUsize::new(1),
        });
        let folder = self.folders.entry(folder_prefix.into()).or_default();
        if folder_prefix.len() == prefix.len() {
            folder.whole = Some(log.clone());
        } else {
            folder.partial.push(log.clone());
        }
        Ok(log)
    }

    /// Keeps a state that was gone back to, for whoever asks for it next.
    pub fn keep(&mut self, view: &Arc<MemoryView>) {
        let at = self.roots.partition_point(|root| root.revision < view.revision);
        if view.revision < self.floor || self.roots.get(at).is_some_and(|root| root.revision == view.revision) {
            return;
        }
        self.roots.insert(at, view.clone());
        if self.roots.len() > ROOTS_MAX {
            self.roots.pop_front();
        }
    }

    /// Events of `prefix` later than `after`, up to and with `until`.
    fn recall(&self, prefix: &str, after: Revision, until: Revision) -> impl Iterator<Item = Event> {
        let start = self.ring.partition_point(|kept| kept.event.revision() <= after);
        let events = self.ring.from(start).map(|kept| &kept.event);
        let events = events.take_while(move |event| event.revision() <= until);
        events.filter(move |event| event.entry().key_bytes().starts_with(prefix.as_bytes())).cloned()
    }

    /// A watcher is gone; the last one takes the log with it.
    pub fn leave(&mut self, log: &Arc<Log>) {
        if log.watchers.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let name = &log.prefix[..folder_len(&log.prefix)];
        if let Some(folder) = self.folders.get_mut(name) {
            if folder.whole.as_ref().is_some_and(|whole| Arc::ptr_eq(whole, log)) {
                folder.whole = None;
            }
            folder.partial.retain(|other| !Arc::ptr_eq(other, log));
            if folder.whole.is_none() && folder.partial.is_empty() {
                self.folders.remove(name);
            }
        }
    }

    pub fn logs(&self) -> Vec<Arc<Log>> {
        self.folders.values().flat_map(|folder| folder.whole.iter().chain(&folder.partial)).cloned().collect()
    }
}

/// What is needed to go back to a revision; done by the caller, so that the history's lock is held for the collecting only.
pub(crate) struct Rewind {
    revision: Revision,
    from: Arc<MemoryView>,
    events: Vec<Event>,
}

impl Rewind {
    pub fn view(self) -> Arc<MemoryView> {
        if self.events.is_empty() && self.from.revision == self.revision {
            return self.from;
        }
        let mut map = self.from.map.clone();
        for event in self.events.iter().rev() {
            undo(&mut map, event);
        }
        Arc::new(MemoryView { revision: self.revision, map })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Read;
    use crate::map::Map;
    use crate::stage::Stage;
    use crate::{Class, Entry, Expect, Facts, Op, Value, Write};

    struct Past {
        history: History,
        view: Arc<MemoryView>,
    }

    impl Past {
        fn new(limits: HistoryLimits) -> Self {
            let view = Arc::new(MemoryView { revision: Revision(0), map: Map::default() });
            Past { history: History::new(Revision(0), limits), view }
        }

        fn put(&mut self, key: &str, now: Instant) -> Vec<Arc<Log>> {
            let value = Value { bytes: vec![b'x'; 1_000].into(), stamp_at: None, facts: Facts::default() };
            let mut stage = Stage::new(self.view.map.clone(), self.view.revision);
            let write = Write { key: key.into(), expect: Expect::Any, class: Class::Durable, op: Op::Put(value) };
            stage.apply(&vec![write]).unwrap();
            self.view = Arc::new(MemoryView { revision: stage.revision, map: stage.map });
            self.history.append(stage.events, now)
        }
    }

    fn revisions(log: &Log, position: u64) -> Vec<u64> {
        let mut events = Vec::new();
        log.read(Revision(position), Revision(0), usize::MAX, &mut events);
        events.iter().map(|event| event.revision().0).collect()
    }

    #[tokio::test]
    async fn only_the_watchers_of_a_key_are_woken() {
        let mut past = Past::new(HistoryLimits::default());
        let prefixes = ["", "core/", "core/pods/", "core/pods/ns/", "core/pods/ns/a", "core/pods/ns/ab", "apps/"];
        let logs: Vec<_> = prefixes.iter().map(|prefix| past.history.join(prefix, Revision(0)).unwrap()).collect();
        let rows: &[(&str, &[&str])] = &[
            ("core/pods/ns/a", &["", "core/", "core/pods/", "core/pods/ns/", "core/pods/ns/a"]),
            ("core/pods/ns/abc", &["", "core/", "core/pods/", "core/pods/ns/", "core/pods/ns/a", "core/pods/ns/ab"]),
            ("core/pods/other/a", &["", "core/", "core/pods/"]),
            ("apps/x", &["", "apps/"]),
            ("y", &[""]),
        ];
        for (key, expected) in rows {
            let woken = past.put(key, Instant::now());
            let woken: Vec<&str> = woken.iter().map(|log| &*log.prefix).collect();
            assert_eq!(woken, *expected, "{key}");
        }
        assert_eq!(revisions(&logs[6], 0), [4]);
        for log in &logs {
            past.history.leave(log);
        }
        assert!(past.history.folders.is_empty());
    }

    #[tokio::test]
    async fn a_log_reaches_back_as_far_as_its_earliest_watcher_wants() {
        let mut past = Past::new(HistoryLimits::default());
        for key in ["a/1", "b/1", "a/2", "b/2"] {
            past.put(key, Instant::now());
        }
        let late = past.history.join("a/", Revision(3)).unwrap();
        assert_eq!(revisions(&late, 3), [] as [u64; 0]);
        past.put("a/3", Instant::now());
        let early = past.history.join("a/", Revision(1)).unwrap();
        assert!(Arc::ptr_eq(&early, &late));
        assert_eq!((revisions(&early, 1), revisions(&late, 3)), (vec![3, 5], vec![5]));
    }

    #[tokio::test]
    async fn bytes_and_age_bound_what_is_kept() {
        let limits = HistoryLimits { bytes_max: 10_000, quiet_bytes_max: 3_000, age: Duration::from_secs(60) };
        let mut past = Past::new(limits);
        let busy = past.history.join("busy/", Revision(0)).unwrap();
        let quiet = past.history.join("quiet/", Revision(0)).unwrap();
        let start = Instant::now();
        for _ in 0..100 {
            past.put("busy/a", start);
        }
        assert!(past.history.bytes <= 10_000 && past.history.bytes > 8_000, "{}", past.history.bytes);
        let floor = past.history.floor;
        assert!(
            matches!(busy.read(Revision(3), Revision(100), 9, &mut Vec::new()), Read::Compacted(at) if at == floor)
        );
        // A watcher of a quiet prefix has missed nothing, however far the others went on.
        assert!(matches!(quiet.read(Revision(0), Revision(100), 9, &mut Vec::new()), Read::None));
        assert!(matches!(past.history.join("new/", Revision(3)), Err(Error::Compacted { .. })));

        past.put("busy/a", start + Duration::from_secs(61));
        assert!(past.history.bytes <= 3_000, "{}", past.history.bytes);
    }

    #[tokio::test]
    async fn goes_back_to_any_revision_that_is_kept() {
        let mut past = Past::new(HistoryLimits::default());
        let mut views = vec![past.view.clone()];
        for n in 0..2_000 {
            past.put(&format!("key/{}", n % 37), Instant::now());
            views.push(past.view.clone());
        }
        let shown = |e: &Entry| (e.key().to_owned(), e.modified());
        for (revision, expected) in views.iter().enumerate() {
            let view = past.history.view_at(Revision(revision as u64), &past.view).unwrap().view();
            assert_eq!(view.revision, expected.revision);
            assert!(view.map.values().map(shown).eq(expected.map.values().map(shown)));
            // The next one may begin at a state that was kept; however many are asked for, a handful is.
            past.history.keep(&view);
            assert!(past.history.roots.len() <= ROOTS_MAX);
            assert!(Arc::ptr_eq(&past.history.view_at(view.revision, &past.view).unwrap().view(), &view));
        }
    }
}
