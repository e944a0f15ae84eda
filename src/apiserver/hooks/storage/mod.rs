//! The kinds of storage.k8s.io. Source: `pkg/apis/storage/validation/validation.go`, `pkg/apis/storage/v1/defaults.go`,
//! `pkg/registry/storage/*/strategy.go`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::Hooks;
use super::check::{self, Errors};

mod attachment;
mod capacity;
mod class;
mod csi;

/// The hooks of a kind of the group.
pub fn named(kind: &str) -> Option<&'static Hooks> {
    Some(match kind {
        "CSIDriver" => &csi::DRIVER,
        "CSINode" => &csi::NODE,
        "CSIStorageCapacity" => &capacity::HOOKS,
        "StorageClass" => &class::STORAGE_CLASS,
        "VolumeAttachment" => &attachment::HOOKS,
        "VolumeAttributesClass" => &class::ATTRIBUTES_CLASS,
        _ => return None,
    })
}

/// The name of a volume driver, in any case. Source: `ValidateCSIDriverName`.
fn driver_name<'a>(errors: &mut Errors, of: &'a Value, field: &str, path: &Path) -> &'a str {
    let name = check::required(errors, of, field, path);
    let path = path.child(field);
    if name.len() > names::LABEL_MAX {
        errors.push(FieldError::too_long(&path, names::LABEL_MAX));
    }
    if !name.is_empty() {
        check::wrong(errors, &path, name, names::dns1123_subdomain(&name.to_lowercase()));
    }
    name
}
