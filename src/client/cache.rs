//! An ordered, indexed copy of a collection, shared by everyone in the process who reads it.
//!
//! Readers get `Arc`s and never wait for the network. Subscribers are called with the old and the new object so that they can
//! mark keys dirty; they get no queue of events that could grow. `managedFields` are dropped on read-in: they are a third of
//! an object's memory and nobody here reads them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::object::{Key, Object, Revision};
use crate::reflector::Sink;

/// Called after each change with the object before and after it, in order, from one task. Must be quick; must not subscribe.
pub type OnChange<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;
type IndexFn<K> = fn(&K) -> Vec<String>;

struct Entry<K> {
    object: Arc<K>,
    /// The listing that last brought it.
    epoch: u32,
}

struct Index<K> {
    name: &'static str,
    of: IndexFn<K>,
    keys: HashMap<String, BTreeSet<Key>>,
}

struct Inner<K> {
    objects: BTreeMap<Key, Entry<K>>,
    indexes: Vec<Index<K>>,
    epoch: u32,
    /// A listing is under way, so that revisions arrive out of order.
    listing: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    synced: bool,
    revision: Revision,
    /// Counts changes, so that waiters look again.
    changes: u64,
}

pub struct Cache<K> {
    inner: RwLock<Inner<K>>,
    reached: watch::Sender<Reached>,
    subscribers: Mutex<Vec<OnChange<K>>>,
    /// Drops what the process does not read; applied before an object is kept.
    trim: fn(&mut K),
}

impl<K: Object> Default for Cache<K> {
    fn default() -> Self {
        Self::new(|_| ())
    }
}

impl<K: Object> Cache<K> {
    /// `trim` drops the parts that nobody reads.
    pub fn new(trim: fn(&mut K)) -> Self {
        let inner = Inner { objects: BTreeMap::new(), indexes: Vec::new(), epoch: 0, listing: true };
        Self {
            inner: RwLock::new(inner),
            reached: watch::Sender::new(Reached::default()),
            subscribers: Mutex::new(Vec::new()),
            trim,
        }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.inner.read().objects.get(key).map(|e| Arc::clone(&e.object))
    }

    pub fn len(&self) -> usize {
        self.inner.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All objects, ordered by key.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.inner.read().objects.values().map(|e| Arc::clone(&e.object)).collect()
    }

    /// The objects of one namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let inner = self.inner.read();
        inner
            .objects
            .range(Key::new(namespace, "")..)
            .take_while(|(k, _)| &*k.namespace == namespace)
            .map(|(_, e)| Arc::clone(&e.object))
            .collect()
    }

    /// Adds an index over what is there and what comes. Adding the same name again does nothing.
    pub fn add_index(&self, name: &'static str, of: IndexFn<K>) {
        let mut inner = self.inner.write();
        if inner.indexes.iter().any(|i| i.name == name) {
            return;
        }
        let mut keys: HashMap<String, BTreeSet<Key>> = HashMap::new();
        for (key, entry) in &inner.objects {
            for value in of(&entry.object) {
                keys.entry(value).or_default().insert(key.clone());
            }
        }
        inner.indexes.push(Index { name, of, keys });
    }

    /// The objects that an index files under `value`, ordered by key; none when there is no such index.
    pub fn indexed(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let inner = self.inner.read();
        let Some(keys) = inner.indexes.iter().find(|i| i.name == name).and_then(|i| i.keys.get(value)) else {
            return Vec::new();
        };
        keys.iter().filter_map(|k| inner.objects.get(k)).map(|e| Arc::clone(&e.object)).collect()
    }

    /// Calls `f` for every object that is there (as new) and for every later change.
    pub fn on_change(&self, f: OnChange<K>) {
        let mut subscribers = self.subscribers.lock();
        for object in self.all() {
            f(None, Some(&object));
        }
        subscribers.push(f);
    }

    /// A set of keys that changed, for a single reader that takes them in batches. Everything that is there is dirty at first.
    pub fn dirty(&self) -> DirtyKeys {
        let shared = Arc::new(Dirty { keys: Mutex::new(BTreeSet::new()), notify: Notify::new() });
        let writer = Arc::clone(&shared);
        self.on_change(Box::new(move |old, new| {
            if let Some(object) = new.or(old) {
                writer.keys.lock().insert(object.key());
                writer.notify.notify_one();
            }
        }));
        DirtyKeys(shared)
    }

    pub fn is_synced(&self) -> bool {
        self.reached.borrow().synced
    }

    /// The newest revision up to which the cache is complete.
    pub fn revision(&self) -> Revision {
        self.reached.borrow().revision
    }

    /// Resolves when the first listing is complete.
    pub fn synced(&self) -> impl Future<Output = ()> + Send + use<K> {
        wait(self.reached.subscribe(), |r| r.synced)
    }

    /// Resolves when the cache has everything up to `revision`, one's own write for instance.
    pub fn reached(&self, revision: Revision) -> impl Future<Output = ()> + Send + use<K> {
        wait(self.reached.subscribe(), move |r| r.revision >= revision)
    }

    /// Resolves when `holds` says so, which is asked at once and after each change. It must not block.
    pub fn until<'a>(&self, mut holds: impl FnMut() -> bool + Send + 'a) -> impl Future<Output = ()> + Send + 'a
    where
        K: 'a,
    {
        wait(self.reached.subscribe(), move |_| holds())
    }

    /// Resolves when the object with this uid is gone, or known to be going.
    pub fn going(self: &Arc<Self>, key: &Key, uid: &str) -> impl Future<Output = ()> + Send + use<K> {
        let (cache, key, uid) = (Arc::clone(self), key.clone(), uid.to_owned());
        let changed = self.reached.subscribe();
        wait(changed, move |_| cache.get(&key).is_none_or(|o| o.uid() != uid || o.is_terminating()))
    }

    fn put(&self, mut object: K) {
        object.metadata_mut().managed_fields = None;
        (self.trim)(&mut object);
        let (key, object) = (object.key(), Arc::new(object));
        let old = {
            let mut guard = self.inner.write();
            let inner = &mut *guard;
            if let Some(entry) = inner.objects.get_mut(&key)
                && entry.object.uid() == object.uid()
                && entry.object.metadata().resource_version == object.metadata().resource_version
            {
                // A listing after a lost connection brings mostly what is known.
                entry.epoch = inner.epoch;
                return;
            }
            let entry = Entry { object: Arc::clone(&object), epoch: inner.epoch };
            let old = inner.objects.insert(key.clone(), entry).map(|e| e.object);
            for index in &mut inner.indexes {
                index.replace(&key, old.as_deref(), Some(&object));
            }
            old
        };
        self.tell(old.as_ref(), Some(&object));
    }

    fn take(&self, key: &Key) {
        let old = {
            let mut guard = self.inner.write();
            let inner = &mut *guard;
            let Some(entry) = inner.objects.remove(key) else { return };
            for index in &mut inner.indexes {
                index.replace(key, Some(&entry.object), None);
            }
            entry.object
        };
        self.tell(Some(&old), None);
    }

    fn tell(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        for f in self.subscribers.lock().iter() {
            f(old, new);
        }
        self.reached.send_modify(|r| r.changes += 1);
    }
}

