//! The kind registry: one entry per served kind. Routes, discovery, OpenAPI, tables, RBAC names, garbage collection and
//! store prefixes are read from it; nothing else in the project lists kinds.
//!
//! Built-in kinds are in one table ([`BUILT_IN`]); a CustomResourceDefinition makes an entry of the same type at run time.
//!
//! Source: the aggregated discovery document of Kubernetes 1.36 (`api/discovery/aggregated_v2.json`).

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

mod built_in;
mod groups;
pub use built_in::BUILT_IN;
pub use groups::{DEFAULT_GROUP_PRIORITY, DEFAULT_VERSION_PRIORITY, GROUP_VERSIONS, GroupVersion};

type Text = Cow<'static, str>;
type Texts = Cow<'static, [Text]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// The verbs of the resource API, by their RBAC names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    pub const ALL: &'static [Verb] = &[
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// How writes of a kind are kept by the store; see `store::Class`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteClass {
    Durable,
    Relaxed,
}

/// A group, version and kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    pub group: Text,
    pub version: Text,
    pub kind: Text,
}

impl GroupVersionKind {
    pub const fn new(group: &'static str, version: &'static str, kind: &'static str) -> Self {
        Self { group: Cow::Borrowed(group), version: Cow::Borrowed(version), kind: Cow::Borrowed(kind) }
    }
    /// `v1` for the core group, `apps/v1` otherwise.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `log`, …
    pub name: Text,
    pub verbs: Cow<'static, [Verb]>,
    /// The kind that is exchanged there, when it is not the parent's.
    pub response: Option<GroupVersionKind>,
}

/// One served kind in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    /// The resource name in paths.
    pub plural: Text,
    pub singular: Text,
    pub short_names: Texts,
    pub categories: Texts,
    pub scope: Scope,
    pub verbs: Cow<'static, [Verb]>,
    pub subresources: Cow<'static, [Subresource]>,
    pub write_class: WriteClass,
    /// JSON paths besides `metadata.name` and `metadata.namespace` that a field selector may name.
    pub selectable_fields: Texts,
    /// The published hash of the storage version, for discovery.
    pub storage_version_hash: Text,
    /// `false` for kinds that are never stored (reviews, bindings).
    pub stored: bool,
    /// The kind and version as which objects are kept, when it is another one: they are one set of objects, served in
    /// several versions.
    pub kept_as: Option<GroupVersionKind>,
    /// What is known of a custom kind besides this.
    pub extension: Extension,
}

/// What belongs to a kind that was defined at run time: its schema and the like, which only the room that serves it reads.
/// Built-in kinds have none.
#[derive(Clone, Default)]
pub struct Extension(Option<Arc<dyn Any + Send + Sync>>);

impl Extension {
    pub const NONE: Extension = Extension(None);

    pub fn new(of: Arc<dyn Any + Send + Sync>) -> Self {
        Self(Some(of))
    }

    /// What it is, when it is a `T`.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.as_deref()?.downcast_ref()
    }

    /// Tells extensions apart while they live; 0 for none.
    pub fn id(&self) -> usize {
        self.0.as_ref().map_or(0, |of| Arc::as_ptr(of).addr())
    }

    /// Whether the kind was defined at run time.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_some() { "custom" } else { "none" })
    }
}

/// Extensions are the same when they are one.
impl PartialEq for Extension {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
impl Eq for Extension {}

/// A kind that is served: built in, or defined at run time and gone when nobody holds it any more.
#[derive(Debug, Clone)]
pub enum KindRef {
    BuiltIn(&'static Kind),
    Custom(Arc<Kind>),
}

impl KindRef {
    /// The kind for as long as the process lives, which only a built-in one does.
    pub fn built_in(&self) -> Option<&'static Kind> {
        match self {
            KindRef::BuiltIn(kind) => Some(kind),
            KindRef::Custom(_) => None,
        }
    }
}

impl Deref for KindRef {
    type Target = Kind;
    fn deref(&self) -> &Kind {
        match self {
            KindRef::BuiltIn(kind) => kind,
            KindRef::Custom(kind) => kind,
        }
    }
}

impl From<&'static Kind> for KindRef {
    fn from(kind: &'static Kind) -> Self {
        KindRef::BuiltIn(kind)
    }
}

