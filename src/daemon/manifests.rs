//! The auto-deploy folder: what lies in `<data-dir>/server/manifests/` is applied at start and on change; the objects of a file
//! that is gone are deleted.
//!
//! Which file an object came from is a label on it, so that nothing has to be remembered beside the cluster itself. Deciding
//! ([`plan`]) and doing are apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::apply::{Schemas, apply};
use client::{Client, DeleteParams, ListParams, Propagation, WriteParams};
use runtime::folder::FolderChanges;
use serde::Deserialize as _;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use types::registry::{BUILT_IN, Kind, by_kind};

/// On every object that came from the folder: the file's name.
pub const LABEL: &str = "kedge.sh/manifest";
/// Wait after a failure, doubled up to the second: a webhook or a namespace may still be on its way.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A manifest above this is refused, as the API would refuse its objects.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// One object of the cluster by kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    group: String,
    plural: String,
    namespace: String,
    name: String,
}

/// One file as it was read.
#[derive(Debug, Clone, PartialEq)]
struct File {
    name: String,
    /// Its objects, or why it cannot be read; then the objects that it made before stay.
    objects: Result<Vec<Value>, String>,
}

#[derive(Debug, Default, PartialEq)]
struct Plan {
    apply: Vec<Value>,
    delete: Vec<Id>,
    /// One line for each file or object that is left out, and why.
    problems: Vec<String>,
}

/// What to do so that the cluster has what the files say. `present`: the labelled objects of the cluster, with the file they
/// came from.
fn plan(files: &[File], present: &BTreeMap<Id, String>) -> Plan {
    let mut plan = Plan::default();
    let (mut wanted, mut unreadable) = (BTreeSet::new(), BTreeSet::new());
    for file in files {
        let objects = match &file.objects {
            Ok(objects) => objects,
            Err(why) => {
                plan.problems.push(format!("{}: {why}", file.name));
                unreadable.insert(file.name.clone());
                continue;
            }
        };
        for object in objects {
            match kind_of(object) {
                Err(why) => plan.problems.push(format!("{}: {why}", file.name)),
                Ok(kind) => {
                    let mut object = object.clone();
                    object["metadata"]["labels"][LABEL] = file.name.as_str().into();
                    wanted.insert(id_of(kind, &object));
                    plan.apply.push(object);
                }
            }
        }
    }
    let gone = present.iter().filter(|(id, file)| !wanted.contains(id) && !unreadable.contains(*file));
    plan.delete = gone.map(|(id, _)| id.clone()).collect();
    plan
}

fn kind_of(object: &Value) -> Result<&'static Kind, String> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let found = by_kind(group, version, kind).filter(|k| k.stored);
    let found = found.ok_or_else(|| format!("no matches for kind {kind:?} in version {api_version:?}"))?;
    match object.pointer("/metadata/name").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => Ok(found),
        _ => Err(format!("a {kind} without metadata.name")),
    }
}

fn namespace_of<'o>(kind: &Kind, object: &'o Value) -> &'o str {
    if !kind.namespaced() {
        return "";
    }
    object.pointer("/metadata/namespace").and_then(Value::as_str).filter(|n| !n.is_empty()).unwrap_or("default")
}

fn id_of(kind: &Kind, object: &Value) -> Id {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    Id {
        group: kind.group.to_string(),
        plural: kind.plural.to_string(),
        namespace: namespace_of(kind, object).to_owned(),
        name: name.to_owned(),
    }
}

fn read_all(folder: &Path) -> std::io::Result<Vec<File>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.retain(|p| p.extension().is_some_and(|x| x == "yaml" || x == "yml" || x == "json"));
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let label = types::names::label_value(&name);
        let objects = if let Some(why) = label.into_iter().next() {
            Err(format!("the file's name is no label value: {why}"))
        } else {
            read_objects(&path)
        };
        File { name, objects }
    };
    Ok(paths.into_iter().map(read).collect())
}

/// The objects of a multi-document YAML (or JSON) file; lists are taken apart.
fn read_objects(path: &Path) -> Result<Vec<Value>, String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{size} bytes are more than the {FILE_BYTES_MAX} that are read"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        match Value::deserialize(document).map_err(|e| e.to_string())? {
            Value::Null => {}
            Value::Object(map) if map.get("kind").and_then(Value::as_str) == Some("List") => {
                objects.extend(map.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
            }
            object @ Value::Object(_) => objects.push(object),
            _ => return Err("a document is no object".into()),
        }
    }
    Ok(objects)
}

/// Keeps the cluster as the folder says until `stop`.
pub async fn run(folder: PathBuf, client: Client, stop: CancellationToken) {
    let shown = folder.display().to_string();
    let made = std::fs::create_dir_all(&folder).and_then(|()| FolderChanges::of(&folder));
    let changes = match made {
        Ok(changes) => changes,
        Err(error) => {
            tracing::error!(folder = shown, %error, "the manifests folder is not watched");
            return;
        }
    };
    let mut schemas = Schemas::default();
    let mut wait = RETRY_MIN;
    loop {
        let ok = tokio::select! {
            () = stop.cancelled() => return,
            ok = sync(&folder, &client, &mut schemas) => ok,
        };
        wait = if ok { RETRY_MIN } else { (wait * 2).min(RETRY_MAX) };
        let retry = async { if ok { std::future::pending().await } else { tokio::time::sleep(wait).await } };
        tokio::select! {
            () = stop.cancelled() => return,
            () = retry => {}
            changed = changes.next() => if changed.is_err() { return },
        }
    }
}

