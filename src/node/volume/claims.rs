//! Volumes behind claims: waits until the claim is bound, and finds where on this host its volume is. Deciding is pure.
//!
//! Served are sources on this node, `local` (local-path among them; as a folder, or as the block device that it is) and
//! `hostPath`, and what drivers serve (`csi`).
//!
//! Source: `createVolumeSpec`, `getPVCExtractPV`, `getPVSpec` in
//! `pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go`, `pkg/volume/{local,hostpath}`.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::Object as _;
use client::storage::Volume as PersistentVolume;
use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaim, Pod, Volume};

use super::{Found, Volumes, host_path, ownership};
use crate::csi::expand;
use crate::csi::mount::{Failure, Mounted};
use crate::csi::wanted::Wanted;
use crate::pod;
use crate::worker::state::Now;

const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// The claim behind a volume: its name, and whether it is made for the pod.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some((source.claim_name.clone(), false)),
        (None, Some(_)) => Some((format!("{}-{}", pod::name(pod), volume.name), true)),
        (None, None) => None,
    }
}

/// The name of the volume that a claim has.
///
/// # Errors
/// Why it cannot be used, or not yet.
pub fn volume_of(pod: &Pod, name: &str, own: bool, claim: Option<&PersistentVolumeClaim>) -> Result<String, String> {
    let namespace = pod::namespace(pod);
    let wrong = |why: &str| Err(format!("error processing PVC {namespace}/{name}: {why}"));
    let Some(claim) = claim else {
        return wrong(&format!("failed to fetch PVC from API server: persistentvolumeclaims \"{name}\" not found"));
    };
    let protected = claim.metadata.finalizers.iter().flatten().any(|f| f == PROTECTION);
    if claim.is_terminating() && !protected {
        return wrong("PVC is being deleted");
    }
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
        return wrong("PVC is not bound");
    }
    if own && claim.controller_owner().is_none_or(|owner| owner.uid != pod::uid(pod)) {
        let pod = pod::name(pod);
        return Err(format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"));
    }
    match claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|v| !v.is_empty()) {
        Some(volume) => Ok(volume),
        None => wrong("PVC has empty pvc.Spec.VolumeName"),
    }
}

/// Where a volume lies on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Must be there.
    Local(PathBuf),
    /// A block device, which containers get as it is.
    Device(PathBuf),
    /// With the type that is checked.
    HostPath(PathBuf, String),
    /// To be asked of a driver.
    Driven(Box<Wanted>),
}

/// # Errors
/// Why the volume cannot be mounted.
pub fn source(pod: &Pod, volume: &Volume, claim_uid: &str, found: &PersistentVolume) -> Result<Source, String> {
    let name = found.name();
    match found.spec.claim_ref.as_ref().map(|r| r.uid.as_deref().unwrap_or_default()) {
        None => {
            return Err(format!(
                "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
            ));
        }
        Some(uid) if uid != claim_uid => {
            return Err(format!(
                "found PV object {name} but its pv.Spec.ClaimRef.UID {uid} does not point to claim.UID {claim_uid}"
            ));
        }
        Some(_) => {}
    }
    let mode = found.spec.volume_mode.as_deref().unwrap_or("Filesystem");
    let (what, is_block) = (&volume.name, mode == "Block");
    let named = |uses: &dyn Fn(&Container) -> bool| pod::containers(pod).into_iter().any(|(_, c)| uses(&c));
    if is_block && named(&|c| c.volume_mounts.iter().flatten().any(|m| m.name == *what)) {
        return Err(format!("volume {what} has volumeMode {mode}, but is specified in volumeMounts"));
    }
    if !is_block && named(&|c| c.volume_devices.iter().flatten().any(|d| d.name == *what)) {
        return Err(format!("volume {what} has volumeMode {mode}, but is specified in volumeDevices"));
    }
    if let Some(local) = &found.spec.local {
        let path = PathBuf::from(&local.path);
        return Ok(if is_block { Source::Device(path) } else { Source::Local(path) });
    }
    if let Some(wanted) = Wanted::of_volume(found, reads_only(volume)) {
        return Ok(Source::Driven(Box::new(wanted)));
    }
    if is_block {
        return Err(format!(
            "persistent volume \"{name}\" is no block device that this node serves: local and csi ones are"
        ));
    }
    if let Some(host) = &found.spec.host_path {
        return Ok(Source::HostPath(PathBuf::from(&host.path), host.type_.clone().unwrap_or_default()));
    }
    Err(format!("persistent volume \"{name}\" is of a kind that this node does not serve: local, hostPath and csi are"))
}

