//! DefaultIngressClass: an Ingress without a class gets the default one.
//! Source: `plugin/pkg/admission/network/defaultingressclass/admission.go`.

use super::{Operation, Request, default_of};
use crate::hooks::json::{ensure_object, get, has, set};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_ANNOTATIONS: &[&str] = &["ingressclass.kubernetes.io/is-default-class"];

pub fn mutate(request: &mut Request) {
    if request.operation != Operation::Create {
        return;
    }
    let view = request.view;
    let Some(ingress) = request.object.as_deref_mut() else { return };
    if has(get(ingress, "spec"), "ingressClassName")
        || has(get(get(ingress, "metadata"), "annotations"), CLASS_ANNOTATION)
    {
        return;
    }
    if let Some(name) = default_of(view, "networking.k8s.io", "IngressClass", DEFAULT_ANNOTATIONS)
        && let Some(spec) = ensure_object(ingress, "spec")
    {
        set(spec, "ingressClassName", name);
    }
}
