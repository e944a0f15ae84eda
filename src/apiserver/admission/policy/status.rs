//! Keeps the status of ValidatingAdmissionPolicies: which generation has been checked, and what was found.
//!
//! Acts on changes alone; a policy whose generation has been seen costs nothing. In upstream a controller does this; here it
//! is beside the types that it checks against.
//!
//! Source: `pkg/controller/validatingadmissionpolicystatus/controller.go`.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::{Value as Json, json};
use store::{Event, View};

use super::type_check;
use crate::follow::Follower;
use crate::hooks::json::{get, int, text};
use crate::server::{ApiServer, Shared};

/// Where policies are kept.
pub const PREFIX: &str = "admissionregistration.k8s.io/validatingadmissionpolicies/";

/// Follows the policies.
pub struct Checker;

impl Follower for Checker {
    fn whole<'a>(&'a mut self, shared: &'a Arc<Shared>) -> BoxFuture<'a, ()> {
        let stored: Vec<Bytes> = shared.store.snapshot().range(PREFIX, None).map(|entry| entry.bytes()).collect();
        Box::pin(settle_all(shared, stored))
    }

    fn changed<'a>(&'a mut self, shared: &'a Arc<Shared>, events: &'a [Event]) -> BoxFuture<'a, ()> {
        let written = events.iter().filter(|event| matches!(event, Event::Put { .. }));
        let written = written.map(|event| event.entry().bytes()).collect();
        Box::pin(settle_all(shared, written))
    }
}

async fn settle_all(shared: &Arc<Shared>, policies: Vec<Bytes>) {
    for policy in &policies {
        settle(shared, policy).await;
    }
}

/// Checks a policy that has not been checked as it is.
async fn settle(shared: &Arc<Shared>, policy: &[u8]) {
    let policy: Json = serde_json::from_slice(policy).unwrap_or_default();
    let view = shared.store.snapshot();
    let Some(status) = status(&policy, &*view) else { return };
    drop(view);
    let name = text(get(&policy, "metadata"), "name");
    let path = format!(
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}/status?fieldManager=validatingadmissionpolicy-status"
    );
    let server = ApiServer::of(shared.clone());
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
