//! Rows of storage.k8s.io.

use serde_json::Value;

use super::super::cells::{NONE, created, or};
use super::others::{boolean_or, class_name};
use super::{name, with_age};
use crate::hooks::json::{boolean, get, has, list, text, texts};

const DEFAULT_CLASS: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The cells of a kind of the group; `None` for one that is shown as any other.
pub fn cells(kind: &str, object: &Value, now: jiff::Timestamp) -> Option<Vec<Value>> {
    let spec = get(object, "spec");
    Some(match kind {
        "StorageClass" => vec![
            class_name(object, DEFAULT_CLASS),
            text(object, "provisioner").into(),
            or(text(object, "reclaimPolicy"), "Delete").into(),
            or(text(object, "volumeBindingMode"), "Immediate").into(),
            boolean(object, "allowVolumeExpansion").into(),
            created(object, now).into(),
        ],
        "VolumeAttributesClass" => with_age(object, now, [text(object, "driverName").into()]),
        "VolumeAttachment" => with_age(
            object,
            now,
            [
                text(spec, "attacher").into(),
                text(get(spec, "source"), "persistentVolumeName").into(),
                text(spec, "nodeName").into(),
                boolean(get(object, "status"), "attached").into(),
            ],
        ),
        "CSINode" => with_age(object, now, [list(spec, "drivers").len().into()]),
        "CSIDriver" => vec![
            name(object),
            boolean_or(spec, "attachRequired", true),
            boolean_or(spec, "podInfoOnMount", false),
            boolean_or(spec, "storageCapacity", false),
            audiences(spec).into(),
            boolean_or(spec, "requiresRepublish", false),
            or(&texts(spec, "volumeLifecycleModes").collect::<Vec<_>>().join(","), NONE).into(),
            created(object, now).into(),
        ],
        _ => return None,
    })
}

fn audiences(spec: &Value) -> String {
    if !has(spec, "tokenRequests") {
        return "<unset>".into();
    }
    list(spec, "tokenRequests").iter().map(|t| text(t, "audience")).collect::<Vec<_>>().join(",")
}
