//! Volumes of drivers: mounted for a pod, and taken down when it goes. Each step is written down before the driver is asked, and
//! may be asked for again.
//!
//! ```text
//! attached (by others) ─► staged once for the node ─► published for each pod ─► given to the pod's group
//!                            unstaged after the last ◄── unpublished ◄── the pod goes
//! ```
//! Source: `pkg/volume/csi/{csi_attacher,csi_mounter,csi_block}.go`, `operation_generator.go`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::csi::attachment_name;
use client::storage::SecretRef;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::driver::{Abilities, Driver, Request};
use super::records::{self, Record, Volume};
use super::wanted::{DriverSpec, Wanted};
use super::{ATTACHMENTS, Csi, DRIVERS};
use crate::grpc::Status;
use crate::pod;
use crate::volume::{is_mounted, ownership, token::Tokens};
use crate::worker::state::Now;

/// How often a volume is published anew for drivers that ask for it. Source: pods are looked at again every 60 to 90 s.
const REPUBLISH: Duration = Duration::from_secs(90);
/// How long a pod waits for others to attach its volume before it says so. Source: `podAttachAndMountTimeout`.
const SILENT: Duration = Duration::from_secs(123);
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Why a volume is not there.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is others' turn; the pod looks again by itself.
    Waits,
    /// The text of an event.
    Failed(String),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Mounted {
    pub path: PathBuf,
    /// When it is to be published anew.
    pub again_at: Option<Duration>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DriverObject {
    spec: DriverSpec,
}

/// What one publication is told.
struct Told {
    context: BTreeMap<String, String>,
    attributes: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
}

fn plugin(why: impl std::fmt::Display) -> String {
    format!("kubernetes.io/csi: {why}")
}

pub(super) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(f).await.map_err(io::Error::other)?
}

/// As drivers expect folders: nobody else may look in.
fn folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(path)
}

