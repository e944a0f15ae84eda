//! Volumes: made before a pod's containers start, kept up to date while they run, removed without a trace.
//!
//! Everything that the API fills (configMap, secret, projected, downwardAPI) lies in memory below the run folder: nothing secret
//! reaches a disk and flash is not worn. emptyDir lies on disk below the data folder, or is a tmpfs of its own.
//!
//! ```text
//! <data>/pods/<uid>/<volume>            emptyDir
//! <run>/volumes/<uid>/<volume>          configMap, secret, projected, downwardAPI (atomic), emptyDir medium Memory (tmpfs)
//! <run>/volumes/<uid>/.sub/<container>/ bound sub-paths
//! ```
//! What is behind a claim lies where its volume says, and stays when the pod goes. What drivers mount is [`crate::csi`]'s.

pub mod atomic;
pub mod claims;
pub mod host_path;
pub mod local_path;
pub mod objects;
pub mod ownership;
pub mod payload;
pub mod sub_path;
pub mod token;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Recorder};
use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeDevice};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runtime::{Device, Mount, MountSource};
use types::quantity::Quantity;

use crate::csi::Csi;
use crate::csi::folders::Folders;
use crate::csi::wanted::Wanted;
use crate::pod;
use crate::translate::container::propagation;
use crate::translate::env::Objects as Fetched;
use crate::translate::expand::expand_strict;
use crate::translate::resources::Allocatable;
use crate::worker::state::Now;
use objects::{Changed, Objects};
use parking_lot::Mutex;

pub struct Volumes {
    data_dir: PathBuf,
    run_dir: PathBuf,
    allocatable: Allocatable,
    client: Client,
    pub objects: Objects,
    tokens: token::Tokens,
    /// Where the volumes behind claims and those of drivers lie, by pod uid and the volume's name in the pod; found once for each
    /// pod.
    claimed: Mutex<HashMap<String, BTreeMap<String, Found>>>,
    pub csi: Arc<Csi>,
}

#[derive(Clone)]
struct Found {
    path: PathBuf,
    /// What its driver was asked for, and when to ask anew.
    driven: Option<(Arc<Wanted>, Option<Duration>)>,
}

impl Volumes {
    pub fn new(client: Client, data_dir: &Path, run_dir: &Path, allocatable: Allocatable, changed: Changed) -> Volumes {
        Volumes {
            data_dir: data_dir.join("pods"),
            run_dir: run_dir.join("volumes"),
            allocatable,
            csi: Arc::new(Csi::new(
                client.clone(),
                "",
                Recorder::silent(),
                Folders::at(&data_dir.join("kubelet")),
                Arc::clone(&changed),
            )),
            objects: Objects::new(client.clone(), changed),
            tokens: token::Tokens::new(client.clone()),
            client,
            claimed: Mutex::default(),
        }
    }

    /// With the drivers of this node.
    #[must_use]
    pub fn with_csi(self, csi: Arc<Csi>) -> Volumes {
        Volumes { csi, ..self }
    }

    /// Makes all volumes of the pod, or brings them up to date. Idempotent. Answers when a token in them must be renewed.
    /// Errors: the text of a FailedMount event; the others were made. Empty: it is somebody else's turn, and the pod is told when it
    /// was.
    pub async fn prepare(&self, pod: &Pod, now: Now) -> Result<Option<Duration>, String> {
        self.objects.hold(pod);
        let fetched = self.objects.fetch(pod).await?;
        let mut renew_at: Option<Duration> = None;
        let mut failed = None;
        for volume in pod::spec(pod).volumes.iter().flatten() {
            let set_up = |why: String| format!("MountVolume.SetUp failed for volume \"{}\" : {why}", volume.name);
            let made = match claims::claim_name(pod, volume) {
                Some((name, own)) => self.claimed(pod, volume, &name, own, now).await,
                None if volume.csi.is_some() => self.inline(pod, volume, now).await,
                None => self.prepare_one(pod, volume, &fetched, now).await.map_err(set_up),
            };
            match made {
                Ok(at) => renew_at = [renew_at, at].into_iter().flatten().min(),
                Err(why) => failed = failed.filter(|earlier: &String| !earlier.is_empty()).or(Some(why)),
            }
        }
        match failed {
            Some(text) => Err(text),
            None => Ok(renew_at),
        }
    }

