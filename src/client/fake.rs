//! An API server in memory, at the transport's seam, for tests of controllers and agents.
//!
//! It keeps any kind of the registry, and those of established CustomResourceDefinitions, by generic rules: create (with
//! `generateName`), get, list, update, patch (JSON Patch and merge; strategic and apply are taken as merge), delete
//! (finalizers, graceful pod deletion, propagation policies), delete of collections, bindings, status apart from spec,
//! generations, optimistic locking, watches with resource versions, streamed lists and bookmarks. It validates and defaults nothing, and collects no garbage.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use types::registry::Kind;
use types::status::{OBJECT_MODIFIED, Reason, Status};

use crate::api::Client;
use crate::clock::Clock;
use crate::definition::Definition;
use crate::transport::{Body, BodyError, Transport, TransportError, full_body};

mod patch;
mod route;

use patch::{json_patch, merge, prune_nulls};
use route::{Filter, Route};

/// Events that a slow watcher may be behind; more than a test makes in one burst.
const WATCH_BACKLOG: usize = 16 * 1024;

#[derive(Clone)]
struct Change {
    event: &'static str,
    resource: String,
    old: Option<Arc<Value>>,
    object: Arc<Value>,
    revision: u64,
}

/// Called with each request before it is served; an answer is sent instead.
pub type Fault = Box<dyn FnMut(&Method, &str, &Value) -> Option<Status> + Send>;

struct State {
    /// resource → (namespace, name) → object.
    objects: HashMap<String, BTreeMap<(String, String), Arc<Value>>>,
    revision: u64,
    history: Vec<Change>,
    fault: Option<Fault>,
    requests: Vec<String>,
}

impl State {
    /// The kinds that stored definitions make.
    fn custom(&self) -> impl Iterator<Item = Kind> {
        let stored = self.objects.get("customresourcedefinitions.apiextensions.k8s.io");
        let definitions = stored.into_iter().flat_map(BTreeMap::values);
        definitions.filter_map(|d| Definition::deserialize(&**d).ok()).flat_map(|d| d.kinds().collect::<Vec<_>>())
    }
}

/// The server. Clones share it.
#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<Change>,
    clock: Clock,
}

