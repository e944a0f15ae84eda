//! Volumes of pods and of templates of pods.

use serde_json::Value;
use types::quantity::Quantity;

use super::page::{NONE, Page, UNSET, flag, int, list, map, or, shown};
use crate::manifest::text;

/// Kinds of volumes that are shown as a sentence and some of their fields: field, title, sentence, (label, field)s.
type Plain = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const PLAIN: &[Plain] = &[
    (
        "persistentVolumeClaim",
        "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        &[("ClaimName", "/claimName"), ("ReadOnly", "?/readOnly")],
    ),
    (
        "nfs",
        "NFS (an NFS mount that lasts the lifetime of a pod)",
        &[("Server", "/server"), ("Path", "/path"), ("ReadOnly", "?/readOnly")],
    ),
    (
        "gitRepo",
        "GitRepo (a volume that is pulled from git when the pod is created)",
        &[("Repository", "/repository"), ("Revision", "/revision")],
    ),
    (
        "image",
        "Image (a container image or OCI artifact)",
        &[("Reference", "/reference"), ("PullPolicy", "/pullPolicy")],
    ),
    ("secret", "Secret (a volume populated by a Secret)", &[("SecretName", "/secretName"), ("Optional", "?/optional")]),
    ("configMap", "ConfigMap (a volume populated by a ConfigMap)", &[("Name", "/name"), ("Optional", "?/optional")]),
    (
        "csi",
        "CSI (a Container Storage Interface (CSI) volume source)",
        &[("Driver", "/driver"), ("FSType", "/fsType"), ("ReadOnly", "?/readOnly")],
    ),
];

pub fn volumes(page: &mut Page, volumes: &[Value], space: &str) {
    if volumes.is_empty() {
        return page.line(0, format!("{space}Volumes:\t{NONE}"));
    }
    page.line(0, format!("{space}Volumes:"));
    for volume in volumes {
        let indent = if space.is_empty() { "" } else { " " };
        page.line(1, format!("{indent}{}:", text(volume, "/name")));
        one(page, volume);
    }
}

fn one(page: &mut Page, volume: &Value) {
    if let Some((field, sentence, fields)) = PLAIN.iter().find(|(field, ..)| volume.get(field).is_some()) {
        let source = &volume[field];
        page.field(2, "Type", sentence);
        for (label, pointer) in *fields {
            match pointer.strip_prefix('?') {
                Some(pointer) => page.field(2, label, flag(source, pointer)),
                None => page.field(2, label, shown(source, pointer)),
            }
        }
        if *field == "csi" {
            attributes(page, source);
        }
    } else if let Some(path) = volume.get("hostPath") {
        page.field(2, "Type", "HostPath (bare host directory volume)");
        page.field(2, "Path", text(path, "/path"));
        let kind = if path.get("type").is_some() { text(path, "/type") } else { NONE };
        page.field(2, "HostPathType", kind);
    } else if let Some(dir) = volume.get("emptyDir") {
        page.field(2, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)");
        page.field(2, "Medium", text(dir, "/medium"));
        let limit = text(dir, "/sizeLimit");
        let set = limit.parse::<Quantity>().is_ok_and(|q| !q.is_zero() && !q.is_negative());
        page.field(2, "SizeLimit", if set { limit } else { UNSET });
    } else if let Some(down) = volume.get("downwardAPI") {
        page.field(2, "Type", "DownwardAPI (a volume populated by information about the pod)");
        page.line(2, "Items:");
        for item in list(down, "/items") {
            let path = text(item, "/path");
            for pointer in ["/fieldRef/fieldPath", "/resourceFieldRef/resource"] {
                if item.pointer(pointer).is_some() {
                    page.line(3, format!("{} -> {path}", text(item, pointer)));
                }
            }
        }
    } else if let Some(projected) = volume.get("projected") {
        page.field(2, "Type", "Projected (a volume that contains injected data from multiple sources)");
        for source in list(projected, "/sources") {
            projection(page, source);
        }
    } else if let Some(ephemeral) = volume.get("ephemeral") {
        let sentence = "an inline specification for a volume that gets created and deleted with the pod";
        page.field(2, "Type", format!("EphemeralVolume ({sentence})"));
        let spec = &ephemeral["volumeClaimTemplate"]["spec"];
        page.field(2, "StorageClass", text(spec, "/storageClassName"));
        page.field(2, "Volume", text(spec, "/volumeName"));
    } else {
        page.line(1, "<unknown>");
    }
}

fn projection(page: &mut Page, source: &Value) {
    if let Some(secret) = source.get("secret") {
        page.field(2, "SecretName", text(secret, "/name"));
        page.field(2, "Optional", flag(secret, "/optional"));
    } else if source.get("downwardAPI").is_some() {
        page.field(2, "DownwardAPI", "true");
    } else if let Some(map) = source.get("configMap") {
        page.field(2, "ConfigMapName", text(map, "/name"));
        page.field(2, "Optional", flag(map, "/optional"));
    } else if let Some(token) = source.get("serviceAccountToken") {
        page.field(2, "TokenExpirationSeconds", int(token, "/expirationSeconds"));
    }
}

fn attributes(page: &mut Page, source: &Value) {
    let pairs: Vec<String> = map(source, "/volumeAttributes").iter().map(|(k, v)| format!("{k}={v}")).collect();
    page.part(2, "VolumeAttributes:\t");
    page.line(0, or(pairs.first().map(String::as_str).unwrap_or_default(), NONE));
    for pair in pairs.iter().skip(1) {
        page.line(2, format!("    \t    {pair}"));
    }
}
