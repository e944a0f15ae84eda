//! What the server serves, and which of it a word means: `po`, `pods`, `deployments.apps`, `deploy.v1.apps`, `all`.
//!
//! Source: KEP-3352 (aggregated discovery), client-go `restmapper` (shortcuts, categories, preference order).

use std::rc::Rc;

use anyhow::Result;
use client::Client;
use http::Method;
use serde::Deserialize;

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One served resource in one version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<String>,
}

impl Resource {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
    /// The collection's path; across namespaces when `namespace` is empty.
    pub fn path(&self, namespace: &str) -> String {
        let namespace = if self.namespaced { namespace } else { "" };
        client::api::resource_path(&self.group, &self.version, namespace, &self.plural)
    }
    pub fn object_path(&self, namespace: &str, name: &str) -> String {
        client::api::object_path(&self.path(namespace), name, "")
    }
    /// `pods`, `deployments.apps`.
    pub fn group_resource(&self) -> String {
        with_group(&self.plural, &self.group)
    }
    /// `pod/x`, `deployment.apps/x`: how an object is named in output.
    pub fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.type_name())
    }
    /// `pod`, `deployment.apps`.
    pub fn type_name(&self) -> String {
        with_group(&self.singular, &self.group)
    }
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

fn with_group(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

#[derive(Debug, Clone, Default)]
pub struct Discovery {
    /// In the server's order, which is the order of preference.
    resources: Vec<Rc<Resource>>,
}

#[derive(Deserialize)]
struct Groups {
    #[serde(default)]
    items: Vec<Group>,
}
#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: GroupMeta,
    #[serde(default)]
    versions: Vec<Version>,
}
#[derive(Deserialize, Default)]
struct GroupMeta {
    #[serde(default)]
    name: String,
}
#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Entry>,
}
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    resource: String,
    #[serde(default)]
    response_kind: EntryKind,
    scope: String,
    #[serde(default)]
    singular_resource: String,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    short_names: Vec<String>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    subresources: Vec<Sub>,
}
#[derive(Deserialize, Default)]
struct EntryKind {
    #[serde(default)]
    kind: String,
}
#[derive(Deserialize)]
struct Sub {
    subresource: String,
}

impl Discovery {
    pub async fn fetch(client: &Client) -> Result<Self> {
        let core = client.send(Method::GET, "/api", ACCEPT, None);
        let groups = client.send(Method::GET, "/apis", ACCEPT, None);
        let (core, groups) = futures_util::future::try_join(core, groups).await?;
        let mut found = Self::default();
        for bytes in [core, groups] {
            found.add(serde_json::from_slice(&bytes).map_err(|e| anyhow::anyhow!("discovery could not be read: {e}"))?);
        }
        Ok(found)
    }

    fn add(&mut self, groups: Groups) {
        for group in groups.items {
            for version in group.versions {
                for entry in version.resources {
                    let singular = match entry.singular_resource {
                        s if s.is_empty() => entry.response_kind.kind.to_lowercase(),
                        s => s,
                    };
                    self.resources.push(Rc::new(Resource {
                        group: group.metadata.name.clone(),
                        version: version.version.clone(),
                        kind: entry.response_kind.kind,
                        plural: entry.resource,
                        singular,
                        short_names: entry.short_names,
                        categories: entry.categories,
                        namespaced: entry.scope == "Namespaced",
                        verbs: entry.verbs,
                        subresources: entry.subresources.into_iter().map(|s| s.subresource).collect(),
                    }));
                }
            }
        }
    }