impl Fake {
    pub fn new(clock: Clock) -> Self {
        let state =
            State { objects: HashMap::new(), revision: 1, history: Vec::new(), fault: None, requests: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)), changes: broadcast::Sender::new(WATCH_BACKLOG), clock }
    }

    pub fn client(&self) -> Client {
        Client::new(Arc::new(self.clone()))
    }

    /// Serves faults: what `fault` returns is answered instead.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state.lock().fault = fault;
    }

    /// Writes so far, as `POST /path`; reads are not recorded. Taking them empties the record.
    pub fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().requests)
    }

    fn serve(&self, method: &Method, uri: &http::Uri, content_type: &str, body: &Bytes) -> Result<Answer, Status> {
        let body: Value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(body).map_err(|e| Status::bad_request(e.to_string()))?
        };
        let mut state = self.state.lock();
        let route = Route::parse(uri, &state).ok_or_else(Status::no_such_path)?;
        if *method != Method::GET {
            state.requests.push(format!("{method} {}", uri.path()));
        }
        if let Some(fault) = &mut state.fault
            && let Some(status) = fault(method, uri.path(), &body)
        {
            return Err(status);
        }
        let state = &mut *state;
        match (method.as_str(), route.name.is_empty()) {
            ("GET", true) if route.query("watch") == Some("true") => self.watch(state, &route).map(Answer::Stream),
            ("GET", true) => list(state, &route).map(Answer::Json),
            ("GET", false) if route.subresource == "scale" => Ok(Answer::Json(scale(&*route.find(state)?))),
            ("GET", false) => route.find(state).map(|o| Answer::Json((*o).clone())),
            ("POST", true) => self.create(state, &route, body).map(Answer::Created),
            ("POST", false) if route.subresource == "binding" => {
                let old = route.find(state)?;
                let mut new = (*old).clone();
                new["spec"]["nodeName"] = body["target"]["name"].clone();
                self.store(state, &route, Some(&old), new);
                Ok(Answer::Created(success()))
            }
            ("POST", false) => Ok(Answer::Json(success())),
            ("PUT", false) => {
                let old = route.find(state)?;
                self.update(state, &route, &old, body).map(Answer::Json)
            }
            ("PATCH", false) => {
                let old = route.find(state)?;
                let mut new = (*old).clone();
                if content_type.starts_with("application/json-patch") {
                    json_patch(&mut new, &body)?;
                } else {
                    merge(&mut new, &body);
                }
                self.update(state, &route, &old, new).map(Answer::Json)
            }
            ("DELETE", false) => {
                let old = route.find(state)?;
                self.delete(state, &route, &old, &body).map(Answer::Json)
            }
            ("DELETE", true) => {
                for object in matching(state, &route)? {
                    let mut one = route.clone();
                    one.namespace = text(&object, "/metadata/namespace").into();
                    one.name = text(&object, "/metadata/name").into();
                    self.delete(state, &one, &object, &body)?;
                }
                Ok(Answer::Json(success()))
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    fn create(&self, state: &mut State, route: &Route, mut object: Value) -> Result<Value, Status> {
        let kind = &route.kind;
        let meta = &mut object["metadata"];
        if kind.namespaced() && meta.get("namespace").is_none() {
            meta["namespace"] = route.namespace.as_str().into();
        }
        if text(meta, "/name").is_empty() {
            let prefix = text(meta, "/generateName").to_owned();
            if prefix.is_empty() {
                return Err(Status::new(Reason::Invalid, "name or generateName is required"));
            }
            meta["name"] = format!("{prefix}{}", types::random::suffix(5)).into();
        }
        let name = text(meta, "/name").to_owned();
        let key = (text(meta, "/namespace").to_owned(), name.clone());
        if state.objects.get(&route.resource).is_some_and(|o| o.contains_key(&key)) {
            return Err(Status::already_exists(kind, &name));
        }
        meta["uid"] = types::random::uuid().into();
        meta["creationTimestamp"] = types::time::rfc3339(self.clock.now()).into();
        meta["generation"] = 1.into();
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.kind.as_ref().into();
        if kind.kind == "Namespace" {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"]["phase"] = "Active".into();
        }
        Ok(self.store(state, route, None, object))
    }

    fn update(&self, state: &mut State, route: &Route, old: &Value, mut new: Value) -> Result<Value, Status> {
        let sent = text(&new, "/metadata/resourceVersion");
        if !sent.is_empty() && sent != text(old, "/metadata/resourceVersion") {
            return Err(Status::conflict(&route.kind, &route.name, OBJECT_MODIFIED));
        }
        let uid = text(&new, "/metadata/uid");
        if !uid.is_empty() && uid != text(old, "/metadata/uid") {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text(old, "/metadata/uid")
            );
            return Err(Status::conflict(&route.kind, &route.name, &why));
        }
        // What the server owns stays.
        for field in [
            "uid",
            "creationTimestamp",
            "resourceVersion",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            new["metadata"][field] = old["metadata"][field].clone();
        }
        match route.subresource.as_str() {
            "status" => {
                let status = new["status"].take();
                new = old.clone();
                new["status"] = status;
            }
            "finalize" => {
                let spec = new["spec"].take();
                new = old.clone();
                new["spec"] = spec;
            }
            "scale" => {
                let replicas = new["spec"]["replicas"].take();
                new = old.clone();
                new["spec"]["replicas"] = replicas;
            }
            _ => {
                if route.kind.subresource("status").is_some() {
                    new["status"] = old["status"].clone();
                }
                if route.kind.kind == "Namespace" {
                    new["spec"]["finalizers"] = old["spec"]["finalizers"].clone();
                }
            }
        }
        prune_nulls(&mut new);
        if new.get("spec") != old.get("spec") {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = generation.into();
        }
        if new == *old {
            return Ok(new);
        }
        if new["metadata"].get("deletionTimestamp").is_some() && is_done(&route.kind, &new) {
            return Ok(self.remove(state, route, &new));
        }
        Ok(self.store(state, route, Some(old), new))
    }

    fn delete(&self, state: &mut State, route: &Route, old: &Value, options: &Value) -> Result<Value, Status> {
        for field in ["uid", "resourceVersion"] {
            if let Some(wanted) = options.pointer(&format!("/preconditions/{field}")).and_then(Value::as_str)
                && wanted != text(old, &format!("/metadata/{field}"))
            {
                return Err(Status::conflict(&route.kind, &route.name, "Precondition failed"));
            }
        }
        let mut new = old.clone();
        let mut finalizers: Vec<Value> = old["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let mut set = |name: &str, on: bool| {
            finalizers.retain(|f| f != name);
            if on {
                finalizers.push(name.into());
            }
        };
        match options.get("propagationPolicy").and_then(Value::as_str) {
            Some("Foreground") => {
                set("foregroundDeletion", true);
                set("orphan", false);
            }
            Some("Orphan") => {
                set("orphan", true);
                set("foregroundDeletion", false);
            }
            Some(_) => {
                set("orphan", false);
                set("foregroundDeletion", false);
            }
            None => {}
        }
        if finalizers.is_empty() {
            if let Some(meta) = new["metadata"].as_object_mut() {
                meta.remove("finalizers");
            }
        } else {
            new["metadata"]["finalizers"] = finalizers.into();
        }
        // A pod on a node goes when its node says so, by deleting it with no grace.
        let grace = options.get("gracePeriodSeconds").and_then(Value::as_i64);
        let grace = if route.kind.kind == "Pod" && !text(old, "/spec/nodeName").is_empty() {
            grace.unwrap_or_else(|| old["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30))
        } else {
            0
        };
        if grace == 0 && is_done(&route.kind, &new) {
            return Ok(self.remove(state, route, &new));
        }
        if new["metadata"].get("deletionTimestamp").is_none() {
            new["metadata"]["deletionTimestamp"] = types::time::rfc3339(self.clock.now()).into();
        }
        new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        if route.kind.kind == "Namespace" {
            new["status"]["phase"] = "Terminating".into();
        }
        if new == *old {
            return Ok(new);
        }
        Ok(self.store(state, route, Some(old), new))
    }

    fn store(&self, state: &mut State, route: &Route, old: Option<&Value>, mut object: Value) -> Value {
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let object = Arc::new(object);
        let key = (text(&object, "/metadata/namespace").to_owned(), text(&object, "/metadata/name").to_owned());
        state.objects.entry(route.resource.clone()).or_default().insert(key, Arc::clone(&object));
        let event = if old.is_some() { "MODIFIED" } else { "ADDED" };
        self.tell(state, route, event, old.map(|o| Arc::new(o.clone())), Arc::clone(&object));
        (*object).clone()
    }

    fn remove(&self, state: &mut State, route: &Route, last: &Value) -> Value {
        state.revision += 1;
        let mut object = last.clone();
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let key = (text(last, "/metadata/namespace").to_owned(), text(last, "/metadata/name").to_owned());
        if let Some(objects) = state.objects.get_mut(&route.resource) {
            objects.remove(&key);
        }
        self.tell(state, route, "DELETED", Some(Arc::new(last.clone())), Arc::new(object.clone()));
        object
    }

    fn tell(&self, state: &mut State, route: &Route, event: &'static str, old: Option<Arc<Value>>, object: Arc<Value>) {
        let change = Change { event, resource: route.resource.clone(), old, object, revision: state.revision };
        state.history.push(change.clone());
        // No watcher is no error.
        let _ = self.changes.send(change);
    }

    fn watch(&self, state: &State, route: &Route) -> Result<Body, Status> {
        let filter = Filter::of(route)?;
        let receiver = self.changes.subscribe();
        let mut head: Vec<Bytes> = Vec::new();
        let from = match route.query("resourceVersion").unwrap_or_default() {
            "" | "0" => {
                for object in matching(state, route)? {
                    head.push(line("ADDED", &object));
                }
                if route.query("sendInitialEvents") == Some("true") {
                    let kind = &route.kind;
                    head.push(line(
                        "BOOKMARK",
                        &json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {
                            "resourceVersion": state.revision.to_string(),
                            "annotations": {"k8s.io/initial-events-end": "true"}}}),
                    ));
                }
                state.revision
            }
            text => text.parse().map_err(|_| Status::bad_request("resourceVersion is no number"))?,
        };
        for change in state.history.iter().filter(|c| c.revision > from) {
            head.extend(filter.event(change));
        }
        // Dropping the body drops the receiver.
        let tail = stream::unfold((receiver, filter), |(mut receiver, filter)| async move {
            loop {
                let change = receiver.recv().await.ok()?;
                if let Some(line) = filter.event(&change) {
                    return Some((line, (receiver, filter)));
                }
            }
        });
        let lines = stream::iter(head).chain(tail).map(|line| Ok::<_, BodyError>(Frame::data(line)));
        Ok(StreamBody::new(lines).boxed_unsync())
    }
}

