//! ServiceAccount: every pod runs as one, and gets its token, the cluster's CA and its namespace as files.
//! Source: `plugin/pkg/admission/serviceaccount/admission.go`.

use serde::Deserialize;
use serde_json::{Value, json};
use types::registry::{Kind, by_kind};
use types::status::Status;

use super::{Operation, Request};
use crate::hooks::json::{ensure_list, get, has, list, map, set, text};

pub const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const DEFAULT: &str = "default";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// An hour and seven seconds: upstream's mark of a token that it injected itself.
const TOKEN_SECONDS: i64 = 3607;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    #[serde(default)]
    image_pull_secrets: Vec<Value>,
    #[serde(default)]
    automount_service_account_token: Option<bool>,
}

/// The store key of the `default` ServiceAccount when a new pod needs it, its namespace is there and it is not: a controller
/// makes it a moment after the namespace, so that the request is worth a short wait. No other account is waited for.
pub fn awaited_default(kind: &Kind, namespace: &str, pod: &Value, view: &dyn store::View) -> Option<String> {
    if !kind.group.is_empty() || kind.kind != "Pod" || is_mirror(pod) {
        return None;
    }
    let spec = get(pod, "spec");
    let named = [text(spec, "serviceAccountName"), text(spec, "serviceAccount")].into_iter().find(|n| !n.is_empty());
    if named.is_some_and(|name| name != DEFAULT) {
        return None;
    }
    let key = by_kind("", "v1", "ServiceAccount")?.store_key(namespace, DEFAULT);
    let alive = view
        .get(&by_kind("", "v1", "Namespace")?.store_key("", namespace))
        .is_some_and(|entry| !crate::verbs::facts::facts(&entry).deleting());
    (alive && view.get(&key).is_none()).then_some(key)
}

pub fn mutate(request: &mut Request) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let (view, namespace, pods, name) = (request.view, request.namespace, request.kind, request.name);
    let Some(pod) = request.object.as_deref_mut() else { return Ok(()) };
    if is_mirror(pod) {
        return Ok(());
    }
    let Some(spec) = pod.get_mut("spec").filter(|s| s.is_object()) else { return Ok(()) };
    if text(spec, "serviceAccountName").is_empty() {
        let old_name = text(spec, "serviceAccount");
        let account = if old_name.is_empty() { DEFAULT } else { old_name }.to_owned();
        set(spec, "serviceAccountName", account);
    }
    let account = text(spec, "serviceAccountName").to_owned();
    // the deprecated twin is kept in step, as upstream's conversion does
    set(spec, "serviceAccount", account.clone());
    let found = by_kind("", "v1", "ServiceAccount")
        .and_then(|kind| super::read::<Account>(view, &kind.store_key(namespace, &account)));
    let Some(found) = found else {
        let why =
            format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found");
        return Err(Status::forbidden(pods, name, &why));
    };
    let automount = get(spec, "automountServiceAccountToken").as_bool();
    if automount.or(found.automount_service_account_token).unwrap_or(true) {
        mount_token(spec);
    }
    if list(spec, "imagePullSecrets").is_empty() && !found.image_pull_secrets.is_empty() {
        set(spec, "imagePullSecrets", found.image_pull_secrets);
    }
    Ok(())
}

fn mount_token(spec: &mut Value) {
    let existing = list(spec, "volumes").iter().map(|v| text(v, "name")).find(|n| n.starts_with(VOLUME_PREFIX));
    let known = existing.is_some();
    let volume = existing.map_or_else(|| format!("{VOLUME_PREFIX}{}", types::random::suffix(5)), str::to_owned);
    let mut needed = false;
    for field in ["initContainers", "containers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if list(container, "volumeMounts").iter().any(|m| text(m, "mountPath") == MOUNT_PATH) {
                continue;
            }
            if let Some(mounts) = ensure_list(container, "volumeMounts") {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                needed = true;
            }
        }
    }
    if needed
        && !known
        && let Some(volumes) = ensure_list(spec, "volumes")
    {
        volumes.push(token_volume(&volume));
    }
}

/// Every default is written out, because defaulting has already run.
fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn is_mirror(pod: &Value) -> bool {
    map(get(pod, "metadata"), "annotations").any(|(key, _)| key == MIRROR)
}

/// Mirror pods stand for pods that the API does not rule, so they may not borrow its identities.
pub fn validate(request: &Request) -> Result<(), Status> {
    let Some(pod) = request.object.as_deref() else { return Ok(()) };
    if request.operation != Operation::Create || !is_mirror(pod) {
        return Ok(());
    }
    let spec = get(pod, "spec");
    let why = if !text(spec, "serviceAccountName").is_empty() {
        "a mirror pod may not reference service accounts"
    } else if list(spec, "volumes").iter().any(|v| has(v, "secret")) {
        "a mirror pod may not reference secrets"
    } else {
        return Ok(());
    };
    Err(Status::forbidden(request.kind, request.name, why))
}
