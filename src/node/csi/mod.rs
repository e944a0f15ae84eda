//! CSI drivers of this node: who is registered, which volumes pods have of them, and what the API is told of both.
//!
//! ```text
//! plugins_registry ──inotify──► registry ──► drivers (name → socket) ──► API: CSINode, the Node's labels and annotation
//! volumes ──► mount ──► driver (NodeStage…, NodePublish…) ◄── gRPC over the driver's socket
//! Node's status (volumesAttached) ──► whoever waits for a volume looks again
//! ```
//! What is mounted is written down beside it (`vol_data.json`), so that a later daemon takes it down. No driver is known that has
//! not registered with this daemon.
//!
//! Source: `pkg/volume/csi`, `pkg/kubelet/volumemanager`.

pub mod driver;
pub mod expand;
pub mod folders;
pub mod mount;
pub mod node_info;
pub mod records;
pub mod registry;
pub mod wanted;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Recorder};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::csi::driver::Driver;
use crate::csi::folders::Folders;
use crate::csi::records::Volume;
use crate::volume::objects::Changed;

/// Where the parts of the API that are not read as types lie.
const DRIVERS: &str = "/apis/storage.k8s.io/v1/csidrivers";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";

/// Who has a volume, or is about to have it.
#[derive(Default)]
struct Users {
    pods: BTreeSet<String>,
    /// Of what an earlier daemon left nobody knows: it is said to be in use, which holds up nothing but its detaching.
    attachable: bool,
    /// By this daemon: it need not be staged for the next pod.
    staged: bool,
}

struct Registered {
    driver: Driver,
    version: [u32; 3],
}

#[derive(Default)]
struct State {
    drivers: BTreeMap<String, Registered>,
    /// Pods that look again when something changes.
    waiting: BTreeSet<String>,
    /// Since when pods wait for others to attach a volume.
    since: BTreeMap<(String, String), Duration>,
    /// Pods that have gone and whose volumes could not be taken down.
    orphans: BTreeSet<String>,
    users: BTreeMap<Volume, Users>,
    /// As the API shows this node: attached, and known to be in use.
    attached: BTreeSet<String>,
    reported: BTreeSet<String>,
}

pub struct Csi {
    pub folders: Folders,
    client: Client,
    node_name: String,
    recorder: Recorder,
    changed: Changed,
    state: Mutex<State>,
    /// The volumes in use are others now.
    pub in_use_changed: Notify,
    /// One at a time writes what the API has of this node's drivers.
    writing: tokio::sync::Mutex<()>,
    /// By volume: one at a time mounts it or takes it down.
    busy: Mutex<BTreeMap<Volume, Arc<tokio::sync::Mutex<()>>>>,
}

impl Csi {
    pub fn new(client: Client, node_name: &str, recorder: Recorder, folders: Folders, changed: Changed) -> Csi {
        Csi {
            folders,
            client,
            node_name: node_name.to_owned(),
            recorder,
            changed,
            state: Mutex::default(),
            in_use_changed: Notify::new(),
            writing: tokio::sync::Mutex::default(),
            busy: Mutex::default(),
        }
    }

    /// Makes the folders, finds out what an earlier daemon has mounted, and serves plugins. Never returns: what cannot be served
    /// is told once in the log.
    pub async fn run(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let ready = tokio::task::spawn_blocking(move || {
            this.folders.prepare()?;
            let found = records::found(&this.folders);
            let found =
                found.into_iter().map(|(volume, pods)| (volume, Users { pods, attachable: true, staged: false }));
            this.state.lock().users.extend(found);
            std::io::Result::Ok(())
        });
        let ready = ready.await.map_err(std::io::Error::other).and_then(|r| r);
        self.in_use_changed.notify_one();
        self.introduce().await;
        let served = match ready {
            Ok(()) => registry::serve(Arc::clone(self)).await,
            Err(e) => Err(e),
        };
        if let Err(error) = served {
            tracing::warn!(folder = %self.folders.name.display(), %error, "CSI drivers are not served");
        }
        std::future::pending::<()>().await;
    }

    /// A driver has come: the API is told, and those who waited for it look again.
    ///
    /// # Errors
    /// For the driver: why it is not served.
    pub async fn register(self: &Arc<Self>, name: &str, endpoint: &Path, version: [u32; 3]) -> Result<(), String> {
        let driver = Driver(endpoint.to_owned());
        if let Some(known) = self.state.lock().drivers.get(name)
            && known.version >= version
            && known.driver != driver
        {
            let [major, minor, patch] = known.version;
            return Err(format!(
                "kubernetes.io/csi: RegisterPlugin for CSI driver {name:?} failed. Another driver with the same name is already \
                 registered with a higher supported version: \"{major}.{minor}.{patch}\""
            ));
        }
        let info = driver.info().await.map_err(|e| e.to_string())?;
        self.install(name, &info).await?;
        self.state.lock().drivers.insert(name.to_owned(), Registered { driver, version });
        self.wake();
        let (this, name) = (Arc::clone(self), name.to_owned());
        tokio::spawn(async move { this.sweep(&name).await });
        Ok(())
    }

    /// A driver is gone. Its volumes stay as they are.
    pub async fn unregister(&self, name: &str) {
        self.state.lock().drivers.remove(name);
        if let Err(error) = self.uninstall(name).await {
            tracing::warn!(driver = name, error, "what the API has of a driver that is gone was not removed");
        }
    }