impl Csi {
    /// Mounts a volume for a pod, or publishes it anew. Idempotent.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn set_up(&self, pod: &Pod, wanted: &Wanted, tokens: &Tokens, now: Now) -> Result<Mounted, Failure> {
        let kind = if wanted.usage.block { "MapVolume" } else { "MountVolume" };
        let failed = |step: &str, why: String| {
            Failure::Failed(format!("{kind}.{step} failed for volume \"{}\" : {why}", wanted.name))
        };
        let set_up = if wanted.usage.block { "MapPodDevice" } else { "SetUp" };
        let spec = self.spec(&wanted.driver).await.map_err(|e| failed(set_up, plugin(e)))?;
        let spec = spec.as_ref();
        let uid = pod::uid(pod);
        let is_attached = wanted.is_attached(spec);
        if !wanted.ephemeral {
            self.hold(&wanted.volume(), uid, is_attached);
        }
        let context = match is_attached {
            true => self.attached(uid, wanted, now).await.map_err(|why| match why {
                Some(why) => failed("WaitForAttach", why),
                None => Failure::Waits,
            })?,
            false => BTreeMap::new(),
        };
        let _turn = self.turn(&wanted.volume()).await;
        // Whoever registers from here on finds the pod waiting.
        self.wait(uid);
        let path = match wanted.usage.block {
            true => self.folders.device_publish(&wanted.name, uid),
            false => self.folders.target(uid, &wanted.name),
        };
        let driver = match self.driver(&wanted.driver) {
            Ok(driver) => driver,
            Err(why) => {
                // What an earlier daemon has mounted needs no driver.
                let there = path.clone();
                if blocking(move || is_mounted(&there)).await.unwrap_or(false) {
                    return Ok(Mounted { path, again_at: None });
                }
                return Err(match (wanted.usage.block, wanted.ephemeral) {
                    (true, _) => failed(
                        "SetUpDevice",
                        plugin(format!("blockMapper.SetUpDevice failed to get CSI client: {why}")),
                    ),
                    (false, true) => {
                        failed("SetUp", plugin(format!("mounter.SetUpAt failed to get CSI client: {why}")))
                    }
                    (false, false) => failed(
                        "MountDevice",
                        plugin(format!("attacher.MountDevice failed to create newCsiDriverClient: {why}")),
                    ),
                });
            }
        };
        let group = pod::spec(pod).security_context.as_ref().and_then(|s| s.fs_group);
        let group = group.and_then(|g| u32::try_from(g).ok());
        let staging_step = if wanted.usage.block { "SetUpDevice" } else { "MountDevice" };
        let abilities = driver.abilities().await.map_err(|e| failed(staging_step, e.to_string()))?;
        let mut request = Request { handle: wanted.handle.clone(), usage: wanted.usage.clone(), ..Request::default() };
        request.usage.group = group.filter(|_| abilities.mount_group && !wanted.usage.block);
        request.publish_context = context.clone();
        if !wanted.ephemeral {
            self.stage(&driver, abilities, wanted, &request).await.map_err(|e| failed(staging_step, e))?;
        }
        wanted.check_mode(spec).map_err(|e| {
            failed(set_up, plugin(format!("mounter.SetupAt failed to check volume lifecycle mode: {e}")))
        })?;
        let (told, renew_at) =
            self.told(pod, wanted, spec, context, tokens, now).await.map_err(|e| failed(set_up, e))?;
        (request.attributes, request.secrets, request.publish_context) = (told.attributes, told.secrets, told.context);
        self.publish(&driver, abilities, uid, wanted, &request, &path).await.map_err(|e| failed(set_up, e))?;
        if let Some(group) = group
            && !wanted.usage.block
            && !abilities.mount_group
            && wanted.gives_to_group(spec)
        {
            let context = pod::spec(pod).security_context.as_ref();
            let unless_done = context.and_then(|s| s.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
            let root = path.clone();
            blocking(move || ownership::give(&root, group, false, unless_done))
                .await
                .map_err(|e| failed("SetUp", format!("applyFSGroup failed for vol {}: {e}", wanted.handle)))?;
        }
        let anew = spec.is_some_and(|s| s.requires_republish).then(|| now.mono + REPUBLISH);
        Ok(Mounted { path, again_at: anew.map(|at| renew_at.map_or(at, |renew| renew.min(at))) })
    }