enum Answer {
    Json(Value),
    Created(Value),
    Stream(Body),
}

impl Transport for Fake {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let this = self.clone();
        Box::pin(async move {
            // A real server answers later: let others run, so that tests meet the orders that happen.
            tokio::task::yield_now().await;
            let content_type =
                request.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            let answer = this.serve(request.method(), request.uri(), &content_type, request.body());
            let (code, body) = match answer {
                Ok(Answer::Json(value)) => (200, full_body(value.to_string())),
                Ok(Answer::Created(value)) => (201, full_body(value.to_string())),
                Ok(Answer::Stream(body)) => (200, body),
                Err(status) => (status.code, full_body(serde_json::to_string(&status).unwrap_or_default())),
            };
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Ok(response)
        })
    }
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

fn matching(state: &State, route: &Route) -> Result<Vec<Arc<Value>>, Status> {
    let filter = Filter::of(route)?;
    let objects = state.objects.get(&route.resource);
    Ok(objects.into_iter().flat_map(BTreeMap::values).filter(|o| filter.matches(o)).cloned().collect())
}

/// An object's scale. Selectors are labels only.
fn scale(object: &Value) -> Value {
    let labels = object["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten();
    let selector: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let metadata = &object["metadata"];
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "spec": {"replicas": object["spec"]["replicas"]},
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"],
            "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.join(",")}})
}

fn list(state: &State, route: &Route) -> Result<Value, Status> {
    let items: Vec<Value> = matching(state, route)?.iter().map(|o| (**o).clone()).collect();
    Ok(json!({
        "kind": format!("{}List", route.kind.kind),
        "apiVersion": route.kind.api_version(),
        "metadata": {"resourceVersion": state.revision.to_string()},
        "items": items,
    }))
}

/// Nothing holds it back any more.
fn is_done(kind: &Kind, object: &Value) -> bool {
    let empty = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).is_none_or(Vec::is_empty);
    empty("/metadata/finalizers") && (kind.kind != "Namespace" || empty("/spec/finalizers"))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn line(event: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": event, "object": object})).into()
}
