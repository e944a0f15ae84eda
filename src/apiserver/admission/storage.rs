//! Storage: DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize.
//! Source: `plugin/pkg/admission/storage/{storageclass/setdefault,storageobjectinuseprotection,persistentvolume/resize}`.

use serde_json::Value;
use types::registry::by_kind;
use types::resources;
use types::status::Status;

use super::{Operation, Request, default_of};
use crate::hooks::json::{boolean, ensure_list, ensure_object, get, has, set, text};

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_ANNOTATIONS: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// A claim without a class gets the default one; an empty name is a class that was asked for.
pub fn default_class(request: &mut Request) {
    if request.operation != Operation::Create {
        return;
    }
    let view = request.view;
    let Some(claim) = request.object.as_deref_mut() else { return };
    if has(get(get(claim, "metadata"), "annotations"), CLASS_ANNOTATION) || has(get(claim, "spec"), "storageClassName")
    {
        return;
    }
    if let Some(name) = default_of(view, "storage.k8s.io", "StorageClass", DEFAULT_ANNOTATIONS)
        && let Some(spec) = ensure_object(claim, "spec")
    {
        set(spec, "storageClassName", name);
    }
}

/// Claims, volumes and attribute classes stay until nothing uses them, of which their finalizer reminds a controller.
pub fn protect(request: &mut Request) {
    let finalizer = match &*request.kind.kind {
        "PersistentVolume" => "kubernetes.io/pv-protection",
        "PersistentVolumeClaim" => "kubernetes.io/pvc-protection",
        _ => "kubernetes.io/vac-protection",
    };
    if request.operation != Operation::Create {
        return;
    }
    let Some(metadata) = request.object.as_deref_mut().and_then(|o| ensure_object(o, "metadata")) else { return };
    if let Some(finalizers) = ensure_list(metadata, "finalizers")
        && !finalizers.iter().any(|f| f == finalizer)
    {
        finalizers.push(finalizer.into());
    }
}

/// A claim grows only once it is bound, and only where its class says so.
pub fn resize(request: &Request) -> Result<(), Status> {
    let (Operation::Update, Some(new), Some(old)) = (request.operation, request.object.as_deref(), request.old) else {
        return Ok(());
    };
    let size =
        |claim: &Value| resources::list(get(get(claim, "spec"), "resources"), "requests").get("storage").copied();
    if size(new).unwrap_or_default() <= size(old).unwrap_or_default() {
        return Ok(());
    }
    let refuse = |why: &str| Err(Status::forbidden(request.kind, request.name, why));
    if text(get(old, "status"), "phase") != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let class = class_of(new);
    let class_allows = !class.is_empty()
        && class == class_of(old)
        && by_kind("storage.k8s.io", "v1", "StorageClass")
            .and_then(|kind| super::read::<Value>(request.view, &kind.store_key("", class)))
            .is_some_and(|class| boolean(&class, "allowVolumeExpansion"));
    if class_allows {
        return Ok(());
    }
    refuse(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    )
}

fn class_of(claim: &Value) -> &str {
    let annotations = get(get(claim, "metadata"), "annotations");
    let of = if has(annotations, CLASS_ANNOTATION) {
        get(annotations, CLASS_ANNOTATION)
    } else {
        get(get(claim, "spec"), "storageClassName")
    };
    of.as_str().unwrap_or_default()
}
