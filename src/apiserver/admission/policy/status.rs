//! Keeps the status of ValidatingAdmissionPolicies: which generation has been checked, and what was found.
//!
//! Acts on changes alone; a policy whose generation has been seen costs nothing. In upstream a controller does this; here it
//! is beside the types that it checks against.
//!
//! Source: `pkg/controller/validatingadmissionpolicystatus/controller.go`.

use std::sync::Weak;

use serde_json::{Value as Json, json};
use store::View;

use super::type_check;
use crate::hooks::json::{get, int, text};
use crate::server::{ApiServer, Shared};

const PREFIX: &str = "admissionregistration.k8s.io/validatingadmissionpolicies/";

/// Runs until the store or the server ends.
pub async fn keep(shared: Weak<Shared>) {
    loop {
        let Some(store) = shared.upgrade().map(|shared| shared.store.clone()) else { return };
        let view = store.snapshot();
        let Ok(mut feed) = store.watch(PREFIX, view.revision()) else { return };
        let stored: Vec<_> = view.range(PREFIX, None).map(|entry| entry.value.clone()).collect();
        drop(view);
        drop(store);
        for policy in stored {
            settle(&shared, &policy).await;
        }
        let mut events = Vec::new();
        loop {
            events.clear();
            match feed.next(&mut events).await {
                Ok(_) => {
                    for event in &events {
                        if let store::Event::Put { .. } = event {
                            settle(&shared, &event.entry().value).await;
                        }
                    }
                }
                Err(store::Error::Compacted { .. }) => break,
                Err(_) => return,
            }
        }
    }
}

/// Checks a policy that has not been checked as it is.
async fn settle(shared: &Weak<Shared>, policy: &[u8]) {
    let Some(shared) = shared.upgrade() else { return };
    let policy: Json = serde_json::from_slice(policy).unwrap_or_default();
    let view = shared.store.snapshot();
    let Some(status) = status(&policy, &*view) else { return };
    drop(view);
    let name = text(get(&policy, "metadata"), "name");
    let path = format!(
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}/status?fieldManager=validatingadmissionpolicy-status"
    );
    let server = ApiServer::of(shared);
    if let Err(status) = crate::verbs::start::merge(&server, &path, &json!({"status": status})).await {
        // Who changed it or removed it meanwhile is heard of next.
        tracing::debug!(policy = name, why = status.message, "the status of a policy was not written");
    }
}

/// The status that is due; `None` when that which is there is up to date.
fn status(policy: &Json, view: &dyn View) -> Option<Json> {
    let generation = int(get(policy, "metadata"), "generation")?;
    if int(get(policy, "status"), "observedGeneration") == Some(generation) {
        return None;
    }
    let warnings = type_check::warnings(policy, view);
    // merged into what is there; present even when nothing was found, because that says that the check is done
    let warnings = if warnings.is_empty() { Json::Null } else { warnings.into() };
    let checking = json!({"expressionWarnings": warnings});
    Some(json!({"observedGeneration": generation, "typeChecking": checking}))
}
