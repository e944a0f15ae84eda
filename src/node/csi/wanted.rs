//! What a pod wants of a driver: worked out from the volume, the pod and what the cluster knows of the driver. Pure.
//!
//! Source: `pkg/volume/csi/{csi_plugin,csi_mounter,csi_attacher}.go`.

use std::collections::BTreeMap;

use client::Object as _;
use client::storage::{SecretRef, Volume as PersistentVolume};
use k8s_openapi::api::core::v1::{CSIVolumeSource, Pod};
use serde::Deserialize;

use super::driver::Use;
use super::folders::sha256;
use super::records::Volume;
use crate::pod;

/// What is read of a CSIDriver. Those that are stored have the defaults filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DriverSpec {
    pub attach_required: Option<bool>,
    pub pod_info_on_mount: bool,
    pub fs_group_policy: Option<String>,
    pub volume_lifecycle_modes: Vec<String>,
    pub token_requests: Vec<TokenRequest>,
    pub requires_republish: bool,
    pub service_account_token_in_secrets: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TokenRequest {
    pub audience: String,
    pub expiration_seconds: Option<i64>,
}

/// One volume of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The PersistentVolume's name, or the volume's in the pod.
    pub name: String,
    pub driver: String,
    pub handle: String,
    pub ephemeral: bool,
    pub read_only: bool,
    pub usage: Use,
    pub access_modes: Vec<String>,
    pub attributes: BTreeMap<String, String>,
    pub stage_secret: Option<SecretRef>,
    pub publish_secret: Option<SecretRef>,
    pub expand_secret: Option<SecretRef>,
}

impl Wanted {
    /// `None`: the volume is no driver's.
    pub fn of_volume(found: &PersistentVolume, read_only: bool) -> Option<Wanted> {
        let (spec, csi) = (&found.spec, found.spec.csi.as_ref()?);
        let usage = Use {
            block: spec.volume_mode.as_deref() == Some("Block"),
            fs_type: csi.fs_type.clone(),
            mount_options: spec.mount_options.clone(),
            group: None,
            access_mode: spec.access_modes.first().cloned().unwrap_or_else(|| "ReadWriteOnce".into()),
        };
        Some(Wanted {
            name: found.name().to_owned(),
            driver: csi.driver.clone(),
            handle: csi.volume_handle.clone(),
            ephemeral: false,
            read_only,
            usage,
            access_modes: spec.access_modes.clone(),
            attributes: csi.volume_attributes.clone(),
            stage_secret: csi.node_stage_secret_ref.clone(),
            publish_secret: csi.node_publish_secret_ref.clone(),
            expand_secret: csi.node_expand_secret_ref.clone(),
        })
    }

    /// A volume that lives as long as the pod. Source: `makeVolumeHandle`.
    pub fn inline(pod: &Pod, name: &str, source: &CSIVolumeSource) -> Wanted {
        let secret = source.node_publish_secret_ref.as_ref();
        Wanted {
            name: name.to_owned(),
            driver: source.driver.clone(),
            handle: format!("csi-{}", sha256(format!("{}{name}", pod::uid(pod)).as_bytes())),
            ephemeral: true,
            read_only: source.read_only == Some(true),
            usage: Use {
                fs_type: source.fs_type.clone().unwrap_or_default(),
                access_mode: "ReadWriteOnce".into(),
                ..Use::default()
            },
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            publish_secret: secret
                .map(|s| SecretRef { name: s.name.clone(), namespace: pod::namespace(pod).to_owned() }),
            ..Wanted::default()
        }
    }

    pub fn volume(&self) -> Volume {
        Volume {
            driver: self.driver.clone(),
            handle: self.handle.clone(),
            device: self.usage.block.then(|| self.name.clone()),
        }
    }

    /// Whether somebody must attach the volume to the node first.
    pub fn is_attached(&self, driver: Option<&DriverSpec>) -> bool {
        !self.ephemeral && driver.is_none_or(|d| d.attach_required != Some(false))
    }

    /// # Errors
    /// The driver does not serve volumes of this life. Source: `supportsVolumeLifecycleMode`.
    pub fn check_mode(&self, driver: Option<&DriverSpec>) -> Result<(), String> {
        let mode = if self.ephemeral { "Ephemeral" } else { "Persistent" };
        match driver {
            None if self.ephemeral => {
                Err(format!("volume mode \"{mode}\" not supported by driver {} (no CSIDriver object)", self.driver))
            }
            None => Ok(()),
            Some(spec) if spec.volume_lifecycle_modes.iter().any(|m| m == mode) => Ok(()),
            Some(spec) => Err(format!(
                "volume mode \"{mode}\" not supported by driver {} (only supports {:?})",
                self.driver, spec.volume_lifecycle_modes
            )),
        }
    }

