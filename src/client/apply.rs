//! Client-side apply: three versions of an object — what was applied last, what is wanted, what there is — become one patch.
//!
//! The last applied version is kept in an annotation, so that what a person takes out of a manifest is taken out of the
//! object, and what others wrote stays. Built-in kinds are patched with Kubernetes' strategic patch, for which the server's
//! OpenAPI says how lists merge; kinds that do not offer it with a merge patch.
//!
//! What never lives here: reading files, printing, deciding what to apply.
//!
//! Source: apimachinery `util/strategicpatch` (`CreateThreeWayMergePatch`) and `util/jsonmergepatch`, kubectl `pkg/cmd/apply`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::{Client, Error, Patch, Result, WriteParams};

/// Where the last applied version is kept.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Tries of one apply against writers that change the object between reading and patching.
const TRIES_MAX: u32 = 5;

/// How the lists and maps of kinds merge: the OpenAPI documents of the group versions that were asked for, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Schemas {
    /// Definition name → schema.
    definitions: HashMap<String, Value>,
    /// `group/version/kind` → definition name.
    kinds: HashMap<String, String>,
    /// Group versions that were read.
    known: Vec<String>,
}

impl Schemas {
    /// Reads the document of a group version, once. A server without it leaves the kinds of that group version unknown.
    pub async fn learn(&mut self, client: &Client, api_version: &str) -> Result<()> {
        if self.known.iter().any(|k| k == api_version) {
            return Ok(());
        }
        let root = if api_version.contains('/') { "apis" } else { "api" };
        let document: Value = match client.get_path(&format!("/openapi/v3/{root}/{api_version}")).await {
            Ok(document) => document,
            Err(error) if error.is_not_found() => Value::Null,
            Err(error) => return Err(error),
        };
        self.add(api_version, document);
        Ok(())
    }

    /// Takes a document in. Only kinds whose PATCH takes a strategic patch become known.
    pub fn add(&mut self, api_version: &str, mut document: Value) {
        self.known.push(api_version.to_owned());
        let mut strategic: Vec<String> = Vec::new();
        for path in document.get("paths").and_then(Value::as_object).into_iter().flat_map(Map::values) {
            let Some(patch) = path.get("patch") else { continue };
            let takes = patch
                .pointer("/requestBody/content")
                .is_some_and(|c| c.get("application/strategic-merge-patch+json").is_some());
            if takes && let Some(kind) = patch.get("x-kubernetes-group-version-kind") {
                strategic.push(kind_key(kind));
            }
        }
        let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas").map(Value::take) else {
            return;
        };
        for (name, schema) in schemas {
            for kind in schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array).into_iter().flatten() {
                let key = kind_key(kind);
                if strategic.contains(&key) {
                    self.kinds.insert(key, name.clone());
                }
            }
            self.definitions.insert(name, schema);
        }
    }

    /// The schema of a kind that takes strategic patches.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<Schema<'_>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let name = self.kinds.get(&format!("{group}/{version}/{kind}"))?;
        Some(Schema { all: self, node: self.definitions.get(name) })
    }
}

fn kind_key(kind: &Value) -> String {
    let text = |key| kind.get(key).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}/{}", text("group"), text("version"), text("kind"))
}

/// A place in a kind's schema; unknown places merge as plain maps and replace lists.
#[derive(Debug, Clone, Copy)]
pub struct Schema<'a> {
    all: &'a Schemas,
    node: Option<&'a Value>,
}

/// How a field is merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Strategy<'a> {
    merge: bool,
    replace: bool,
    retain_keys: bool,
    key: Option<&'a str>,
}

impl<'a> Schema<'a> {
    fn resolve(&self, node: Option<&'a Value>) -> Option<&'a Value> {
        let mut node = node?;
        // A reference leads to a definition, which is none itself; the bound ends a cycle in a broken document.
        for _ in 0..8 {
            let target = node.get("$ref").or_else(|| node.pointer("/allOf/0/$ref"));
            let Some(name) = target.and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) else { break };
            node = self.all.definitions.get(name)?;
        }
        Some(node)
    }

