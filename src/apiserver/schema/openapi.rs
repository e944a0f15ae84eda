//! The OpenAPI documents: made for a request from compressed definitions and the kind registry, and dropped when sent.
//! Only their hashes are kept. What custom kinds add to them comes from `custom::publish`.
//!
//! Source: kube-openapi `pkg/handler3`, `pkg/builder3`; apiserver `pkg/endpoints/installer.go`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};
use types::registry::BUILT_IN;

use super::{convert, paths};
use crate::aggregator::{Definitions, Told};

/// Which of all definitions, by their places in the order of names, one group and version speaks of.
pub struct Components {
    group: &'static str,
    version: &'static str,
    definitions: &'static [u16],
}

include!(concat!(env!("OUT_DIR"), "/openapi.rs"));

const REF: &str = "#/components/schemas/";

/// A document and what HTTP caching needs to know about it.
#[derive(Debug, Clone)]
pub struct Document {
    pub body: Bytes,
    /// Upper-case hexadecimal SHA-512, stable as long as the contents are; the `ETag` is this in quotes.
    pub hash: String,
}

/// What is added to `/openapi/v2`.
#[derive(Debug, Default)]
pub struct Added {
    /// Members of JSON objects, without the braces around them.
    pub paths: String,
    pub definitions: String,
    /// What aggregated servers have told; what is there already stays as it is.
    pub told: Vec<Arc<Told>>,
}

/// Writes one more member of a JSON object.
pub fn push_member(members: &mut String, name: &str, value: &Value) {
    if !members.is_empty() {
        members.push(',');
    }
    members.push_str(&Value::String(name.to_owned()).to_string());
    members.push(':');
    members.push_str(&value.to_string());
}

