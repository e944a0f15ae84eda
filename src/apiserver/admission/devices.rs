//! Claims of devices: who may have an administrator's access, who may say that devices are allocated, and who may say how they
//! are. Upstream asks in the strategies of the kinds; what they ask is about other objects and about the sender, so it is here.
//!
//! Source: `pkg/registry/resource/utils.go`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::registry::by_kind;
use types::status::Status;

use super::{Operation, Request, read};
use crate::auth::{Attributes, Target};
use crate::hooks::json::{at, boolean, get, has, list, same, text};

const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// Source: `k8s.io/api/resource/v1/types.go` `VerbPrefixAssociatedNode`, `VerbPrefixArbitraryNode`.
const SAME_NODE: &str = "associated-node:";
const ANY_NODE: &str = "arbitrary-node:";

pub fn validate(request: &Request) -> Result<(), Status> {
    let Some(new) = request.object.as_deref() else { return Ok(()) };
    let mut errors = Vec::new();
    match (&*request.kind.kind, request.operation, request.subresource) {
        ("ResourceClaim", Operation::Create, "") => {
            admin_is_asked_for(request, at(new, &["spec", "devices"]), &mut errors);
        }
        ("ResourceClaimTemplate", Operation::Create, "") => {
            admin_is_asked_for(request, at(new, &["spec", "spec", "devices"]), &mut errors);
        }
        ("ResourceClaim", Operation::Update, "status") => {
            let (status, before) = (get(new, "status"), get(request.old.unwrap_or(&Value::Null), "status"));
            admin_is_given(request, status, before, &mut errors);
            binding(request, status, before, &mut errors);
            if has(status, "allocation") {
                drivers(request, status, before, &mut errors);
            }
        }
        _ => {}
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(request.kind, request.name, &errors)) }
}

fn admin_is_asked_for(request: &Request, devices: &Value, errors: &mut Vec<FieldError>) {
    let asks = |of: &Value| boolean(get(of, "exactly"), "adminAccess");
    if let Some(i) = list(devices, "requests").iter().position(asks) {
        // Upstream names the field so, though it stands in `exactly`, and in a template's claim.
        let path = Path::new("spec").child("devices").child("requests").index(i).child("adminAccess");
        refuse_unless_admin(request, &path, errors);
    }
}

fn admin_is_given(request: &Request, status: &Value, before: &Value, errors: &mut Vec<FieldError>) {
    let given = |status: &Value| {
        let results = list(at(status, &["allocation", "devices"]), "results");
        results.iter().position(|result| boolean(result, "adminAccess"))
    };
    if given(before).is_none()
        && let Some(i) = given(status)
    {
        let path = Path::new("status").child("allocation").child("devices").child("results").index(i);
        refuse_unless_admin(request, &path.child("adminAccess"), errors);
    }
}

fn refuse_unless_admin(request: &Request, path: &Path, errors: &mut Vec<FieldError>) {
    let namespace = by_kind("", "v1", "Namespace");
    let namespace: Option<Value> =
        namespace.and_then(|kind| read(request.view, &kind.store_key("", request.namespace)));
    let labels = namespace.as_ref().map_or(&Value::Null, |namespace| at(namespace, &["metadata", "labels"]));
    if text(labels, ADMIN_LABEL) != "true" {
        let words =
            format!("admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace");
        errors.push(FieldError::forbidden(path, words));
    }
}

/// Allocating and reserving is the scheduler's and the claim controller's.
fn binding(request: &Request, status: &Value, before: &Value, errors: &mut Vec<FieldError>) {
    if ["allocation", "reservedFor"].into_iter().all(|field| same(get(status, field), get(before, field))) {
        return;
    }
    if let Err((verb, why)) = may(request, "", "binding", "", "") {
        let words = format!(
            "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" \
             permission: {why}"
        );
        errors.push(FieldError::forbidden(&Path::new("status").child("allocation"), words));
    }
}

/// What is said of a device is for those who may speak for its driver: on the node of the claim, or anywhere.
fn drivers(request: &Request, status: &Value, before: &Value, errors: &mut Vec<FieldError>) {
    let identity = |device: &Value| ["driver", "pool", "device", "shareID"].map(|field| text(device, field).to_owned());
    let (new, old) = (list(status, "devices"), list(before, "devices"));
    let missing_in = |there: &[Value], device: &Value| {
        !there.iter().any(|other| identity(other) == identity(device) && same(other, device))
    };
    let changed = new.iter().filter(|device| missing_in(old, device));
    let gone = old.iter().filter(|device| missing_in(new, device));
    let mut drivers: Vec<&str> = changed.chain(gone).map(|device| text(device, "driver")).collect();
    drivers.sort_unstable();
    drivers.dedup();
    let prefixes: &[&str] =
        if is_on_node(request, get(status, "allocation")) { &[SAME_NODE, ANY_NODE] } else { &[ANY_NODE] };
    for driver in drivers {
        let asked: Vec<_> =
            prefixes.iter().map(|prefix| may(request, prefix, "driver", request.namespace, driver)).collect();
        if asked.iter().all(Result::is_err)
            && let Some(Err((verb, why))) = asked.into_iter().next()
        {
            let verbs: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}{verb}")).collect();
            let words = format!(
                "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {why}",
                verbs.join(" ")
            );
            errors.push(FieldError::forbidden(&Path::new("status").child("devices"), words));
        }
    }
}

/// Whether the sender is a ServiceAccount of a pod on the node for which the claim was allocated.
fn is_on_node(request: &Request, allocation: &Value) -> bool {
    let [term] = list(get(allocation, "nodeSelector"), "nodeSelectorTerms") else { return false };
    let [field] = list(term, "matchFields") else { return false };
    let [Value::String(node)] = list(field, "values") else { return false };
    let named = text(field, "key") == "metadata.name" && text(field, "operator") == "In";
    let is_account = request.user.user.starts_with("system:serviceaccount:");
    let on = request.user.extra.get(NODE_NAME);
    named && list(term, "matchExpressions").is_empty() && is_account && on.is_some_and(|on| *on == [node.as_str()])
}

/// Whether the sender may do that to a subresource that is there for this question only. A patch is an update that says less:
/// who may do either may do this.
fn may(
    request: &Request,
    prefix: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), (&'static str, String)> {
    let mut refused = None;
    for verb in ["update", "patch"] {
        let asked = format!("{prefix}{verb}");
        let target = Target::Resource {
            group: "resource.k8s.io",
            version: "v1",
            resource: "resourceclaims",
            subresource,
            namespace,
            name,
            fields: None,
        };
        let attributes = Attributes { identity: request.user, verb: &asked, target };
        let Some(authorizer) = request.authorizer else { continue };
        match authorizer.authorize(&attributes, request.view) {
            Ok(()) => return Ok(()),
            Err(why) if refused.is_none() => refused = Some((verb, attributes.forbidden(&why).message)),
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or(("update", String::new())))
}