impl<K> Index<K> {
    fn replace(&mut self, key: &Key, old: Option<&K>, new: Option<&K>) {
        let (old, new) = (old.map(self.of).unwrap_or_default(), new.map(self.of).unwrap_or_default());
        if old == new {
            return;
        }
        for value in old {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
        for value in new {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }
}

async fn wait(mut reached: watch::Receiver<Reached>, mut done: impl FnMut(&Reached) -> bool + Send) {
    // The cache was dropped: nobody will ever know. Whoever waits has a deadline of its own.
    if reached.wait_for(|r| done(r)).await.is_err() {
        std::future::pending().await
    }
}

impl<K: Object> Sink for Cache<K> {
    fn begin(&self) {
        let mut inner = self.inner.write();
        inner.epoch = inner.epoch.wrapping_add(1);
        inner.listing = true;
    }

    fn upsert(&self, object: &str) -> serde_json::Result<()> {
        self.put(K::decode(&without_managed_fields(object))?);
        Ok(())
    }

    fn remove(&self, object: &str) -> serde_json::Result<()> {
        let object = K::decode(&without_managed_fields(object))?;
        self.take(&object.key());
        Ok(())
    }

    fn complete(&self, revision: Revision) {
        let stale: Vec<Key> = {
            let mut inner = self.inner.write();
            inner.listing = false;
            let epoch = inner.epoch;
            inner.objects.iter().filter(|(_, e)| e.epoch != epoch).map(|(k, _)| k.clone()).collect()
        };
        for key in &stale {
            self.take(key);
        }
        self.reached.send_modify(|r| {
            r.synced = true;
            r.revision = revision;
        });
    }

    fn progress(&self, revision: Revision) {
        if self.inner.read().listing {
            return;
        }
        self.reached.send_modify(|r| r.revision = r.revision.max(revision));
    }
}

struct Dirty {
    keys: Mutex<BTreeSet<Key>>,
    notify: Notify,
}

/// See [`Cache::dirty`].
pub struct DirtyKeys(Arc<Dirty>);

impl DirtyKeys {
    /// Waits until something is dirty and takes all of it. Cancel safe.
    pub async fn next(&mut self) -> BTreeSet<Key> {
        loop {
            let keys = std::mem::take(&mut *self.0.keys.lock());
            if !keys.is_empty() {
                return keys;
            }
            self.0.notify.notified().await;
        }
    }
}

/// The object's text without its managed fields: to decode them into trees that are dropped at once costs more than all the
/// rest of many objects. A text that is not written as expected stays whole.
fn without_managed_fields(text: &str) -> Cow<'_, str> {
    const NAME: &[u8] = b"\"managedFields\":[";
    let bytes = text.as_bytes();
    // Within a string the quotes would have backslashes.
    let found = memchr::memmem::find(bytes, NAME).filter(|at| *at > 0 && bytes[at - 1] != b'\\');
    let Some(start) = found else { return Cow::Borrowed(text) };
    let (mut end, mut depth, mut quoted) = (start + NAME.len(), 1u32, false);
    while depth > 0 {
        match bytes.get(end) {
            None => return Cow::Borrowed(text),
            Some(b'"') => quoted = !quoted,
            Some(b'\\') if quoted => end += 1,
            Some(b'[' | b'{') if !quoted => depth += 1,
            Some(b']' | b'}') if !quoted => depth -= 1,
            Some(_) => {}
        }
        end += 1;
    }
    // The comma on one side goes too.
    let (from, to) = match (bytes[start - 1], bytes.get(end)) {
        (_, Some(b',')) => (start, end + 1),
        (b',', _) => (start - 1, end),
        _ => (start, end),
    };
    Cow::Owned([&text[..from], &text[to..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_are_cut_out() {
        let fields = r#""managedFields":[{"fieldsV1":{"f:a":{"k:{\"a\":\"]\"}":{}}},"manager":"x"},{}]"#;
        for (before, after) in [
            (r#"{"metadata":{"#, r#""name":"a"},"data":{}}"#),
            (r#"{"metadata":{"name":"a""#, "}}"),
            (r#"{"metadata":{"#, "}}"),
        ] {
            let comma = |text: &str| !text.ends_with('{') && !text.starts_with('}');
            let whole = format!(
                "{before}{}{fields}{}{after}",
                if comma(before) { "," } else { "" },
                if comma(after) { "," } else { "" }
            );
            assert_eq!(without_managed_fields(&whole), format!("{before}{after}"));
        }
        for text in [r#"{"data":{"a":"\"managedFields\":[1]"}}"#, r#"{"metadata":{"managedFields":[{"a":"}"#, "{}"] {
            assert_eq!(without_managed_fields(text), text);
        }
    }
    use k8s_openapi::api::core::v1::Pod;

    fn pod(namespace: &str, name: &str, node: &str, revision: u64) -> String {
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"namespace":"{namespace}","name":"{name}","uid":"{name}","resourceVersion":"{revision}","managedFields":[{{"manager":"x"}}]}},"spec":{{"nodeName":"{node}","containers":[]}}}}"#
        )
    }
    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|p| p.name()).collect()
    }

