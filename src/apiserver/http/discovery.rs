//! What is served, told to clients: the aggregated documents and the older one-by-one documents.
//!
//! Made once from the registry, kept as bytes with their tags. Source: apiserver `pkg/endpoints/discovery`, KEP-3352.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use types::registry::{BUILT_IN, Kind, Scope, Subresource, Verb};

/// One group with its versions in order of preference.
struct Group {
    name: &'static str,
    versions: Vec<&'static str>,
}

fn groups() -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for kind in BUILT_IN.iter() {
        let name: &'static str = &kind.group;
        let version: &'static str = &kind.version;
        match groups.iter_mut().find(|g| g.name == name) {
            Some(group) if group.versions.contains(&version) => {}
            Some(group) => group.versions.push(version),
            None => groups.push(Group { name, versions: vec![version] }),
        }
    }
    groups
}

fn kinds(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    let (group, version) = (group.to_owned(), version.to_owned());
    let mut found: Vec<&'static Kind> =
        BUILT_IN.iter().filter(move |k| k.group == group && k.version == version).collect();
    found.sort_by(|a, b| a.plural.cmp(&b.plural));
    found.into_iter()
}

fn verbs(verbs: &[Verb]) -> Value {
    let mut names: Vec<&str> = verbs.iter().map(|v| v.as_str()).collect();
    names.sort_unstable();
    json!(names)
}

/// A document and its tag.
pub struct Document {
    pub body: Bytes,
    /// Quoted, as it stands in `ETag`.
    pub tag: String,
}

impl Document {
    fn new(value: &Value) -> Self {
        let body = Bytes::from(value.to_string());
        let digest = Sha512::digest(&body);
        let hex: String = digest.iter().map(|b| format!("{b:02X}")).collect();
        Self { body, tag: format!("\"{hex}\"") }
    }
}

fn aggregated(groups: &[Group], core: bool) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .filter(|g| g.name.is_empty() == core)
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = kinds(group.name, version).map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if core {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group.name, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let gvk = |group: &str, version: &str, name: &str| json!({"group": group, "version": version, "kind": name});
    let scope = if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    let mut resource = json!({
        "resource": kind.plural, "responseKind": gvk("", "", &kind.kind), "scope": scope,
        "singularResource": kind.singular, "verbs": verbs(&kind.verbs),
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|sub| {
            let response = match &sub.response {
                Some(r) => gvk(&r.group, &r.version, &r.kind),
                None => gvk("", "", &kind.kind),
            };
            json!({"subresource": sub.name, "responseKind": response, "verbs": verbs(&sub.verbs)})
        })
        .collect();
    if !subresources.is_empty() {
        resource["subresources"] = Value::Array(subresources);
    }
    resource
}

fn group_value(group: &Group) -> Value {
    let version = |v: &str| json!({"groupVersion": format!("{}/{v}", group.name), "version": v});
    let versions: Vec<Value> = group.versions.iter().map(|v| version(v)).collect();
    json!({"name": group.name, "preferredVersion": versions[0], "versions": versions})
}

fn resource_list(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in kinds(group, version) {
        let mut one = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced(),
            "kind": kind.kind, "verbs": verbs(&kind.verbs)});
        if !kind.short_names.is_empty() {
            one["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            one["categories"] = json!(kind.categories);
        }
        if !kind.storage_version_hash.is_empty() {
            one["storageVersionHash"] = json!(kind.storage_version_hash);
        }
        resources.push(one);
        resources.extend(kind.subresources.iter().map(|sub| legacy_subresource(kind, sub)));
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": types::registry::api_version(group, version), "resources": resources})
}

fn legacy_subresource(kind: &Kind, sub: &Subresource) -> Value {
    let mut one = json!({"name": format!("{}/{}", kind.plural, sub.name), "singularName": "",
        "namespaced": kind.namespaced(), "kind": kind.kind, "verbs": verbs(&sub.verbs)});
    if let Some(response) = &sub.response {
        one["kind"] = json!(response.kind);
        // Only what differs from the list's own group and version is said.
        if response.group != kind.group || response.version != kind.version {
            one["group"] = json!(response.group);
            one["version"] = json!(response.version);
        }
    }
    one
}

struct Documents {
    groups: Vec<Group>,
    core: Document,
    others: Document,
}

static DOCUMENTS: LazyLock<Documents> = LazyLock::new(|| {
    let groups = groups();
    let (core, others) = (Document::new(&aggregated(&groups, true)), Document::new(&aggregated(&groups, false)));
    Documents { groups, core, others }
});

/// Whether the client asks for the aggregated form; the version that it names is echoed.
pub fn wants_aggregated(accept: &str) -> Option<&'static str> {
    accept.split(',').find_map(|range| {
        let has = |parameter: &str| range.split(';').any(|p| p.trim() == parameter);
        let json = range.trim_start().starts_with("application/json");
        if !(json && has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList")) {
            return None;
        }
        ["v2", "v2beta1"].into_iter().find(|v| has(&format!("v={v}")))
    })
}

