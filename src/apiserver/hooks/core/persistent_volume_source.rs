//! Where the data of a PersistentVolume are: one of many sources, each with fields of its own.
//! Source: `ValidatePersistentVolumeSpec` and what it calls, `pkg/volume/validation/pv_validation.go`,
//! `pkg/apis/core/v1/zz_generated.defaults.go`.

use serde_json::{Map, Value};
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{Errors, in_range, no_backsteps, one_of, required, wrong};
use super::super::json::{
    boolean, canonical_quantity, get, has, int, list, map, object_mut, set_absent, set_blank, text,
};
use super::pod::volume::HOST_PATH_TYPES;

/// Every source, in the order in which they are looked at.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];
/// Sources whose mounts take options by annotation.
const WITH_MOUNT_OPTIONS: &[&str] = &[
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];
const CSI_DRIVER_BYTES_MAX: usize = 63;
const HOST_PORT: &str = "must be a host:port pair or multiple pairs separated by commas";
const ISCSI_BYTES_MAX: usize = 64;

/// The sources of a spec, apart from the rest.
pub fn of(spec: &Value) -> Value {
    let given = SOURCES.iter().filter(|name| has(spec, name));
    Value::Object(given.map(|name| ((*name).to_owned(), get(spec, name).clone())).collect::<Map<_, _>>())
}

pub fn takes_mount_options(spec: &Value) -> bool {
    WITH_MOUNT_OPTIONS.iter().any(|name| has(spec, name))
}

/// Whether the data are all of the host's files.
pub fn is_host_root(spec: &Value) -> bool {
    let path = text(get(spec, "hostPath"), "path");
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "."))
}

