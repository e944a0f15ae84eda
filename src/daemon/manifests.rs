//! The auto-deploy folder: what lies in `<data-dir>/server/manifests/` is applied at start and on change; the objects of a file
//! that is gone are deleted.
//!
//! Which file an object came from is a label on it, and written down beside the folder ([`record`]), because anybody may write
//! labels. Objects of kinds that nothing defines yet wait for their definition, which may come from the folder or from
//! elsewhere. Deciding ([`plan`]) and doing are apart.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::apply::{Schemas, apply};
use client::cache::DirtyKeys;
use client::{Cache, Client, Definition, DeleteParams, Propagation, WriteParams};
use runtime::folder::FolderChanges;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use types::registry::{BUILT_IN, GroupVersionKind, KindRef};

mod plan;
mod read;
mod record;

use plan::{Apply, Id, Plan, plan};
use record::Record;

/// On every object that came from the folder: the file's name. Who takes it off keeps the object when the file goes.
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
    let mut record = Record::of(&folder);
    let mut wait = RETRY_MIN;
    loop {
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = async {
                definitions.synced().await;
                sync(&folder, &client, &definitions, &mut schemas, &mut record).await
            } => looked,
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
async fn sync(
    folder: &Path,
    client: &Client,
    definitions: &Definitions,
    schemas: &mut Schemas,
    record: &mut Record,
) -> Looked {
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
    let Plan { apply, delete, awaited, problems } = plan(&files, &custom, record.made());
    for problem in &problems {
        tracing::error!(problem, "a manifest is left out");
    }
    let mut made = record.made().clone();
    made.extend(apply.iter().map(|one| (one.id.clone(), one.file.clone())));
    // Before it is made: what nobody knows of would stay for ever.
    if let Err(error) = record.replace(made.clone()) {
        tracing::error!(%error, "what is applied from manifests cannot be written down: nothing is");
        return Looked::failed();
    }
    let mut ok = true;
    for one in &apply {
        ok &= applied(client, schemas, one).await;
    }
    for id in &delete {
        let gone = deleted(client, &custom, id, made.get(id).map_or("", String::as_str)).await;
        if gone {
            made.remove(id);
        }
        ok &= gone;
    }
    if let Err(error) = record.replace(made) {
        tracing::warn!(%error, "what was deleted with its manifests is still written down");
    }
    Looked { ok, awaited }
}

/// Whether the object is as its manifest says.
async fn applied(client: &Client, schemas: &mut Schemas, one: &Apply) -> bool {
    let Apply { kind, id: Id { namespace, name, .. }, object, .. } = one;
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

/// Whether the object is gone, or on its way, or somebody else's by now.
async fn deleted(client: &Client, custom: &[KindRef], id: &Id, file: &str) -> bool {
    let built_in = BUILT_IN.iter().find(|k| id.is_of(k)).map(KindRef::BuiltIn);
    let Some(kind) = built_in.or_else(|| custom.iter().find(|k| id.is_of(k)).cloned()) else { return true };
    let Id { namespace, name, .. } = id;
    let path = format!("{}/{name}", kind.path(namespace));
    let delete = async {
        let object: Value = client.get_path(&path).await?;
        let metadata = &object["metadata"];
        if metadata["labels"][LABEL] != file {
            return Ok(false);
        }
        let uid = metadata["uid"].as_str().unwrap_or_default();
        let params = DeleteParams::uid(uid).propagation(Propagation::Background);
        client.delete_path(&path, &params).await.map(|_| true)
    };
    match delete.await {
        Ok(true) => {
            tracing::info!(kind = %kind.kind, namespace, name, "deleted: its manifest is gone");
            true
        }
        Ok(false) => {
            tracing::info!(kind = %kind.kind, namespace, name, "its manifest is gone; it is somebody else's and stays");
            true
        }
        Err(error) if error.is_not_found() => true,
        Err(error) => {
            tracing::warn!(kind = %kind.kind, namespace, name, %error, "not deleted yet");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::api::Query;
    use client::fake::Fake;
    use client::watch::{EventType, WatchStream};
    use client::{Informers, ListParams};
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

    /// Anybody who may write an object may label it, and whoever takes the label off keeps it.
    #[tokio::test]
    async fn only_what_came_from_the_folder_goes_with_its_file() {
        let fake = Fake::new(client::Clock::system());
        let (client, place) = (fake.client(), tempfile::tempdir().unwrap());
        let folder = place.path().join("manifests");
        std::fs::create_dir(&folder).unwrap();
        let maps = "/api/v1/namespaces/default/configmaps";
        let theirs = json!({"metadata": {"name": "theirs", "labels": {LABEL: "gone.yaml"}}});
        let _: Value = client.create_path(maps, &theirs, &Default::default()).await.unwrap();
        let file = folder.join("a.yaml");
        let map = |name: &str| format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
        std::fs::write(&file, map("ours") + &map("kept")).unwrap();
        let informers = Informers::new(client.clone());
        let definitions = informers.definitions();
        definitions.synced().await;
        let look = async || {
            // A process of its own each time.
            let mut record = Record::of(&folder);
            sync(&folder, &client, &definitions, &mut Schemas::default(), &mut record).await.ok
        };
        assert!(look().await);
        let unlabelled = json!({"metadata": {"labels": {LABEL: null}}});
        let _: Value = client
            .patch_path(&format!("{maps}/kept"), client::Patch::Merge(&unlabelled), &Default::default())
            .await
            .unwrap();
        std::fs::remove_file(&file).unwrap();
        fake.take_writes();
        assert!(look().await && look().await);
        assert_eq!(fake.take_writes(), ["DELETE /api/v1/namespaces/default/configmaps/ours"]);
        informers.stop().await;
    }

    #[tokio::test]
    async fn a_custom_object_waits_for_its_definition_and_goes_with_the_file() {
        let fake = Fake::new(client::Clock::system());
        let (client, stop, place) = (fake.client(), CancellationToken::new(), tempfile::tempdir().unwrap());
        let folder = place.path().join("manifests");
        let file = folder.join("foo.yaml");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, MANIFEST).unwrap();
        let informers = Informers::new(client.clone());
        let definitions = informers.definitions();
        let mut watch = client.watch::<Definition>("", &ListParams::default()).await.unwrap();
        let task = tokio::spawn(run(folder, client.clone(), definitions, stop.clone()));
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
