//! The kinds that are served right now: the built-in ones and those that definitions make, as one snapshot that requests
//! hold while they run.
//!
//! A change of one definition costs its own size: the maps are persistent, and the documents about kinds are made again
//! when somebody asks for them. A definition that this server writes is in force before its writer is answered
//! ([`Kinds::refresh`]); those that others write come through the store's feed.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use store::{Entry, Store, View};
use types::registry::{
    BUILT_IN, Extension, GroupVersionKind, Kind, KindRef, Scope, Subresource, Verb, WriteClass, api_version,
};

use super::definition::{Definition, STORE_PREFIX, Version};
use super::{Custom, publish};
use crate::http::router;

const READ_WRITE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

/// The kinds that are served, kept in step with the definitions in the store.
pub struct Kinds {
    served: ArcSwap<Served>,
    /// Held by whoever makes the next snapshot from the one before.
    writer: Mutex<()>,
}

/// The kinds at one moment.
#[derive(Clone, Default)]
pub struct Served {
    /// By name.
    definitions: imbl::OrdMap<Arc<str>, Arc<Made>>,
    /// By `<group>/<version>/<plural>`.
    custom: imbl::OrdMap<Arc<str>, Arc<Kind>>,
    published: OnceLock<Box<publish::Hashes>>,
}

/// A definition and the keys of the kinds that it makes.
struct Made {
    definition: Arc<Definition>,
    keys: Vec<Arc<str>>,
}

impl Kinds {
    /// The kinds of the definitions in the view.
    pub fn load(view: &dyn View) -> Self {
        Self { served: ArcSwap::from_pointee(Served::of(view)), writer: Mutex::new(()) }
    }

    pub fn served(&self) -> Arc<Served> {
        self.served.load_full()
    }

    /// Takes over what the store now says of one definition. When this returns, requests see it.
    pub fn refresh(&self, store: &dyn Store, key: &str) {
        let _writer = self.writer.lock();
        // Read under the lock: whoever comes later sees what is newer.
        let entry = store.snapshot().get(key);
        let old = self.served.load_full();
        let name = key.strip_prefix(STORE_PREFIX).unwrap_or(key).trim_start_matches('/');
        let known = old.definitions.get(name).map(|made| made.definition.modified);
        if known == entry.as_ref().map(|e| e.modified()) {
            return;
        }
        let mut next = Served { published: OnceLock::new(), ..(*old).clone() };
        next.remove(name);
        if let Some(entry) = entry {
            next.insert(&entry);
        }
        self.served.store(Arc::new(next));
    }

    /// Takes over all that the store now says.
    pub fn reload(&self, store: &dyn Store) {
        let _writer = self.writer.lock();
        self.served.store(Arc::new(Served::of(&*store.snapshot())));
    }
}

impl Served {
    fn of(view: &dyn View) -> Self {
        let mut served = Self::default();
        for entry in view.range(STORE_PREFIX, None) {
            served.insert(entry);
        }
        served
    }

    fn remove(&mut self, name: &str) {
        for key in self.definitions.remove(name).iter().flat_map(|made| &made.keys) {
            self.custom.remove(key);
        }
    }

    fn insert(&mut self, entry: &Entry) {
        let Some(definition) = Definition::read(entry) else {
            tracing::error!(key = entry.key(), "a stored definition cannot be read");
            return;
        };
        let definition = Arc::new(definition);
        let mut keys = Vec::new();
        if definition.established || definition.names_accepted {
            for at in 0..definition.versions.len() {
                if definition.versions[at].served {
                    let kind = kind_of(&definition, at);
                    let key: Arc<str> = key(&kind.group, &kind.version, &kind.plural).into();
                    keys.push(key.clone());
                    self.custom.insert(key, Arc::new(kind));
                }
            }
        }
        let name = definition.name.as_str().into();
        self.definitions.insert(name, Arc::new(Made { definition, keys }));
    }

    /// The kind behind a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<KindRef> {
        if let Some(kind) = router::kind(group, version, plural) {
            return Some(KindRef::BuiltIn(kind));
        }
        // Custom kinds always have a group.
        if self.custom.is_empty() || group.is_empty() {
            return None;
        }
        self.custom.get(&*key(group, version, plural)).cloned().map(KindRef::Custom)
    }

    /// Every kind: the built-in ones in their order, then the custom ones by group, version and name.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        BUILT_IN.iter().chain(self.custom())
    }

    pub fn custom(&self) -> impl Iterator<Item = &Kind> {
        self.custom.values().map(|kind| &**kind)
    }

    pub fn definitions(&self) -> impl Iterator<Item = &Arc<Definition>> {
        self.definitions.values().map(|made| &made.definition)
    }

    pub fn definition(&self, name: &str) -> Option<&Arc<Definition>> {
        self.definitions.get(name).map(|made| &made.definition)
    }

    /// The OpenAPI documents of custom kinds, each with its hash.
    pub fn published(&self) -> &publish::Hashes {
        self.published.get_or_init(|| publish::hashes(self).into())
    }
}

fn key(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

pub(super) fn kind_of(definition: &Arc<Definition>, at: usize) -> Kind {
    let version = &definition.versions[at];
    let names = &definition.accepted;
    let texts = |texts: &[String]| Cow::Owned(texts.iter().map(|t| Cow::Owned(t.clone())).collect());
    Kind {
        group: Cow::Owned(definition.group.clone()),
        version: Cow::Owned(version.name.clone()),
        kind: Cow::Owned(names.kind.clone()),
        plural: Cow::Owned(names.plural.clone()),
        singular: Cow::Owned(names.singular.clone()),
        short_names: texts(&names.short_names),
        categories: texts(&names.categories),
        scope: if definition.namespaced { Scope::Namespaced } else { Scope::Cluster },
        verbs: Cow::Borrowed(Verb::ALL),
        subresources: Cow::Owned(subresources(version)),
        write_class: WriteClass::Durable,
        selectable_fields: Cow::Owned(
            version.selectable.iter().map(|path| Cow::Owned(path.trim_start_matches('.').to_owned())).collect(),
        ),
        storage_version_hash: Cow::Owned(storage_hash(definition)),
        stored: true,
        kept_as: None,
        extension: Extension::new(Arc::new(Custom::new(definition.clone(), at))),
    }
}

fn subresources(version: &Version) -> Vec<Subresource> {
    let sub = |name: &'static str, response| Subresource {
        name: Cow::Borrowed(name),
        verbs: Cow::Borrowed(READ_WRITE),
        response,
    };
    let status = version.subresources.status.iter().map(|_| sub("status", None));
    let scale = version.subresources.scale.iter();
    let scale = scale.map(|_| sub("scale", Some(GroupVersionKind::new("autoscaling", "v1", "Scale"))));
    status.chain(scale).collect()
}

/// Source: apiserver `pkg/endpoints/discovery/storageversionhash.go`.
fn storage_hash(definition: &Definition) -> String {
    let Some(storage) = definition.storage() else { return String::new() };
    let text = format!("{}/{}", api_version(&definition.group, &storage.name), definition.accepted.kind);
    STANDARD.encode(&Sha256::digest(text.as_bytes())[..8])
}
