//! The auto-deploy folder: what lies in `<data-dir>/server/manifests/` is applied at start and on change; the objects of a file
//! that is gone are deleted.
//!
//! Which file an object came from is a label on it, so that nothing has to be remembered beside the cluster itself. Objects of
//! kinds that nothing defines yet wait for their definition, which may come from the folder or from elsewhere. Deciding
//! ([`plan`]) and doing are apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::apply::{Schemas, apply};
use client::cache::DirtyKeys;
use client::{Cache, Client, Definition, DeleteParams, ListParams, Propagation, WriteParams};
use runtime::folder::FolderChanges;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use types::registry::{BUILT_IN, GroupVersionKind, KindRef};

mod plan;
mod read;

use plan::{Apply, Id, Plan, plan};

/// On every object that came from the folder: the file's name.
pub const LABEL: &str = "kedge.sh/manifest";
/// Wait after a failure, doubled up to the second: a webhook or a namespace may still be on its way.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);

type Definitions = Arc<Cache<Definition>>;

/// How a look at the folder ended.
struct Looked {
    /// The cluster is as the folder says, but for what waits.
    ok: bool,
    awaited: BTreeSet<GroupVersionKind>,
}

impl Looked {
    fn failed() -> Self {
        Self { ok: false, awaited: BTreeSet::new() }
    }
}

/// Keeps the cluster as the folder says until `stop`.
pub async fn run(folder: PathBuf, client: Client, definitions: Definitions, stop: CancellationToken) {
    let shown = folder.display().to_string();
    let made = std::fs::create_dir_all(&folder).and_then(|()| FolderChanges::of(&folder));
    let changes = match made {
        Ok(changes) => changes,
        Err(error) => {
            tracing::error!(folder = shown, %error, "the manifests folder is not watched");
            return;
        }
    };
    let mut defined = definitions.dirty();
    let mut schemas = Schemas::default();
    let mut wait = RETRY_MIN;
    loop {
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = async { definitions.synced().await; sync(&folder, &client, &definitions, &mut schemas).await } => looked,
        };
        wait = if looked.ok { RETRY_MIN } else { (wait * 2).min(RETRY_MAX) };
        let retry = async { if looked.ok { std::future::pending().await } else { tokio::time::sleep(wait).await } };
        tokio::select! {
            () = stop.cancelled() => return,
            () = retry => {}
            () = any_defined(&definitions, &mut defined, &looked.awaited) => {}
            changed = changes.next() => if changed.is_err() { return },
        }
    }
}

/// Resolves when one of the awaited kinds is served.
async fn any_defined(definitions: &Definitions, changed: &mut DirtyKeys, awaited: &BTreeSet<GroupVersionKind>) {
    while !custom_kinds(&definitions.all()).iter().any(|kind| awaited.contains(&kind.gvk())) {
        changed.next().await;
    }
}

/// Every kind and version that a definition makes.
fn custom_kinds(definitions: &[Arc<Definition>]) -> Vec<KindRef> {
    definitions.iter().flat_map(|d| d.kinds().map(|kind| KindRef::Custom(Arc::new(kind))).collect::<Vec<_>>()).collect()
}

/// Looks at the folder once.
async fn sync(folder: &Path, client: &Client, definitions: &Definitions, schemas: &mut Schemas) -> Looked {
    let files = match read::read_all(folder) {
        Ok(files) => files,
        Err(error) => {
            tracing::error!(folder = %folder.display(), %error, "the manifests folder cannot be read");
            return Looked::failed();
        }
    };
    // Once for all: what is defined meanwhile is for the next look.
    let definitions = definitions.all();
    let custom = custom_kinds(&definitions);
    let (present, mut ok) = match labelled(client, &definitions).await {
        Ok(present) => present,
        Err(error) => {
            tracing::warn!(%error, "the objects of manifests cannot be listed");
            return Looked::failed();
        }
    };
    let Plan { apply, delete, awaited, problems } = plan(&files, &custom, &present);
    for problem in &problems {
        tracing::error!(problem, "a manifest is left out");
    }
    for one in &apply {
        ok &= applied(client, schemas, one).await;
    }
    for id in &delete {
        ok &= deleted(client, &custom, id).await;
    }
    Looked { ok, awaited }
}

/// Whether the object is as its manifest says.
async fn applied(client: &Client, schemas: &mut Schemas, one: &Apply) -> bool {
    let Apply { kind, id: Id { namespace, name, .. }, object } = one;
    let params = WriteParams { field_manager: "kedge-manifests".into(), ..WriteParams::default() };
    match apply(client, schemas, &kind.path(namespace), name, object, &params).await {
        Ok(applied) => {
            tracing::debug!(kind = %kind.kind, namespace, name, outcome = applied.outcome.as_str(), "manifest");
            true
        }
        Err(error) => {
            tracing::warn!(kind = %kind.kind, namespace, name, %error, "a manifest's object was refused; it will be tried again");
            false
        }
    }
}

