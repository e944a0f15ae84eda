//! The token subresource of ServiceAccounts.
//!
//! Source: `pkg/registry/core/serviceaccount/storage/token.go`, KEP-1205, KEP-4193.

use bytes::Bytes;
use serde_json::{Value, json};
use types::registry::{GroupVersionKind, by_kind};
use types::status::{Details, Reason, Status};

use super::ask::{Answer, Ask, Change, uid};
use super::facts::facts;
use super::object::{self, meta};
use crate::admission::{self, Operation};
use crate::auth::token::{Reference, Wanted};
use crate::hooks;

const TOKEN_REQUEST: GroupVersionKind = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
/// What is asked for when nothing is.
const LIFETIME_SECONDS: i64 = 3600;

pub async fn create(ask: &mut Ask<'_>, body: &Bytes) -> Result<Answer, Status> {
    let dry_run = ask.dry_run("CreateOptions")?;
    let mut request = ask.decode(body, &TOKEN_REQUEST)?;
    let named = meta(&request, "name");
    if !named.is_empty() && named != ask.name {
        return Err(Status::bad_request(format!(
            "metadata.name: Invalid value: {named:?}: must match the service account name if specified"
        )));
    }
    if let Some(hooks) = hooks::named("authentication.k8s.io", "TokenRequest") {
        (hooks.default)(&mut request);
        let errors = (hooks.validate)(&request);
        if !errors.is_empty() {
            let list = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let mut status = Status::new(
                Reason::Invalid,
                format!("TokenRequest.authentication.k8s.io {:?} is invalid: {list}", ask.name),
            );
            status.details = Some(Box::new(Details {
                group: "authentication.k8s.io".into(),
                kind: "TokenRequest".into(),
                causes: errors.iter().map(types::field::FieldError::cause).collect(),
                ..Details::default()
            }));
            return Err(status);
        }
    }
    let view = ask.view();
    let account = ask.current().await?;
    let spec = &request["spec"];
    let bound = &spec["boundObjectRef"];
    let (mut pod, mut node, mut secret) = (None, None, None);
    if bound.is_object() {
        let text = |key: &str| bound[key].as_str().unwrap_or_default().to_owned();
        let (kind_name, name, wanted_uid) = (text("kind"), text("name"), text("uid"));
        let kind = match kind_name.as_str() {
            "Pod" | "Secret" | "Node" => by_kind("", "v1", &kind_name),
            _ => None,
        };
        let Some(kind) = kind else {
            let (version, kind) = (text("apiVersion"), &kind_name);
            return Err(Status::bad_request(format!("cannot bind token to object of type {version}, Kind={kind}")));
        };
        let namespace = if kind.namespaced() { ask.namespace } else { "" };
        let entry = view.get(&kind.store_key(namespace, &name)).ok_or_else(|| Status::not_found(kind, &name))?;
        if !wanted_uid.is_empty() && wanted_uid != uid(&entry) {
            let why = format!(
                "the UID in the bound object reference ({wanted_uid}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            );
            return Err(Status::conflict(kind, &name, &why));
        }
        let reference = Some(Reference { name, uid: uid(&entry).to_owned() });
        match kind_name.as_str() {
            "Pod" => {
                let object = object::read(&entry)?;
                let account_of_pod = object["spec"]["serviceAccountName"].as_str().unwrap_or_default();
                if account_of_pod != ask.name {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        ask.name
                    )));
                }
                let on = facts(&entry).field("spec.nodeName");
                if !on.is_empty() {
                    let found = view.get(&format!("core/nodes//{on}"));
                    let uid = found.as_ref().map(|e| uid(e).to_owned()).unwrap_or_default();
                    node = Some(Reference { name: on.to_owned(), uid });
                }
                pod = reference;
            }
            "Secret" => secret = reference,
            _ => node = reference,
        }
    }
    let change = Change {
        operation: Operation::Create,
        name: ask.name,
        old: None,
        dry_run,
        options: admission::Options::Query(ask.query),
    };
    ask.admit(change, Some(&mut request), &*view).await?;
    let spec = &request["spec"];
    let wanted = Wanted {
        namespace: ask.namespace.to_owned(),
        account: Reference { name: ask.name.to_owned(), uid: uid(&account).to_owned() },
        pod,
        node,
        secret,
        audiences: spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect(),
        lifetime_seconds: spec["expirationSeconds"].as_i64().unwrap_or(LIFETIME_SECONDS),
    };
    let lifetime = wanted.lifetime_seconds;
    let issued = ask.shared.authenticator.tokens.issue(wanted, ask.now, types::random::uuid()).map_err(|why| {
        tracing::error!(why, "a token could not be signed");
        Status::internal("a token could not be signed")
    })?;
    request["metadata"] = json!({"name": ask.name, "namespace": ask.namespace,
        "creationTimestamp": types::time::rfc3339(ask.now)});
    request["spec"]["audiences"] = json!(issued.audiences);
    request["spec"]["expirationSeconds"] = json!(lifetime);
    if request["spec"].get("boundObjectRef").is_none() {
        request["spec"]["boundObjectRef"] = Value::Null;
    }
    request["status"] = json!({
        "expirationTimestamp": types::time::rfc3339(issued.expires),
        "token": if dry_run { String::new() } else { issued.token },
    });
    Ok(Answer::Object { code: 201, value: request })
}