/// Whether a path is a block device, or leads to one.
fn device(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => Ok(()),
        Ok(_) => Err(format!("path \"{}\" is not a block device", path.display())),
        Err(error) => Err(format!("path \"{}\": {error}", path.display())),
    }
}

/// Whether a volume is mounted for reading only, whatever its mounts say.
pub fn reads_only(v: &Volume) -> bool {
    v.persistent_volume_claim.as_ref().is_some_and(|claim| claim.read_only == Some(true))
}

impl Volumes {
    /// Finds the volume behind a claim, and gives it to the pod's group. Once: what a pod has mounted stays what it is, but for what
    /// its driver is to be asked again, and when next.
    pub(super) async fn claimed(
        &self,
        pod: &Pod,
        v: &Volume,
        name: &str,
        own: bool,
        now: Now,
    ) -> Result<Option<Duration>, String> {
        let (uid, volume) = (pod::uid(pod), v.name.as_str());
        let known = self.claimed.lock().get(uid).and_then(|known| known.get(volume).cloned());
        match known {
            Some(Found { driven: None, .. }) => return Ok(None),
            Some(Found { driven: Some((wanted, again_at)), .. }) => {
                return self.driven_again(pod, v, name, &wanted, again_at, now).await;
            }
            None => {}
        }
        let attach = |why: String| {
            format!(
                "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to process \
                 volumes=[{volume}]: {why}"
            )
        };
        let claim = self.objects.claim(pod::namespace(pod), name).await.map_err(attach)?;
        let found = volume_of(pod, name, own, claim.as_deref()).map_err(attach)?;
        let of_claim = |why: String| attach(format!("error processing PVC {}/{name}: {why}", pod::namespace(pod)));
        let found = self.client.get::<PersistentVolume>("", &found).await;
        let found = found.map_err(|e| of_claim(format!("failed to fetch PV from API server: {e}")))?;
        let claim_uid = claim.as_ref().map(|c| c.uid().to_owned()).unwrap_or_default();
        let source = source(pod, v, &claim_uid, &found).map_err(of_claim)?;
        let step = if matches!(source, Source::Device(_)) { "MapVolume.SetUpDevice" } else { "MountVolume.SetUp" };
        let set_up = |why: String| format!("{step} failed for volume \"{}\" : {why}", found.name());
        let context = pod::spec(pod).security_context.as_ref();
        let group = context.and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok());
        let unless_done = context.and_then(|s| s.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
        let read_only = reads_only(v);
        let lies = match source {
            Source::Local(_) | Source::Device(_) | Source::HostPath(..) => source,
            Source::Driven(wanted) => {
                let again_at = self.driven(pod, v, *wanted.clone(), now).await?;
                if let Some(claim) = &claim {
                    self.csi.expand(pod, &wanted, &found, claim).await?;
                }
                return Ok(again_at);
            }
        };
        let ready = tokio::task::spawn_blocking(move || match lies {
            Source::HostPath(path, kind) => host_path::prepare(&path, &kind).map(|()| path),
            Source::Device(path) => device(&path).map(|()| path),
            Source::Local(path) if !path.exists() => Err(format!("path \"{}\" does not exist", path.display())),
            Source::Local(path) if device(&path).is_ok() => Err(format!(
                "path \"{}\" is a block device, which this node serves with volumeMode Block",
                path.display()
            )),
            Source::Local(path) => match group {
                Some(group) => {
                    ownership::give(&path, group, read_only, unless_done).map(|()| path).map_err(|e| e.to_string())
                }
                None => Ok(path),
            },
            Source::Driven(_) => Err("a driver's volume has no place of its own".into()),
        });
        let path = ready.await.map_err(|e| set_up(e.to_string()))?.map_err(set_up)?;
        self.found(uid, volume, Found { path, driven: None });
        Ok(None)
    }

    /// A volume that a driver makes for the pod alone.
    pub(super) async fn inline(&self, pod: &Pod, v: &Volume, now: Now) -> Result<Option<Duration>, String> {
        let Some(source) = &v.csi else { return Ok(None) };
        let known = self.claimed.lock().get(pod::uid(pod)).and_then(|known| known.get(&v.name).cloned());
        match known.and_then(|found| found.driven) {
            Some((_, again_at)) if again_at.is_none_or(|at| at > now.mono) => Ok(again_at),
            Some(_) | None => self.driven(pod, v, Wanted::inline(pod, &v.name, source), now).await,
        }
    }