    async fn prepare_one(
        &self,
        pod: &Pod,
        v: &Volume,
        fetched: &Fetched,
        now: Now,
    ) -> Result<Option<Duration>, String> {
        let group =
            pod::spec(pod).security_context.as_ref().and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok());
        let dir = self.host_path(pod, v)?;
        if let Some(h) = &v.host_path {
            host_path::prepare(Path::new(&h.path), h.type_.as_deref().unwrap_or_default())?;
            return Ok(None);
        }
        if let Some(e) = &v.empty_dir {
            let limit = e.size_limit.as_ref().and_then(|q| q.0.parse::<Quantity>().ok()).map(|q| q.value());
            let memory = e.medium.as_deref() == Some("Memory");
            if !memory && !e.medium.as_deref().unwrap_or_default().is_empty() {
                return Err(format!(
                    "emptyDir medium {} is not served by this node",
                    e.medium.as_deref().unwrap_or_default()
                ));
            }
            let result = tokio::task::spawn_blocking(move || empty_dir(&dir, memory, limit, group)).await;
            return result.map_err(|e| e.to_string())?.map(|()| None).map_err(|e| e.to_string());
        }
        let (payload, renew_at) = self.payload(pod, v, fetched, now).await?;
        let stamp = format!("{}.{}", now.wall.strftime("%Y_%m_%d_%H_%M_%S"), types::random::suffix(8));
        let written = tokio::task::spawn_blocking(move || atomic::write(&dir, &payload, group, &stamp)).await;
        written.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        Ok(renew_at)
    }

    async fn payload(
        &self,
        pod: &Pod,
        v: &Volume,
        fetched: &Fetched,
        now: Now,
    ) -> Result<(atomic::Payload, Option<Duration>), String> {
        let bits = |mode: Option<i32>| mode.map_or(0o644, |m| (m as u32) & 0o777);
        let config_map = |name: &str| fetched.config_maps.get(name).and_then(Option::as_deref);
        let secret = |name: &str| fetched.secrets.get(name).and_then(Option::as_deref);
        if let Some(s) = &v.config_map {
            let p = payload::config_map(
                &s.name,
                config_map(&s.name),
                s.items.as_ref(),
                bits(s.default_mode),
                s.optional == Some(true),
            )?;
            return Ok((p, None));
        }
        if let Some(s) = &v.secret {
            let name = s.secret_name.as_deref().unwrap_or_default();
            let p =
                payload::secret(name, secret(name), s.items.as_ref(), bits(s.default_mode), s.optional == Some(true))?;
            return Ok((p, None));
        }
        if let Some(d) = &v.downward_api {
            return Ok((payload::downward(pod, d.items.as_ref(), bits(d.default_mode), self.allocatable)?, None));
        }
        let Some(projected) = &v.projected else { return Err(unserved(v)) };
        let mode = bits(projected.default_mode);
        let (mut all, mut renew_at) = (atomic::Payload::new(), None);
        for source in projected.sources.iter().flatten() {
            if let Some(s) = &source.config_map {
                all.extend(payload::config_map(
                    &s.name,
                    config_map(&s.name),
                    s.items.as_ref(),
                    mode,
                    s.optional == Some(true),
                )?);
            }
            if let Some(s) = &source.secret {
                all.extend(payload::secret(
                    &s.name,
                    secret(&s.name),
                    s.items.as_ref(),
                    mode,
                    s.optional == Some(true),
                )?);
            }
            if let Some(d) = &source.downward_api {
                all.extend(payload::downward(pod, d.items.as_ref(), mode, self.allocatable)?);
            }
            if let Some(t) = &source.service_account_token {
                let (text, at) = self.tokens.get(pod, t, now).await?;
                renew_at = [renew_at, Some(at)].into_iter().flatten().min();
                all.insert(PathBuf::from(&t.path), payload::token(pod, &text, mode));
            }
            if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
                return Err("clusterTrustBundle and podCertificate sources are not served by this node yet".into());
            }
        }
        Ok((all, renew_at))
    }

    /// Where a volume lies on this host. Errors: a kind of volume that is not served.
    pub fn host_path(&self, pod: &Pod, v: &Volume) -> Result<PathBuf, String> {
        let uid = pod::uid(pod);
        if let Some(h) = &v.host_path {
            return Ok(PathBuf::from(&h.path));
        }
        if let Some(e) = &v.empty_dir {
            let memory = e.medium.as_deref() == Some("Memory");
            return Ok(if memory { &self.run_dir } else { &self.data_dir }.join(uid).join(&v.name));
        }
        if v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some() {
            return Ok(self.run_dir.join(uid).join(&v.name));
        }
        let known = self.claimed.lock().get(uid).and_then(|known| known.get(&v.name).map(|found| found.path.clone()));
        known.ok_or_else(|| unserved(v))
    }

    /// The mounts of one container. Binds sub-paths, so it does I/O; errors are CreateContainerConfigErrors.
    pub fn mounts(
        &self,
        pod: &Pod,
        c: &Container,
        env: &[(String, String)],
        attempt: u32,
    ) -> Result<Vec<Mount>, String> {
        let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let volumes: BTreeMap<&str, &Volume> =
            pod::spec(pod).volumes.iter().flatten().map(|v| (v.name.as_str(), v)).collect();
        let mut mounts = Vec::new();
        for (index, m) in c.volume_mounts.iter().flatten().enumerate() {
            let volume = volumes.get(m.name.as_str()).ok_or_else(|| format!("volume \"{}\" not found", m.name))?;
            let mut source = self.host_path(pod, volume)?;
            let sub = match (&m.sub_path_expr, &m.sub_path) {
                (Some(expr), _) if !expr.is_empty() => {
                    let sub = expand_strict(expr, lookup).map_err(|name| format!("missing value for \"{name}\""))?;
                    if sub.is_empty() || sub.starts_with('/') || sub.contains('`') || sub.split('/').any(|p| p == "..")
                    {
                        return Err(format!("cannot use the value of subPathExpr \"{sub}\" as a subPath"));
                    }
                    sub
                }
                (_, Some(sub)) => sub.clone(),
                (_, None) => String::new(),
            };
            if !sub.is_empty() {
                let fail = |e: io::Error| {
                    format!("failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}", m.name, c.name)
                };
                let fd = sub_path::open_beneath(&source, Path::new(&sub)).map_err(fail)?;
                let folder = self.run_dir.join(pod::uid(pod)).join(".sub").join(&c.name);
                // A new instance binds anew: what the old one was bound to may have been replaced.
                let target = folder.join(format!("{attempt}-{index}"));
                if !mounted_below(&target).map_err(fail)?.is_empty() {
                    umount2(&target, MntFlags::MNT_DETACH).map_err(|e| fail(e.into()))?;
                }
                sub_path::bind(&fd, &target).map_err(fail)?;
                source = target;
            }
            let read_only = m.read_only == Some(true) || claims::reads_only(volume);
            mounts.push(Mount {
                source: MountSource::Bind(source),
                destination: Path::new("/").join(&m.mount_path),
                read_only,
                recursive_read_only: read_only
                    && matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
                propagation: propagation(m.mount_propagation.as_deref()),
            });
        }
        Ok(mounts)
    }

    /// The block devices that one container gets.
    ///
    /// # Errors
    /// A volume that is none, or is not ready.
    pub fn devices(&self, pod: &Pod, c: &Container) -> Result<Vec<Device>, String> {
        let one = |d: &VolumeDevice| {
            let volume = pod::spec(pod).volumes.iter().flatten().find(|v| v.name == d.name);
            let volume = volume
                .filter(|v| claims::claim_name(pod, v).is_some())
                .ok_or_else(|| format!("cannot find volume \"{}\" to pass into container \"{}\"", d.name, c.name))?;
            let permissions = if claims::reads_only(volume) { "r" } else { "rwm" };
            Ok(Device {
                host_path: self.host_path(pod, volume)?,
                container_path: PathBuf::from(&d.device_path),
                permissions: permissions.to_owned(),
            })
        };
        c.volume_devices.iter().flatten().map(one).collect()
    }

    /// Removes everything of a pod. Idempotent. Nothing below something that is still mounted is ever deleted.
    pub async fn remove(&self, uid: &str) -> io::Result<()> {
        self.objects.release(uid);
        self.tokens.forget(uid);
        self.claimed.lock().remove(uid);
        let folders = [self.run_dir.join(uid), self.data_dir.join(uid)];
        let removed = tokio::task::spawn_blocking(move || folders.iter().try_for_each(|f| remove_tree(f)));
        // After the bound sub-paths, which hold on to what drivers have mounted.
        removed.await.map_err(io::Error::other)??;
        self.csi.tear_down(uid).await.map_err(io::Error::other)
    }

    /// Pods that have left something here.
    pub fn leftovers(&self) -> Vec<String> {
        let mut uids: Vec<String> = [&self.run_dir, &self.data_dir, &self.csi.folders.pods()]
            .into_iter()
            .flat_map(|d| fs::read_dir(d).into_iter().flatten().flatten())
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        uids.sort();
        uids.dedup();
        uids
    }
}

