//! What to do so that the cluster has what the files say: pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use types::registry::{GroupVersionKind, Kind, KindRef, by_kind};

use super::LABEL;
use super::read::File;

/// One object of the cluster by kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id {
    pub group: String,
    pub plural: String,
    pub namespace: String,
    pub name: String,
}

impl Id {
    pub fn of(kind: &Kind, object: &Value) -> Self {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        Self {
            group: kind.group.to_string(),
            plural: kind.plural.to_string(),
            namespace: namespace_of(kind, object).to_owned(),
            name: name.to_owned(),
        }
    }

    pub fn is_of(&self, kind: &Kind) -> bool {
        self.group == kind.group && self.plural == kind.plural
    }

    /// What other objects need to be there: it comes first and goes last.
    fn holds_others(&self) -> bool {
        matches!(
            (self.group.as_str(), self.plural.as_str()),
            ("", "namespaces") | ("apiextensions.k8s.io", "customresourcedefinitions")
        )
    }
}

fn namespace_of<'o>(kind: &Kind, object: &'o Value) -> &'o str {
    if !kind.namespaced() {
        return "";
    }
    object.pointer("/metadata/namespace").and_then(Value::as_str).filter(|n| !n.is_empty()).unwrap_or("default")
}

/// An object to be applied, with its kind.
#[derive(Debug, Clone)]
pub struct Apply {
    pub file: String,
    pub kind: KindRef,
    pub id: Id,
    pub object: Value,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub apply: Vec<Apply>,
    pub delete: Vec<Id>,
    /// Kinds that objects wait for: nothing defines them yet.
    pub awaited: BTreeSet<GroupVersionKind>,
    /// One line for each file or object that is left out, and why.
    pub problems: Vec<String>,
}

/// `custom`: the kinds that definitions make. `made`: what was applied before, with the file that it came from.
///
/// An object may stand before what it needs, in its file or in another. While something of a file is left out, nothing that came
/// from it is deleted: it may be that object, under another version.
pub fn plan(files: &[File], custom: &[KindRef], made: &BTreeMap<Id, String>) -> Plan {
    let mut plan = Plan::default();
    let (mut wanted, mut unsure) = (BTreeSet::new(), BTreeSet::new());
    for file in files {
        let objects = match &file.objects {
            Ok(objects) => objects,
            Err(why) => {
                plan.problems.push(format!("{}: {why}", file.name));
                unsure.insert(file.name.clone());
                continue;
            }
        };
        for object in objects {
            match kind_of(object, custom) {
                Ok(kind) => {
                    let mut object = object.clone();
                    object["metadata"]["labels"][LABEL] = file.name.as_str().into();
                    let id = Id::of(&kind, &object);
                    wanted.insert(id.clone());
                    plan.apply.push(Apply { file: file.name.clone(), kind, id, object });
                }
                Err(why) => {
                    plan.problems.push(format!("{}: {}", file.name, why.text()));
                    unsure.insert(file.name.clone());
                    if let Left::NoKind(kind) = why {
                        plan.awaited.insert(kind);
                    }
                }
            }
        }
    }
    plan.apply.sort_by_key(|apply| !apply.id.holds_others());
    let gone = made.iter().filter(|(id, file)| !wanted.contains(id) && !unsure.contains(*file));
    plan.delete = gone.map(|(id, _)| id.clone()).collect();
    plan.delete.sort_by_key(Id::holds_others);
    plan
}

/// Why an object is left out.
enum Left {
    NoKind(GroupVersionKind),
    NotServed(String),
    NoName(String),
    Labels(String),
}

impl Left {
    fn text(&self) -> String {
        match self {
            Left::NoKind(gvk) => format!("no matches for kind {:?} in version {:?}", gvk.kind, gvk.api_version()),
            Left::NotServed(kind) => format!("a {kind} is not kept"),
            Left::NoName(kind) => format!("a {kind} without metadata.name"),
            Left::Labels(kind) => format!("a {kind} whose metadata.labels are no map"),
        }
    }
}

