//! The store in memory: one thread, nothing on disk, and whoever judges hears of each write before its caller does.
//!
//! Its promises are those of `store::Store`. What never lives here: a Kubernetes word.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use imbl::OrdMap;
use parking_lot::Mutex;
use store::{Batch, Entry, Error, Event, Expect, Op, Pending, Revision, Snapshot, Store, View, Watcher, Written};
use tokio::sync::watch;

/// Hears of a write while it happens.
pub type Witness = Box<dyn FnMut(&Event) + Send>;

type Map = OrdMap<Arc<str>, Entry>;

struct State {
    revision: Revision,
    map: Map,
    /// Everything since `floor`.
    events: Vec<Event>,
    floor: Revision,
    /// Told of changes below a prefix.
    woken: BTreeMap<String, watch::Sender<()>>,
    witness: Witness,
}

#[derive(Clone)]
pub struct MemoryStore(Arc<Mutex<State>>);

impl MemoryStore {
    pub fn new(witness: Witness) -> Self {
        let state = State {
            revision: Revision(1),
            map: Map::new(),
            events: Vec::new(),
            floor: Revision(1),
            woken: BTreeMap::new(),
            witness,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Forgets what was before: who watches from there, or is not done with it, must list again.
    pub fn compact(&self) {
        let state = &mut *self.0.lock();
        state.events.clear();
        state.floor = state.revision;
        for woken in state.woken.values() {
            woken.send_replace(());
        }
    }
}

impl State {
    fn apply(&mut self, batch: &Batch) -> Result<Vec<Written>, Error> {
        let (mut map, mut revision, mut events) = (self.map.clone(), self.revision, Vec::new());
        let mut written = Vec::with_capacity(batch.len());
        for (index, write) in batch.iter().enumerate() {
            let previous = map.get(&write.key).cloned();
            let current = previous.as_ref().map(Entry::modified);
            let holds = match write.expect {
                Expect::Any => true,
                Expect::Absent => current.is_none(),
                Expect::Present => current.is_some(),
                Expect::At(revision) => current == Some(revision),
            };
            revision.0 += 1;
            let event = match (&write.op, previous) {
                (Op::Put(value), previous) if holds => {
                    let created = previous.as_ref().map_or(revision, Entry::created);
                    let bytes = stamped(&value.bytes, value.stamp_at, revision);
                    let stamp_at = value.stamp_at.and_then(|at| u32::try_from(at).ok());
                    let entry = Entry::new(&write.key, &bytes, created, revision, stamp_at, &value.facts);
                    map.insert(Arc::clone(&write.key), entry.clone());
                    Event::Put { entry, previous }
                }
                (Op::Delete, Some(previous)) if holds => {
                    let (bytes, created) = (previous.value_at(revision), previous.created());
                    let entry =
                        Entry::new(&write.key, &bytes, created, revision, previous.stamp_at(), previous.facts());
                    map.remove(&write.key);
                    Event::Delete { entry, previous }
                }
                _ => return Err(Error::Precondition { index, key: Arc::clone(&write.key), current }),
            };
            written.push(event.entry().clone());
            events.push(event);
        }
        (self.map, self.revision) = (map, revision);
        for event in events {
            (self.witness)(&event);
            let wakes = self.woken.iter().filter(|(prefix, _)| event.entry().key().starts_with(prefix.as_str()));
            wakes.for_each(|(_, woken)| {
                woken.send_replace(());
            });
            self.events.push(event);
        }
        Ok(written)
    }
}

fn stamped(bytes: &[u8], at: Option<usize>, revision: Revision) -> Vec<u8> {
    let Some(at) = at else { return bytes.to_vec() };
    let (before, after) = bytes.split_at(at);
    [before, revision.to_string().as_bytes(), after].concat()
}

struct MemoryView(Revision, Map);

impl View for MemoryView {
    fn revision(&self) -> Revision {
        self.0
    }

    fn get(&self, key: &str) -> Option<Entry> {
        self.1.get(key).cloned()
    }

    fn range<'a>(&'a self, prefix: &str, from: Option<&str>) -> Box<dyn Iterator<Item = &'a Entry> + 'a> {
        let start: Arc<str> = from.map_or(prefix, |from| from.max(prefix)).into();
        let prefix = prefix.to_owned();
        let all = self.1.range::<_, Arc<str>>((Bound::Included(start), Bound::Unbounded));
        Box::new(all.map(|(_, entry)| entry).take_while(move |entry| entry.key().starts_with(&prefix)))
    }

    fn count(&self, prefix: &str) -> usize {
        self.range(prefix, None).count()
    }
}

impl Store for MemoryStore {
    fn snapshot(&self) -> Snapshot {
        let state = self.0.lock();
        Arc::new(MemoryView(state.revision, state.map.clone()))
    }

    fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, Error> {
        let state = self.0.lock();
        if revision > state.revision {
            return Err(Error::Future { requested: revision, current: state.revision });
        }
        if revision < state.floor {
            return Err(Error::Compacted { requested: revision, oldest: state.floor });
        }
        let mut map = state.map.clone();
        for event in state.events.iter().rev().take_while(|event| event.revision() > revision) {
            let key: Arc<str> = event.entry().key().into();
            match event.previous() {
                Some(previous) => map.insert(key, previous.clone()),
                None => map.remove(&key),
            };
        }
        Ok(Arc::new(MemoryView(revision, map)))
    }

    fn reached(&self, revision: Revision) -> Pending<'_, Result<(), Error>> {
        Box::pin(async move {
            let mut woken = self.0.lock().woken.entry(String::new()).or_default().subscribe();
            while self.0.lock().revision < revision {
                woken.changed().await.map_err(|_| Error::Closed)?;
            }
            Ok(())
        })
    }

    fn write(&self, batch: Batch) -> Pending<'_, Result<Vec<Written>, Error>> {
        Box::pin(async move {
            // The real one takes its time: others come between a caller's look at the state and its write.
            tokio::task::yield_now().await;
            self.0.lock().apply(&batch)
        })
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watcher>, Error> {
        let mut state = self.0.lock();
        if after > state.revision {
            return Err(Error::Future { requested: after, current: state.revision });
        }
        if after < state.floor {
            return Err(Error::Compacted { requested: after, oldest: state.floor });
        }
        let woken = state.woken.entry(prefix.to_owned()).or_default().subscribe();
        Ok(Box::new(Feed { store: self.clone(), prefix: prefix.to_owned(), after, woken }))
    }

    fn backup<'a>(&'a self, _: &'a Path) -> Pending<'a, Result<(), Error>> {
        Box::pin(async { Err(Error::ReadOnly { reason: "there is no disk".into() }) })
    }

    fn close(&self) -> Pending<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn writable(&self) -> Result<(), Error> {
        Ok(())
    }
}

struct Feed {
    store: MemoryStore,
    prefix: String,
    after: Revision,
    woken: watch::Receiver<()>,
}

impl Feed {
    fn read(&mut self, into: &mut Vec<Event>) -> Result<bool, Error> {
        let state = self.store.0.lock();
        if self.after < state.floor {
            return Err(Error::Compacted { requested: self.after, oldest: state.floor });
        }
        let from = state.events.partition_point(|event| event.revision() <= self.after);
        let before = into.len();
        into.extend(state.events[from..].iter().filter(|e| e.entry().key().starts_with(&self.prefix)).cloned());
        self.after = state.revision;
        Ok(into.len() > before)
    }
}

impl Watcher for Feed {
    fn next<'a>(&'a mut self, into: &'a mut Vec<Event>) -> Pending<'a, Result<Revision, Error>> {
        Box::pin(async move {
            loop {
                self.woken.borrow_and_update();
                if self.read(into)? {
                    return Ok(self.after);
                }
                self.woken.changed().await.map_err(|_| Error::Closed)?;
            }
        })
    }

    fn progress(&self) -> Revision {
        let state = self.store.0.lock();
        let unread = state.events.iter().rev().take_while(|event| event.revision() > self.after);
        if unread.into_iter().any(|e| e.entry().key().starts_with(&self.prefix)) { self.after } else { state.revision }
    }
}