    fn field(&self, name: &str) -> (Self, Strategy<'a>) {
        let object = self.resolve(self.node);
        let property = object.and_then(|o| o.get("properties")?.get(name).or_else(|| o.get("additionalProperties")));
        let mut strategy = Strategy::default();
        if let Some(property) = property {
            let text = |key: &str| property.get(key).and_then(Value::as_str);
            for word in text("x-kubernetes-patch-strategy").unwrap_or_default().split(',') {
                match word.trim() {
                    "merge" => strategy.merge = true,
                    "replace" => strategy.replace = true,
                    "retainKeys" => strategy.retain_keys = true,
                    _ => {}
                }
            }
            strategy.key = text("x-kubernetes-patch-merge-key");
        }
        (Self { all: self.all, node: property }, strategy)
    }

    fn items(&self) -> Self {
        Self { all: self.all, node: self.resolve(self.node).and_then(|n| n.get("items")) }
    }
}

/// What a comparison is to bring out.
#[derive(Debug, Clone, Copy)]
struct Want {
    changes: bool,
    deletions: bool,
    retain_keys: bool,
}

/// The strategic patch that turns `current` into what `modified` says, and takes out what only `original` said.
pub fn strategic(original: &Value, modified: &Value, current: &Value, schema: Schema<'_>) -> Value {
    let (empty, none) = (Map::new(), Map::new());
    let map = |v: &'_ Value, e| v.as_object().cloned().unwrap_or_else(|| Map::clone(e));
    let (original, modified, current) = (map(original, &empty), map(modified, &empty), map(current, &none));
    let changes = Want { changes: true, deletions: false, retain_keys: false };
    let deletions = Want { changes: false, deletions: true, retain_keys: false };
    let delta = diff_maps(&current, &modified, schema, changes);
    let mut patch = diff_maps(&original, &modified, schema, deletions);
    overlay(&mut patch, delta, schema);
    Value::Object(patch)
}