    /// Asks the driver again when it is time to, and to grow what has grown.
    async fn driven_again(
        &self,
        pod: &Pod,
        v: &Volume,
        claim: &str,
        wanted: &Arc<Wanted>,
        again_at: Option<Duration>,
        now: Now,
    ) -> Result<Option<Duration>, String> {
        let again_at = match again_at {
            Some(at) if at <= now.mono => self.driven(pod, v, Wanted::clone(wanted), now).await?,
            Some(_) | None => again_at,
        };
        if let Some(claim) = self.objects.claim(pod::namespace(pod), claim).await?.filter(|c| expand::is_pending(c)) {
            let volume = self.client.get::<PersistentVolume>("", &wanted.name).await.map_err(|e| e.to_string())?;
            self.csi.expand(pod, wanted, &volume, &claim).await?;
        }
        Ok(again_at)
    }

    async fn driven(&self, pod: &Pod, v: &Volume, wanted: Wanted, now: Now) -> Result<Option<Duration>, String> {
        match self.csi.set_up(pod, &wanted, &self.tokens, now).await {
            Ok(Mounted { path, again_at }) => {
                self.found(pod::uid(pod), &v.name, Found { path, driven: Some((Arc::new(wanted), again_at)) });
                Ok(again_at)
            }
            Err(Failure::Waits) => Err(String::new()),
            Err(Failure::Failed(why)) => Err(why),
        }
    }

