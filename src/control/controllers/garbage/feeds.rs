//! The watches that fill the graph: one for each built-in kind, and one for each custom kind while it is served.
//!
//! ```text
//! CustomResourceDefinitions ─► steps ─► a Feed begins, moves to another version, ends
//! Feed ─► graph ─► keys of the objects to decide, events about references that lead nowhere
//! ```
//!
//! A definition costs one watch, as it does upstream; without definitions there is nothing but the watch on them.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use client::definition::Definition;
use client::events::WARNING;
use client::queue::Queue;
use client::reflector::{self, Sink, Source};
use client::{Cache, Client, Key, Object as _, Recorder, Revision};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use types::registry::{BUILT_IN, Kind, KindRef, Verb};

use super::graph::{Changed, Graph, Node, Partial, Slot, Uid};

/// How many watches have had their first listing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Synced {
    pub built_in: usize,
    pub custom: usize,
}

/// Where all feeds lead.
#[derive(Clone)]
pub struct Feeds {
    pub client: Client,
    pub graph: Arc<Mutex<Graph>>,
    pub queue: Arc<Queue>,
    pub recorder: Recorder,
    pub synced: watch::Sender<Synced>,
}

/// Kinds whose objects can own or be owned. Events are neither, and there are many.
pub fn built_in() -> impl Iterator<Item = &'static Kind> {
    BUILT_IN.iter().filter(|k| k.keeps() && k.kind != "Event" && k.allows(Verb::Watch) && k.allows(Verb::Delete))
}

impl Feeds {
    /// Follows a kind into the graph until stopped.
    pub fn follow(
        &self,
        slot: Slot,
        kind: &Kind,
        custom: bool,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let feed = Feed { feeds: self.clone(), slot, custom, listing: Mutex::new(None), done: AtomicBool::new(false) };
        let source = Source {
            client: self.client.clone(),
            collection: kind.path(""),
            label_selector: String::new(),
            field_selector: String::new(),
            metadata_only: true,
        };
        reflector::run(source, Arc::new(feed), stop)
    }

    /// Forgets the objects of a kind that is not watched any more; `gone`: they are known not to be.
    pub fn drop(&self, slot: Slot, gone: bool) {
        let dirty = self.graph.lock().drop_kind(slot, gone);
        self.wake(dirty);
    }

    fn wake(&self, dirty: Vec<Uid>) {
        for uid in dirty {
            self.queue.add(Key::cluster(&uid));
        }
    }
}

/// One kind's watch into the graph.
struct Feed {
    feeds: Feeds,
    slot: Slot,
    custom: bool,
    /// What the current listing brought; none while live.
    listing: Mutex<Option<HashSet<Uid>>>,
    done: AtomicBool,
}

impl Sink for Feed {
    fn begin(&self) {
        *self.listing.lock() = Some(HashSet::new());
    }

    fn upsert(&self, object: &str) -> serde_json::Result<()> {
        let object: Partial = serde_json::from_str(object)?;
        let uid: Uid = Arc::from(&*object.metadata.uid);
        if let Some(listing) = &mut *self.listing.lock() {
            listing.insert(Arc::clone(&uid));
        }
        let node = Node::of(self.slot, &object.metadata);
        let Changed { dirty, misplaced } = self.feeds.graph.lock().upsert(uid, node);
        for found in misplaced {
            self.feeds.recorder.about(found.about, WARNING, "OwnerRefInvalidNamespace", found.message);
        }
        self.feeds.wake(dirty);
        Ok(())
    }

    fn remove(&self, object: &str) -> serde_json::Result<()> {
        let object: Partial = serde_json::from_str(object)?;
        let dirty = self.feeds.graph.lock().remove(&Arc::from(&*object.metadata.uid));
        self.feeds.wake(dirty);
        Ok(())
    }

    fn complete(&self, _: Revision) {
        let first = !self.done.swap(true, Ordering::SeqCst);
        if let Some(seen) = self.listing.lock().take() {
            let mut graph = self.feeds.graph.lock();
            let mut dirty: Vec<Uid> = graph.others(self.slot, &seen).iter().flat_map(|uid| graph.remove(uid)).collect();
            if first && self.custom {
                dirty.extend(graph.waiting_for(self.slot));
            }
            drop(graph);
            self.feeds.wake(dirty);
        }
        if first {
            self.feeds.synced.send_modify(|n| {
                if self.custom {
                    n.custom += 1;
                } else {
                    n.built_in += 1;
                }
            });
        }
    }