fn diff_maps(from: &Map<String, Value>, to: &Map<String, Value>, schema: Schema<'_>, want: Want) -> Map<String, Value> {
    let mut patch = Map::new();
    for (name, new) in to {
        let (below, strategy) = schema.field(name);
        match (from.get(name), new) {
            (None, new) => {
                if want.changes {
                    patch.insert(name.clone(), new.clone());
                }
            }
            (Some(Value::Object(old)), Value::Object(new)) if !strategy.replace => {
                let want = Want { retain_keys: strategy.retain_keys, ..want };
                let sub = diff_maps(old, new, below, want);
                if !sub.is_empty() {
                    patch.insert(name.clone(), Value::Object(sub));
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) if strategy.merge => {
                let want = Want { retain_keys: strategy.retain_keys, ..want };
                diff_lists(&mut patch, name, old, new, below, strategy, want);
            }
            (Some(old), new) => {
                if want.changes && !same(old, new) {
                    patch.insert(name.clone(), new.clone());
                }
            }
        }
    }
    if want.deletions {
        for name in from.keys().filter(|n| !to.contains_key(*n)) {
            patch.insert(name.clone(), Value::Null);
        }
    }
    let lost = || from.iter().any(|(name, old)| !old.is_null() && !to.contains_key(name));
    if want.retain_keys && !to.is_empty() && (!patch.is_empty() || lost()) {
        patch.insert("$retainKeys".into(), to.keys().cloned().collect());
    }
    patch
}

fn diff_lists(
    patch: &mut Map<String, Value>,
    name: &str,
    old: &[Value],
    new: &[Value],
    schema: Schema<'_>,
    strategy: Strategy<'_>,
    want: Want,
) {
    if old.is_empty() {
        if !new.is_empty() && want.changes {
            patch.insert(name.to_owned(), new.into());
        }
        return;
    }
    let order = format!("$setElementOrder/{name}");
    match strategy.key {
        Some(key) if old.iter().chain(new).all(|item| item.get(key).is_some()) => {
            let items = schema.items();
            let find = |list: &'_ [Value], value: &Value| -> Option<usize> {
                list.iter().position(|item| same(&item[key], value))
            };
            let mut list = Vec::new();
            for item in new {
                match find(old, &item[key]).and_then(|at| old[at].as_object()) {
                    Some(before) => {
                        let Some(after) = item.as_object() else { continue };
                        let mut sub = diff_maps(before, after, items, want);
                        if !sub.is_empty() {
                            sub.insert(key.to_owned(), item[key].clone());
                            list.push(Value::Object(sub));
                        }
                    }
                    None => {
                        if want.changes {
                            list.push(item.clone());
                        }
                    }
                }
            }
            if want.deletions {
                for item in old.iter().filter(|item| find(new, &item[key]).is_none()) {
                    list.push(json!({key: item[key], "$patch": "delete"}));
                }
            }
            let in_order = old.len() == new.len() && old.iter().zip(new).all(|(a, b)| same(&a[key], &b[key]));
            if (want.changes && (!list.is_empty() || !in_order)) || (want.deletions && !list.is_empty()) {
                patch.insert(order, new.iter().map(|item| json!({key: item[key]})).collect());
            }
            if !list.is_empty() {
                patch.insert(name.to_owned(), Value::Array(list));
            }
        }
        // Items without their key cannot be told apart.
        Some(_) => {
            if want.changes && old != new {
                patch.insert(name.to_owned(), new.into());
            }
        }
        None => {
            let added: Vec<Value> = new.iter().filter(|item| !old.contains(item)).cloned().collect();
            let removed: Vec<Value> = old.iter().filter(|item| !new.contains(item)).cloned().collect();
            if (want.deletions && !removed.is_empty()) || (want.changes && old != new) {
                patch.insert(order, new.into());
            }
            if want.changes && !added.is_empty() {
                patch.insert(name.to_owned(), added.into());
            }
            if want.deletions && !removed.is_empty() {
                patch.insert(format!("$deleteFromPrimitiveList/{name}"), removed.into());
            }
        }
    }
}

/// Lays the changes over the deletions; the lists of both hold different directives about maybe the same items.
fn overlay(base: &mut Map<String, Value>, over: Map<String, Value>, schema: Schema<'_>) {
    for (name, value) in over {
        let (below, strategy) = schema.field(&name);
        match (base.get_mut(&name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => overlay(old, new, below),
            (Some(Value::Array(old)), Value::Array(new)) if strategy.merge && !name.starts_with('$') => {
                let items = below.items();
                for item in new {
                    let twin = strategy.key.and_then(|key| {
                        old.iter_mut().find(|o| o.get("$patch").is_none() && same(&o[key], &item[key]))
                    });
                    match (twin, item) {
                        (Some(Value::Object(twin)), Value::Object(item)) => overlay(twin, item, items),
                        (_, item) => old.push(item),
                    }
                }
            }
            (_, value) => {
                base.insert(name, value);
            }
        }
    }
}

/// Equal, with 1 and 1.0 the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        _ => a == b,
    }
}

/// The merge patch (RFC 7386) for kinds without a strategic one; lists are replaced whole.
pub fn merge(original: &Value, modified: &Value, current: &Value) -> Value {
    let mut patch = Map::new();
    changed(current, modified, &mut patch);
    removed(original, modified, &mut patch);
    Value::Object(patch)
}

