//! Who wants to be known: the sockets of plugins. One that appears is asked who it is and told how its registration went; with
//! its socket the plugin goes. Sleeps in inotify.
//!
//! Only drivers are served, and only sockets that lie in the folder itself: nobody's registrar makes folders of its own.
//!
//! Source: `pkg/kubelet/pluginmanager/{pluginwatcher,reconciler,operationexecutor}`,
//! `k8s.io/kubelet/pkg/apis/pluginregistration/v1`.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime::folder::FolderChanges;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Csi;
use crate::grpc::message::{Fields, Writer};
use crate::grpc::{self, Status};

/// Sockets that are looked at; a node has a handful of drivers.
const PLUGINS_MAX: usize = 100;
/// Source: `GenerateRegisterPluginFunc` (a second for its answer), `notifyTimeoutDuration`.
const INFO_WITHIN: Duration = Duration::from_secs(1);
const NOTIFY_WITHIN: Duration = Duration::from_secs(5);
/// Wait after a failure, doubled up to the second. Source: `pkg/util/goroutinemap/exponentialbackoff`.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(122);

const GET_INFO: &str = "/pluginregistration.Registration/GetInfo";
const NOTIFY: &str = "/pluginregistration.Registration/NotifyRegistrationStatus";
const CSI: &str = "CSIPlugin";

/// What tells a socket from another one that has taken its place: inode, and when it was made.
type Identity = (u64, i64, i64);

#[derive(Debug, PartialEq, Eq)]
struct Info {
    kind: String,
    name: String,
    endpoint: PathBuf,
    versions: Vec<String>,
}

struct Plugin {
    identity: Identity,
    gone: CancellationToken,
    task: JoinHandle<()>,
}

/// Serves plugins until the task is dropped; those that are registered then stay so in the API.
///
/// # Errors
/// The folder cannot be watched.
pub async fn serve(csi: Arc<Csi>) -> io::Result<()> {
    let folder = csi.folders.registry();
    let changes = FolderChanges::with_new(&folder)?;
    let mut plugins: BTreeMap<PathBuf, Plugin> = BTreeMap::new();
    // When this future is dropped its tasks end where they are: nothing is unregistered.
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    loop {
        let seen = sockets(&folder);
        let mut before: BTreeMap<PathBuf, JoinHandle<()>> = BTreeMap::new();
        let gone: Vec<PathBuf> = plugins
            .iter()
            .filter(|(path, p)| seen.get(*path) != Some(&p.identity))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            if let Some(plugin) = plugins.remove(&path) {
                plugin.gone.cancel();
                before.insert(path, plugin.task);
            }
        }
        for (path, identity) in seen {
            if plugins.contains_key(&path) {
                continue;
            }
            let (gone, earlier) = (CancellationToken::new(), before.remove(&path));
            let (csi, left, at, stop) = (Arc::clone(&csi), gone.clone(), path.clone(), stop.clone());
            let task = tokio::spawn(async move {
                // The one that was here before must have been taken off first.
                if let Some(earlier) = earlier {
                    let _ = earlier.await;
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = keep(&csi, &at, &left) => {}
                }
            });
            plugins.insert(path, Plugin { identity, gone, task });
        }
        changes.next().await?;
    }
}

fn sockets(folder: &Path) -> BTreeMap<PathBuf, Identity> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let shown = entries.filter(|e| !e.file_name().as_encoded_bytes().starts_with(b"."));
    let sockets = shown.filter_map(|e| {
        let meta = e.metadata().ok().filter(|m| m.file_type().is_socket())?;
        Some((e.path(), (meta.ino(), meta.mtime(), meta.mtime_nsec())))
    });
    sockets.take(PLUGINS_MAX).collect()
}

/// Registers one plugin, as often as it takes, and takes it off when its socket is gone.
async fn keep(csi: &Arc<Csi>, socket: &Path, gone: &CancellationToken) {
    let mut wait = RETRY_MIN;
    let name = loop {
        let attempt = tokio::select! {
            () = gone.cancelled() => return,
            attempt = register(csi, socket) => attempt,
        };
        match attempt {
            Ok(name) => break name,
            Err(why) => tracing::warn!(socket = %socket.display(), why, "plugin not registered"),
        }
        tokio::select! {
            () = gone.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(RETRY_MAX);
    };
    tracing::info!(driver = name, "driver registered");
    gone.cancelled().await;
    csi.unregister(&name).await;
    tracing::info!(driver = name, "driver gone");
}

async fn register(csi: &Arc<Csi>, socket: &Path) -> Result<String, String> {
    let info = info(socket)
        .await
        .map_err(|e| format!("failed to get plugin info using RPC GetInfo at socket {}, err: {e}", socket.display()))?;
    let registered = match (info.kind.as_str(), version(&info.versions)) {
        (CSI, Ok(version)) => csi
            .register(&info.name, &info.endpoint, version)
            .await
            .map_err(|e| format!("RegisterPlugin error -- plugin registration failed with err: {e}")),
        (CSI, Err(why)) => Err(format!(
            "RegisterPlugin error -- plugin validation failed with err: validation failed for CSI Driver {} at endpoint \
             {}: {why}",
            info.name,
            info.endpoint.display()
        )),
        (other, _) => Err(format!(
            "RegisterPlugin error -- no handler registered for plugin type: {other} at socket {}",
            socket.display()
        )),
    };
    let error = registered.as_ref().err().cloned().unwrap_or_default();
    let said = Writer::new().flag(1, registered.is_ok()).text(2, &error).done();
    let told = grpc::call(socket, NOTIFY, said, NOTIFY_WITHIN).await;
    registered?;
    if let Err(e) = told {
        csi.unregister(&info.name).await;
        return Err(format!("failed to send registration status at socket {}, err: {e}", socket.display()));
    }
    Ok(info.name)
}

async fn info(socket: &Path) -> Result<Info, Status> {
    let answer = grpc::call(socket, GET_INFO, Vec::new(), INFO_WITHIN).await?;
    let fields = Fields::of(&answer);
    let endpoint = Some(fields.text(3)).filter(|e| !e.is_empty()).map_or_else(|| socket.to_owned(), PathBuf::from);
    Ok(Info { kind: fields.text(1), name: fields.text(2), endpoint, versions: fields.texts(4) })
}

/// The highest version that is served: of the first major one. Source: `utilversion.HighestSupportedVersion`.
fn version(versions: &[String]) -> Result<[u32; 3], String> {
    if versions.is_empty() {
        return Err("Plugin returned an empty list for supported versions".into());
    }
    let parsed = versions.iter().filter_map(|text| {
        let mut numbers = text.trim_start_matches('v').split('.').map(str::parse::<u32>);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some([major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)])
    });
    match parsed.filter(|v| v[0] <= 1).max() {
        Some(version) if version[0] == 1 => Ok(version),
        Some([major, minor, patch]) => {
            Err(format!("highest supported version reported is {major}.{minor}.{patch}, must be v1.x"))
        }
        None => Err(format!("could not find a highest supported version from versions ({versions:?}) reported")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_are_served() {
        let check = |versions: &[&str]| version(&versions.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(check(&["1.0.0"]), Ok([1, 0, 0]));
        assert_eq!(check(&["v1.3.0", "2.0.0", "1.10.1", "x"]), Ok([1, 10, 1]));
        for bad in [&[][..], &["2.0.0"], &["0.3.0"], &["x"]] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
