//! What is served, told to clients: the aggregated documents and the older one-by-one documents.
//!
//! Made when somebody asks from the kinds that are served and from what aggregated servers have told, kept as bytes with their
//! tags until those change.
//!
//! Source: apiserver `pkg/endpoints/discovery`; KEP-3352; kube-aggregator `pkg/apis/apiregistration/v1/helpers.go` for the
//! order of groups and versions.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use types::registry::{
    DEFAULT_GROUP_PRIORITY, DEFAULT_VERSION_PRIORITY, GROUP_VERSIONS, Kind, Scope, Subresource, Verb,
};

use crate::aggregator::{self, Registered, Told};
use crate::custom::{self, Served};

/// One group with its versions in order of preference.
struct Group {
    name: String,
    versions: Vec<Version>,
}

struct Version {
    name: String,
    /// What another server has told of it, when it is served there.
    told: Option<Arc<Told>>,
}

/// A group and version with its priorities.
struct Placed {
    group: String,
    version: Version,
    priorities: (i64, i64),
}

/// Groups by the highest priority of their versions, then by name; versions by priority, then as [`precedence`] has them.
fn groups(served: &Served, registered: &Registered) -> Vec<Group> {
    let mut all: Vec<Placed> = Vec::new();
    let mut add = |group: &str, version: &str, otherwise: (i64, i64)| {
        if all.iter().any(|p| p.group == group && p.version.name == version) {
            return;
        }
        let registration = registered.get(group, version);
        let remote = registered.remote(group, version).and_then(|r| r.remote.as_ref());
        all.push(Placed {
            group: group.to_owned(),
            version: Version { name: version.to_owned(), told: remote.map(|remote| remote.link.told.load_full()) },
            priorities: registration.map_or(otherwise, |r| (r.group_priority, r.version_priority)),
        });
    };
    for known in GROUP_VERSIONS {
        add(known.group, known.version, (known.group_priority, known.version_priority));
    }
    for kind in served.custom() {
        add(&kind.group, &kind.version, (DEFAULT_GROUP_PRIORITY, DEFAULT_VERSION_PRIORITY));
    }
    for (remote, _) in registered.remotes() {
        add(&remote.group, &remote.version, (remote.group_priority, remote.version_priority));
    }
    let mut priority: BTreeMap<String, i64> = BTreeMap::new();
    for placed in &all {
        let highest = priority.entry(placed.group.clone()).or_default();
        // Who says who else is registered comes first.
        let own = if placed.group == aggregator::GROUP { i64::MAX } else { placed.priorities.0 };
        *highest = own.max(*highest);
    }
    all.sort_by_cached_key(|p| {
        let version = (Reverse(p.priorities.1), Reverse(precedence(&p.version.name)));
        (Reverse(priority.get(&p.group).copied()), p.group.clone(), version)
    });
    let mut groups: Vec<Group> = Vec::new();
    for placed in all {
        match groups.last_mut() {
            Some(group) if group.name == placed.group => group.versions.push(placed.version),
            _ => groups.push(Group { name: placed.group, versions: vec![placed.version] }),
        }
    }
    groups
}

/// Where a version stands among others, greater is earlier: `v2` before `v1` before `v1beta2` before `v1alpha1`, then what is
/// no such version, in alphabetical order.
///
/// Source: apimachinery `pkg/version/helpers.go` `CompareKubeAwareVersionStrings`.
pub fn precedence(version: &str) -> (u8, u64, u64, Reverse<String>) {
    let numbered = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse::<u64>().ok().filter(|n| *n > 0)?;
        match &rest[digits..] {
            "" => Some((3, major, 0)),
            more => {
                let (stage, minor) = match (more.strip_prefix("beta"), more.strip_prefix("alpha")) {
                    (Some(minor), _) => (2, minor),
                    (_, Some(minor)) => (1, minor),
                    _ => return None,
                };
                let all_digits = minor.bytes().all(|b| b.is_ascii_digit());
                minor.parse::<u64>().ok().filter(|n| all_digits && *n > 0).map(|minor| (stage, major, minor))
            }
        }
    };
    match numbered() {
        Some((stage, major, minor)) => (stage, major, minor, Reverse(String::new())),
        None => (0, 0, 0, Reverse(version.to_owned())),
    }
}

