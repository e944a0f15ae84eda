//! Rows of PersistentVolumes and their claims.

use serde_json::Value;

use super::super::cells::{created, quantity};
use super::name;
use crate::hooks::json::{at, get, has, text, texts};

/// The annotation that named the class before there was a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const UNSET: &str = "<unset>";
const ACCESS_MODES: [(&str, &str); 4] =
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];

pub fn volume(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    let claim = get(spec, "claimRef");
    let claim =
        if claim.is_null() { String::new() } else { format!("{}/{}", text(claim, "namespace"), text(claim, "name")) };
    vec![
        name(object),
        quantity(at(spec, &["capacity", "storage"])).into(),
        access_modes(spec).into(),
        text(spec, "persistentVolumeReclaimPolicy").into(),
        phase(object).into(),
        claim.into(),
        class(object).into(),
        or_unset(spec, "volumeAttributesClassName").into(),
        text(status, "reason").into(),
        created(object, now).into(),
        or_unset(spec, "volumeMode").into(),
    ]
}

pub fn claim(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    let bound = !text(spec, "volumeName").is_empty();
    let capacity = if bound { quantity(at(status, &["capacity", "storage"])) } else { String::new() };
    let modes = if bound { access_modes(status) } else { String::new() };
    vec![
        name(object),
        phase(object).into(),
        text(spec, "volumeName").into(),
        capacity.into(),
        modes.into(),
        class(object).into(),
        or_unset(spec, "volumeAttributesClassName").into(),
        created(object, now).into(),
        or_unset(spec, "volumeMode").into(),
    ]
}

fn phase(object: &Value) -> &str {
    let deleting = has(get(object, "metadata"), "deletionTimestamp");
    if deleting { "Terminating" } else { text(get(object, "status"), "phase") }
}

fn class(object: &Value) -> &str {
    let annotated = at(object, &["metadata", "annotations", CLASS_ANNOTATION]);
    annotated.as_str().unwrap_or_else(|| text(get(object, "spec"), "storageClassName"))
}

fn or_unset<'a>(spec: &'a Value, field: &str) -> &'a str {
    if has(spec, field) { text(spec, field) } else { UNSET }
}

/// The short names of the modes, each once, in their fixed order.
fn access_modes(object: &Value) -> String {
    let given = |mode: &str| texts(object, "accessModes").any(|m| m == mode);
    ACCESS_MODES.iter().filter(|(mode, _)| given(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}
