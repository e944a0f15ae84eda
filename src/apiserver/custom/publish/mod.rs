//! Custom kinds in the OpenAPI documents: which documents there are, their hashes, and their definitions.
//!
//! Everything is made for a request and dropped when sent, but for the hashes: of a kind once while its definition stays as it
//! is, of the documents once for each state of the kinds. A server that nobody asks makes nothing.
//!
//! Source: apiextensions-apiserver `pkg/controller/openapi{,v3}/controller.go`, `pkg/controller/openapi/builder`.

mod schema;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha512};
use types::registry::Kind;

use super::{Custom, Served, of};
use crate::aggregator::{Definitions, Registered, Told};
use crate::schema::openapi::{self, Added, Document};
use crate::schema::paths;
use schema::{Form, Native, published};

/// The group and version whose built-in document has all that custom kinds refer to.
const COMMON: (&str, &str) = ("autoscaling", "v1");
const COMMON_PATH: &str = "apis/autoscaling/v1";

/// The documents of custom kinds by their paths, each with its hash.
pub type Hashes = [(String, String)];

/// `/openapi/v3`.
pub fn v3_index(served: &Served, registered: &Registered) -> Document {
    let own = served.published().iter().map(|(path, hash)| (path.clone(), openapi::v3_url(path, hash)));
    let told = registered.remotes().flat_map(|(_, remote)| {
        let told = remote.link.told.load();
        let converted = only_v2(&told).map(|v2| {
            let path = remote.link.root().trim_start_matches('/');
            (path.to_owned(), openapi::v3_url(path, &openapi::v3_of_v2_hash(v2)))
        });
        told.v3.iter().cloned().chain(converted).collect::<Vec<_>>()
    });
    openapi::v3_index(&own.chain(told).collect::<Vec<_>>())
}

/// What a server has told that publishes the older documents only, and has some.
fn only_v2(told: &Told) -> Option<&Definitions> {
    told.v2.as_ref().filter(|v2| told.v3.is_empty() && !v2.paths.is_empty())
}

/// What the server at that path has told, when it publishes the older documents only.
fn told_at(registered: &Registered, path: &str) -> Option<Arc<Told>> {
    let (_, remote) = registered.remotes().find(|(_, remote)| remote.link.root().trim_start_matches('/') == path)?;
    Some(remote.link.told.load_full()).filter(|told| only_v2(told).is_some())
}

/// The hash of `/openapi/v3/<path>`; `None` when there is no such document.
pub fn v3_hash(served: &Served, registered: &Registered, path: &str) -> Option<String> {
    let own = || served.published().iter().find(|(p, _)| p == path).map(|(_, hash)| hash.clone());
    let told = || told_at(registered, path).as_deref().and_then(only_v2).map(openapi::v3_of_v2_hash);
    openapi::v3_hash(path).or_else(own).or_else(told)
}

/// `/openapi/v3/<path>`.
pub fn v3(served: &Served, registered: &Registered, path: &str) -> Option<Document> {
    if let Some(document) = openapi::v3(path) {
        return Some(document);
    }
    let Some(hash) = served.published().iter().find(|(p, _)| p == path).map(|(_, hash)| hash.clone()) else {
        return told_at(registered, path).as_deref().and_then(only_v2).map(openapi::v3_of_v2);
    };
    let (group, version) = path.strip_prefix("apis/")?.split_once('/')?;
    let kinds: Vec<(&Kind, &Custom)> =
        customs(served).filter(|(kind, _)| kind.group == group && kind.version == version).collect();
    let common = openapi::definitions(COMMON.0, COMMON.1)?;
    let native = Native::of(&common, Form::V3);
    let mut schemas = Map::new();
    for (kind, custom) in &kinds {
        schemas.extend(definitions(kind, custom, &native));
    }
    let paths = paths::custom(&listed(&kinds), false);
    let scaled = kinds.iter().any(|(kind, _)| kind.subresource("scale").is_some());
    let scale = scaled.then(|| paths::model_name_of("autoscaling", "v1", "Scale")).flatten();
    for name in paths::REFERRED.iter().copied().chain(scale) {
        take(name, &common, &mut schemas);
    }
    Some(openapi::document(hash, &paths, |out| out.extend_from_slice(Value::Object(schemas).to_string().as_bytes())))
}

/// Takes over a definition and what it refers to.
fn take(name: &str, common: &Map<String, Value>, into: &mut Map<String, Value>) {
    let Some(definition) = common.get(name).filter(|_| !into.contains_key(name)) else { return };
    into.insert(name.to_owned(), definition.clone());
    refer(definition, common, into);
}

fn refer(value: &Value, common: &Map<String, Value>, into: &mut Map<String, Value>) {
    match value {
        Value::Object(members) => {
            if let Some(name) = members.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) {
                take(name, common, into);
            }
            members.values().for_each(|value| refer(value, common, into));
        }
        Value::Array(items) => items.iter().for_each(|value| refer(value, common, into)),
        _ => {}
    }
}

