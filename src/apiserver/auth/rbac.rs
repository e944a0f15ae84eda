//! Role-based access control, compiled from the stored roles and bindings.
//!
//! Every write of a role or binding makes the compiled form stale; the next question compiles it again, re-reading only
//! the objects that changed. A write that this server answered is in force for the next request.
//!
//! Source: `plugin/pkg/auth/authorizer/rbac/rbac.go`, `pkg/registry/rbac/validation/rule.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use store::{Entry, Revision, Store, View};
use types::selector::LabelSelector;

use super::attributes::{Attributes, Target};
use super::identity::{Identity, SERVICE_ACCOUNT_PREFIX};
use crate::verbs::facts;

pub const GROUP: &str = "rbac.authorization.k8s.io";
/// Where roles and bindings lie in the store.
pub const STORE_PREFIX: &str = "rbac.authorization.k8s.io/";

/// A `PolicyRule`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub paths: Vec<String>,
}

impl Rule {
    pub fn read(value: &Value) -> Self {
        let texts = |key: &str| -> Vec<String> {
            let list = value[key].as_array().into_iter().flatten();
            list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        Self {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            paths: texts("nonResourceURLs"),
        }
    }

    pub fn read_all(value: &Value) -> Vec<Self> {
        value.as_array().into_iter().flatten().map(Rule::read).collect()
    }

    fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb || v == "*")
    }

    fn has_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group || g == "*")
    }

    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|r| {
            r == "*"
                || match r.split_once('/') {
                    None => subresource.is_empty() && r == resource,
                    Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
                }
        })
    }

    fn has_name(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|n| n == name)
    }

    fn has_path(&self, path: &str) -> bool {
        self.paths
            .iter()
            .any(|p| p == "*" || p == path || p.strip_suffix('*').is_some_and(|head| path.starts_with(head)))
    }

    pub fn allows(&self, verb: &str, target: &Target) -> bool {
        match target {
            Target::Path(path) => self.has_verb(verb) && self.has_path(path),
            Target::Resource { group, resource, subresource, name, .. } => {
                self.has_verb(verb)
                    && self.has_group(group)
                    && self.has_resource(resource, subresource)
                    && self.has_name(name)
            }
        }
    }

    /// Whether everything that `asked` grants (one verb, one group, one resource, one name, or one path) is granted here.
    pub(super) fn covers(&self, asked: &Rule) -> bool {
        let all =
            |have: &[String], want: &[String]| have.iter().any(|h| h == "*") || want.iter().all(|w| have.contains(w));
        let resources = |want: &String| {
            self.resources.iter().any(|h| {
                h == "*"
                    || h == want
                    || want.split_once('/').is_some_and(|(_, sub)| h.strip_prefix("*/").is_some_and(|s| s == sub))
            })
        };
        let names =
            self.names.is_empty() || (!asked.names.is_empty() && asked.names.iter().all(|n| self.names.contains(n)));
        let paths = |want: &String| {
            self.paths
                .iter()
                .any(|h| h == "*" || h == want || h.strip_suffix('*').is_some_and(|head| want.starts_with(head)))
        };
        all(&self.verbs, &asked.verbs)
            && all(&self.groups, &asked.groups)
            && asked.resources.iter().all(resources)
            && names
            && asked.paths.iter().all(paths)
    }
}

type Rules = Arc<Vec<Rule>>;

#[derive(Default)]
struct Bound {
    users: HashMap<String, Vec<Rules>>,
    groups: HashMap<String, Vec<Rules>>,
}

impl Bound {
    fn add(&mut self, subjects: &[Subject], rules: &Rules) {
        for subject in subjects {
            let (map, name) = match subject {
                Subject::User(name) => (&mut self.users, name),
                Subject::Group(name) => (&mut self.groups, name),
            };
            map.entry(name.clone()).or_default().push(rules.clone());
        }
    }

    fn of<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = &'a Rule> {
        let user = self.users.get(&identity.user).into_iter();
        let groups = identity.groups.iter().filter_map(|g| self.groups.get(g));
        user.chain(groups).flatten().flat_map(|rules| rules.iter())
    }
}

/// Everything compiled, at some generation.
#[derive(Default)]
struct Compiled {
    generation: u64,
    cluster: Bound,
    namespaces: HashMap<String, Bound>,
}

#[derive(Debug, Clone)]
enum Subject {
    User(String),
    Group(String),
}

/// What was read of one stored role or binding.
enum Parsed {
    Role { rules: Rules, aggregation: Option<Vec<LabelSelector>> },
    Binding { cluster_role: bool, role: String, subjects: Vec<Subject> },
}

/// The compiled roles, and what makes them stale.
pub struct Rbac {
    store: Arc<dyn Store>,
    compiled: ArcSwap<Compiled>,
    /// Grows with every change of a role or binding; what is compiled at a lower generation is stale.
    wanted: AtomicU64,
    /// Parsed objects by store key, so that a change costs the reading of what changed. Also the lock of compiling.
    parsed: Mutex<ParsedByKey>,
}

