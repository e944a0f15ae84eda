//! What an aggregated server says about itself: its resources, and its OpenAPI documents.
//!
//! Source: kube-aggregator `pkg/apiserver/handler_discovery.go`, `pkg/controllers/openapi{,v3}/aggregator`; apiserver
//! `pkg/endpoints/discovery/aggregated`, `pkg/endpoints/discovery.go` `ConvertGroupVersionIntoToDiscovery`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha512};

use crate::codec::protobuf::openapi;
use crate::schema::openapi::hexadecimal;

/// Which documents of discovery are understood.
pub const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Resources and what is below them, of one group and version. Every client reads all of them; no known server has a tenth.
const RESOURCES_MAX: usize = 2000;

/// What was told last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// It was asked successfully when it was last asked.
    pub fresh: bool,
    /// As the aggregated document has them.
    pub resources: Vec<Value>,
    /// Its documents of OpenAPI v3: path and where they are, for what it is registered for.
    pub v3: Vec<(String, String)>,
    pub v2: Option<Definitions>,
}

/// A part of an OpenAPI v2 document, each member as JSON.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Definitions {
    /// What the whole document says of itself; may be empty.
    pub info: String,
    pub paths: Vec<(String, String)>,
    pub definitions: Vec<(String, String)>,
    /// Changes with them.
    pub hash: String,
}

impl Definitions {
    fn check(&self) -> Result<(), String> {
        let object = |members: &[(String, String)]| {
            let members: Vec<String> = members.iter().map(|(name, text)| format!("{}:{text}", json!(name))).collect();
            members.join(",")
        };
        let (paths, definitions) = (object(&self.paths), object(&self.definitions));
        let document = format!("{{\"paths\":{{{paths}}},\"definitions\":{{{definitions}}}}}");
        openapi::document(document.as_bytes()).map(|_| ())
    }
}

/// Whether a document is one of aggregated discovery.
pub fn is_aggregated(media: &str) -> bool {
    let has = |wanted: &str| media.split(';').any(|p| p.trim() == wanted);
    has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList") && (has("v=v2") || has("v=v2beta1"))
}

