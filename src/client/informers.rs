//! One cache per kind and selector in a process, however many read it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::aggregated::Registration;
use crate::api::{Client, collection_path};
use crate::cache::Cache;
use crate::definition::Definition;
use crate::object::Object;
use crate::reflector::{self, Sink, Source};

/// Which part of a collection to keep. Empty: all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Selector {
    pub namespace: String,
    pub labels: String,
    pub fields: String,
}

impl Selector {
    pub fn all() -> Self {
        Self::default()
    }
    pub fn namespace(namespace: &str) -> Self {
        Self { namespace: namespace.into(), ..Self::default() }
    }
    pub fn fields(fields: impl Into<String>) -> Self {
        Self { fields: fields.into(), ..Self::default() }
    }
    pub fn labels(labels: impl Into<String>) -> Self {
        Self { labels: labels.into(), ..Self::default() }
    }
}

struct State {
    caches: HashMap<(TypeId, Selector), Arc<dyn Any + Send + Sync>>,
    synced: Vec<Box<dyn Fn() -> BoxFuture<'static, ()> + Send>>,
    tasks: JoinSet<()>,
}

/// Starts caches as they are asked for and keeps them until [`Informers::stop`] or the last clone is dropped.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

impl Informers {
    pub fn new(client: Client) -> Self {
        let state = State { caches: HashMap::new(), synced: Vec::new(), tasks: JoinSet::new() };
        Self { client, state: Arc::new(Mutex::new(state)), stop: CancellationToken::new() }
    }

    /// The shared cache; its list-watch starts with the first call. Must be called within a tokio runtime.
    pub fn cache<K: Object>(&self, selector: Selector) -> Arc<Cache<K>> {
        self.trimmed(selector, |_| ())
    }

    /// As `cache`; `trim` drops the parts of each object that nobody in the process reads. The first call's `trim` counts.
    pub fn trimmed<K: Object>(&self, selector: Selector, trim: fn(&mut K)) -> Arc<Cache<K>> {
        let mut state = self.state.lock();
        let slot = (TypeId::of::<K>(), selector);
        if let Some(cache) = state.caches.get(&slot).and_then(|c| Arc::clone(c).downcast::<Cache<K>>().ok()) {
            return cache;
        }
        let cache = Arc::new(Cache::<K>::new(trim));
        let source = Source {
            client: self.client.clone(),
            collection: collection_path::<K>(&slot.1.namespace),
            label_selector: slot.1.labels.clone(),
            field_selector: slot.1.fields.clone(),
            metadata_only: false,
        };
        let sink: Arc<dyn Sink> = Arc::clone(&cache) as _;
        state.tasks.spawn(reflector::run(source, sink, self.stop.clone()));
        let waiting = Arc::clone(&cache);
        state.synced.push(Box::new(move || Box::pin(waiting.synced())));
        state.caches.insert(slot, Arc::clone(&cache) as _);
        cache
    }

    /// Every CustomResourceDefinition, without what makes it large.
    pub fn definitions(&self) -> Arc<Cache<Definition>> {
        self.trimmed(Selector::all(), Definition::trim)
    }

    /// Every APIService, without what nobody reads.
    pub fn registrations(&self) -> Arc<Cache<Registration>> {
        self.trimmed(Selector::all(), Registration::trim)
    }

    /// Resolves when every cache that was asked for so far is synced.
    pub async fn synced(&self) {
        let waits: Vec<_> = self.state.lock().synced.iter().map(|wait| wait()).collect();
        for wait in waits {
            wait.await;
        }
    }

    /// Ends every list-watch. The caches keep their last content.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut self.state.lock().tasks);
        while tasks.join_next().await.is_some() {}
    }
}
