//! APIServices and what aggregated servers serve, as far as clients need them: the kinds that are neither built in nor made by
//! definitions.
//!
//! Source: kube-aggregator `pkg/apis/apiregistration/v1/types.go`; apimachinery `pkg/apis/meta/v1/types.go` `APIResourceList`.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use types::registry::{Extension, Kind, Scope, Verb, WriteClass, api_version};

use crate::definition::Condition;

/// What is read of an APIService.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registration {
    pub metadata: ObjectMeta,
    pub spec: Spec,
    pub status: State,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub group: String,
    pub version: String,
    pub version_priority: i64,
    pub service: Option<Service>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub conditions: Option<Vec<Condition>>,
}

crate::kinds::kinds! {
    Registration: "apiregistration.k8s.io" "v1" "APIService" "apiservices" ClusterResourceScope;
}

impl Registration {
    /// For a cache: annotations may hold the whole object once more.
    pub fn trim(&mut self) {
        self.metadata.annotations = None;
        self.metadata.labels = None;
        self.metadata.managed_fields = None;
    }

    /// Whether another server serves it.
    pub fn is_remote(&self) -> bool {
        self.spec.service.is_some()
    }

    pub fn is_available(&self) -> bool {
        self.status.conditions.iter().flatten().any(|c| c.type_ == "Available" && c.status == "True")
    }

    /// The group and version as they are written.
    pub fn group_version(&self) -> String {
        api_version(&self.spec.group, &self.spec.version)
    }

    /// Where its resources are listed.
    pub fn path(&self) -> String {
        format!("/apis/{}/{}", self.spec.group, self.spec.version)
    }
}

/// The resources of a group and version.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub resources: Vec<Resource>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Resource {
    pub name: String,
    pub namespaced: bool,
    pub kind: String,
    pub verbs: Vec<String>,
}

impl Resources {
    /// The kinds that they are, subresources left out.
    pub fn kinds(&self, group: &str, version: &str) -> Vec<Kind> {
        let whole = self.resources.iter().filter(|r| !r.name.is_empty() && !r.name.contains('/'));
        whole.map(|resource| kind(resource, group, version)).collect()
    }
}

fn kind(resource: &Resource, group: &str, version: &str) -> Kind {
    let text = |text: &str| Cow::Owned(text.to_owned());
    let served = Verb::ALL.iter().filter(|verb| resource.verbs.iter().any(|v| v == verb.as_str()));
    Kind {
        group: text(group),
        version: text(version),
        kind: text(&resource.kind),
        plural: text(&resource.name),
        singular: Cow::Borrowed(""),
        short_names: Cow::Borrowed(&[]),
        categories: Cow::Borrowed(&[]),
        scope: if resource.namespaced { Scope::Namespaced } else { Scope::Cluster },
        verbs: Cow::Owned(served.copied().collect()),
        subresources: Cow::Borrowed(&[]),
        write_class: WriteClass::Durable,
        selectable_fields: Cow::Borrowed(&[]),
        storage_version_hash: Cow::Borrowed(""),
        stored: true,
        kept_as: None,
        extension: Extension::NONE,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_serves_what() {
        let object = |service: serde_json::Value, status: &str| -> Registration {
            serde_json::from_value(json!({"spec": {"group": "acme.io", "version": "v1", "service": service},
                "status": {"conditions": [{"type": "Available", "status": status}]}}))
            .unwrap()
        };
        let remote = object(json!({"namespace": "a", "name": "b", "port": 443}), "True");
        assert!(remote.is_remote() && remote.is_available());
        assert_eq!((remote.path().as_str(), remote.group_version().as_str()), ("/apis/acme.io/v1", "acme.io/v1"));
        let local = object(json!(null), "False");
        assert!(!local.is_remote() && !local.is_available());
        let resources: Resources = serde_json::from_value(json!({"kind": "APIResourceList", "resources": [
            {"name": "rockets", "namespaced": true, "kind": "Rocket", "verbs": ["get", "list", "delete", "fly"]},
            {"name": "rockets/status", "namespaced": true, "kind": "Rocket", "verbs": ["get"]}]}))
        .unwrap();
        let kinds = resources.kinds("acme.io", "v1");
        assert_eq!(kinds.len(), 1);
        assert_eq!(kinds[0].path("shop"), "/apis/acme.io/v1/namespaces/shop/rockets");
        assert!(kinds[0].allows(Verb::List) && kinds[0].allows(Verb::Delete) && !kinds[0].allows(Verb::Watch));
    }
}
