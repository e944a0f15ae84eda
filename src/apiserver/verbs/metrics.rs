//! metrics.k8s.io: what nodes and pods use, asked of the agents for each answer. Nothing of it is kept here: an agent remembers
//! its own last look, and whoever asks again soon gets the same answer.
//!
//! Nodes that do not answer in time are left out, with their pods: an answer about the others is worth more than none.
//!
//! Source: metrics-server `pkg/api/{pod,node}.go`, `pkg/storage/pod.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::Request;
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use store::{Entry, View};
use types::quantity::Quantity;
use types::registry::{self, Kind};
use types::status::Status;
use types::time::rfc3339;

use super::ask::{Answer, Ask};
use super::component_status::respond_items;
use super::connect;
use super::object;
use super::options::Selection;
use crate::Body;
use crate::codec::duration_text;

pub const GROUP: &str = "metrics.k8s.io";

/// From the first packet to the last byte of one agent. Source: metrics-server's `kubelet-request-timeout`.
const AGENT_LIMIT: Duration = Duration::from_secs(10);
/// Agents that are asked at the same time; each may take a second for two looks.
const AGENTS_AT_ONCE: usize = 64;
/// An agent's answer has some hundred bytes for each of its pods.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Windows are told in milliseconds: what is below is the clock's.
const WINDOW_NANOS: i64 = 1_000_000;

/// The kind whose objects are measured.
fn subject(ask: &Ask<'_>) -> Result<&'static Kind, Status> {
    registry::by_resource("", "v1", &ask.kind.plural).ok_or_else(Status::no_such_path)
}

/// # Errors
/// 404 when the object is not there, or when nothing is known of it.
pub async fn get(ask: &Ask<'_>) -> Result<Answer, Status> {
    let subject = subject(ask)?;
    let view = ask.view();
    let entry = view.get(&subject.store_key(ask.namespace, ask.name));
    let entry = entry.ok_or_else(|| Status::not_found(subject, ask.name))?;
    let found = measured(ask, &*view, &[&entry]).await?;
    let value = found.into_iter().next().ok_or_else(|| {
        let name =
            if ask.namespace.is_empty() { ask.name.to_owned() } else { format!("{}/{}", ask.namespace, ask.name) };
        Status::not_found(ask.kind, &name)
    })?;
    Ok(Answer::Object { code: 200, value })
}

/// # Errors
/// 400 for a selector that is none.
pub async fn list(ask: &Ask<'_>) -> Result<Answer, Status> {
    let (subject, selection) = (subject(ask)?, Selection::parse(ask.kind, ask.query)?);
    let prefix =
        if ask.namespace.is_empty() { subject.store_prefix() } else { subject.store_namespace_prefix(ask.namespace) };
    let view = ask.view();
    let chosen: Vec<&Entry> = view.range(&prefix, None).filter(|e| selection.matches(e)).collect();
    let items = measured(ask, &*view, &chosen).await?;
    Ok(Answer::Response(respond_items(ask, items)?))
}

/// What is known of these objects, in their order.
async fn measured(ask: &Ask<'_>, view: &dyn View, entries: &[&Entry]) -> Result<Vec<Value>, Status> {
    let objects: Vec<Value> = entries.iter().map(|entry| object::read(entry)).collect::<Result<_, _>>()?;
    let mut told: BTreeMap<&str, Value> = BTreeMap::new();
    for node in objects.iter().filter_map(node_of) {
        told.insert(node, Value::Null);
    }
    let asked = told.keys().map(|node| async { (*node, ask_agent(ask, view, node).await) });
    let answers: Vec<_> =
        futures_util::stream::iter(asked.collect::<Vec<_>>()).buffer_unordered(AGENTS_AT_ONCE).collect().await;
    for (node, answer) in answers {
        match answer {
            Ok(answer) => drop(told.insert(node, answer)),
            Err(why) => tracing::debug!(node, why, "an agent did not tell what its pods use"),
        }
    }
    let shown = |object: &Value| {
        let answer = told.get(node_of(object)?)?;
        if ask.kind.namespaced() {
            let uid = &object["metadata"]["uid"];
            let pod = answer["pods"].as_array()?.iter().find(|pod| pod["uid"] == *uid)?;
            pod_metrics(ask, object, pod)
        } else {
            node_metrics(ask, object, &answer["node"])
        }
    };
    Ok(objects.iter().filter_map(shown).collect())
}

/// Which agent knows of an object: of a pod that runs, or of a node.
fn node_of(object: &Value) -> Option<&str> {
    match object["kind"].as_str() {
        Some("Node") => object["metadata"]["name"].as_str(),
        _ if object["status"]["phase"] != "Running" => None,
        _ => object["spec"]["nodeName"].as_str(),
    }
}

/// What an agent says of its node and pods.
async fn ask_agent(ask: &Ask<'_>, view: &dyn View, node: &str) -> Result<Value, String> {
    let entry = view.get(&format!("core/nodes//{node}")).ok_or("there is no such node")?;
    let address = object::read(&entry).ok().and_then(|node| connect::address(&node));
    let (host, port) = address.ok_or("the node has no address")?;
    let dialer = ask.shared.config.dialer.as_ref().ok_or("this server has no way to reach node agents")?;
    let whole = async {
        let stream = dialer.dial(node, &host, port).await.map_err(|e| e.to_string())?;
        let response =
            connect::carry(stream, &format!("{host}:{port}"), "/stats/usage", Request::new(Body::empty())).await;
        let response = response.map_err(|broken| broken.status(|why| Status::internal(why)).message)?;
        if !response.status().is_success() {
            return Err(format!("it answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
        serde_json::from_slice(&body.to_bytes()).map_err(|e| e.to_string())
    };
    tokio::time::timeout(AGENT_LIMIT, whole).await.unwrap_or_else(|_| Err("no answer in time".into()))
}

/// What all measured objects say: whose they are, and when. `None` for what the agent does not know.
fn frame(ask: &Ask<'_>, object: &Value, told: &Value) -> Option<Value> {
    let window = told["windowNanoseconds"].as_i64()? / WINDOW_NANOS * WINDOW_NANOS;
    let mut metadata = json!({"name": object["metadata"]["name"], "creationTimestamp": rfc3339(ask.now)});
    for field in ["namespace", "labels"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    Some(json!({"kind": ask.kind.kind, "apiVersion": ask.kind.api_version(), "metadata": metadata,
        "timestamp": told["timestamp"], "window": duration_text(window)}))
}

fn usage(pair: &Value) -> Option<Value> {
    let (nano_cores, bytes) = (pair[0].as_i64()?, pair[1].as_i64()?);
    Some(
        json!({"cpu": Quantity::from_nanos(nano_cores).to_string(), "memory": Quantity::from_bytes(bytes).to_string()}),
    )
}

fn node_metrics(ask: &Ask<'_>, object: &Value, told: &Value) -> Option<Value> {
    let mut all = frame(ask, object, told)?;
    all["usage"] = usage(&told["usage"])?;
    Some(all)
}

fn pod_metrics(ask: &Ask<'_>, object: &Value, told: &Value) -> Option<Value> {
    let mut all = frame(ask, object, told)?;
    let containers = told["containers"].as_array()?.iter();
    let containers: Option<Vec<Value>> =
        containers.map(|pair| Some(json!({"name": pair[0], "usage": usage(&pair[1])?}))).collect();
    all["containers"] = containers?.into();
    Some(all)
}