impl Rbac {
    pub fn new(store: Arc<dyn Store>) -> Self {
        let (compiled, parsed) = (ArcSwap::default(), Mutex::default());
        Self { store, compiled, wanted: AtomicU64::new(1), parsed }
    }

    /// A role or binding was written: what is compiled is stale from here on.
    pub fn changed(&self) {
        self.wanted.fetch_add(1, Ordering::AcqRel);
    }

    pub fn allows(&self, attributes: &Attributes) -> bool {
        let namespace = match attributes.target {
            Target::Path(_) => "",
            Target::Resource { namespace, .. } => namespace,
        };
        self.with_rules(attributes.identity, namespace, |mut rules| {
            (&mut rules).any(|rule| rule.allows(attributes.verb, &attributes.target))
        })
    }

    /// Every rule that the identity has in a namespace, the cluster-wide ones included.
    pub fn rules(&self, identity: &Identity, namespace: &str) -> Vec<Rule> {
        self.with_rules(identity, namespace, |rules| rules.cloned().collect())
    }

    /// The rules of the role that is stored under `key`, with those that it gathers: what a binding to it grants.
    pub(super) fn role(&self, key: &str) -> Option<Vec<Rule>> {
        self.compile(self.wanted.load(Ordering::Acquire));
        let parsed = self.parsed.lock();
        rules_of(key, &parsed, &*self.store.snapshot(), 0).map(|rules| rules.to_vec())
    }

    fn with_rules<T>(
        &self,
        identity: &Identity,
        namespace: &str,
        read: impl FnOnce(&mut dyn Iterator<Item = &Rule>) -> T,
    ) -> T {
        let wanted = self.wanted.load(Ordering::Acquire);
        let compiled = self.compiled.load();
        if compiled.generation < wanted {
            drop(compiled);
            self.compile(wanted);
            let compiled = self.compiled.load();
            return read_rules(&compiled, identity, namespace, read);
        }
        read_rules(&compiled, identity, namespace, read)
    }

    fn compile(&self, wanted: u64) {
        let mut parsed = self.parsed.lock();
        if self.compiled.load().generation >= wanted {
            return;
        }
        // Taken after `wanted` was read, so that it holds the change that raised it; a request's own view may not.
        let view = self.store.snapshot();
        let mut fresh = HashMap::with_capacity(parsed.len());
        for entry in view.range(STORE_PREFIX, None) {
            let object = match parsed.get(entry.key()) {
                Some((revision, object)) if *revision == entry.modified() => object.clone(),
                _ => match parse(entry) {
                    Some(object) => Arc::new(object),
                    None => continue,
                },
            };
            fresh.insert(entry.key().into(), (entry.modified(), object));
        }
        *parsed = fresh;
        self.compiled.store(Arc::new(link(wanted, &parsed, &*view)));
    }
}

fn read_rules<T>(
    compiled: &Compiled,
    identity: &Identity,
    namespace: &str,
    read: impl FnOnce(&mut dyn Iterator<Item = &Rule>) -> T,
) -> T {
    let local = compiled.namespaces.get(namespace).filter(|_| !namespace.is_empty());
    read(&mut compiled.cluster.of(identity).chain(local.into_iter().flat_map(|bound| bound.of(identity))))
}