fn changed(current: &Value, modified: &Value, patch: &mut Map<String, Value>) {
    for (name, new) in modified.as_object().into_iter().flatten() {
        match (current.get(name), new) {
            (_, Value::Null) => {}
            (Some(old @ Value::Object(_)), new @ Value::Object(_)) => {
                let mut sub = Map::new();
                changed(old, new, &mut sub);
                if !sub.is_empty() {
                    patch.insert(name.clone(), Value::Object(sub));
                }
            }
            (Some(old), new) if same(old, new) => {}
            (_, new) => {
                patch.insert(name.clone(), new.clone());
            }
        }
    }
}

fn removed(original: &Value, modified: &Value, patch: &mut Map<String, Value>) {
    for (name, old) in original.as_object().into_iter().flatten() {
        match (old, modified.get(name)) {
            (_, None) => {
                patch.insert(name.clone(), Value::Null);
            }
            (Value::Object(_), Some(new @ Value::Object(_))) => {
                // Laid into what changed below the same name.
                let mut below = match patch.remove(name) {
                    Some(Value::Object(below)) => below,
                    Some(whole) => {
                        patch.insert(name.clone(), whole);
                        continue;
                    }
                    None => Map::new(),
                };
                removed(old, new, &mut below);
                if !below.is_empty() {
                    patch.insert(name.clone(), Value::Object(below));
                }
            }
            _ => {}
        }
    }
}

/// The object with itself (less the annotation) in the annotation, as every apply sends it.
pub fn annotated(object: &Value) -> Value {
    let mut object = object.clone();
    if object.get("metadata").is_none_or(|m| !m.is_object()) {
        object["metadata"] = json!({});
    }
    let annotations = &mut object["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    if let Some(map) = annotations.as_object_mut() {
        map.remove(LAST_APPLIED);
    }
    // With the empty map in it, as kubectl writes it; the line end is its encoder's.
    let text = format!("{}\n", escape_html(&object.to_string()));
    object["metadata"]["annotations"][LAST_APPLIED] = text.into();
    object
}

/// As Go's encoder does, so that the annotation is the same text whoever applied; these never stand outside of JSON strings.
///
/// Source: Go `encoding/json` `HTMLEscape`.
pub fn escape_html(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

/// What an apply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Configured,
    Unchanged,
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged => "unchanged",
        }
    }
}

/// The result of [`apply`].
#[derive(Debug, Clone)]
pub struct Applied {
    pub outcome: Outcome,
    /// As the server has it now.
    pub object: Value,
    /// It had not been made by an apply: what is taken out of the manifest was not taken out this once.
    pub was_foreign: bool,
}