/// The hash of `/openapi/v2`, of both its forms.
pub fn v2_hash(served: &Served, registered: &Registered) -> String {
    let told = told(registered);
    if told.is_empty() {
        return openapi::v2_hash(served.published());
    }
    let hashes = told.iter().filter_map(|told| told.v2.as_ref()).map(|v2| (String::new(), v2.hash.clone()));
    openapi::v2_hash(&served.published().iter().cloned().chain(hashes).collect::<Vec<_>>())
}

/// What aggregated servers have told of what they serve.
fn told(registered: &Registered) -> Vec<Arc<Told>> {
    registered.remotes().map(|(_, remote)| remote.link.told.load_full()).filter(|told| told.v2.is_some()).collect()
}

/// What custom kinds and aggregated servers add to `/openapi/v2`.
pub fn v2(served: &Served, registered: &Registered) -> Added {
    let mut added = Added { told: told(registered), ..Added::default() };
    if served.published().is_empty() {
        return added;
    }
    let Some(common) = openapi::definitions(COMMON.0, COMMON.1) else { return added };
    let native = Native::of(&common, Form::V2);
    for (kind, custom) in published_customs(served) {
        // One after the other: a tree of all of them would take megabytes.
        for (name, definition) in definitions(kind, custom, &native) {
            openapi::push_member(&mut added.definitions, &name, &definition);
        }
    }
    let kinds: Vec<(&Kind, &Custom)> = published_customs(served).collect();
    added.paths = paths::custom(&listed(&kinds), true);
    added
}

fn customs(served: &Served) -> impl Iterator<Item = (&Kind, &Custom)> {
    served.custom().filter_map(|kind| of(kind).map(|custom| (kind, custom)))
}

/// Kinds in a group and version that is built in are not published: the document there is the built-in kinds'.
fn published_customs(served: &Served) -> impl Iterator<Item = (&Kind, &Custom)> {
    customs(served).filter(|(kind, _)| openapi::v3_hash(&path(kind)).is_none())
}

fn path(kind: &Kind) -> String {
    format!("apis/{}/{}", kind.group, kind.version)
}

fn listed<'k>(kinds: &[(&'k Kind, &'k Custom)]) -> Vec<(&'k Kind, &'k str)> {
    kinds.iter().map(|(kind, custom)| (*kind, &*custom.definition().accepted.list_kind)).collect()
}

/// The documents of these kinds with their hashes, in order.
pub fn hashes(served: &Served) -> Vec<(String, String)> {
    let mut found: Vec<(String, Sha512)> = Vec::new();
    let common = openapi::v3_hash(COMMON_PATH).unwrap_or_default();
    for (kind, custom) in published_customs(served) {
        let path = path(kind);
        // Kinds of one group and version are neighbours.
        if found.last().is_none_or(|(last, _)| *last != path) {
            found.push((path, Sha512::new_with_prefix(&common)));
        }
        if let Some((_, hasher)) = found.last_mut() {
            hasher.update(custom.digest.get_or_init(|| digest(kind, custom)));
        }
    }
    found.into_iter().map(|(path, hasher)| (path, openapi::hexadecimal(&hasher.finalize()))).collect()
}

/// Changes with whatever the documents say of the kind, and with the program that writes them.
fn digest(kind: &Kind, custom: &Custom) -> [u8; 64] {
    let definition = custom.definition();
    let said = json!([
        env!("CARGO_PKG_VERSION"),
        kind.group,
        kind.version,
        kind.kind,
        kind.plural,
        definition.accepted.list_kind,
        definition.namespaced,
        definition.preserve_unknown_fields,
        kind.subresources.iter().map(|sub| &*sub.name).collect::<Vec<_>>(),
        custom.version().selectable,
    ]);
    Sha512::new_with_prefix(said.to_string()).chain_update(&custom.version().schema).finalize().into()
}

/// The definitions of a kind and of its list.
fn definitions(kind: &Kind, custom: &Custom, native: &Native) -> [(String, Value); 2] {
    let list_kind = &*custom.definition().accepted.list_kind;
    let name = |kind_name: &str| paths::model_name(&kind.group, &kind.version, kind_name);
    let schema: Value = serde_json::from_slice(&custom.version().schema).unwrap_or_default();
    let mut own = published(&schema, custom.definition().preserve_unknown_fields, native);
    let mut list = native.list(&name(&kind.kind), &kind.kind, list_kind, &kind.plural);
    for (definition, kind_name) in [(&mut own, &*kind.kind), (&mut list, list_kind)] {
        definition["x-kubernetes-group-version-kind"] =
            json!([{"group": kind.group, "version": kind.version, "kind": kind_name}]);
        if !kind.selectable_fields.is_empty() {
            let fields: Vec<Value> = kind.selectable_fields.iter().map(|f| json!({"fieldPath": f})).collect();
            definition["x-kubernetes-selectable-fields"] = Value::Array(fields);
        }
    }
    [(name(&kind.kind), own), (name(list_kind), list)]
}