impl Kind {
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind { group: self.group.clone(), version: self.version.clone(), kind: self.kind.clone() }
    }
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
    /// `deployments.apps`, or `pods` in the core group: the name in error texts and RBAC.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }
    /// Whether objects are kept in this very version; each set of objects has exactly one such entry.
    pub fn keeps(&self) -> bool {
        self.stored && self.kept_as.is_none()
    }
    /// Prefix of every key of this kind in the store: `<group>/<resource>/`, with `core` for the core group.
    pub fn store_prefix(&self) -> String {
        let group = self.kept_as.as_ref().map_or(&self.group, |kept| &kept.group);
        let group = if group.is_empty() { "core" } else { &**group };
        format!("{group}/{}/", self.plural)
    }
    /// `<group>/<resource>/<namespace>/<name>`; cluster-scoped kinds have an empty namespace segment.
    pub fn store_key(&self, namespace: &str, name: &str) -> String {
        format!("{}{namespace}/{name}", self.store_prefix())
    }
    /// Prefix of the keys in one namespace.
    pub fn store_namespace_prefix(&self, namespace: &str) -> String {
        format!("{}{namespace}/", self.store_prefix())
    }
    /// The collection's path, e.g. `/apis/apps/v1/namespaces/default/deployments`; `namespace` empty: across namespaces.
    pub fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if namespace.is_empty() || !self.namespaced() {
            format!("{root}/{}", self.plural)
        } else {
            format!("{root}/namespaces/{namespace}/{}", self.plural)
        }
    }
}

/// The built-in kind with that group, version and resource name.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    BUILT_IN.iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The built-in kind with that group, version and kind name.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    BUILT_IN.iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_within_a_group_version() {
        for (i, a) in BUILT_IN.iter().enumerate() {
            for b in &BUILT_IN[i + 1..] {
                let same_gv = a.group == b.group && a.version == b.version;
                assert!(!(same_gv && (a.plural == b.plural || a.kind == b.kind)), "{} and {}", a.plural, b.plural);
            }
        }
    }

    /// The registry in the form of `registry/discovery.txt`: a group and version, its resources by name, each with singular,
    /// kind, scope and what else discovery says of it; below a resource what is below it in paths.
    fn told() -> String {
        use std::fmt::Write as _;
        let verbs = |verbs: &[Verb]| verbs.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(",");
        let mut kinds: Vec<&Kind> = BUILT_IN.iter().collect();
        kinds.sort_by_key(|k| (k.api_version(), k.plural.clone()));
        let (mut text, mut last) = (String::new(), String::new());
        for kind in kinds {
            if kind.api_version() != last {
                last = kind.api_version();
                let _ = writeln!(text, "{last}");
            }
            let scope = if kind.namespaced() { "namespaced" } else { "cluster" };
            let _ = write!(text, "  {} {} {} {scope}", kind.plural, kind.singular, kind.kind);
            for (what, value) in [
                ("short", kind.short_names.join(",")),
                ("in", kind.categories.join(",")),
                ("verbs", if *kind.verbs == *Verb::ALL { String::new() } else { verbs(&kind.verbs) }),
                ("hash", kind.storage_version_hash.to_string()),
            ] {
                if !value.is_empty() {
                    let _ = write!(text, " {what}={value}");
                }
            }
            text.push('\n');
            let mut below: Vec<&Subresource> = kind.subresources.iter().collect();
            below.sort_by_key(|s| s.name.clone());
            for sub in below {
                let _ = write!(text, "    {} {}", sub.name, verbs(&sub.verbs));
                if let Some(response) = &sub.response {
                    let own = (&response.group, &response.version) == (&kind.group, &kind.version);
                    let place = if own { String::new() } else { format!("{}/", response.api_version()) };
                    let _ = write!(text, " as={place}{}", response.kind);
                }
                text.push('\n');
            }
        }
        text
    }

    /// `registry/discovery.txt` is what upstream 1.36 says of itself, with everything that is stable, and what metrics-server does.
    #[test]
    fn discovery_is_upstreams() {
        let (told, wanted) = (told(), include_str!("registry/discovery.txt"));
        let without = |all: &str, these: &str| -> Vec<String> {
            all.lines().filter(|line| !these.lines().any(|other| other == *line)).map(str::to_owned).collect()
        };
        assert_eq!((without(wanted, &told), without(&told, wanted)), (vec![], vec![]), "(missing, too many)");
        assert_eq!(told, wanted);
    }

    #[test]
    fn paths_and_keys() {
        let deployments = by_resource("apps", "v1", "deployments").unwrap();
        assert_eq!(deployments.path("shop"), "/apis/apps/v1/namespaces/shop/deployments");
        assert_eq!(deployments.path(""), "/apis/apps/v1/deployments");
        assert_eq!(deployments.store_key("shop", "web"), "apps/deployments/shop/web");
        // one set of objects has one place
        let events = by_resource("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(events.store_key("shop", "e"), "core/events/shop/e");
        let nodes = by_kind("", "v1", "Node").unwrap();
        assert_eq!(nodes.path("ignored"), "/api/v1/nodes");
        assert_eq!(nodes.store_key("", "n1"), "core/nodes//n1");
    }
}