/// Where a document of v3 with this hash is.
pub fn v3_url(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

/// The hash of the document that [`v3_of_v2`] makes of these.
pub fn v3_of_v2_hash(v2: &Definitions) -> String {
    hash(&[env!("CARGO_PKG_VERSION").as_bytes(), v2.hash.as_bytes()])
}

/// A document of v3 made of a part of one of v2.
pub fn v3_of_v2(v2: &Definitions) -> Document {
    let members = |all: &[(String, String)], made: fn(&Value) -> Value| {
        let mut members = String::new();
        for (name, text) in all {
            push_member(&mut members, name, &made(&serde_json::from_str(text).unwrap_or_default()));
        }
        members
    };
    let (paths, schemas) = (members(&v2.paths, convert::path), members(&v2.definitions, convert::schema));
    let info = if v2.info.is_empty() { r#"{"title":"","version":""}"# } else { v2.info.as_str() };
    let components = format!(r#""components":{{"schemas":{{{schemas}}}}}"#);
    let body = format!(r#"{{"openapi":"3.0.0","info":{info},"paths":{{{paths}}},{components}}}"#);
    Document { body: Bytes::from(body), hash: v3_of_v2_hash(v2) }
}

/// `/openapi/v3`: the paths of the documents, and where they are; `more` are those that are not built in, with their places.
pub fn v3_index(more: &[(String, String)]) -> Document {
    let place = |(path, url): (String, String)| (path, json!({"serverRelativeURL": url}));
    let own = hashes().iter().map(|(path, hash)| (path.clone(), v3_url(path, hash)));
    let paths: Map<String, Value> = own.chain(more.iter().cloned()).map(place).collect();
    let body = json!({"paths": paths}).to_string();
    Document { hash: hash(&[body.as_bytes()]), body: Bytes::from(body) }
}

/// The hash of one document of `/openapi/v3/<path>`, e.g. `apis/apps/v1`; for `304` and redirects without making it.
pub fn v3_hash(path: &str) -> Option<String> {
    hashes().iter().find(|(p, _)| p == path).map(|(_, hash)| hash.clone())
}

/// One document of `/openapi/v3/<path>`.
pub fn v3(path: &str) -> Option<Document> {
    let hash = v3_hash(path)?;
    let (paths, components) = parts(path)?;
    Some(document(hash, &paths, |body| match components {
        Some(components) => components.write(body),
        None => body.extend_from_slice(b"{}"),
    }))
}

/// A document of v3 with these paths and with the definitions that `schemas` writes.
pub fn document(hash: String, paths: &str, schemas: impl FnOnce(&mut Vec<u8>)) -> Document {
    let mut body = Vec::with_capacity(paths.len() + 256);
    body.extend_from_slice(br#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":"v1.36"},"paths":{"#);
    body.extend_from_slice(paths.as_bytes());
    body.extend_from_slice(br#"},"components":{"schemas":"#);
    schemas(&mut body);
    body.extend_from_slice(
        br#","securitySchemes":{"BearerToken":{"type":"apiKey","description":"Bearer Token authentication","name":"authorization","in":"header"}}}}"#,
    );
    Document { body: Bytes::from(body), hash }
}

/// The definitions of one built-in group and version, as v3 has them.
pub fn definitions(group: &str, version: &str) -> Option<Map<String, Value>> {
    let components = COMPONENTS.iter().find(|c| c.group == group && c.version == version)?;
    let mut text = Vec::new();
    components.write(&mut text);
    serde_json::from_slice(&text).ok()
}

/// The hash of `/openapi/v2`, of both its forms; for `304` without making it. `more` are the documents of v3 that are not
/// built in: with one of them, this one changes.
pub fn v2_hash(more: &[(String, String)]) -> String {
    static HASH: OnceLock<String> = OnceLock::new();
    let own = HASH.get_or_init(|| hash(&[DEFLATED, v2_paths().as_bytes()]));
    if more.is_empty() {
        return own.clone();
    }
    let parts: Vec<&[u8]> = more.iter().flat_map(|(path, hash)| [path.as_bytes(), hash.as_bytes()]).collect();
    hash(&[&[own.as_bytes()], &*parts].concat())
}

/// `/openapi/v2` as JSON.
pub fn v2(added: &Added) -> Bytes {
    let paths = v2_paths();
    let length = LENGTH + paths.len() + added.paths.len() + added.definitions.len() + 256;
    let mut body = Vec::with_capacity(length);
    body.extend_from_slice(br#"{"swagger":"2.0","info":{"title":"Kubernetes","version":"v1.36"},"paths":{"#);
    let paths_at = body.len() - 1;
    body.extend_from_slice(paths.as_bytes());
    if !added.paths.is_empty() {
        body.push(b',');
        body.extend_from_slice(added.paths.as_bytes());
    }
    let told = || added.told.iter().filter_map(|told| told.v2.as_ref());
    push_missing(&mut body, paths_at, told().flat_map(|v2| &v2.paths));
    body.extend_from_slice(br#"},"definitions":"#);
    let definitions_at = body.len();
    v2_definitions(&mut body);
    if !added.definitions.is_empty() {
        // The object goes on.
        body.pop();
        body.push(b',');
        body.extend_from_slice(added.definitions.as_bytes());
        body.push(b'}');
    }
    body.pop();
    push_missing(&mut body, definitions_at, told().flat_map(|v2| &v2.definitions));
    body.push(b'}');
    body.extend_from_slice(
        br#","securityDefinitions":{"BearerToken":{"description":"Bearer Token authentication","in":"header","name":"authorization","type":"apiKey"}},"security":[{"BearerToken":[]}]}"#,
    );
    Bytes::from(body)
}

/// Writes members of the JSON object that begins at `from` and has no end yet, unless it has one of that name.
fn push_missing<'a>(body: &mut Vec<u8>, from: usize, members: impl Iterator<Item = &'a (String, String)>) {
    let mut members = members.peekable();
    if members.peek().is_none() {
        return;
    }
    body.push(b'}');
    let mut names: HashSet<String> = serde_json::from_slice::<HashMap<String, IgnoredAny>>(&body[from..])
        .map(|there| there.into_keys().collect())
        .unwrap_or_default();
    body.pop();
    for (name, text) in members {
        if names.insert(name.clone()) {
            if !body.ends_with(b"{") {
                body.push(b',');
            }
            body.extend_from_slice(format!("{}:{text}", json!(name)).as_bytes());
        }
    }
}

/// `/openapi/v2` as protobuf.
///
/// # Errors
/// What the JSON form has and the protobuf form has no field for.
pub fn v2_protobuf(added: &Added) -> Result<Bytes, String> {
    crate::codec::protobuf::openapi::document(&v2(added)).map(Bytes::from)
}

fn v2_paths() -> String {
    paths::v2(&group_versions()).unwrap_or_default()
}

/// The groups and versions that the registry serves, in its order.
fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for kind in BUILT_IN.iter() {
        if !found.contains(&(&*kind.group, &*kind.version)) {
            found.push((&kind.group, &kind.version));
        }
    }
    found
}

/// Every document with its hash, in order of their paths. Built-in kinds never change while the server runs.
fn hashes() -> &'static [(String, String)] {
    static HASHES: OnceLock<Vec<(String, String)>> = OnceLock::new();
    HASHES.get_or_init(|| {
        let mut names: Vec<String> = vec!["api".into(), "apis".into(), "version".into()];
        for (group, version) in group_versions() {
            if group.is_empty() {
                names.push(format!("api/{version}"));
            } else {
                names.extend([format!("apis/{group}"), format!("apis/{group}/{version}")]);
            }
        }
        names.sort();
        names.dedup();
        let with_hash = |name: String| {
            let (paths, components) = parts(&name)?;
            let hash = hash(&[paths.as_bytes(), if components.is_some() { DEFLATED } else { &[] }]);
            Some((name, hash))
        };
        names.into_iter().filter_map(with_hash).collect()
    })
}

/// What a document is made of: its paths as JSON and its definitions.
fn parts(path: &str) -> Option<(String, Option<&'static Components>)> {
    let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        ["api" | "apis" | "version"] | ["apis", _] => {
            return Some((paths::discovery(path), None));
        }
        _ => return None,
    };
    let paths = paths::v3(group, version)?;
    let components = COMPONENTS.iter().find(|c| c.group == group && c.version == version);
    Some((paths, components))
}

fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha512::new();
    parts.iter().for_each(|part| hasher.update(part));
    hexadecimal(&hasher.finalize())
}

/// A hash as it is written.
pub fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().map(|b| format!("{b:02X}")).collect()
}

/// Every definition, as one JSON object in order of names.
fn inflate() -> Vec<u8> {
    let mut text = Vec::with_capacity(LENGTH);
    flate2::read::DeflateDecoder::new(DEFLATED).read_to_end(&mut text).expect("the build script has compressed it");
    text
}

impl Components {
    /// Appends its definitions as a JSON object.
    fn write(&self, out: &mut Vec<u8>) {
        let text = inflate();
        let all: BTreeMap<&str, &RawValue> = serde_json::from_slice(&text).expect("the build script has written it");
        let mut wanted = self.definitions.iter().copied().peekable();
        out.push(b'{');
        for (at, (name, definition)) in all.into_iter().enumerate() {
            if wanted.next_if(|next| usize::from(*next) == at).is_none() {
                continue;
            }
            if !out.ends_with(b"{") {
                out.push(b',');
            }
            out.extend_from_slice(format!("\"{name}\":").as_bytes());
            out.extend_from_slice(definition.get().as_bytes());
        }
        out.push(b'}');
    }
}

/// Appends every definition as Swagger 2.0 has it, as a JSON object.
fn v2_definitions(out: &mut Vec<u8>) {
    let mut all: Value = serde_json::from_slice(&inflate()).expect("the build script has written it");
    as_v2(&mut all);
    serde_json::to_writer(out, &all).expect("writing to memory succeeds");
}

/// Swagger 2.0 has no `allOf` around a reference with a description, and other paths.
fn as_v2(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Array(all_of)) = object.get("allOf")
                && let [Value::Object(one)] = all_of.as_slice()
                && let Some(target) = one.get("$ref").cloned()
            {
                object.remove("allOf");
                object.insert("$ref".into(), target);
            }
            if let Some(Value::String(target)) = object.get_mut("$ref") {
                *target = target.replace(REF, "#/definitions/");
            }
            // Its parsers refuse words that came with OpenAPI 3.
            for unknown in ["oneOf", "anyOf", "nullable"] {
                // An object is a property that has the word for its name.
                if object.get(unknown).is_some_and(|v| !v.is_object()) {
                    object.remove(unknown);
                }
            }
            object.values_mut().for_each(as_v2);
        }
        Value::Array(items) => items.iter_mut().for_each(as_v2),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> Value {
        serde_json::from_slice(&v3(path).unwrap().body).unwrap()
    }

    #[test]
    fn what_is_there_is_not_told_again() {
        let told = |name: &str, text: &str| {
            let definitions = vec![(name.to_owned(), text.to_owned())];
            let v2 = Some(crate::aggregator::Definitions { definitions, ..Default::default() });
            Arc::new(Told { v2, ..Told::default() })
        };
        let pod = "io.k8s.api.core.v1.Pod";
        // A word that is a member of other objects is no definition.
        let told = vec![told(pod, "1"), told("description", "2"), told("a", "3"), told("a", "4")];
        let v2: Value = serde_json::from_slice(&v2(&Added { told, ..Added::default() })).unwrap();
        let found = &v2["definitions"];
        assert_eq!((&found["description"], &found["a"]), (&json!(2), &json!(3)));
        assert!(found[pod].is_object());
    }

    #[test]
    fn the_index_lists_what_is_served() {
        let index: Value = serde_json::from_slice(&v3_index(&[]).body).unwrap();
        for (path, entry) in index["paths"].as_object().unwrap() {
            let document = v3(path).unwrap();
            assert_eq!(document.hash.len(), 128, "{path}");
            assert_eq!(entry["serverRelativeURL"], format!("/openapi/v3/{path}?hash={}", document.hash));
            serde_json::from_slice::<Value>(&document.body).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
        assert!(v3("apis/nonsense/v1").is_none() && v3("api/v2").is_none() && v3("").is_none());
    }

    /// Clients walk references without checking them.
    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, names: &Map<String, Value>, prefix: &str, path: &str) {
            match value {
                Value::Object(object) => {
                    if let Some(target) = object.get("$ref").and_then(Value::as_str) {
                        let name = target.strip_prefix(prefix).unwrap_or_else(|| panic!("{path}: {target}"));
                        assert!(names.contains_key(name), "{path}: {target}");
                    }
                    object.values().for_each(|v| walk(v, names, prefix, path));
                }
                Value::Array(items) => items.iter().for_each(|v| walk(v, names, prefix, path)),
                _ => {}
            }
        }
        for (path, _) in hashes() {
            let document = parsed(path);
            let names = document["components"]["schemas"].as_object().unwrap();
            walk(&document, names, "#/components/schemas/", path);
        }
        let v2: Value = serde_json::from_slice(&v2(&Added::default())).unwrap();
        walk(&v2, v2["definitions"].as_object().unwrap(), "#/definitions/", "v2");
        let crd = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        assert!(v2["definitions"][crd]["properties"]["oneOf"].is_object());
        let union = &v2["definitions"][format!("{crd}OrBool")];
        assert!(union.is_object() && union.get("oneOf").is_none(), "{union}: parsers of Swagger 2.0 refuse it");
    }

    /// What kubectl reads to choose between validating here and validating itself, and between patch types.
    #[test]
    fn what_kubectl_looks_for() {
        for kind in BUILT_IN.iter() {
            let path = if kind.group.is_empty() {
                "api/v1".to_owned()
            } else {
                format!("apis/{}/{}", kind.group, kind.version)
            };
            let document = parsed(&path);
            let definitions = document["components"]["schemas"].as_object().unwrap();
            let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
            assert!(
                definitions.values().any(|d| {
                    d["x-kubernetes-group-version-kind"].as_array().is_some_and(|kinds| kinds.contains(&gvk))
                        && d["properties"].is_object()
                }),
                "{}",
                kind.kind
            );
            if !kind.allows(types::registry::Verb::Patch) {
                continue;
            }
            let patch = document["paths"]
                .as_object()
                .unwrap()
                .values()
                .map(|p| &p["patch"])
                .find(|p| p["x-kubernetes-group-version-kind"] == gvk);
            let patch = patch.unwrap_or_else(|| panic!("{} has no PATCH", kind.kind));
            assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
            assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
        }
    }

    #[test]
    fn facts_are_in_the_definitions() {
        let document = parsed("apis/apps/v1");
        let definitions = &document["components"]["schemas"];
        let spec = &definitions["io.k8s.api.core.v1.PodSpec"];
        assert_eq!(spec["required"], json!(["containers"]));
        let containers = &spec["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        let protocol = &definitions["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"];
        assert_eq!((&protocol["default"], &protocol["enum"]), (&json!("TCP"), &json!(["SCTP", "TCP", "UDP"])));
        assert!(spec["properties"]["nodeName"]["description"].as_str().is_some_and(|d| d.len() > 20));
        let list = &definitions["io.k8s.api.apps.v1.DeploymentList"];
        assert_eq!(list["x-kubernetes-group-version-kind"][0]["kind"], "DeploymentList");
    }
}