/// The aggregated document of `/api` or `/apis`, for the version that was asked for.
pub fn aggregated_document(core: bool, version: &str) -> (Bytes, String) {
    let document = if core { &DOCUMENTS.core } else { &DOCUMENTS.others };
    if version == "v2" {
        return (document.body.clone(), document.tag.clone());
    }
    let text = String::from_utf8_lossy(&document.body).replacen(
        "apidiscovery.k8s.io/v2\"",
        "apidiscovery.k8s.io/v2beta1\"",
        1,
    );
    (Bytes::from(text), document.tag.clone())
}

/// The one-by-one document at a path; `None` when nothing is there. `address` is where clients reach the server.
pub fn legacy(segments: &[&str], address: &str) -> Option<Value> {
    let groups = &DOCUMENTS.groups;
    match segments {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})),
        ["apis"] => {
            let list: Vec<Value> = groups.iter().filter(|g| !g.name.is_empty()).map(group_value).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}))
        }
        ["api", "v1"] => Some(resource_list("", "v1")),
        ["apis", group] => {
            let group = groups.iter().find(|g| !g.name.is_empty() && g.name == *group)?;
            let mut value = group_value(group);
            value["kind"] = json!("APIGroup");
            value["apiVersion"] = json!("v1");
            Some(value)
        }
        ["apis", group, version] => {
            let found = groups.iter().find(|g| !g.name.is_empty() && g.name == *group)?;
            found.versions.contains(version).then(|| resource_list(group, version))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_say_what_the_registry_says() {
        let (body, tag) = aggregated_document(false, "v2");
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert!(tag.starts_with('"') && tag.ends_with('"'));
        let apps = value["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").unwrap();
        let deployments = apps["versions"][0]["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["resource"] == "deployments")
            .unwrap();
        assert_eq!(deployments["shortNames"], json!(["deploy"]));
        assert_eq!(
            deployments["subresources"][0]["responseKind"],
            json!({"group": "autoscaling", "version": "v1", "kind": "Scale"})
        );
        let list = legacy(&["apis", "apps", "v1"], "").unwrap();
        assert_eq!(list["groupVersion"], "apps/v1");
        let scale = list["resources"].as_array().unwrap().iter().find(|r| r["name"] == "deployments/scale").unwrap();
        assert_eq!((&scale["group"], &scale["kind"]), (&json!("autoscaling"), &json!("Scale")));
        assert!(legacy(&["apis", "nothing"], "").is_none());
        assert!(legacy(&["api", "v2"], "").is_none());
    }

    #[test]
    fn negotiation() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(wants_aggregated(kubectl), Some("v2"));
        assert_eq!(
            wants_aggregated("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer"),
            Some("v2")
        );
        assert_eq!(wants_aggregated("application/json"), None);
    }
}