    /// Whether the node gives the files to the pod's group. Source: `supportsFSGroup`.
    pub fn gives_to_group(&self, driver: Option<&DriverSpec>) -> bool {
        let policy = driver.and_then(|d| d.fs_group_policy.as_deref()).unwrap_or("ReadWriteOnceWithFSType");
        let once = |mode: &String| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod";
        match policy {
            _ if self.read_only => false,
            "None" => false,
            "File" => true,
            _ => !self.usage.fs_type.is_empty() && (self.ephemeral || self.access_modes.iter().any(once)),
        }
    }

    /// What drivers are told about the pod. Source: `getPodInfoAttrs`.
    pub fn pod_info(&self, pod: &Pod) -> BTreeMap<String, String> {
        let account = pod::spec(pod).service_account_name.clone().unwrap_or_default();
        [
            ("pod.name", pod::name(pod).to_owned()),
            ("pod.namespace", pod::namespace(pod).to_owned()),
            ("pod.uid", pod::uid(pod).to_owned()),
            ("serviceAccount.name", account),
            ("ephemeral", self.ephemeral.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(change: fn(&mut Value)) -> Wanted {
        let mut value = json!({"metadata": {"name": "pv"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "d", "volumeHandle": "h", "fsType": "ext4", "volumeAttributes": {"a": "1"},
                "nodeStageSecretRef": {"name": "s", "namespace": "n"}}, "mountOptions": ["noatime"]}});
        change(&mut value);
        Wanted::of_volume(&serde_json::from_value(value).unwrap(), false).unwrap()
    }

    #[test]
    fn names_are_upstreams() {
        assert_eq!(
            client::csi::attachment_name("driver", "handle", "node"),
            format!("csi-{}", sha256(b"handledrivernode"))
        );
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec":
            {"serviceAccountName": "sa", "containers": []}}))
        .unwrap();
        let source = CSIVolumeSource { driver: "d".into(), ..CSIVolumeSource::default() };
        let inline = Wanted::inline(&pod, "v", &source);
        assert_eq!(inline.handle, format!("csi-{}", sha256(b"uv")));
        let info = inline.pod_info(&pod);
        assert_eq!(info["csi.storage.k8s.io/ephemeral"], "true");
        assert_eq!((info.len(), info["csi.storage.k8s.io/serviceAccount.name"].as_str()), (5, "sa"));
        assert_eq!(volume(|_| ()).volume().unique_name(), "kubernetes.io/csi/d^h");
    }

    #[test]
    fn whose_files_the_node_gives_to_the_group() {
        let driver = |policy: &str| DriverSpec { fs_group_policy: Some(policy.into()), ..DriverSpec::default() };
        let default = driver("ReadWriteOnceWithFSType");
        type Row = (&'static str, fn(&mut Value), Option<DriverSpec>, bool);
        let rows: [Row; 7] = [
            ("unknown driver", |_| (), None, true),
            ("by default", |_| (), Some(default.clone()), true),
            ("no filesystem named", |v| v["spec"]["csi"]["fsType"] = "".into(), Some(default.clone()), false),
            ("many writers", |v| v["spec"]["accessModes"] = json!(["ReadWriteMany"]), Some(default.clone()), false),
            ("one pod", |v| v["spec"]["accessModes"] = json!(["ReadWriteOncePod"]), Some(default), true),
            ("files", |v| v["spec"]["accessModes"] = json!(["ReadWriteMany"]), Some(driver("File")), true),
            ("never", |_| (), Some(driver("None")), false),
        ];
        for (name, change, driver, expected) in rows {
            let wanted = volume(change);
            assert_eq!(wanted.gives_to_group(driver.as_ref()), expected, "{name}");
            assert!(!Wanted { read_only: true, ..wanted }.gives_to_group(driver.as_ref()), "{name}, read-only");
        }
    }

    #[test]
    fn which_lives_a_driver_serves() {
        let persistent = volume(|_| ());
        let ephemeral = Wanted { ephemeral: true, ..persistent.clone() };
        let only = |mode: &str| DriverSpec { volume_lifecycle_modes: vec![mode.into()], ..DriverSpec::default() };
        for (wanted, driver, expected) in [
            (&persistent, None, Ok(())),
            (&persistent, Some(only("Persistent")), Ok(())),
            (&ephemeral, Some(only("Ephemeral")), Ok(())),
            (&ephemeral, None, Err("volume mode \"Ephemeral\" not supported by driver d (no CSIDriver object)")),
            (
                &ephemeral,
                Some(only("Persistent")),
                Err("volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])"),
            ),
        ] {
            assert_eq!(wanted.check_mode(driver.as_ref()), expected.map_err(str::to_owned));
        }
        assert!(persistent.is_attached(None) && !ephemeral.is_attached(None));
        assert!(!persistent.is_attached(Some(&DriverSpec { attach_required: Some(false), ..DriverSpec::default() })));
    }
}
