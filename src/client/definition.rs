//! CustomResourceDefinitions, as far as clients need them: which kinds there are besides the built-in ones.
//!
//! Schemas, columns and all else by which a definition is large are not read, so that a cache of all definitions is small.
//!
//! Source: kubernetes `staging/src/k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1/types.go`.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use types::registry::{Extension, Kind, Scope, Verb, WriteClass};

/// What is read of a CustomResourceDefinition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Definition {
    pub metadata: ObjectMeta,
    pub spec: Spec,
    pub status: State,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    pub group: String,
    /// `Namespaced` or `Cluster`.
    pub scope: String,
    pub versions: Vec<Version>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Version {
    pub name: String,
    pub served: bool,
    pub storage: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    pub accepted_names: Names,
    pub conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Names {
    pub plural: String,
    pub kind: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
}

crate::kinds::kinds! {
    Definition: "apiextensions.k8s.io" "v1" "CustomResourceDefinition" "customresourcedefinitions" ClusterResourceScope;
}

impl Definition {
    /// For a cache: annotations may hold the whole definition once more.
    pub fn trim(&mut self) {
        self.metadata.annotations = None;
        self.metadata.labels = None;
    }

    /// The kind in which its objects are best spoken of: the version that is stored, as nothing is converted there, else the
    /// first that is served. `None` when no version is.
    pub fn kind(&self) -> Option<Kind> {
        let mut served = self.served();
        let first = served.next()?;
        let best = if first.storage { first } else { served.find(|v| v.storage).unwrap_or(first) };
        Some(self.kind_in(best))
    }

    /// Its kind in every version that is served.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.served().map(|version| self.kind_in(version))
    }

    fn served(&self) -> impl Iterator<Item = &Version> {
        let mut conditions = self.status.conditions.iter().flatten();
        let established = conditions.any(|c| c.type_ == "Established" && c.status == "True");
        self.spec.versions.iter().filter(move |version| established && version.served)
    }

    fn kind_in(&self, version: &Version) -> Kind {
        let text = |text: &String| Cow::Owned(text.clone());
        Kind {
            group: text(&self.spec.group),
            version: text(&version.name),
            kind: text(&self.status.accepted_names.kind),
            plural: text(&self.status.accepted_names.plural),
            singular: Cow::Borrowed(""),
            short_names: Cow::Borrowed(&[]),
            categories: Cow::Borrowed(&[]),
            scope: if self.spec.scope == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
            verbs: Cow::Borrowed(Verb::ALL),
            subresources: Cow::Borrowed(&[]),
            write_class: WriteClass::Durable,
            selectable_fields: Cow::Borrowed(&[]),
            storage_version_hash: Cow::Borrowed(""),
            stored: true,
            kept_as: None,
            extension: Extension::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Versions as `v1`, with `+` when served and `*` when stored.
    fn check(established: &str, versions: &[&str], expected: Option<&str>) {
        let version = |text: &&str| {
            let name = text.trim_end_matches(['+', '*']);
            json!({"name": name, "served": text.contains('+'), "storage": text.contains('*'), "schema": {"openAPIV3Schema": {}}})
        };
        let definition: Definition = serde_json::from_value(json!({
            "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "wagons", "kind": "Wagon"},
                "versions": versions.iter().map(version).collect::<Vec<_>>()},
            "status": {"acceptedNames": {"plural": "cars", "kind": "Car"},
                "conditions": [{"type": "Established", "status": established}]},
        }))
        .unwrap();
        let path = definition.kind().map(|kind| kind.path("shop"));
        assert_eq!(path.as_deref(), expected, "{established} {versions:?}");
        let served = versions.iter().filter(|v| v.contains('+')).count();
        assert_eq!(definition.kinds().count(), if established == "True" { served } else { 0 });
    }

    #[test]
    fn the_best_version_is_stored_and_served() {
        check("True", &["v1+*"], Some("/apis/example.com/v1/namespaces/shop/cars"));
        check("True", &["v2+", "v1+*"], Some("/apis/example.com/v1/namespaces/shop/cars"));
        check("True", &["v3", "v2+", "v1*"], Some("/apis/example.com/v2/namespaces/shop/cars"));
        check("True", &["v1*"], None);
        check("False", &["v1+*"], None);
        assert_eq!(serde_json::from_value::<Definition>(json!({})).unwrap().kind(), None);
    }
}