    fn found(&self, uid: &str, volume: &str, found: Found) {
        self.claimed.lock().entry(uid.to_owned()).or_default().insert(volume.to_owned(), found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {
            "containers": [{"name": "c", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "own", "ephemeral": {}},
                {"name": "none", "emptyDir": {}}]}}))
        .unwrap()
    }

    #[test]
    fn which_volume_a_claim_has() {
        let pod = pod();
        let names: Vec<_> = pod::spec(&pod).volumes.iter().flatten().map(|v| claim_name(&pod, v)).collect();
        assert_eq!(names, [Some(("c".into(), false)), Some(("p-own".into(), true)), None]);
        let bound = json!({"metadata": {"name": "c", "namespace": "d", "uid": "cu", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]},
            "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
        // name, whether the claim is of the pod's own, the change, what is found
        type Row = (&'static str, bool, fn(&mut Value), Result<&'static str, &'static str>);
        let rows: [Row; 6] = [
            ("bound", false, |_| (), Ok("v")),
            ("the pod's own", true, |_| (), Ok("v")),
            (
                "pending",
                false,
                |c| c["status"]["phase"] = "Pending".into(),
                Err("error processing PVC d/c: PVC is not bound"),
            ),
            (
                "going",
                false,
                |c| c["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
                Err("error processing PVC d/c: PVC is being deleted"),
            ),
            (
                "going, but kept",
                false,
                |c| {
                    c["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                    c["metadata"]["finalizers"] = json!([PROTECTION]);
                },
                Ok("v"),
            ),
            (
                "somebody's",
                true,
                |c| c["metadata"]["ownerReferences"] = json!([]),
                Err("PVC d/c was not created for pod d/p (pod is not owner)"),
            ),
        ];
        for (name, own, change, expected) in rows {
            let mut claim = bound.clone();
            change(&mut claim);
            let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
            let found = volume_of(&pod, "c", own, Some(&claim));
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{name}");
        }
        assert!(volume_of(&pod, "c", false, None).unwrap_err().ends_with("persistentvolumeclaims \"c\" not found"));
    }

    #[test]
    fn where_a_volume_lies() {
        let pod = pod();
        let at = |spec: Value| {
            let found: PersistentVolume =
                serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap();
            source(&pod, &pod::spec(&pod).volumes.as_ref().unwrap()[0], "cu", &found)
        };
        assert_eq!(at(json!({"claimRef": {"uid": "cu"}, "local": {"path": "/x"}})), Ok(Source::Local("/x".into())));
        assert_eq!(
            at(json!({"claimRef": {"uid": "cu"}, "hostPath": {"path": "/x", "type": "Directory"}})),
            Ok(Source::HostPath("/x".into(), "Directory".into()))
        );
        let block = json!({"claimRef": {"uid": "cu"}, "volumeMode": "Block", "local": {"path": "/dev/x"}});
        let mut raw = pod.clone();
        let container = &mut raw.spec.as_mut().unwrap().containers[0];
        container.volume_mounts = None;
        container.volume_devices = serde_json::from_value(json!([{"name": "data", "devicePath": "/dev/d"}])).unwrap();
        let of_raw = |spec: &Value| {
            let found: PersistentVolume =
                serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap();
            source(&raw, &pod::spec(&raw).volumes.as_ref().unwrap()[0], "cu", &found)
        };
        assert_eq!(of_raw(&block), Ok(Source::Device("/dev/x".into())));
        for (spec, why) in [
            (
                json!({"claimRef": {"uid": "cu"}, "local": {"path": "/x"}}),
                "has volumeMode Filesystem, but is specified in volumeDevices",
            ),
            (
                json!({"claimRef": {"uid": "cu"}, "volumeMode": "Block", "hostPath": {"path": "/x"}}),
                "local and csi ones are",
            ),
        ] {
            assert!(of_raw(&spec).unwrap_err().ends_with(why), "{spec}");
        }
        assert_eq!(device(Path::new("/dev/null")), Err("path \"/dev/null\" is not a block device".into()));
        for (spec, why) in [
            (json!({"local": {"path": "/x"}}), "not yet bound to the claim"),
            (json!({"claimRef": {"uid": "other"}, "local": {"path": "/x"}}), "does not point to claim.UID cu"),
            (json!({"claimRef": {"uid": "cu"}, "nfs": {}}), "local, hostPath and csi are"),
            (
                json!({"claimRef": {"uid": "cu"}, "volumeMode": "Block", "local": {"path": "/x"}}),
                "has volumeMode Block, but is specified in volumeMounts",
            ),
        ] {
            assert!(at(spec.clone()).unwrap_err().ends_with(why), "{spec}");
        }
    }

    #[tokio::test]
    async fn a_pod_waits_for_its_claim_and_finds_its_data() {
        use client::{Clock, Patch, fake::Fake};
        use runtime::MountSource;

        use crate::translate::resources::Allocatable;

        let tmp = tempfile::tempdir().unwrap();
        let client = Fake::new(Clock::system()).client();
        let told = Arc::new(tokio::sync::Notify::new());
        let tell = Arc::clone(&told);
        let (data, run) = (tmp.path().join("data"), tmp.path().join("run"));
        let changed = Arc::new(move |_: &str| tell.notify_one());
        let volumes = Volumes::new(client.clone(), &data, &run, Allocatable::default(), changed);
        let mut pod = pod();
        let spec = pod.spec.as_mut().unwrap();
        spec.volumes.as_mut().unwrap().truncate(1);
        spec.volumes.as_mut().unwrap()[0].persistent_volume_claim.as_mut().unwrap().read_only = Some(true);
        let now = Now { wall: "2026-01-01T00:00:00Z".parse().unwrap(), mono: std::time::Duration::from_secs(1000) };
        let unbound = volumes.prepare(&pod, now).await.unwrap_err();
        assert!(unbound.starts_with("Unable to attach or mount volumes: unmounted volumes=[data]"), "{unbound}");
        assert!(unbound.ends_with("persistentvolumeclaims \"c\" not found"), "{unbound}");

        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "d"},
            "spec": {"volumeName": "v"}, "status": {"phase": "Pending"}}))
        .unwrap();
        let claim = client.create(&claim).await.unwrap();
        told.notified().await;
        assert!(volumes.prepare(&pod, now).await.unwrap_err().ends_with("PVC is not bound"));
        let folder = tmp.path().join("folder");
        let volume =
            json!({"metadata": {"name": "v"}, "spec": {"local": {"path": &folder}, "claimRef": {"uid": claim.uid()}}});
        let _: Value = client.create_path("/api/v1/persistentvolumes", &volume, &Default::default()).await.unwrap();
        let bound = json!({"status": {"phase": "Bound"}});
        let _: PersistentVolumeClaim = client.patch_status("d", "c", Patch::Merge(&bound)).await.unwrap();
        told.notified().await;
        let missing = volumes.prepare(&pod, now).await.unwrap_err();
        assert_eq!(
            missing,
            format!("MountVolume.SetUp failed for volume \"v\" : path \"{}\" does not exist", folder.display())
        );
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(volumes.prepare(&pod, now).await, Ok(None));
        let container = &pod::spec(&pod).containers[0];
        let mounts = volumes.mounts(&pod, container, &[], 0).unwrap();
        assert!(matches!(&mounts[0].source, MountSource::Bind(path) if *path == folder) && mounts[0].read_only);
        // The pod goes, its data stay, and so does nothing of ours.
        volumes.remove("u").await.unwrap();
        assert!(folder.exists() && volumes.objects.watches() == 0);
        assert!(volumes.mounts(&pod, container, &[], 0).is_err());
    }
}