/// A resource, as the aggregated document has it. Whatever a server tells is read into this and written anew, so that what is
/// not right of one server does not spoil the document of all. Source: k8s.io/api `apidiscovery/v2`.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Resource {
    #[serde(deserialize_with = "null_is_default")]
    resource: String,
    /// Older clients expect that every resource says of which kind it is.
    #[serde(deserialize_with = "null_is_default")]
    response_kind: Kind,
    #[serde(deserialize_with = "null_is_default")]
    scope: String,
    #[serde(deserialize_with = "null_is_default")]
    singular_resource: String,
    #[serde(deserialize_with = "null_is_default")]
    verbs: Vec<String>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    short_names: Vec<String>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    categories: Vec<String>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    subresources: Vec<Subresource>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Subresource {
    #[serde(deserialize_with = "null_is_default")]
    subresource: String,
    #[serde(deserialize_with = "null_is_default")]
    response_kind: Kind,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    accepted_types: Vec<Kind>,
    #[serde(deserialize_with = "null_is_default")]
    verbs: Vec<String>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Kind {
    #[serde(deserialize_with = "null_is_default")]
    group: String,
    #[serde(deserialize_with = "null_is_default")]
    version: String,
    #[serde(deserialize_with = "null_is_default")]
    kind: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Groups {
    #[serde(deserialize_with = "null_is_default")]
    items: Vec<Group>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Group {
    #[serde(deserialize_with = "null_is_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "null_is_default")]
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(deserialize_with = "null_is_default")]
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Version {
    #[serde(deserialize_with = "null_is_default")]
    version: String,
    #[serde(deserialize_with = "null_is_default")]
    resources: Vec<Resource>,
}

/// The older form. Source: apimachinery `metav1.APIResourceList`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Listed {
    #[serde(deserialize_with = "null_is_default")]
    resources: Vec<ListedResource>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListedResource {
    #[serde(deserialize_with = "null_is_default")]
    name: String,
    #[serde(deserialize_with = "null_is_default")]
    singular_name: String,
    #[serde(deserialize_with = "null_is_default")]
    namespaced: bool,
    #[serde(flatten)]
    kind: Kind,
    #[serde(deserialize_with = "null_is_default")]
    verbs: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    short_names: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    categories: Vec<String>,
}

/// Source: kube-openapi `pkg/handler3` `OpenAPIV3Discovery`.
#[derive(Deserialize)]
struct Index {
    paths: BTreeMap<String, Place>,
}

#[derive(Deserialize)]
struct Place {
    #[serde(rename = "serverRelativeURL")]
    url: String,
}

/// `null` is how Go writes what is not set.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The resources of a group and version in an aggregated document; none when it does not speak of it.
///
/// # Errors
/// It is no such document, or too much.
pub fn aggregated(body: &[u8], group: &str, version: &str) -> Result<Vec<Value>, String> {
    let document: Groups = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let versions = document.items.into_iter().filter(|g| g.metadata.name == group).flat_map(|g| g.versions);
    written(versions.into_iter().find(|v| v.version == version).map(|v| v.resources).unwrap_or_default())
}

/// The resources of an APIResourceList, as the aggregated document has them.
///
/// # Errors
/// It is no such document, or too much.
pub fn legacy(body: &[u8]) -> Result<Vec<Value>, String> {
    let document: Listed = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let mut found: Vec<Resource> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for listed in document.resources {
        let (name, sub) = match listed.name.split_once('/') {
            Some((name, sub)) => (name.to_owned(), Some(sub.to_owned())),
            None => (listed.name, None),
        };
        let scope = if listed.namespaced { "Namespaced" } else { "Cluster" };
        let at = *places.entry(name).or_insert_with_key(|name| {
            // What there is only below is there, and cannot be had itself.
            found.push(Resource { resource: name.clone(), scope: scope.to_owned(), ..Resource::default() });
            found.len() - 1
        });
        let Some(one) = found.get_mut(at) else { continue };
        let (response_kind, verbs) = (listed.kind, listed.verbs);
        if let Some(subresource) = sub {
            one.subresources.push(Subresource { subresource, response_kind, verbs, ..Subresource::default() });
            continue;
        }
        scope.clone_into(&mut one.scope);
        (one.response_kind, one.verbs) = (response_kind, verbs);
        one.singular_resource = listed.singular_name;
        (one.short_names, one.categories) = (listed.short_names, listed.categories);
    }
    written(found)
}

fn written(resources: Vec<Resource>) -> Result<Vec<Value>, String> {
    let count: usize = resources.iter().map(|r| 1 + r.subresources.len()).sum();
    if count > RESOURCES_MAX {
        return Err(format!("{count} resources are more than {RESOURCES_MAX}"));
    }
    resources.into_iter().map(|r| serde_json::to_value(r).map_err(|e| e.to_string())).collect()
}

/// The documents of OpenAPI v3 that are about the group and version.
///
/// # Errors
/// It is no such document.
pub fn v3(body: &[u8], group: &str, version: &str) -> Result<Vec<(String, String)>, String> {
    let document: Index = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let wanted = format!("apis/{group}/{version}");
    Ok(document.paths.into_iter().filter(|(path, _)| *path == wanted).map(|(path, at)| (path, at.url)).collect())
}

/// What an OpenAPI v2 document says of the paths below `root`, with the definitions that those need.
///
/// # Errors
/// It is no such document, or one that could not be passed on in every form.
pub fn v2(body: &[u8], root: &str) -> Result<Definitions, String> {
    let document: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let empty = Map::new();
    let members = |key: &str| document[key].as_object().unwrap_or(&empty);
    let below = format!("{root}/");
    let paths: Vec<_> = members("paths").iter().filter(|(path, _)| path.starts_with(&below)).collect();
    let mut needed = BTreeSet::new();
    let mut waiting: Vec<&Value> = paths.iter().map(|(_, item)| *item).collect();
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(object) => {
                let name = object.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/definitions/"));
                if let Some(name) = name
                    && needed.insert(name)
                {
                    waiting.extend(members("definitions").get(name));
                }
                waiting.extend(object.values());
            }
            Value::Array(items) => waiting.extend(items),
            _ => {}
        }
    }

    let definitions: BTreeMap<&String, &Value> =
        members("definitions").iter().filter(|(name, _)| needed.contains(name.as_str())).collect();
    let texts = |(name, value): (&String, &Value)| (name.clone(), value.to_string());
    let mut told = Definitions {
        info: document.get("info").filter(|info| info.is_object()).map(Value::to_string).unwrap_or_default(),
        paths: paths.into_iter().map(texts).collect(),
        definitions: definitions.into_iter().map(texts).collect(),
        hash: String::new(),
    };
    let mut hasher = Sha512::new();
    for (name, text) in told.paths.iter().chain(&told.definitions) {
        hasher.update(name);
        hasher.update(text);
    }
    told.hash = hexadecimal(&hasher.finalize());
    told.check()?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_discovery_say_the_same() {
        let kind = |group: &str, kind: &str| json!({"group": group, "version": "", "kind": kind});
        let new = json!({"items": [{"metadata": {"name": "other.io"}, "versions": []},
            {"metadata": {"name": "acme.io"}, "versions": [{"version": "v0"}, {"version": "v1", "resources": [
                {"resource": "rockets", "scope": "Namespaced", "singularResource": "rocket", "verbs": ["get"],
                    "responseKind": kind("", "Rocket"), "shortNames": ["rk"],
                    "subresources": [{"subresource": "scale", "verbs": ["get"], "responseKind": kind("x", "Scale")}]},
                {"resource": "pads", "scope": "Cluster", "singularResource": "", "verbs": []}]}]}]});
        let old = json!({"resources": [
            {"name": "rockets", "singularName": "rocket", "namespaced": true, "kind": "Rocket", "verbs": ["get"], "shortNames": ["rk"]},
            {"name": "rockets/scale", "singularName": "", "namespaced": true, "kind": "Scale", "group": "x", "verbs": ["get"]},
            {"name": "pads", "singularName": "", "namespaced": false, "kind": "", "verbs": []}]});
        let found = aggregated(new.to_string().as_bytes(), "acme.io", "v1").unwrap();
        assert_eq!(found, legacy(old.to_string().as_bytes()).unwrap());
        assert_eq!(found[1]["responseKind"], kind("", ""));
        assert!(aggregated(new.to_string().as_bytes(), "acme.io", "v2").unwrap().is_empty());
        assert!(aggregated(b"no", "a", "v1").is_err() && legacy(b"[").is_err());
        let lonely =
            json!({"resources": [{"name": "pads/status", "namespaced": false, "kind": "Pad", "verbs": ["get"]}]});
        let lonely = legacy(lonely.to_string().as_bytes()).unwrap();
        assert_eq!((&lonely[0]["verbs"], &lonely[0]["subresources"][0]["subresource"]), (&json!([]), &json!("status")));
    }

    /// Go clients fail the whole document for one wrong type.
    #[test]
    fn what_is_of_a_wrong_type_is_refused() {
        for resource in [
            json!(3),
            json!({"verbs": "get"}),
            json!({"verbs": [1]}),
            json!({"shortNames": [1]}),
            json!({"name": 1, "resource": 1}),
            json!({"subresources": [1], "namespaced": "yes"}),
        ] {
            let new = json!({"items": [{"metadata": {"name": "a"}, "versions": [{"version": "v1", "resources": [resource]}]}]});
            assert!(aggregated(new.to_string().as_bytes(), "a", "v1").is_err(), "{resource}");
            assert!(legacy(json!({"resources": [resource]}).to_string().as_bytes()).is_err(), "{resource}");
        }
        for text in ["3", "{\"items\":[1]}", "{\"items\":{}}", "{\"items\":[{\"versions\":[1]}]}"] {
            assert!(aggregated(text.as_bytes(), "a", "v1").is_err(), "{text}");
        }
        let null = json!({"items": [{"metadata": {"name": "a"}, "versions": [{"version": "v1", "resources": [
            {"resource": "x", "verbs": null, "responseKind": null, "subresources": null, "unknown": 1}]}]}]});
        let found = aggregated(null.to_string().as_bytes(), "a", "v1").unwrap();
        let kind = json!({"group": "", "version": "", "kind": ""});
        assert_eq!(
            found,
            [json!({"resource": "x", "responseKind": kind, "scope": "", "singularResource": "", "verbs": []})]
        );
        let many: Vec<_> = (0..=RESOURCES_MAX).map(|n| json!({"name": n.to_string()})).collect();
        assert!(legacy(json!({"resources": many}).to_string().as_bytes()).is_err());
    }

    #[test]
    fn media() {
        assert!(is_aggregated("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"));
        assert!(!is_aggregated("application/json") && !is_aggregated("application/json;g=apidiscovery.k8s.io;v=v3"));
    }

    #[test]
    fn what_is_about_others_is_left_out() {
        let index = json!({"paths": {"version": {"serverRelativeURL": "/"}, "apis/acme.io/v1": {"serverRelativeURL": "/openapi/v3/apis/acme.io/v1?hash=A"}}});
        let found = v3(index.to_string().as_bytes(), "acme.io", "v1").unwrap();
        assert_eq!(found, [("apis/acme.io/v1".to_owned(), "/openapi/v3/apis/acme.io/v1?hash=A".to_owned())]);
        let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        let document = json!({
            "paths": {"/apis/acme.io/v1/rockets": {"x-get": reference("Rocket")}, "/apis/acme.io/v1beta1/x": reference("Old")},
            "definitions": {"Rocket": {"x-a": [reference("Part")]}, "Part": {"x-b": reference("Part")}, "Old": {}, "Alone": {}}});
        let found = v2(document.to_string().as_bytes(), "/apis/acme.io/v1").unwrap();
        let names = |list: &[(String, String)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found.paths), ["/apis/acme.io/v1/rockets"]);
        assert_eq!(names(&found.definitions), ["Part", "Rocket"]);
        assert_eq!(found.hash.len(), 128);
        let wrong = json!({"paths": {"/apis/acme.io/v1/x": {"get": {"deprecated": {}}}}}).to_string();
        assert!(v2(wrong.as_bytes(), "/apis/acme.io/v1").is_err() && v2(wrong.as_bytes(), "/apis/acme.io/v2").is_ok());
        assert!(v3(br#"{"paths":{"apis/acme.io/v1":{"serverRelativeURL":1}}}"#, "acme.io", "v1").is_err());
    }
}