    /// The kinds of the registry, for tests without a server that tells.
    #[cfg(test)]
    pub fn built_in() -> Self {
        let texts = |list: &[std::borrow::Cow<'static, str>]| list.iter().map(ToString::to_string).collect();
        let one = |kind: &types::registry::Kind| {
            Rc::new(Resource {
                group: kind.group.to_string(),
                version: kind.version.to_string(),
                kind: kind.kind.to_string(),
                plural: kind.plural.to_string(),
                singular: kind.singular.to_string(),
                short_names: texts(&kind.short_names),
                categories: texts(&kind.categories),
                namespaced: kind.namespaced(),
                verbs: kind.verbs.iter().map(|v| v.as_str().to_owned()).collect(),
                subresources: kind.subresources.iter().map(|s| s.name.to_string()).collect(),
            })
        };
        Self { resources: types::registry::BUILT_IN.iter().map(one).collect() }
    }

    pub fn all(&self) -> impl Iterator<Item = &Resource> {
        self.resources.iter().map(Rc::as_ref)
    }

    /// Each resource in the version that the server likes best.
    pub fn preferred(&self) -> impl Iterator<Item = &Resource> {
        self.all().enumerate().filter_map(|(at, r)| {
            let same = |other: &&Resource| other.group == r.group && other.plural == r.plural;
            (self.all().position(|o| same(&o)) == Some(at)).then_some(r)
        })
    }

    /// The resources that a word means: one, or a category's. Case does not matter, as in kubectl.
    pub fn find(&self, word: &str) -> Result<Vec<Rc<Resource>>> {
        let wanted = word.to_lowercase();
        if let Some(one) = self.one(&wanted) {
            return Ok(vec![one]);
        }
        let mut members: Vec<Rc<Resource>> = Vec::new();
        for resource in &self.resources {
            let is_member = resource.categories.contains(&wanted) && resource.allows("list");
            let known = |m: &Rc<Resource>| m.group == resource.group && m.plural == resource.plural;
            if is_member && !members.iter().any(known) {
                members.push(Rc::clone(resource));
            }
        }
        if members.is_empty() {
            anyhow::bail!("the server doesn't have a resource type {word:?}");
        }
        Ok(members)
    }

    /// The resource that a word means.
    pub fn only(&self, word: &str) -> Result<Rc<Resource>> {
        self.one(&word.to_lowercase())
            .ok_or_else(|| anyhow::anyhow!("the server doesn't have a resource type {word:?}"))
    }

    fn one(&self, word: &str) -> Option<Rc<Resource>> {
        let find = |name: &str, fits: &dyn Fn(&Resource) -> bool| {
            let by = |test: &dyn Fn(&Resource) -> bool| self.resources.iter().find(|r| fits(r) && test(r)).cloned();
            by(&|r| r.plural == name || (r.singular == name && !name.is_empty()))
                .or_else(|| by(&|r| r.short_names.iter().any(|s| s == name)))
                .or_else(|| by(&|r| r.kind.to_lowercase() == name))
        };
        if let Some(found) = find(word, &|_| true) {
            return Some(found);
        }
        let (name, rest) = word.split_once('.')?;
        // `deployments.v1.apps`, `pods.v1.`, then `deployments.apps`.
        let (version, group) = rest.split_once('.').unwrap_or((rest, ""));
        find(name, &|r| r.version == version && r.group == group)
            .or_else(|| find(name, &|r| r.group == rest))
            .or_else(|| find(name, &|r| r.group.starts_with(&format!("{rest}."))))
    }

    /// The resource that a manifest's kind is stored as.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<Rc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.resources.iter().find(|r| r.group == group && r.version == version && r.kind == kind).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_resources() {
        let d = Discovery::built_in();
        for (word, expected) in [
            ("po", "pods"),
            ("Pod", "pods"),
            ("pods", "pods"),
            ("deploy", "deployments.apps"),
            ("deployments.apps", "deployments.apps"),
            ("deployment.v1.apps", "deployments.apps"),
            ("svc", "services"),
            ("no", "nodes"),
            ("rolebinding", "rolebindings.rbac.authorization.k8s.io"),
            ("ep", "endpoints"),
        ] {
            assert_eq!(d.only(word).unwrap().group_resource(), expected, "{word}");
        }
        assert_eq!(d.only("nothing").unwrap_err().to_string(), "the server doesn't have a resource type \"nothing\"");
        let all: Vec<_> = d.find("all").unwrap().iter().map(|r| r.plural.clone()).collect();
        assert!(all.contains(&"pods".into()) && all.contains(&"deployments".into()), "{all:?}");
        assert!(!all.contains(&"secrets".into()));
        assert_eq!(d.of_kind("apps/v1", "Deployment").unwrap().named("x"), "deployment.apps/x");
        assert!(d.of_kind("apps/v1beta1", "Deployment").is_none());
    }

    #[test]
    fn the_aggregated_document_is_read() {
        let text = r#"{"kind":"APIGroupDiscoveryList","items":[{"metadata":{"name":"apps"},"versions":[{"version":"v1",
            "resources":[{"resource":"deployments","responseKind":{"group":"","version":"","kind":"Deployment"},
            "scope":"Namespaced","singularResource":"deployment","verbs":["get","list"],"shortNames":["deploy"],
            "categories":["all"],"subresources":[{"subresource":"scale","verbs":["get"]}]}]}]}]}"#;
        let mut d = Discovery::default();
        d.add(serde_json::from_str(text).unwrap());
        let r = d.only("deploy").unwrap();
        assert_eq!(r.path("shop"), "/apis/apps/v1/namespaces/shop/deployments");
        assert_eq!(r.subresources, ["scale"]);
    }
}