    /// # Errors
    /// Upstream's text: it has not registered.
    fn driver(&self, name: &str) -> Result<Driver, String> {
        let state = self.state.lock();
        let found = state.drivers.get(name).map(|r| r.driver.clone());
        found.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    /// The API shows the node like this now.
    pub fn node_changed(&self, node: &Node) {
        let status = node.status.as_ref();
        let attached = status.into_iter().flat_map(|s| s.volumes_attached.iter().flatten()).map(|v| v.name.clone());
        let reported = status.into_iter().flat_map(|s| s.volumes_in_use.iter().flatten()).cloned();
        let (attached, reported): (BTreeSet<String>, BTreeSet<String>) = (attached.collect(), reported.collect());
        let mut state = self.state.lock();
        if (&state.attached, &state.reported) == (&attached, &reported) {
            return;
        }
        (state.attached, state.reported) = (attached, reported);
        drop(state);
        self.wake();
    }

    /// What the node has of attachable volumes, or is about to have, by the names of the API. Source: `GetVolumesInUse`.
    pub fn in_use(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut names: Vec<String> =
            state.users.iter().filter(|(_, users)| users.attachable).map(|(v, _)| v.unique_name()).collect();
        names.dedup();
        names
    }

    /// A pod uses a volume from now on.
    fn hold(&self, volume: &Volume, uid: &str, attachable: bool) {
        let mut state = self.state.lock();
        let users = state.users.entry(volume.clone()).or_default();
        let tells = users.attachable != attachable;
        users.attachable = attachable;
        users.pods.insert(uid.to_owned());
        drop(state);
        if tells {
            self.in_use_changed.notify_one();
        }
    }

    /// A pod uses a volume no more; whether nobody does.
    fn let_go(&self, volume: &Volume, uid: &str) -> bool {
        let mut state = self.state.lock();
        let Some(users) = state.users.get_mut(volume) else { return true };
        users.pods.remove(uid);
        users.pods.is_empty()
    }

    /// Nothing of a volume is left on this node.
    fn forget(&self, volume: &Volume) {
        let mut state = self.state.lock();
        if state.users.get(volume).is_some_and(|users| users.pods.is_empty()) {
            state.users.remove(volume);
            drop(state);
            self.in_use_changed.notify_one();
        }
    }

    /// The volumes that a pod has, or was about to have.
    fn held_by(&self, uid: &str) -> Vec<Volume> {
        let state = self.state.lock();
        state.users.iter().filter(|(_, users)| users.pods.contains(uid)).map(|(v, _)| v.clone()).collect()
    }

    /// Taking down has failed: it is still the pod's.
    fn hold_again(&self, volume: &Volume, uid: &str) {
        if let Some(users) = self.state.lock().users.get_mut(volume) {
            users.pods.insert(uid.to_owned());
        }
    }

    fn is_used(&self, volume: &Volume) -> bool {
        self.state.lock().users.get(volume).is_some_and(|users| !users.pods.is_empty())
    }

    fn is_staged(&self, volume: &Volume) -> bool {
        self.state.lock().users.get(volume).is_some_and(|users| users.staged)
    }

    fn staged(&self, volume: &Volume) {
        if let Some(users) = self.state.lock().users.get_mut(volume) {
            users.staged = true;
        }
    }

    /// Whether the API shows a volume as attached, and as in use by this node so that nobody detaches it.
    fn is_attached(&self, name: &str) -> bool {
        let state = self.state.lock();
        state.attached.contains(name) && state.reported.contains(name)
    }

    /// For how long a pod has waited for a volume.
    fn waited(&self, uid: &str, name: &str, now: Duration) -> Duration {
        let mut state = self.state.lock();
        now.saturating_sub(*state.since.entry((uid.to_owned(), name.to_owned())).or_insert(now))
    }

    fn waited_enough(&self, uid: &str, name: &str) {
        self.state.lock().since.remove(&(uid.to_owned(), name.to_owned()));
    }

    /// The pod waits for nothing any more.
    fn wants_nothing(&self, uid: &str) {
        let mut state = self.state.lock();
        state.since.retain(|(of, _), _| of != uid);
        state.waiting.remove(uid);
    }

    /// The pod looks again when something of the drivers or of what is attached changes.
    fn wait(&self, uid: &str) {
        self.state.lock().waiting.insert(uid.to_owned());
    }

    fn wake(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        waiting.iter().for_each(|uid| (self.changed)(uid));
    }

    /// A pod that is gone has left volumes: taken down when their driver comes.
    pub fn orphan(&self, uid: &str) {
        self.state.lock().orphans.insert(uid.to_owned());
    }

    /// Takes down what nobody uses and a driver that was away could not. Source: `reconciler.go` (reconstruct), orphaned volumes.
    async fn sweep(&self, driver: &str) {
        let orphans = self.state.lock().orphans.clone();
        for uid in orphans {
            match self.tear_down(&uid).await {
                Ok(()) => drop(self.state.lock().orphans.remove(&uid)),
                Err(error) => tracing::warn!(uid, error, "volumes of a pod that is gone could not be removed"),
            }
        }
        let unused: Vec<Volume> = {
            let state = self.state.lock();
            let unused = state.users.iter().filter(|(v, users)| v.driver == driver && users.pods.is_empty());
            unused.map(|(v, _)| v.clone()).collect()
        };
        for volume in unused {
            if let Err(error) = self.take_down(&volume).await {
                tracing::warn!(
                    volume = volume.unique_name(),
                    error,
                    "a volume that nobody uses could not be unmounted"
                );
            }
        }
    }

    /// The turn for a volume: others wait until it is given back.
    async fn turn(&self, volume: &Volume) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut busy = self.busy.lock();
            busy.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(busy.entry(volume.clone()).or_default())
        };
        turn.lock_owned().await
    }
}
