//! ComponentStatus: how the parts of the control plane are, worked out for each answer. The server speaks for its store only,
//! under the name that upstream's has; what else runs reports through leases and events.
//!
//! Source: `pkg/registry/core/componentstatus/rest.go`.

use http::Response;
use serde_json::{Value, json};
use types::status::Status;

use super::ask::{Answer, Ask};
use super::options::Selection;
use crate::Body;
use crate::codec::As;
use crate::http::respond;
use crate::printers::Table;

const STORE: &str = "etcd-0";

fn store(ask: &Ask<'_>) -> Value {
    let condition = match ask.shared.store.writable() {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "error": why.to_string()}),
    };
    json!({"kind": ask.kind.kind, "apiVersion": ask.kind.api_version(),
        "metadata": {"name": STORE, "creationTimestamp": null}, "conditions": [condition]})
}

pub fn get(ask: &Ask<'_>) -> Result<Answer, Status> {
    if ask.name != STORE {
        return Err(Status::not_found(ask.kind, ask.name));
    }
    Ok(Answer::Object { code: 200, value: store(ask) })
}

pub fn list(ask: &Ask<'_>) -> Result<Answer, Status> {
    let selection = Selection::parse(ask.kind, ask.query)?;
    let named = selection.fields.terms.iter().all(|term| (term.value == STORE) == term.equal);
    let unlabelled = selection.labels.matches(&Value::Null);
    let items = if named && unlabelled { vec![store(ask)] } else { Vec::new() };
    Ok(Answer::Response(respond_items(ask, items)?))
}

/// The list of objects that are not stored, in the shape and format that the client accepts.
pub(super) fn respond_items(ask: &Ask<'_>, mut items: Vec<Value>) -> Result<Response<Body>, Status> {
    let accepted = &ask.accepted;
    respond::check_partial(ask.kind, accepted, true)?;
    let metadata = json!({"resourceVersion": ""});
    let mut list = match accepted.as_ {
        As::TableV1 | As::TableV1beta1 => {
            let include = super::read::include_object(ask)?;
            let mut table = Table::new(ask.kind, respond::table_version(accepted.as_), include, ask.now);
            for item in &items {
                table.push(item.to_string().as_bytes()).map_err(Status::internal)?;
            }
            return respond::formatted(200, accepted, table.finish(&metadata, true));
        }
        As::PartialObjectMetadata | As::PartialObjectMetadataList => {
            for item in &mut items {
                *item = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": item["metadata"]});
            }
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"})
        }
        As::Object => {
            for object in items.iter_mut().filter_map(Value::as_object_mut) {
                object.retain(|name, _| name != "kind" && name != "apiVersion");
            }
            json!({"kind": format!("{}List", ask.kind.kind), "apiVersion": ask.kind.api_version()})
        }
    };
    list["metadata"] = metadata;
    list["items"] = items.into();
    Ok(respond::value(200, accepted, &list))
}
