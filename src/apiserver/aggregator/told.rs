//! What an aggregated server says about itself: its resources, and its OpenAPI documents.
//!
//! Source: kube-aggregator `pkg/apiserver/handler_discovery.go`, `pkg/controllers/openapi{,v3}/aggregator`; apiserver
//! `pkg/endpoints/discovery/aggregated`, `pkg/endpoints/discovery.go` `ConvertGroupVersionIntoToDiscovery`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha512};

use crate::schema::openapi::hexadecimal;

/// Which documents of discovery are understood.
pub const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

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
    pub paths: Vec<(String, String)>,
    pub definitions: Vec<(String, String)>,
    /// Changes with them.
    pub hash: String,
}

/// Whether a document is one of aggregated discovery.
pub fn is_aggregated(media: &str) -> bool {
    let has = |wanted: &str| media.split(';').any(|p| p.trim() == wanted);
    has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList") && (has("v=v2") || has("v=v2beta1"))
}

/// The resources of a group and version in an aggregated document; none when it does not speak of it.
///
/// # Errors
/// It is no such document.
pub fn aggregated(body: &[u8], group: &str, version: &str) -> Result<Vec<Value>, String> {
    let mut document: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let named = |value: &Value, name: &str| value.as_str().unwrap_or_default() == name;
    let groups = document["items"].as_array_mut().into_iter().flatten();
    let versions = groups.filter(|g| named(&g["metadata"]["name"], group)).filter_map(|g| g["versions"].as_array_mut());
    let found = versions.flatten().find(|v| named(&v["version"], version));
    let Some(Value::Array(mut resources)) = found.map(|v| v["resources"].take()) else { return Ok(Vec::new()) };
    for resource in &mut resources {
        complete(resource);
        resource["subresources"].as_array_mut().into_iter().flatten().for_each(complete);
        if resource["subresources"].is_null()
            && let Some(members) = resource.as_object_mut()
        {
            members.remove("subresources");
        }
    }
    resources.retain(Value::is_object);
    Ok(resources)
}

/// Older clients expect that every resource says of which kind it is.
fn complete(resource: &mut Value) {
    if let Some(members) = resource.as_object_mut()
        && members.get("responseKind").is_none_or(Value::is_null)
    {
        members.insert("responseKind".into(), json!({"group": "", "version": "", "kind": ""}));
    }
}

/// The resources of an APIResourceList, as the aggregated document has them.
///
/// # Errors
/// It is no such document.
pub fn legacy(body: &[u8]) -> Result<Vec<Value>, String> {
    let document: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let mut found: Vec<(String, Value)> = Vec::new();
    for resource in document["resources"].as_array().into_iter().flatten() {
        let text = |key: &str| resource[key].as_str().unwrap_or_default();
        let response = json!({"group": text("group"), "version": text("version"), "kind": text("kind")});
        let (name, sub) = text("name").split_once('/').map_or((text("name"), None), |(name, sub)| (name, Some(sub)));
        let scope = if resource["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let at = found.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            // What there is only below is there, and cannot be had itself.
            let bare = json!({"resource": name, "scope": scope, "singularResource": "", "verbs": [],
                "responseKind": {"group": "", "version": "", "kind": ""}});
            found.push((name.to_owned(), bare));
            found.len() - 1
        });
        let one = &mut found[at].1;
        let verbs = resource["verbs"].as_array().cloned().unwrap_or_default();
        if let Some(sub) = sub {
            let sub = json!({"subresource": sub, "responseKind": response, "verbs": verbs});
            match one["subresources"].as_array_mut() {
                Some(list) => list.push(sub),
                None => one["subresources"] = json!([sub]),
            }
            continue;
        }
        one["scope"] = json!(scope);
        one["responseKind"] = response;
        one["verbs"] = json!(verbs);
        one["singularResource"] = json!(text("singularName"));
        for key in ["shortNames", "categories"] {
            if resource[key].is_array() {
                one[key] = resource[key].clone();
            }
        }
    }
    Ok(found.into_iter().map(|(_, resource)| resource).collect())
}

/// The documents of OpenAPI v3 that are about the group and version.
///
/// # Errors
/// It is no such document.
pub fn v3(body: &[u8], group: &str, version: &str) -> Result<Vec<(String, String)>, String> {
    let document: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let wanted = format!("apis/{group}/{version}");
    let url = &document["paths"][&wanted]["serverRelativeURL"];
    Ok(url.as_str().map(|url| (wanted, url.to_owned())).into_iter().collect())
}

/// What an OpenAPI v2 document says of the paths below `root`, with the definitions that those need.
///
/// # Errors
/// It is no such document.
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

    #[test]
    fn media() {
        assert!(is_aggregated("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"));
        assert!(!is_aggregated("application/json") && !is_aggregated("application/json;g=apidiscovery.k8s.io;v=v3"));
    }

    #[test]
    fn what_is_about_others_is_left_out() {
        let index = json!({"paths": {"version": {}, "apis/acme.io/v1": {"serverRelativeURL": "/openapi/v3/apis/acme.io/v1?hash=A"}}});
        let found = v3(index.to_string().as_bytes(), "acme.io", "v1").unwrap();
        assert_eq!(found, [("apis/acme.io/v1".to_owned(), "/openapi/v3/apis/acme.io/v1?hash=A".to_owned())]);
        let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        let document = json!({
            "paths": {"/apis/acme.io/v1/rockets": {"get": reference("Rocket")}, "/apis/acme.io/v1beta1/x": reference("Old")},
            "definitions": {"Rocket": {"a": [reference("Part")]}, "Part": {"b": reference("Part")}, "Old": {}, "Alone": {}}});
        let found = v2(document.to_string().as_bytes(), "/apis/acme.io/v1").unwrap();
        let names = |list: &[(String, String)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found.paths), ["/apis/acme.io/v1/rockets"]);
        assert_eq!(names(&found.definitions), ["Part", "Rocket"]);
        assert_eq!(found.hash.len(), 128);
    }
}
