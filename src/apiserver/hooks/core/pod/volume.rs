//! Volumes of a pod. Source: `ValidateVolumes`, `validateVolumeSource` and what they call.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::super::check::{
    Errors, count, descending_path, items, no_backsteps, one_of, required, unique, wrong,
};
use super::super::super::json::{get, has, int, list, quantity, text};
use super::container::{field_ref, resource_field_ref};

pub const HOST_PATH_TYPES: &[&str] =
    &["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const PROJECTIONS: &[&str] =
    &["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Checks the volumes; returns their names, which mounts refer to.
pub fn volumes<'a>(spec: &'a Value, path: &Path, errors: &mut Errors) -> Vec<&'a str> {
    for (path, volume) in items(spec, "volumes", path) {
        let name = required(errors, volume, "name", &path);
        if !name.is_empty() {
            wrong(errors, &path.child("name"), name, names::dns1123_label(name));
        }
        source(volume, &path, errors);
    }
    unique(errors, list(spec, "volumes"), "name", &path.child("volumes"));
    list(spec, "volumes").iter().map(|v| text(v, "name")).collect()
}

fn source(volume: &Value, path: &Path, errors: &mut Errors) {
    let sources = || volume.as_object().into_iter().flatten().filter(|(key, v)| *key != "name" && !v.is_null());
    let Some((kind, source)) = sources().next() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    for (other, _) in sources().skip(1) {
        errors.push(FieldError::forbidden(&path.child(other), "may not specify more than 1 volume type"));
    }
    let path = path.child(kind);
    match kind.as_str() {
        "emptyDir" => size_limit(source, &path, errors),
        "hostPath" => {
            let at = required(errors, source, "path", &path);
            no_backsteps(errors, at, &path.child("path"));
            one_of(errors, source, "type", &path, HOST_PATH_TYPES);
        }
        "secret" => {
            required(errors, source, "secretName", &path);
            files(source, &path, errors);
        }
        "configMap" => {
            required(errors, source, "name", &path);
            files(source, &path, errors);
        }
        "persistentVolumeClaim" => {
            required(errors, source, "claimName", &path);
        }
        "downwardAPI" => {
            mode(source, "defaultMode", &path, errors);
            downward(source, &path, errors);
        }
        "projected" => projected(source, &path, errors),
        "nfs" => {
            required(errors, source, "server", &path);
            let at = required(errors, source, "path", &path);
            if !at.is_empty() && !at.starts_with('/') {
                errors.push(FieldError::invalid(&path.child("path"), at, "must be an absolute path"));
            }
        }
        "csi" => {
            required(errors, source, "driver", &path);
        }
        "image" => one_of(errors, source, "pullPolicy", &path, &["Always", "IfNotPresent", "Never"]),
        "ephemeral" if !has(source, "volumeClaimTemplate") => {
            errors.push(FieldError::required(&path.child("volumeClaimTemplate"), ""));
        }
        _ => {}
    }
}

fn size_limit(source: &Value, path: &Path, errors: &mut Errors) {
    if has(source, "sizeLimit") && quantity(get(source, "sizeLimit")).is_none_or(|q| q.is_negative()) {
        let words = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(&path.child("sizeLimit"), words));
    }
}

fn mode(object: &Value, field: &str, path: &Path, errors: &mut Errors) {
    if let Some(n) = int(object, field).filter(|n| !(0..=0o777).contains(n)) {
        errors.push(FieldError::invalid(&path.child(field), n, MODE));
    }
}

/// `items` that choose keys, with the mode of the files.
fn files(source: &Value, path: &Path, errors: &mut Errors) {
    mode(source, "defaultMode", path, errors);
    for (path, item) in items(source, "items", path) {
        required(errors, item, "key", &path);
        file_path(item, &path, errors);
        mode(item, "mode", &path, errors);
    }
}

fn file_path(item: &Value, path: &Path, errors: &mut Errors) {
    let value = required(errors, item, "path", path);
    let at = path.child("path");
    descending_path(errors, value, &at);
    if value.starts_with("..") && !value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(&at, value, "must not start with '..'"));
    }
}

fn downward(source: &Value, path: &Path, errors: &mut Errors) {
    const FIELDS: &[&str] =
        &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    for (path, item) in items(source, "items", path) {
        file_path(item, &path, errors);
        mode(item, "mode", &path, errors);
        match (has(item, "fieldRef"), has(item, "resourceFieldRef")) {
            (true, true) => {
                let words = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(&path, item, words));
            }
            (true, false) => field_ref(get(item, "fieldRef"), FIELDS, &path.child("fieldRef"), errors),
            (false, true) => {
                let (resource, path) = (get(item, "resourceFieldRef"), path.child("resourceFieldRef"));
                required(errors, resource, "containerName", &path);
                resource_field_ref(resource, &path, errors);
            }
            (false, false) => {
                errors.push(FieldError::required(&path, "one of fieldRef and resourceFieldRef is required"));
            }
        }
    }
}

fn projected(source: &Value, path: &Path, errors: &mut Errors) {
    mode(source, "defaultMode", path, errors);
    for (path, projection) in items(source, "sources", path) {
        if count(projection, PROJECTIONS) != 1 {
            let words = "may not specify more than 1 volume type per source";
            if count(projection, PROJECTIONS) > 1 {
                errors.push(FieldError::forbidden(&path, words));
            }
            continue;
        }
        for name in ["secret", "configMap"] {
            if has(projection, name) {
                let path = path.child(name);
                required(errors, get(projection, name), "name", &path);
                files(get(projection, name), &path, errors);
            }
        }
        if has(projection, "downwardAPI") {
            downward(get(projection, "downwardAPI"), &path.child("downwardAPI"), errors);
        }
        if has(projection, "serviceAccountToken") {
            let (token, path) = (get(projection, "serviceAccountToken"), path.child("serviceAccountToken"));
            file_path(token, &path, errors);
            let seconds = int(token, "expirationSeconds").unwrap_or(3600);
            let words = match seconds {
                ..600 => "may not specify a duration less than 10 minutes",
                0x1_0000_0001.. => "may not specify a duration larger than 2^32 seconds",
                _ => continue,
            };
            errors.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, words));
        }
    }
}