/// Applies one object: creates it, or patches what differs. `object` names its kind; `collection` is its kind's path in its
/// namespace, `name` its name.
///
/// Learns the merge rules of the kind's group version first, if `schemas` lacks them. Asked twice, the second time changes
/// nothing.
///
/// # Errors
/// The API's; a conflict only after [`TRIES_MAX`] tries.
pub async fn apply(
    client: &Client,
    schemas: &mut Schemas,
    collection: &str,
    name: &str,
    object: &Value,
    params: &WriteParams,
) -> Result<Applied> {
    let path = crate::api::object_path(collection, name, "");
    let modified = annotated(object);
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut tries = 0;
    loop {
        tries += 1;
        let current: Value = match client.get_path(&path).await {
            Ok(current) => current,
            Err(error) if error.is_not_found() => {
                match client.create_path(collection, &modified, params).await {
                    Ok(object) => return Ok(Applied { outcome: Outcome::Created, object, was_foreign: false }),
                    // Someone was faster: patch theirs.
                    Err(error) if error.is_already_exists() && tries < TRIES_MAX => continue,
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        schemas.learn(client, text("apiVersion")).await?;
        let last = current["metadata"]["annotations"].get(LAST_APPLIED).and_then(Value::as_str);
        let original = last.and_then(|t| serde_json::from_str(t).ok()).unwrap_or(Value::Null);
        let schema = schemas.kind(text("apiVersion"), text("kind"));
        let patch = match schema {
            Some(schema) => strategic(&original, &modified, &current, schema),
            None => merge(&original, &modified, &current),
        };
        let was_foreign = last.is_none();
        if patch.as_object().is_some_and(Map::is_empty) {
            return Ok(Applied { outcome: Outcome::Unchanged, object: current, was_foreign });
        }
        let is_strategic = schema.is_some();
        let patch = if is_strategic { Patch::Strategic(&patch) } else { Patch::Merge(&patch) };
        match client.patch_path(&path, patch, params).await {
            Ok(object) => return Ok(Applied { outcome: Outcome::Configured, object, was_foreign }),
            Err(error) if (error.is_conflict() || gone_again(&error)) && tries < TRIES_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

/// Deleted between reading and patching.
fn gone_again(error: &Error) -> bool {
    error.is_not_found()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of a Deployment, as far as merging goes.
    fn schemas() -> Schemas {
        let mut schemas = Schemas::default();
        let container = json!({"properties": {
            "name": {"type": "string"}, "image": {"type": "string"},
            "args": {"type": "array", "items": {"type": "string"}},
            "env": {"type": "array", "items": {"$ref": "#/components/schemas/Env"},
                    "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name"},
            "ports": {"type": "array", "items": {"type": "object"},
                    "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "containerPort"},
        }});
        schemas.add(
            "apps/v1",
            json!({
                "paths": {"/d": {"patch": {
                    "x-kubernetes-group-version-kind": {"group": "apps", "version": "v1", "kind": "D"},
                    "requestBody": {"content": {"application/strategic-merge-patch+json": {}}}}}},
                "components": {"schemas": {
                    "D": {"x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "D"}],
                          "properties": {
                            "metadata": {"properties": {"finalizers": {"type": "array", "items": {"type": "string"},
                                         "x-kubernetes-patch-strategy": "merge"}}},
                            "spec": {"allOf": [{"$ref": "#/components/schemas/Spec"}]}}},
                    "Spec": {"properties": {
                        "strategy": {"properties": {}, "x-kubernetes-patch-strategy": "retainKeys"},
                        "containers": {"type": "array", "items": {"$ref": "#/components/schemas/Container"},
                            "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name"},
                        "atomic": {"type": "array", "items": {"type": "string"}}}},
                    "Container": container,
                    "Env": {"properties": {"name": {}, "value": {}}},
                }},
            }),
        );
        schemas
    }

    fn patch(original: Value, modified: Value, current: Value) -> Value {
        let schemas = schemas();
        strategic(&original, &modified, &current, schemas.kind("apps/v1", "D").unwrap())
    }

    #[test]
    fn three_versions_become_one_patch() {
        let spec = |v: Value| json!({"spec": v});
        let rows: Vec<(&str, Value, Value, Value, Value)> = vec![
            (
                "nothing to do",
                json!({"replicas": 1}),
                json!({"replicas": 1}),
                json!({"replicas": 1, "x": 2}),
                json!({}),
            ),
            (
                "a change",
                json!({"replicas": 1}),
                json!({"replicas": 2}),
                json!({"replicas": 1}),
                json!({"spec": {"replicas": 2}}),
            ),
            (
                "a change back",
                json!({"replicas": 1}),
                json!({"replicas": 1}),
                json!({"replicas": 5}),
                json!({"spec": {"replicas": 1}}),
            ),
            (
                "a removal",
                json!({"replicas": 1, "paused": true}),
                json!({"replicas": 1}),
                json!({"replicas": 1, "paused": true}),
                json!({"spec": {"paused": null}}),
            ),
            ("others' fields stay", json!({}), json!({}), json!({"paused": true}), json!({})),
            (
                "an image",
                json!({"containers": [{"name": "a", "image": "1"}]}),
                json!({"containers": [{"name": "a", "image": "2"}]}),
                json!({"containers": [{"name": "a", "image": "1", "pull": "x"}]}),
                json!({"spec": {"$setElementOrder/containers": [{"name": "a"}],
                    "containers": [{"name": "a", "image": "2"}]}}),
            ),
            (
                "an item less",
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"name": "a"}]}),
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"spec": {"$setElementOrder/containers": [{"name": "a"}],
                    "containers": [{"name": "b", "$patch": "delete"}]}}),
            ),
            (
                "nested lists",
                json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}]}]}),
                json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}]}]}),
                json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}]}]}),
                json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a",
                    "$setElementOrder/env": [{"name": "X"}],
                    "env": [{"name": "Y", "$patch": "delete"}, {"name": "X", "value": "2"}]}]}}),
            ),
            (
                "atomic lists",
                json!({"atomic": ["a"]}),
                json!({"atomic": ["b"]}),
                json!({"atomic": ["a"]}),
                json!({"spec": {"atomic": ["b"]}}),
            ),
            (
                "retain keys",
                json!({"strategy": {"type": "RollingUpdate"}}),
                json!({"strategy": {"type": "Recreate"}}),
                json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}),
                json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            ),
            (
                "a list that was not there",
                json!({}),
                json!({"containers": [{"name": "a"}]}),
                json!({}),
                json!({"spec": {"containers": [{"name": "a"}]}}),
            ),
        ];
        for (name, original, modified, current, expected) in rows {
            assert_eq!(patch(spec(original), spec(modified), spec(current)), expected, "{name}");
        }
    }

    #[test]
    fn lists_of_scalars_merge() {
        let meta = |list: Value| json!({"metadata": {"finalizers": list}});
        assert_eq!(
            patch(meta(json!(["a", "b"])), meta(json!(["a", "c"])), meta(json!(["a", "b", "x"]))),
            json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["b"],
                   "$setElementOrder/finalizers": ["a", "c"]}})
        );
    }

    #[test]
    fn without_a_schema_a_merge_patch_is_made() {
        let patch = merge(
            &json!({"spec": {"a": 1, "b": {"c": 1, "d": 2}}}),
            &json!({"spec": {"b": {"c": 2}, "list": [1]}}),
            &json!({"spec": {"a": 1, "b": {"c": 1, "d": 2, "theirs": 3}, "list": [1, 2]}}),
        );
        assert_eq!(patch, json!({"spec": {"a": null, "b": {"c": 2, "d": null}, "list": [1]}}));
        assert_eq!(merge(&json!({"a": 1}), &json!({"a": 1}), &json!({"a": 1, "b": 2})), json!({}));
    }

    #[test]
    fn the_annotation_holds_the_rest() {
        let object = annotated(&json!({"a": "<", "kind": "X", "metadata": {"name": "a"}}));
        assert_eq!(
            object["metadata"]["annotations"][LAST_APPLIED],
            "{\"a\":\"\\u003c\",\"kind\":\"X\",\"metadata\":{\"annotations\":{},\"name\":\"a\"}}\n"
        );
        assert_eq!(annotated(&object), object, "applying what was got changes nothing");
    }

    #[tokio::test]
    async fn applied_twice_nothing_changes() {
        let fake = crate::fake::Fake::new(crate::Clock::system());
        let client = fake.client();
        let mut schemas = Schemas::default();
        let path = "/api/v1/namespaces/d/configmaps";
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "d"},
                                "data": {"x": "1", "y": "1"}});
        let mut outcomes = Vec::new();
        for step in 0..3 {
            if step == 2 {
                object["data"] = json!({"x": "2"});
            }
            let done = apply(&client, &mut schemas, path, "a", &object, &WriteParams::default()).await.unwrap();
            outcomes.push((done.outcome, done.object["data"].clone()));
        }
        let both = json!({"x": "1", "y": "1"});
        assert_eq!(
            outcomes,
            [(Outcome::Created, both.clone()), (Outcome::Unchanged, both), (Outcome::Configured, json!({"x": "2"}))]
        );
    }
}