    #[tokio::test]
    async fn follows_a_collection() {
        let cache = Arc::new(Cache::<Pod>::default());
        cache.add_index("node", |p| p.spec.as_ref().and_then(|s| s.node_name.clone()).into_iter().collect());
        let mut dirty = cache.dirty();
        cache.begin();
        for (ns, name, node, rv) in [("b", "x", "n1", 4), ("a", "z", "n1", 5), ("a", "y", "n2", 3)] {
            cache.upsert(&pod(ns, name, node, rv)).unwrap();
        }
        assert!(!cache.is_synced());
        cache.complete(Revision(9));
        cache.synced().await;
        assert_eq!(names(&cache.all()), ["y", "z", "x"]);
        assert_eq!(names(&cache.in_namespace("a")), ["y", "z"]);
        assert_eq!(names(&cache.indexed("node", "n1")), ["z", "x"]);
        assert!(cache.all()[0].metadata.managed_fields.is_none());
        assert_eq!(dirty.next().await.len(), 3);
        // A move between nodes, twice: one dirty key.
        cache.upsert(&pod("a", "y", "n1", 10)).unwrap();
        cache.upsert(&pod("a", "y", "n3", 11)).unwrap();
        cache.progress(Revision(11));
        assert_eq!(dirty.next().await, [Key::new("a", "y")].into());
        assert_eq!(names(&cache.indexed("node", "n3")), ["y"]);
        assert!(cache.indexed("node", "n2").is_empty());
        cache.reached(Revision(11)).await;
        // A new listing without "x": it is gone once the listing is complete, not before; the unchanged are not dirty.
        cache.begin();
        cache.upsert(&pod("a", "y", "n3", 11)).unwrap();
        cache.upsert(&pod("a", "z", "n1", 5)).unwrap();
        assert_eq!(cache.len(), 3);
        cache.complete(Revision(20));
        assert_eq!(dirty.next().await, [Key::new("b", "x")].into());
        assert_eq!(cache.len(), 2);
        assert!(cache.upsert("{").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_what_it_is_asked() {
        let cache = Arc::new(Cache::<Pod>::default());
        cache.begin();
        cache.upsert(&pod("a", "y", "n", 2)).unwrap();
        cache.complete(Revision(2));
        let soon = std::time::Duration::from_secs(1);
        let going = cache.going(&Key::new("a", "y"), "y");
        assert!(tokio::time::timeout(soon, cache.reached(Revision(3))).await.is_err());
        let (reached, other) = (cache.reached(Revision(3)), cache.going(&Key::new("a", "y"), "other-uid"));
        other.await;
        cache.remove(&pod("a", "y", "n", 3)).unwrap();
        cache.progress(Revision(3));
        tokio::time::timeout(soon, async { tokio::join!(reached, going) }).await.unwrap();
    }
}
