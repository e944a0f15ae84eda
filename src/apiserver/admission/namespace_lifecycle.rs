//! NamespaceLifecycle: nothing is created in a namespace that is absent or on its way out, and three namespaces stay.
//! Source: apiserver `pkg/admission/plugin/namespace/lifecycle/admission.go`.

use types::registry::by_kind;
use types::status::{Cause, Status};

use super::{Operation, Request};
use crate::verbs::facts::facts;

/// Namespaces that cannot be deleted.
const KEPT: &[&str] = &["default", "kube-system", "kube-public"];

pub fn admit(request: &Request) -> Result<(), Status> {
    let is_namespace = request.kind.group.is_empty() && request.kind.kind == "Namespace";
    match request.operation {
        Operation::Delete if is_namespace && KEPT.contains(&request.name) => {
            Err(Status::forbidden(request.kind, request.name, "this namespace may not be deleted"))
        }
        // subresources count too: nothing is bound or evicted where everything is about to go
        Operation::Create
            if request.kind.namespaced() && !request.namespace.is_empty() && !is_access_review(request) =>
        {
            create(request)
        }
        _ => Ok(()),
    }
}

/// Reviews must be answered for any namespace.
fn is_access_review(request: &Request) -> bool {
    request.kind.group == "authorization.k8s.io"
}

fn create(request: &Request) -> Result<(), Status> {
    let Some(namespaces) = by_kind("", "v1", "Namespace") else { return Ok(()) };
    let key = namespaces.store_key("", request.namespace);
    let Some(namespace) = request.view.get(&key) else {
        return Err(Status::not_found(namespaces, request.namespace));
    };
    // From the facts: this is asked before every creation, and the object itself would have to be read each time.
    if facts(&namespace).field("status.phase") != "Terminating" {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {} because it is being terminated", request.namespace);
    let cause = Cause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {} is being terminated", request.namespace),
        field: "metadata.namespace".into(),
    };
    Err(Status::forbidden(request.kind, request.name, &why).with_cause(cause))
}