    fn progress(&self, _: Revision) {}
}

/// What is watched because of a definition.
#[derive(Debug, Clone, PartialEq)]
struct Watched {
    /// The definition's.
    uid: String,
    kind: Arc<Kind>,
}

#[derive(Debug, PartialEq)]
enum Step {
    Begin(Watched),
    /// The same objects in another version.
    Move(Watched),
    /// `gone`: the definition went, which it does after its objects.
    End {
        gone: bool,
    },
}

/// What to do about one definition, by what is watched of it and what it says now.
fn steps(watched: Option<&Watched>, definition: Option<&Definition>) -> Vec<Step> {
    let wanted = definition.and_then(|definition| {
        let kind = Arc::new(definition.kind()?);
        Some(Watched { uid: definition.uid().to_owned(), kind })
    });
    match (watched, wanted) {
        (None, None) => vec![],
        (None, Some(wanted)) => vec![Step::Begin(wanted)],
        (Some(watched), wanted) if definition.is_none_or(|d| d.uid() != watched.uid) => {
            let mut steps = vec![Step::End { gone: true }];
            steps.extend(wanted.map(Step::Begin));
            steps
        }
        (Some(_), None) => vec![Step::End { gone: false }],
        (Some(watched), Some(wanted)) if *watched == wanted => vec![],
        (Some(_), Some(wanted)) => vec![Step::Move(wanted)],
    }
}

/// The watch of one kind that is not built in.
pub struct Running {
    slot: Slot,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Begins to watch the kind that the slot is for.
    pub fn begin(feeds: &Feeds, slot: Slot, kind: &Kind) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(feeds.follow(slot, kind, true, stop.clone()));
        Self { slot, stop, task }
    }

    /// When this returns, nothing comes from the watch any more.
    pub async fn end(self) -> Slot {
        self.stop.cancel();
        // A feed that panicked has ended too.
        let _ = self.task.await;
        self.slot
    }
}

/// The watches of custom kinds, by the definition's name.
pub struct Customs {
    feeds: Feeds,
    running: BTreeMap<Key, (Watched, Running)>,
}

impl Customs {
    pub fn new(feeds: Feeds) -> Self {
        Self { feeds, running: BTreeMap::new() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.running.len()
    }

    /// Keeps one watch for each served custom kind until stopped.
    pub async fn run(mut self, definitions: Arc<Cache<Definition>>, stop: CancellationToken) {
        let mut dirty = definitions.dirty();
        loop {
            let keys = tokio::select! {
                () = stop.cancelled() => break,
                keys = dirty.next() => keys,
            };
            for key in keys {
                self.look_at(&key, definitions.get(&key).as_deref()).await;
            }
        }
        for (_, running) in self.running.into_values() {
            running.end().await;
        }
    }

    pub async fn look_at(&mut self, key: &Key, definition: Option<&Definition>) {
        let steps = steps(self.running.get(key).map(|(watched, _)| watched), definition);
        for step in steps {
            let before = match self.running.remove(key) {
                Some((_, running)) => Some(running.end().await),
                None => None,
            };
            match (step, before) {
                (Step::End { gone }, Some(slot)) => self.feeds.drop(slot, gone),
                (Step::End { .. }, None) => {}
                (Step::Begin(wanted) | Step::Move(wanted), before) => {
                    let kind = KindRef::Custom(Arc::clone(&wanted.kind));
                    let slot = {
                        let mut graph = self.feeds.graph.lock();
                        match before {
                            Some(slot) => {
                                graph.set_kind(slot, kind);
                                Some(slot)
                            }
                            None => graph.add_kind(kind),
                        }
                    };
                    let Some(slot) = slot else {
                        tracing::error!(definition = %key, "too many kinds: the objects of this one are not collected");
                        return;
                    };
                    let running = Running::begin(&self.feeds, slot, &wanted.kind);
                    self.running.insert(key.clone(), (wanted, running));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "feeds_tests.rs"]
mod tests;