pub fn default(spec: &mut Value) {
    if let Some(host) = object_mut(spec, "hostPath") {
        set_absent(host, "type", "");
    }
    if let Some(rbd) = object_mut(spec, "rbd") {
        set_blank(rbd, "pool", "rbd");
        set_blank(rbd, "user", "admin");
        set_blank(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(iscsi) = object_mut(spec, "iscsi") {
        set_blank(iscsi, "iscsiInterface", "default");
    }
    if let Some(disk) = object_mut(spec, "azureDisk") {
        set_absent(disk, "cachingMode", "ReadWrite");
        set_absent(disk, "kind", "Shared");
        set_absent(disk, "fsType", "ext4");
        set_absent(disk, "readOnly", false);
    }
    if let Some(scale) = object_mut(spec, "scaleIO") {
        set_blank(scale, "storageMode", "ThinProvisioned");
        set_blank(scale, "fsType", "xfs");
    }
    if let Some(limit) = spec.get_mut("capacity").and_then(|c| c.get_mut("storage")) {
        canonical_quantity(limit);
    }
}

/// There is one source, and it is complete. `name` is the volume's.
pub fn validate(spec: &Value, name: &str, path: &Path, errors: &mut Errors) {
    let mut first = true;
    for kind in SOURCES.iter().filter(|kind| has(spec, kind)) {
        let shown = if *kind == "cephfs" { "cephFS" } else { kind };
        if !first && *kind != "flexVolume" {
            errors.push(FieldError::forbidden(&path.child(shown), "may not specify more than 1 volume type"));
            continue;
        }
        first = false;
        let at = path.child(if *kind == "gcePersistentDisk" { "persistentDisk" } else { kind });
        source(kind, get(spec, kind), name, &at, errors);
        if *kind == "local" && !has(spec, "nodeAffinity") {
            let words = "Local volume requires node affinity";
            errors.push(FieldError::required(&path.child("nodeAffinity"), words));
        }
    }
    if first {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn source(kind: &str, source: &Value, name: &str, path: &Path, errors: &mut Errors) {
    let needs = |fields: &[&str], errors: &mut Errors| {
        for field in fields {
            let list = matches!(*field, "monitors");
            if list && super::super::json::list(source, field).is_empty() {
                errors.push(FieldError::required(&path.child(field), ""));
            } else if !list {
                required(errors, source, field, path);
            }
        }
    };
    match kind {
        "hostPath" => {
            let host = required(errors, source, "path", path);
            if !host.is_empty() {
                no_backsteps(errors, host, &path.child("path"));
                one_of(errors, source, "type", path, HOST_PATH_TYPES);
            }
        }
        "local" => {
            let local = required(errors, source, "path", path);
            no_backsteps(errors, local, &path.child("path"));
        }
        "nfs" => {
            needs(&["server", "path"], errors);
            let remote = text(source, "path");
            if !remote.starts_with('/') {
                errors.push(FieldError::invalid(&path.child("path"), remote, "must be an absolute path"));
            }
        }
        "csi" => csi(source, path, errors),
        "iscsi" => iscsi(source, name, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "gcePersistentDisk" => {
            needs(&["pdName"], errors);
            partition(source, path, errors);
        }
        "awsElasticBlockStore" => {
            needs(&["volumeID"], errors);
            partition(source, path, errors);
        }
        "glusterfs" => {
            needs(&["endpoints", "path"], errors);
            if let Some(namespace) = get(source, "endpointsNamespace").as_str() {
                let at = path.child("endpointsNamespace");
                if namespace.is_empty() {
                    let words = "if the endpointnamespace is set, it must be a valid namespace name";
                    errors.push(FieldError::invalid(&at, namespace, words));
                } else {
                    wrong(errors, &at, namespace, names::dns1123_label(namespace));
                }
            }
        }
        "flocker" => flocker(source, path, errors),
        "rbd" => needs(&["monitors", "image"], errors),
        "quobyte" => quobyte(source, path, errors),
        "cephfs" => needs(&["monitors"], errors),
        "cinder" => {
            needs(&["volumeID"], errors);
            secret(source, &["name", "namespace"], path, errors);
        }
        "flexVolume" => {
            needs(&["driver"], errors);
            for (key, _) in map(source, "options") {
                let namespace = key.split_once('/').map_or(key.as_str(), |(namespace, _)| namespace);
                let domain = format!(".{}", namespace.to_lowercase());
                if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
                    let words = "kubernetes.io and k8s.io namespaces are reserved";
                    errors.push(FieldError::invalid(&path.child("options").key(key), key, words));
                }
            }
        }
        "azureFile" => {
            needs(&["secretName", "shareName"], errors);
            if get(source, "secretNamespace") == "" {
                errors.push(FieldError::required(&path.child("secretNamespace"), ""));
            }
        }
        "vsphereVolume" => needs(&["volumePath"], errors),
        "photonPersistentDisk" => needs(&["pdID"], errors),
        "portworxVolume" => needs(&["volumeID"], errors),
        "azureDisk" => azure_disk(source, path, errors),
        "scaleIO" => needs(&["gateway", "system", "volumeName"], errors),
        "storageos" => {
            let volume = required(errors, source, "volumeName", path);
            for (field, value) in [("volumeName", volume), ("volumeNamespace", text(source, "volumeNamespace"))] {
                if !value.is_empty() {
                    wrong(errors, &path.child(field), value, names::dns1123_label(value));
                }
            }
            secret(source, &["name", "namespace"], path, errors);
        }
        _ => {}
    }
}

/// A secret, when one is named, is named in full.
fn secret(source: &Value, fields: &[&str], path: &Path, errors: &mut Errors) {
    if has(source, "secretRef") {
        for field in fields {
            required(errors, get(source, "secretRef"), field, &path.child("secretRef"));
        }
    }
}

/// Zero stands for the whole disk.
fn partition(source: &Value, path: &Path, errors: &mut Errors) {
    if let Some(n) = int(source, "partition").filter(|n| !(0..=255).contains(n)) {
        errors.push(FieldError::invalid(&path.child("partition"), n, "must be between 1 and 255, inclusive"));
    }
}

fn csi(source: &Value, path: &Path, errors: &mut Errors) {
    let driver = required(errors, source, "driver", path);
    if !driver.is_empty() {
        if driver.len() > CSI_DRIVER_BYTES_MAX {
            errors.push(FieldError::too_long(&path.child("driver"), CSI_DRIVER_BYTES_MAX));
        }
        wrong(errors, &path.child("driver"), driver, names::dns1123_subdomain(&driver.to_lowercase()));
    }
    required(errors, source, "volumeHandle", path);
    for field in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        if !has(source, field) {
            continue;
        }
        let (reference, path) = (get(source, field), path.child(field));
        let name = required(errors, reference, "name", &path);
        if !name.is_empty() {
            wrong(errors, &path.child("name"), name, names::dns1123_subdomain(name));
        }
        let namespace = required(errors, reference, "namespace", &path);
        if !namespace.is_empty() {
            wrong(errors, &path.child("namespace"), namespace, names::dns1123_label(namespace));
        }
    }
}

fn iscsi(source: &Value, name: &str, path: &Path, errors: &mut Errors) {
    let portal = required(errors, source, "targetPortal", path);
    let initiator = get(source, "initiatorName").as_str();
    if initiator.is_some() && name.len() + 1 + portal.len() > ISCSI_BYTES_MAX {
        let words = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                     iscsi.initiatorName is specified.";
        errors.push(FieldError::invalid(&path.child("targetportal"), portal, words));
    }
    let iqn = required(errors, source, "iqn", path);
    if !iqn.is_empty() && !is_initiator(iqn) {
        errors.push(FieldError::invalid(&path.child("iqn"), iqn, "must be valid format"));
    }
    in_range(errors, source, "lun", path, 0, 255);
    let authenticates = boolean(source, "chapAuthDiscovery") || boolean(source, "chapAuthSession");
    if authenticates && !has(source, "secretRef") {
        errors.push(FieldError::required(&path.child("secretRef"), ""));
    }
    secret(source, &["name"], path, errors);
    if let Some(initiator) = initiator.filter(|i| !is_initiator(i)) {
        errors.push(FieldError::invalid(&path.child("initiatorname"), initiator, "must be valid format"));
    }
}

/// An iSCSI name: `iqn.` with a month, a domain and a name behind a colon, or one of the two numbers. Source: RFC 3720
/// section 3.2.6.3, in the looser form of upstream's expressions.
fn is_initiator(name: &str) -> bool {
    let number =
        |rest: &str, length: usize| rest.len() == length + 1 && rest[1..].bytes().all(|b| b.is_ascii_alphanumeric());
    if let Some(rest) = name.strip_prefix("eui").filter(|r| r.is_ascii()) {
        return number(rest, 16);
    }
    if let Some(rest) = name.strip_prefix("naa").filter(|r| r.is_ascii()) {
        return number(rest, 32);
    }
    let digits = |text: &str, n: usize| text.len() == n && text.bytes().all(|b| b.is_ascii_digit());
    let split = || {
        let (date, rest) = name.strip_prefix("iqn.")?.split_once('.')?;
        let (year, month) = date.split_once('-')?;
        let (host, tail) = rest.split_once(':')?;
        Some((year, month, host, tail))
    };
    split().is_some_and(|(year, month, host, tail)| {
        let hosts = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        let tails = !tail.is_empty() && !tail.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n']);
        digits(year, 4) && digits(month, 2) && hosts && tails
    })
}

fn fibre_channel(source: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("targetWWNs");
    let (names, ids) = (list(source, "targetWWNs"), list(source, "wwids"));
    match (names.is_empty(), ids.is_empty()) {
        (true, true) => {
            let words = "must specify either targetWWNs or wwids, but not both";
            errors.push(FieldError::required(&at, words));
        }
        (false, false) => {
            let words = "targetWWNs and wwids can not be specified simultaneously";
            errors.push(FieldError::invalid(&at, get(source, "targetWWNs"), words));
        }
        _ => {}
    }
    if !names.is_empty() {
        if int(source, "lun").is_none() {
            let words = "lun is required if targetWWNs is specified";
            errors.push(FieldError::required(&path.child("lun"), words));
        }
        in_range(errors, source, "lun", path, 0, 255);
    }
}

fn flocker(source: &Value, path: &Path, errors: &mut Errors) {
    let (name, id) = (text(source, "datasetName"), text(source, "datasetUUID"));
    match (name.is_empty(), id.is_empty()) {
        (true, true) => errors.push(FieldError::required(path, "one of datasetName and datasetUUID is required")),
        (false, false) => {
            let words = "datasetName and datasetUUID can not be specified simultaneously";
            errors.push(FieldError::invalid(path, "resource", words));
        }
        _ => {}
    }
    if name.contains('/') {
        errors.push(FieldError::invalid(&path.child("datasetName"), name, "must not contain '/'"));
    }
}

fn quobyte(source: &Value, path: &Path, errors: &mut Errors) {
    const TENANT_BYTES: usize = 65;
    let registry = text(source, "registry");
    if registry.is_empty() {
        errors.push(FieldError::required(&path.child("registry"), HOST_PORT));
    } else if text(source, "tenant").len() >= TENANT_BYTES {
        let words = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(&path.child("tenant"), words));
    } else {
        let pair =
            |pair: &str| pair.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
        for _ in registry.split(',').filter(|p| !pair(p)) {
            errors.push(FieldError::invalid(&path.child("registry"), registry, HOST_PORT));
        }
    }
    required(errors, source, "volume", path);
}

fn azure_disk(source: &Value, path: &Path, errors: &mut Errors) {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    required(errors, source, "diskName", path);
    let uri = required(errors, source, "diskURI", path);
    one_of(errors, source, "cachingMode", path, &["None", "ReadOnly", "ReadWrite"]);
    one_of(errors, source, "kind", path, &["Dedicated", "Managed", "Shared"]);
    let (start, shape) =
        if text(source, "kind") == "Managed" { ("/subscriptions/", MANAGED) } else { ("https://", BLOB) };
    if has(source, "kind") && !uri.starts_with(start) {
        errors.push(FieldError::not_supported(&path.child("diskURI"), uri, &[shape]));
    }
}