/// Whether the object is gone, or on its way.
async fn deleted(client: &Client, custom: &[KindRef], id: &Id) -> bool {
    let built_in = BUILT_IN.iter().find(|k| id.is_of(k)).map(KindRef::BuiltIn);
    let Some(kind) = built_in.or_else(|| custom.iter().find(|k| id.is_of(k)).cloned()) else { return true };
    let Id { namespace, name, .. } = id;
    let params = DeleteParams { propagation: Some(Propagation::Background), ..DeleteParams::default() };
    match client.delete_path(&format!("{}/{name}", kind.path(namespace)), &params).await {
        Ok(_) => {
            tracing::info!(kind = %kind.kind, namespace, name, "deleted: its manifest is gone");
            true
        }
        Err(error) if error.is_not_found() => true,
        Err(error) => {
            tracing::warn!(kind = %kind.kind, namespace, name, %error, "not deleted yet");
            false
        }
    }
}

/// The cluster's objects that came from the folder, with their file; and whether these are all. Custom objects that cannot be
/// listed (those of one kind may need a webhook that is down) hold up no others.
///
/// Errors: built-in ones cannot be listed.
async fn labelled(
    client: &Client,
    definitions: &[Arc<Definition>],
) -> Result<(BTreeMap<Id, String>, bool), client::Error> {
    let (mut found, mut all) = (BTreeMap::new(), true);
    let custom = definitions.iter().filter_map(|d| Some(KindRef::Custom(Arc::new(d.kind()?))));
    for kind in BUILT_IN.iter().filter(|k| k.keeps()).map(KindRef::BuiltIn).chain(custom) {
        let list = match client.list_path::<Value>(&kind.path(""), &ListParams::labels(LABEL)).await {
            Ok(list) => list,
            Err(error) if kind.built_in().is_none() => {
                tracing::warn!(kind = %kind.kind, %error, "the objects of manifests cannot be listed");
                all = false;
                continue;
            }
            Err(error) => return Err(error),
        };
        for object in &list.items {
            let file = object.pointer("/metadata/labels").and_then(|l| l.get(LABEL)).and_then(Value::as_str);
            // What a controller made from one of ours carries our label too where the template does; it is its owner's.
            let owned = object.pointer("/metadata/ownerReferences").is_some();
            if let Some(file) = file.filter(|_| !owned) {
                found.insert(Id::of(&kind, object), file.to_owned());
            }
        }
    }
    Ok((found, all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Informers;
    use client::api::Query;
    use client::fake::Fake;
    use client::watch::{EventType, WatchStream};
    use serde_json::json;

    const MANIFEST: &str = "
apiVersion: x.io/v1
kind: Foo
metadata: {name: early}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: foos.x.io}
spec: {group: x.io, scope: Namespaced, versions: [{name: v1, served: true, storage: true}]}
";

    async fn established(client: &Client, is: &str) {
        let status = json!({"status": {"acceptedNames": {"plural": "foos", "kind": "Foo"},
            "conditions": [{"type": "Established", "status": is}]}});
        let patch = client::Patch::Merge(&status);
        client.patch_status::<Definition>("", "foos.x.io", patch).await.unwrap();
    }

    /// The next event of a watch, as kind of event and the object's name.
    async fn next(watch: &mut WatchStream) -> (EventType, String) {
        let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap().unwrap();
        let object: Value = event.decode().unwrap();
        (event.event, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }

    #[tokio::test]
    async fn a_custom_object_waits_for_its_definition_and_goes_with_the_file() {
        let fake = Fake::new(client::Clock::system());
        let (client, stop, folder) = (fake.client(), CancellationToken::new(), tempfile::tempdir().unwrap());
        let file = folder.path().join("foo.yaml");
        std::fs::write(&file, MANIFEST).unwrap();
        let informers = Informers::new(client.clone());
        let definitions = informers.definitions();
        let mut watch = client.watch::<Definition>("", &ListParams::default()).await.unwrap();
        let task = tokio::spawn(run(folder.path().to_owned(), client.clone(), definitions, stop.clone()));
        let definition = "foos.x.io".to_owned();
        assert_eq!(next(&mut watch).await, (EventType::Added, definition.clone()));
        for is in ["False", "True"] {
            established(&client, is).await;
            assert_eq!(next(&mut watch).await, (EventType::Modified, definition.clone()));
        }
        let mut foos = client.watch_path("/apis/x.io/v1/foos", Query::default(), "application/json").await.unwrap();
        assert_eq!(next(&mut foos).await, (EventType::Added, "early".to_owned()));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(next(&mut watch).await, (EventType::Deleted, definition));
        let deleted: Vec<String> = fake.take_writes().into_iter().filter(|w| w.starts_with("DELETE")).collect();
        let expected = [
            "DELETE /apis/x.io/v1/namespaces/default/foos/early",
            "DELETE /apis/apiextensions.k8s.io/v1/customresourcedefinitions/foos.x.io",
        ];
        assert_eq!(deleted, expected);
        stop.cancel();
        task.await.unwrap();
        informers.stop().await;
    }
}