    /// What the cluster knows of a driver; `None`: nothing.
    async fn spec(&self, driver: &str) -> Result<Option<DriverSpec>, client::Error> {
        match self.client.get_path::<DriverObject>(&format!("{DRIVERS}/{driver}")).await {
            Ok(object) => Ok(Some(object.spec)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What was found out when the volume was attached.
    ///
    /// # Errors
    /// Why not; `None`: not yet.
    async fn attached(&self, uid: &str, wanted: &Wanted, now: Now) -> Result<BTreeMap<String, String>, Option<String>> {
        self.wait(uid);
        let name = wanted.volume().unique_name();
        if !self.is_attached(&name) {
            if self.waited(uid, &wanted.name, now.mono) >= SILENT {
                self.waited_enough(uid, &wanted.name);
                let (driver, handle) = (&wanted.driver, &wanted.handle);
                return Err(Some(format!(
                    "timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}"
                )));
            }
            return Err(None);
        }
        self.waited_enough(uid, &wanted.name);
        let (handle, id) = (&wanted.handle, attachment_name(&wanted.driver, &wanted.handle, &self.node_name));
        let attachment: Value = self
            .client
            .get_path(&format!("{ATTACHMENTS}/{id}"))
            .await
            .map_err(|e| format!("volume {handle} has GET error for volume attachment {id}: {e}"))?;
        let status = &attachment["status"];
        if attachment["metadata"]["deletionTimestamp"].is_string() {
            return Err(Some("volume attachment is being deleted".into()));
        }
        if status["attached"] != true {
            let said = status["attachError"]["message"].as_str().map(str::to_owned);
            return Err(Some(
                said.unwrap_or_else(|| format!("volume {handle} is not attached for volume attachment {id}")),
            ));
        }
        let texts = status["attachmentMetadata"].as_object().into_iter().flatten();
        Ok(texts.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect())
    }

    async fn stage(
        &self,
        driver: &Driver,
        abilities: Abilities,
        wanted: &Wanted,
        base: &Request,
    ) -> Result<(), String> {
        let volume = wanted.volume();
        if self.is_staged(&volume) {
            return Ok(());
        }
        let staging = volume.staging(&self.folders);
        let mut request = Request { attributes: wanted.attributes.clone(), ..base.clone() };
        if wanted.usage.block {
            request.usage.mount_options = Vec::new();
        }
        if abilities.stages
            && let Some(reference) = &wanted.stage_secret
        {
            request.secrets = self.secret(reference).await.map_err(|e| {
                format!("fetching NodeStageSecretRef {}/{} failed: {e}", reference.namespace, reference.name)
            })?;
        }
        let record = Record {
            driver: wanted.driver.clone(),
            handle: wanted.handle.clone(),
            name: if wanted.usage.block { wanted.name.clone() } else { String::new() },
            ephemeral: false,
        };
        let beside = match wanted.usage.block {
            true => Some(self.folders.device(&wanted.name).join("data")),
            false => staging.parent().filter(|_| abilities.stages).map(Path::to_owned),
        };
        let (makes, node) = (abilities.stages.then(|| staging.clone()), self.node_name.clone());
        let prepared = blocking(move || {
            if let Some(beside) = &beside {
                folder(beside)?;
                record.write(beside, &node)?;
            }
            makes.as_deref().map_or(Ok(()), folder)
        });
        prepared
            .await
            .map_err(|e| plugin(format!("attacher.MountDevice failed to create dir {}: {e}", staging.display())))?;
        if abilities.stages
            && let Err(e) = driver.stage(&request, abilities, &staging).await
        {
            if e.is_final() {
                self.remove_staged(&volume).await;
            }
            return Err(e.to_string());
        }
        self.staged(&volume);
        Ok(())
    }

    /// What the driver is told of the pod, its tokens and secrets, and when tokens must be renewed.
    async fn told(
        &self,
        pod: &Pod,
        wanted: &Wanted,
        spec: Option<&DriverSpec>,
        context: BTreeMap<String, String>,
        tokens: &Tokens,
        now: Now,
    ) -> Result<(Told, Option<Duration>), String> {
        let (mut attributes, mut secrets, mut renew_at) = (wanted.attributes.clone(), BTreeMap::new(), None);
        if let Some(reference) = &wanted.publish_secret {
            secrets = self.secret(reference).await.map_err(|e| {
                format!("fetching NodePublishSecretRef {}/{} failed: {e}", reference.namespace, reference.name)
            })?;
        }
        let Some(spec) = spec else { return Ok((Told { context, attributes, secrets }, None)) };
        if spec.pod_info_on_mount {
            attributes.extend(wanted.pod_info(pod));
        }
        let mut all = Map::new();
        for request in &spec.token_requests {
            let issued = tokens.issue(pod, &request.audience, request.expiration_seconds.unwrap_or(3600), now).await?;
            renew_at = [renew_at, Some(issued.renew_at)].into_iter().flatten().min();
            let status = json!({"token": issued.token, "expirationTimestamp": issued.expires});
            all.insert(request.audience.clone(), status);
        }
        if !all.is_empty() {
            let to = if spec.service_account_token_in_secrets { &mut secrets } else { &mut attributes };
            to.insert(TOKENS.into(), Value::Object(all).to_string());
        }
        Ok((Told { context, attributes, secrets }, renew_at))
    }

    async fn publish(
        &self,
        driver: &Driver,
        abilities: Abilities,
        uid: &str,
        wanted: &Wanted,
        request: &Request,
        path: &Path,
    ) -> Result<(), String> {
        let record = Record {
            driver: wanted.driver.clone(),
            handle: wanted.handle.clone(),
            name: wanted.name.clone(),
            ephemeral: wanted.ephemeral,
        };
        let (target, node) = (path.to_owned(), self.node_name.clone());
        let link = wanted.usage.block.then(|| self.folders.devices_of_pod(uid).join(&wanted.name));
        let prepared = blocking(move || {
            let beside = target.parent().unwrap_or(Path::new("/"));
            folder(beside)?;
            match &link {
                None => record.write(beside, &node)?,
                Some(link) => {
                    link.parent().map_or(Ok(()), folder)?;
                    match symlink(&target, link) {
                        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                        Ok(()) | Err(_) => {}
                    }
                }
            }
            is_mounted(&target)
        });
        let was_there =
            prepared.await.map_err(|e| plugin(format!("mounter.SetUpAt failed to save volume info data: {e}")))?;
        let staging = Some(wanted.volume().staging(&self.folders)).filter(|_| abilities.stages && !wanted.ephemeral);
        match driver.publish(request, abilities, staging.as_deref(), path, wanted.read_only).await {
            Ok(()) => Ok(()),
            Err(e) => {
                // A pod that has it already goes on with what it has.
                if e.is_final() && !was_there {
                    self.remove_published(uid, wanted, path).await;
                }
                Err(e.to_string())
            }
        }
    }

    async fn remove_published(&self, uid: &str, wanted: &Wanted, path: &Path) {
        let (path, link) = (path.to_owned(), self.folders.devices_of_pod(uid).join(&wanted.name));
        let block = wanted.usage.block;
        let removed = blocking(move || match block {
            true => records::gone(fs::remove_file(link)),
            false => records::remove(&path),
        });
        if let Err(error) = removed.await {
            tracing::warn!(volume = wanted.name, %error, "what was prepared for a volume could not be removed");
        }
    }

    pub(super) async fn secret(&self, reference: &SecretRef) -> Result<BTreeMap<String, String>, String> {
        let SecretRef { name, namespace } = reference;
        let found = self.client.get::<Secret>(namespace, name).await.map_err(|e| {
            plugin(format!("failed to find the secret {name} in the namespace {namespace} with error: {e}"))
        })?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(found.data.unwrap_or_default().into_iter().map(|(k, v)| (k, text(v.0))).collect())
    }

    /// Takes down everything that a pod has of drivers; tries every volume. Idempotent.
    ///
    /// # Errors
    /// The first; what could not be taken down is found again.
    pub async fn tear_down(&self, uid: &str) -> Result<(), String> {
        self.wants_nothing(uid);
        let mut first: Option<String> = None;
        let (folders, id) = (self.folders.clone(), uid.to_owned());
        let listed = blocking(move || Ok(records::of_pod(&folders, &id))).await.map_err(|e| e.to_string())?;
        let mut left: Vec<Volume> = Vec::new();
        for (record, mounted) in listed {
            let device = mounted.is_none().then(|| record.name.clone());
            let volume = Volume { driver: record.driver.clone(), handle: record.handle.clone(), device };
            let _turn = self.turn(&volume).await;
            if let Err(why) = self.unpublish(uid, &record, mounted.as_deref()).await {
                first.get_or_insert(why);
                left.push(volume);
            }
        }
        for volume in self.held_by(uid).into_iter().filter(|v| !left.contains(v)) {
            if self.let_go(&volume, uid)
                && let Err(why) = self.take_down(&volume).await
            {
                self.hold_again(&volume, uid);
                first.get_or_insert(why);
            }
        }
        if first.is_none() {
            let (folders, id) = (self.folders.clone(), uid.to_owned());
            first = blocking(move || remove_folders(&folders, &id)).await.err().map(|e| e.to_string());
        }
        first.map_or(Ok(()), Err)
    }

    async fn unpublish(&self, uid: &str, record: &Record, mounted: Option<&Path>) -> Result<(), String> {
        let failed = |why: String| match mounted {
            Some(_) => format!("UnmountVolume.TearDown failed for volume \"{}\" : {why}", record.name),
            None => format!("UnmapVolume.UnmapPodDevice failed for volume \"{}\" : {why}", record.name),
        };
        let client = |e: String| failed(plugin(format!("Unmounter.TearDownAt failed to get CSI client: {e}")));
        let path = match mounted {
            Some(folder) => folder.join("mount"),
            None => self.folders.device_publish(&record.name, uid),
        };
        let driver = self.driver(&record.driver).map_err(client)?;
        driver
            .unpublish(&record.handle, &path)
            .await
            .map_err(|e| failed(plugin(format!("Unmounter.TearDownAt failed: {e}"))))?;
        let (link, is_device) = (self.folders.devices_of_pod(uid).join(&record.name), mounted.is_none());
        let removed = blocking(move || {
            if is_mounted(&path)? {
                return Err(io::Error::other(format!("{} is still mounted", path.display())));
            }
            match is_device {
                true => records::gone(fs::remove_file(&path)).and_then(|()| records::gone(fs::remove_file(link))),
                false => records::remove(&path),
            }
        });
        removed.await.map_err(|e| failed(plugin(format!("Unmounter.TearDownAt failed to clean mount dir: {e}"))))
    }

    /// Takes a volume off the node that no pod has.
    pub(super) async fn take_down(&self, volume: &Volume) -> Result<(), String> {
        let _turn = self.turn(volume).await;
        if self.is_used(volume) {
            return Ok(());
        }
        let staging = volume.staging(&self.folders);
        let (beside, is_device) = (staging.clone(), volume.device.is_some());
        let staged = blocking(move || {
            let record = if is_device { beside } else { beside.with_file_name("vol_data.json") };
            record.try_exists()
        });
        let failed = |why: String| format!("UnmountDevice failed for volume \"{}\" : {why}", volume.handle);
        if staged.await.map_err(|e| failed(e.to_string()))? {
            let driver = self.driver(&volume.driver).map_err(|e| {
                failed(plugin(format!("attacher.UnmountDevice failed to create newCsiDriverClient: {e}")))
            })?;
            let unstaged = async {
                if driver.abilities().await?.stages {
                    driver.unstage(&volume.handle, &staging).await?;
                }
                Ok::<_, Status>(())
            };
            unstaged.await.map_err(|e| failed(plugin(format!("attacher.UnmountDevice failed: {e}"))))?;
        }
        let (folders, gone) = (self.folders.clone(), volume.clone());
        let removed = blocking(move || match &gone.device {
            Some(name) => records::remove_device(&folders, name),
            None => {
                let staging = gone.staging(&folders);
                if is_mounted(&staging)? {
                    return Err(io::Error::other(format!("{} is still mounted", staging.display())));
                }
                records::remove(&staging)
            }
        });
        removed.await.map_err(|e| failed(plugin(format!("failed to clean up global mount: {e}"))))?;
        self.forget(volume);
        Ok(())
    }

    async fn remove_staged(&self, volume: &Volume) {
        let (folders, gone) = (self.folders.clone(), volume.clone());
        let removed = blocking(move || match &gone.device {
            Some(name) => records::remove_device(&folders, name),
            None => records::remove(&gone.staging(&folders)),
        });
        if let Err(error) = removed.await {
            tracing::warn!(volume = volume.unique_name(), %error, "what was prepared for a volume could not be removed");
        }
    }
}

/// The folders of a pod, of which nothing is mounted any more; those that a crash left before anything was written down in them
/// too.
fn remove_folders(folders: &super::Folders, uid: &str) -> io::Result<()> {
    let volumes = folders.of_pod(uid);
    for name in records::names(&volumes) {
        records::remove(&volumes.join(name).join("mount"))?;
    }
    let devices = folders.devices_of_pod(uid);
    for folder in [Some(volumes.as_path()), volumes.parent(), Some(devices.as_path()), devices.parent()] {
        folder.map_or(Ok(()), |f| records::gone(fs::remove_dir(f)))?;
    }
    records::gone(fs::remove_dir(folders.pods().join(uid)))
}