fn unserved(v: &Volume) -> String {
    match (&v.persistent_volume_claim, &v.ephemeral, &v.image) {
        (Some(_), ..) | (None, Some(_), _) => format!("volume \"{}\" is not mounted yet", v.name),
        (None, None, Some(_)) => "image volumes are not served by this node yet".into(),
        (None, None, None) if v.csi.is_some() => format!("volume \"{}\" is not mounted yet", v.name),
        (None, None, None) => "this kind of volume is not served by this node".into(),
    }
}

fn empty_dir(dir: &Path, memory: bool, limit: Option<i64>, group: Option<u32>) -> io::Result<()> {
    let new = !dir.exists();
    fs::create_dir_all(dir)?;
    if memory && mounted_below(dir)?.is_empty() {
        let options = match limit.filter(|l| *l > 0) {
            Some(bytes) => format!("mode=1777,size={bytes}"),
            None => "mode=1777".to_owned(),
        };
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))?;
    }
    if new {
        if let Some(gid) = group {
            std::os::unix::fs::chown(dir, None, Some(gid))?;
        }
        let mode = if group.is_some() { 0o2777 } else { 0o777 };
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Mount points at or below a path, outermost first.
pub(crate) fn mounted_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    // A path that does not exist has no mounts; links above it are followed, as the kernel's list has real paths.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|p| p.starts_with(&real)).collect())
}