/// The plural and, for namespaced kinds, the namespace of a key below [`STORE_PREFIX`], with the name.
fn split(key: &str) -> Option<(&str, &str, &str)> {
    let mut parts = key.strip_prefix(STORE_PREFIX)?.splitn(3, '/');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

fn parse(entry: &Entry) -> Option<Parsed> {
    let object: Value = serde_json::from_slice(entry.value()).ok()?;
    let (plural, namespace, _) = split(entry.key())?;
    if plural.ends_with("bindings") {
        let subjects = object["subjects"].as_array().into_iter().flatten();
        return Some(Parsed::Binding {
            cluster_role: object["roleRef"]["kind"] == "ClusterRole",
            role: object["roleRef"]["name"].as_str()?.to_owned(),
            subjects: subjects.filter_map(|s| subject(s, namespace)).collect(),
        });
    }
    let aggregation = object["aggregationRule"]["clusterRoleSelectors"]
        .as_array()
        .map(|list| list.iter().filter_map(|s| LabelSelector::from_object(s).ok()).collect());
    Some(Parsed::Role { rules: Arc::new(Rule::read_all(&object["rules"])), aggregation })
}

fn subject(value: &Value, binding_namespace: &str) -> Option<Subject> {
    let name = value["name"].as_str()?;
    match value["kind"].as_str()? {
        "User" => Some(Subject::User(name.to_owned())),
        "Group" => Some(Subject::Group(name.to_owned())),
        "ServiceAccount" => {
            let namespace = value["namespace"].as_str().filter(|n| !n.is_empty()).unwrap_or(binding_namespace);
            Some(Subject::User(format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")))
        }
        _ => None,
    }
}

type ParsedByKey = HashMap<Arc<str>, (Revision, Arc<Parsed>)>;

/// Aggregated roles may gather aggregated ones (admin gathers edit gathers view); deeper nesting is a loop.
const AGGREGATION_DEPTH_MAX: u8 = 4;

/// The rules of the role under `key`, with those that it gathers.
fn rules_of(key: &str, parsed: &ParsedByKey, view: &dyn View, depth: u8) -> Option<Rules> {
    let (_, object) = parsed.get(key)?;
    let Parsed::Role { rules, aggregation } = &**object else { return None };
    let Some(selectors) = aggregation.as_ref().filter(|_| depth < AGGREGATION_DEPTH_MAX) else {
        return Some(rules.clone());
    };
    let mut all: Vec<Rule> = (**rules).clone();
    for entry in view.range(&format!("{STORE_PREFIX}clusterroles/"), None) {
        if entry.key() != key && selectors.iter().any(|s| s.matches(&facts::facts(entry))) {
            let gathered = rules_of(entry.key(), parsed, view, depth + 1);
            all.extend(gathered.iter().flat_map(|rules| rules.iter()).filter(|r| !rules.contains(r)).cloned());
        }
    }
    Some(Arc::new(all))
}

/// Joins bindings to the rules of their roles.
fn link(generation: u64, parsed: &ParsedByKey, view: &dyn View) -> Compiled {
    let mut compiled = Compiled { generation, ..Compiled::default() };
    let mut cluster_roles: HashMap<&str, Option<Rules>> = HashMap::new();
    for (key, (_, object)) in parsed {
        let (Parsed::Binding { cluster_role, role, subjects }, Some((plural, namespace, _))) = (&**object, split(key))
        else {
            continue;
        };
        let rules = if *cluster_role {
            let find = || rules_of(&format!("{STORE_PREFIX}clusterroles//{role}"), parsed, view, 0);
            cluster_roles.entry(role).or_insert_with(find).clone()
        } else {
            rules_of(&format!("{STORE_PREFIX}roles/{namespace}/{role}"), parsed, view, 0)
        };
        // A binding to a role that does not exist grants nothing until it does.
        let Some(rules) = rules else { continue };
        if plural == "clusterrolebindings" {
            compiled.cluster.add(subjects, &rules);
        } else {
            compiled.namespaces.entry(namespace.to_owned()).or_default().add(subjects, &rules);
        }
    }
    compiled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str, paths: &str) -> Rule {
        let list = |s: &str| s.split_whitespace().map(|w| if w == "core" { String::new() } else { w.into() }).collect();
        Rule {
            verbs: list(verbs),
            groups: list(groups),
            resources: list(resources),
            names: list(names),
            paths: list(paths),
        }
    }

    fn pods<'a>(subresource: &'a str, name: &'a str) -> Target<'a> {
        Target::Resource { group: "", version: "v1", resource: "pods", subresource, namespace: "a", name, fields: None }
    }

    #[test]
    fn rules_match() {
        for (rule, verb, target, expected) in [
            (rule("get", "core", "pods", "", ""), "get", pods("", "x"), true),
            (rule("get", "core", "pods", "", ""), "list", pods("", ""), false),
            (rule("get", "core", "pods", "", ""), "get", pods("log", "x"), false),
            (rule("get", "core", "pods/log", "", ""), "get", pods("log", "x"), true),
            (rule("get", "core", "*/log", "", ""), "get", pods("log", "x"), true),
            (rule("*", "*", "*", "", ""), "get", pods("log", "x"), true),
            (rule("get", "apps", "pods", "", ""), "get", pods("", "x"), false),
            (rule("get", "core", "pods", "x", ""), "get", pods("", "y"), false),
            (rule("get", "core", "pods", "x", ""), "get", pods("", "x"), true),
            (rule("get", "core", "pods", "", ""), "get", Target::Path("/version"), false),
            (rule("get", "", "", "", "/api/*"), "get", Target::Path("/api/v1"), true),
            (rule("get", "", "", "", "/api/*"), "get", Target::Path("/apis"), false),
        ] {
            assert_eq!(rule.allows(verb, &target), expected, "{rule:?} {verb} {target:?}");
        }
    }

    #[test]
    fn covering() {
        for (have, want, expected) in [
            (rule("*", "*", "*", "", ""), rule("get", "core", "pods", "", ""), true),
            (rule("get", "core", "pods", "", ""), rule("get", "core", "pods", "x", ""), true),
            (rule("get", "core", "pods", "x", ""), rule("get", "core", "pods", "", ""), false),
            (rule("get", "core", "*/scale", "", ""), rule("get", "core", "pods/scale", "", ""), true),
            (rule("get", "core", "pods", "", ""), rule("*", "core", "pods", "", ""), false),
            (rule("get", "", "", "", "/a*"), rule("get", "", "", "", "/ab"), true),
        ] {
            assert_eq!(have.covers(&want), expected, "{have:?} {want:?}");
        }
    }
}