fn kinds<'a>(served: &'a Served, group: &str, version: &str) -> Vec<&'a Kind> {
    let mut found: Vec<&Kind> = served.iter().filter(|k| k.group == group && k.version == version).collect();
    found.sort_by(|a, b| a.plural.cmp(&b.plural));
    found
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

fn aggregated(served: &Served, groups: &[Group], core: bool) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .filter(|g| g.name.is_empty() == core)
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|Version { name, told }| {
                    let own = || kinds(served, &group.name, name).into_iter().map(aggregated_resource).collect();
                    let resources: Vec<Value> = told.as_ref().map_or_else(own, |told| told.resources.clone());
                    let fresh = told.as_ref().is_none_or(|told| told.fresh);
                    let freshness = if fresh { "Current" } else { "Stale" };
                    json!({"version": name, "resources": resources, "freshness": freshness})
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

fn aggregated_resource(kind: &Kind) -> Value {
    let gvk = |group: &str, version: &str, name: &str| json!({"group": group, "version": version, "kind": name});
    let scope = if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    let mut resource = json!({
        "resource": kind.plural, "responseKind": gvk("", "", &kind.kind), "scope": scope,
        "singularResource": kind.singular, "verbs": verbs(custom::shown_verbs(kind)),
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
    let versions: Vec<Value> = group.versions.iter().map(|v| version(&v.name)).collect();
    json!({"name": group.name, "preferredVersion": versions[0], "versions": versions})
}

fn resource_list(served: &Served, group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in kinds(served, group, version) {
        let mut one = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced(),
            "kind": kind.kind, "verbs": verbs(custom::shown_verbs(kind))});
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

/// What discovery says of one moment.
pub struct Documents {
    groups: Vec<Group>,
    core: OnceLock<Document>,
    others: OnceLock<Document>,
}

impl Documents {
    pub fn new(served: &Served, registered: &Registered) -> Self {
        Self { groups: groups(served, registered), core: OnceLock::new(), others: OnceLock::new() }
    }
}

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
pub fn aggregated_document(served: &Served, documents: &Documents, core: bool, version: &str) -> (Bytes, String) {
    let slot = if core { &documents.core } else { &documents.others };
    let document = slot.get_or_init(|| Document::new(&aggregated(served, &documents.groups, core)));
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
pub fn legacy(served: &Served, documents: &Documents, segments: &[&str], address: &str) -> Option<Value> {
    let groups = &documents.groups;
    match segments {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})),
        ["apis"] => {
            let list: Vec<Value> = groups.iter().filter(|g| !g.name.is_empty()).map(group_value).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}))
        }
        ["api", "v1"] => Some(resource_list(served, "", "v1")),
        ["apis", group] => {
            let group = groups.iter().find(|g| !g.name.is_empty() && g.name == *group)?;
            let mut value = group_value(group);
            value["kind"] = json!("APIGroup");
            value["apiVersion"] = json!("v1");
            Some(value)
        }
        ["apis", group, version] => {
            let found = groups.iter().find(|g| !g.name.is_empty() && g.name == *group)?;
            found.versions.iter().any(|v| v.name == *version).then(|| resource_list(served, group, version))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_say_what_the_registry_says() {
        let served = Served::default();
        let documents = Documents::new(&served, &Registered::default());
        let legacy = |segments: &[&str]| legacy(&served, &documents, segments, "");
        let (body, tag) = aggregated_document(&served, &documents, false, "v2");
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
        let list = legacy(&["apis", "apps", "v1"]).unwrap();
        assert_eq!(list["groupVersion"], "apps/v1");
        let scale = list["resources"].as_array().unwrap().iter().find(|r| r["name"] == "deployments/scale").unwrap();
        assert_eq!((&scale["group"], &scale["kind"]), (&json!("autoscaling"), &json!("Scale")));
        assert!(legacy(&["apis", "nothing"]).is_none());
        assert!(legacy(&["api", "v2"]).is_none());
    }

    #[test]
    fn versions_in_order_of_preference() {
        let mut versions =
            ["foo10", "v1alpha1", "v1", "v11beta2", "v10", "v3beta1", "foo1", "v2", "v12alpha1", "v1beta01x"];
        versions.sort_by_cached_key(|v| Reverse(precedence(v)));
        let expected =
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v1alpha1", "foo1", "foo10", "v1beta01x"];
        assert_eq!(versions, expected);
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