fn kind_of(object: &Value, custom: &[KindRef]) -> Result<KindRef, Left> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let is_meant = |k: &&KindRef| k.group == group && k.version == version && k.kind == kind;
    let found = match by_kind(group, version, kind) {
        Some(built_in) => KindRef::BuiltIn(built_in),
        None => custom.iter().find(is_meant).cloned().ok_or_else(|| {
            let text = |text: &str| text.to_owned().into();
            Left::NoKind(GroupVersionKind { group: text(group), version: text(version), kind: text(kind) })
        })?,
    };
    if !found.stored {
        return Err(Left::NotServed(kind.to_owned()));
    }
    if object.pointer("/metadata/name").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(Left::NoName(kind.to_owned()));
    }
    match object.pointer("/metadata/labels") {
        None | Some(Value::Null | Value::Object(_)) => Ok(found),
        _ => Err(Left::Labels(kind.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(name: &str, objects: Vec<Value>) -> File {
        File { name: name.into(), objects: Ok(objects) }
    }

    fn object(api_version: &str, kind: &str, name: &str) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}})
    }

    fn id(name: &str) -> Id {
        Id { group: String::new(), plural: "configmaps".into(), namespace: "default".into(), name: name.into() }
    }

    #[test]
    fn what_is_gone_goes_and_what_cannot_be_read_stays() {
        let nothing = plan(&[], &[], &BTreeMap::new());
        assert!(nothing.apply.is_empty() && nothing.delete.is_empty(), "{nothing:?}");
        let present =
            BTreeMap::from([(id("a"), "a.yaml".to_owned()), (id("b"), "b.yaml".into()), (id("c"), "c.yaml".into())]);
        let broken = File { name: "c.yaml".into(), objects: Err("bad".into()) };
        let made = plan(&[file("a.yaml", vec![object("v1", "ConfigMap", "a")]), broken], &[], &present);
        assert_eq!(made.delete, [id("b")]);
        assert_eq!(made.apply.len(), 1);
        assert_eq!(made.apply[0].object["metadata"]["labels"][LABEL], "a.yaml");
        assert_eq!(made.problems, ["c.yaml: bad"]);
    }

    #[test]
    fn nothing_goes_while_something_of_its_file_is_left_out() {
        let present = BTreeMap::from([(id("a"), "a.yaml".to_owned()), (id("b"), "b.yaml".to_owned())]);
        let mut labels = object("v1", "ConfigMap", "a");
        labels["metadata"]["labels"] = json!("x");
        for (left_out, why) in [
            (object("v2", "ConfigMap", "a"), "no matches for kind \"ConfigMap\" in version \"v2\""),
            (labels, "a ConfigMap whose metadata.labels are no map"),
        ] {
            let made = plan(&[file("a.yaml", vec![left_out])], &[], &present);
            assert_eq!((made.delete, made.problems), (vec![id("b")], vec![format!("a.yaml: {why}")]));
        }
    }

    #[test]
    fn an_object_waits_for_its_kind() {
        let files = [file("a.yaml", vec![object("x.io/v1", "Foo", "a"), object("v1", "ConfigMap", "")])];
        let made = plan(&files, &[], &BTreeMap::new());
        let expected =
            ["a.yaml: no matches for kind \"Foo\" in version \"x.io/v1\"", "a.yaml: a ConfigMap without metadata.name"];
        assert_eq!(made.problems, expected);
        assert_eq!(made.awaited.len(), 1);
        let definition: client::Definition = serde_json::from_value(json!({
            "spec": {"group": "x.io", "scope": "Namespaced", "versions": [{"name": "v1", "served": true, "storage": true}]},
            "status": {"acceptedNames": {"plural": "foos", "kind": "Foo"},
                "conditions": [{"type": "Established", "status": "True"}]},
        }))
        .unwrap();
        let custom: Vec<KindRef> = definition.kinds().map(|kind| KindRef::Custom(kind.into())).collect();
        let made = plan(&files, &custom, &BTreeMap::new());
        assert!(made.awaited.is_empty());
        assert_eq!(made.apply[0].id.plural, "foos");
    }

    #[test]
    fn what_holds_others_comes_first_and_goes_last() {
        let names = |plan: &Plan| {
            let applied: Vec<_> = plan.apply.iter().map(|a| a.id.name.clone()).collect();
            (applied, plan.delete.iter().map(|id| id.name.clone()).collect::<Vec<_>>())
        };
        let objects = vec![
            object("v1", "ConfigMap", "map"),
            object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "foos.x.io"),
            object("v1", "Namespace", "space"),
        ];
        let made = plan(&[file("a.yaml", objects)], &[], &BTreeMap::new());
        assert_eq!(names(&made).0, ["foos.x.io", "space", "map"]);
        let present = made.apply.iter().map(|a| (a.id.clone(), "a.yaml".to_owned())).collect();
        assert_eq!(names(&plan(&[], &[], &present)).1, ["map", "space", "foos.x.io"]);
    }
}
