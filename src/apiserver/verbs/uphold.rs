//! What every cluster starts with and nobody may do without: written again whenever it is gone.
//!
//! Source: `pkg/controlplane/controller/{systemnamespaces,defaultservicecidr,kubernetesservice}`,
//! `pkg/registry/flowcontrol/rest/storage_flowcontrol.go`.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value;
use store::{Entry, Event};

use super::{object, start};
use crate::follow::Upheld;
use crate::hooks::flowcontrol;
use crate::hooks::json::{get, int};
use crate::server::{ApiServer, Shared};

/// Where namespaces are kept.
pub const NAMESPACES_PREFIX: &str = "core/namespaces/";
/// Where the default range of Services' addresses is kept.
pub const RANGE_KEY: &str = "networking.k8s.io/servicecidrs//kubernetes";
/// Where the Service of the server is kept.
pub const SERVICE_KEY: &str = "core/services/default/kubernetes";

/// The namespaces of the system.
pub(crate) const NAMESPACES: Upheld = Upheld { right: namespaces, matters: is_gone };
/// The defaults of flow control, unless their owner keeps them otherwise.
pub(crate) const FLOWS: Upheld = Upheld { right: flows, matters: says_otherwise };
/// The range that the server is configured with.
pub(crate) const RANGE: Upheld = Upheld { right: range, matters: is_gone };
/// The Service by which pods find the server.
pub(crate) const SERVICE: Upheld = Upheld { right: service, matters: is_gone };

fn is_gone(event: &Event) -> bool {
    matches!(event, Event::Delete { .. })
}

/// Not when only the status has changed, which happens more often.
fn says_otherwise(event: &Event) -> bool {
    let generation = |entry: &Entry| int(get(&object::read(entry).unwrap_or_default(), "metadata"), "generation");
    match event {
        Event::Put { entry, previous } => {
            previous.as_ref().is_some_and(|previous| generation(previous) != generation(entry))
        }
        Event::Delete { .. } => true,
    }
}

async fn complete(shared: &Shared, all: Vec<Value>, what: &str) {
    match start::complete(&*shared.store, &shared.config.clock, all).await {
        // Somebody else was here meanwhile: their event brings us again.
        Ok(()) | Err(store::Error::Precondition { .. } | store::Error::Closed) => {}
        Err(error) => tracing::warn!(%error, "{what} could not be written again"),
    }
}

fn namespaces(shared: &Arc<Shared>) -> BoxFuture<'_, ()> {
    Box::pin(complete(shared, start::namespaces(), "the system's namespaces"))
}

fn flows(shared: &Arc<Shared>) -> BoxFuture<'_, ()> {
    Box::pin(complete(shared, flowcontrol::bootstrap::objects(), "the defaults of flow control"))
}

fn range(shared: &Arc<Shared>) -> BoxFuture<'_, ()> {
    Box::pin(async move {
        if shared.store.snapshot().get(RANGE_KEY).is_none() {
            complete(shared, vec![start::service_cidr(&shared.config.service_cidrs)], "the default ServiceCIDR").await;
        }
        // It may be what the address of the server's own Service has waited for.
        service(shared).await;
    })
}

fn service(shared: &Arc<Shared>) -> BoxFuture<'_, ()> {
    Box::pin(async move {
        if shared.store.snapshot().get(SERVICE_KEY).is_some() {
            return;
        }
        if let Err(status) = start::publish(&ApiServer::of(shared.clone())).await {
            tracing::warn!(why = status.message, "the Service kubernetes could not be published again");
        }
    })
}