/// Whether something is mounted on a path itself.
pub(crate) fn is_mounted(path: &Path) -> io::Result<bool> {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    Ok(mounted_below(path)?.contains(&real))
}

/// Octal escapes of blanks in mountinfo. Source: proc_pid_mountinfo(5).
fn unescape(text: &str) -> PathBuf {
    let text = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(text)
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for point in mounted_below(folder)?.into_iter().rev() {
        umount2(&point, MntFlags::MNT_DETACH)?;
    }
    // A bound sub-path of a hostPath is somebody else's data: one look more before anything is deleted.
    if let Some(point) = mounted_below(folder)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", point.display())));
    }
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// For tests and for workers that share it.
pub type Shared = Arc<Volumes>;

#[cfg(test)]
mod tests {
    use client::{Clock, fake::Fake};
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn now() -> Now {
        Now { wall: "2026-01-01T00:00:00Z".parse().unwrap(), mono: Duration::from_secs(1000) }
    }

    #[tokio::test]
    async fn a_config_map_becomes_files_and_follows_its_changes() {
        let tmp = tempfile::tempdir().unwrap();
        let api = Fake::new(Clock::system());
        let client = api.client();
        let map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": "cm", "namespace": "ns"}, "data": {"k": "1"}})).unwrap();
        let mut map = client.create(&map).await.unwrap();
        let told = Arc::new(tokio::sync::Notify::new());
        let tell = Arc::clone(&told);
        let changed: Changed = Arc::new(move |uid| {
            assert_eq!(uid, "u1");
            tell.notify_one();
        });
        let volumes = Volumes::new(
            client.clone(),
            &tmp.path().join("data"),
            &tmp.path().join("run"),
            Allocatable::default(),
            changed,
        );
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u1"}, "spec": {
            "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}, {"name": "e", "mountPath": "/e"}]}],
            "volumes": [{"name": "v", "configMap": {"name": "cm"}}, {"name": "e", "emptyDir": {}}]}}))
        .unwrap();
        assert_eq!(volumes.prepare(&pod, now()).await, Ok(None));
        let file = tmp.path().join("run/volumes/u1/v/k");
        assert_eq!(fs::read_to_string(&file).unwrap(), "1");
        let c = &pod.spec.as_ref().unwrap().containers[0];
        let mounts = volumes.mounts(&pod, c, &[], 0).unwrap();
        assert_eq!(mounts[0], Mount::bind(tmp.path().join("run/volumes/u1/v"), "/v", true));
        assert_eq!(mounts[1], Mount::bind(tmp.path().join("data/pods/u1/e"), "/e", false));
        // the change is told, and taken over at the next look
        map.data = Some([("k".to_owned(), "2".to_owned())].into());
        while fs::read_to_string(&file).unwrap() == "1" {
            map = client.update(&map).await.unwrap_or(map);
            tokio::time::timeout(Duration::from_secs(10), told.notified()).await.unwrap();
            volumes.prepare(&pod, now()).await.unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "2");
        assert_eq!(volumes.leftovers(), ["u1"]);
        volumes.remove("u1").await.unwrap();
        assert_eq!((volumes.leftovers().len(), volumes.objects.watches()), (0, 0));
        volumes.remove("u1").await.unwrap();
    }

    #[test]
    fn block_devices_are_what_claims_have() {
        let (api, tmp) = (Fake::new(Clock::system()), tempfile::tempdir().unwrap());
        let volumes = Volumes::new(api.client(), tmp.path(), tmp.path(), Allocatable::default(), Arc::new(|_| ()));
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {
            "containers": [{"name": "c", "volumeDevices": [{"name": "raw", "devicePath": "/dev/d"}]}],
            "volumes": [{"name": "raw", "persistentVolumeClaim": {"claimName": "raw", "readOnly": true}}]}}))
            .unwrap();
        let devices = |pod: &Pod| volumes.devices(pod, &pod::spec(pod).containers[0]);
        assert_eq!(devices(&pod), Err("volume \"raw\" is not mounted yet".into()));
        volumes
            .claimed
            .lock()
            .entry("u".into())
            .or_default()
            .insert("raw".into(), Found { path: "/dev/sdb".into(), driven: None });
        let device = |permissions: &str| Device {
            host_path: "/dev/sdb".into(),
            container_path: "/dev/d".into(),
            permissions: permissions.into(),
        };
        assert_eq!(devices(&pod), Ok(vec![device("r")]));
        let volume = &mut pod.spec.as_mut().unwrap().volumes.as_mut().unwrap()[0];
        volume.persistent_volume_claim.as_mut().unwrap().read_only = None;
        assert_eq!(devices(&pod), Ok(vec![device("rwm")]));
        let volume = &mut pod.spec.as_mut().unwrap().volumes.as_mut().unwrap()[0];
        (volume.persistent_volume_claim, volume.empty_dir) = (None, Some(Default::default()));
        assert_eq!(devices(&pod), Err("cannot find volume \"raw\" to pass into container \"c\"".into()));
    }

    #[tokio::test]
    async fn what_is_missing_or_not_served_says_so() {
        let tmp = tempfile::tempdir().unwrap();
        let api = Fake::new(Clock::system());
        let volumes = Volumes::new(api.client(), tmp.path(), tmp.path(), Allocatable::default(), Arc::new(|_| ()));
        let check = async |volume: serde_json::Value, expected: Result<Option<Duration>, &str>| {
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [], "volumes": [volume]}}),
            )
            .unwrap();
            assert_eq!(volumes.prepare(&pod, now()).await, expected.map_err(str::to_owned));
        };
        check(
            json!({"name": "v", "configMap": {"name": "no"}}),
            Err("MountVolume.SetUp failed for volume \"v\" : configmap \"no\" not found"),
        )
        .await;
        check(json!({"name": "v", "configMap": {"name": "no", "optional": true}}), Ok(None)).await;
    }
}