/// Looks at the folder once. Whether the cluster is now as it says.
async fn sync(folder: &Path, client: &Client, schemas: &mut Schemas) -> bool {
    let files = match read_all(folder) {
        Ok(files) => files,
        Err(error) => {
            tracing::error!(folder = %folder.display(), %error, "the manifests folder cannot be read");
            return false;
        }
    };
    let present = match labelled(client).await {
        Ok(present) => present,
        Err(error) => {
            tracing::warn!(%error, "the objects of manifests cannot be listed");
            return false;
        }
    };
    let plan = plan(&files, &present);
    for problem in &plan.problems {
        tracing::error!(problem, "a manifest is left out");
    }
    let mut ok = true;
    for object in &plan.apply {
        let Ok(kind) = kind_of(object) else { continue };
        let id = id_of(kind, object);
        let params = WriteParams { field_manager: "kedge-manifests".into(), ..WriteParams::default() };
        match apply(client, schemas, &kind.path(&id.namespace), &id.name, object, &params).await {
            Ok(applied) => {
                tracing::debug!(kind = %kind.kind, namespace = id.namespace, name = id.name, outcome = applied.outcome.as_str(), "manifest")
            }
            Err(error) => {
                ok = false;
                tracing::warn!(kind = %kind.kind, namespace = id.namespace, name = id.name, %error, "a manifest's object was refused; it will be tried again");
            }
        }
    }
    for id in &plan.delete {
        let Some(kind) = BUILT_IN.iter().find(|k| k.group == id.group && k.plural == id.plural) else { continue };
        let params = DeleteParams { propagation: Some(Propagation::Background), ..DeleteParams::default() };
        match client.delete_path(&format!("{}/{}", kind.path(&id.namespace), id.name), &params).await {
            Ok(_) => {
                tracing::info!(kind = %kind.kind, namespace = id.namespace, name = id.name, "deleted: its manifest is gone")
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                ok = false;
                tracing::warn!(kind = %kind.kind, namespace = id.namespace, name = id.name, %error, "not deleted yet");
            }
        }
    }
    ok
}

/// The cluster's objects that came from the folder, with their file.
async fn labelled(client: &Client) -> Result<BTreeMap<Id, String>, client::Error> {
    let mut found = BTreeMap::new();
    for kind in BUILT_IN.iter().filter(|k| k.keeps()) {
        let list = client.list_path::<Value>(&kind.path(""), &ListParams::labels(LABEL)).await?;
        for object in &list.items {
            let file = object.pointer("/metadata/labels").and_then(|l| l.get(LABEL)).and_then(Value::as_str);
            // What a controller made from one of ours carries our label too where the template does; it is its owner's.
            let owned = object.pointer("/metadata/ownerReferences").is_some();
            if let Some(file) = file.filter(|_| !owned) {
                found.insert(id_of(kind, object), file.to_owned());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(name: &str, objects: Vec<Value>) -> File {
        File { name: name.into(), objects: Ok(objects) }
    }

    fn config_map(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
    }

    fn id(name: &str) -> Id {
        Id { group: String::new(), plural: "configmaps".into(), namespace: "default".into(), name: name.into() }
    }

    #[test]
    fn what_is_gone_goes_and_what_cannot_be_read_stays() {
        assert_eq!(plan(&[], &BTreeMap::new()), Plan::default());
        let present =
            BTreeMap::from([(id("a"), "a.yaml".to_owned()), (id("b"), "b.yaml".into()), (id("c"), "c.yaml".into())]);
        let broken = File { name: "c.yaml".into(), objects: Err("bad".into()) };
        let made = plan(&[file("a.yaml", vec![config_map("a")]), broken], &present);
        assert_eq!(made.delete, [id("b")]);
        assert_eq!(made.apply.len(), 1);
        assert_eq!(made.apply[0]["metadata"]["labels"][LABEL], "a.yaml");
        assert_eq!(made.problems, ["c.yaml: bad"]);
        let made = plan(
            &[file("a.yaml", vec![json!({"apiVersion": "x.io/v1", "kind": "Foo", "metadata": {"name": "a"}})])],
            &present,
        );
        assert_eq!(made.problems, ["a.yaml: no matches for kind \"Foo\" in version \"x.io/v1\""]);
    }

    #[test]
    fn documents_and_lists_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("a.yaml"),
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("b.yml"), "a: [").unwrap();
        std::fs::write(dir.path().join("c.txt"), "not read").unwrap();
        let files = read_all(dir.path()).unwrap();
        assert_eq!(files.len(), 2);
        assert_eq!(files[0].objects.as_ref().unwrap().len(), 2);
        assert!(files[1].objects.is_err());
    }
}
