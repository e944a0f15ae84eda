//! One request in the audit log, from the first stage to the last.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};
use types::status::Status;

use super::policy::{Decision, Target};
use super::{Level, Log, Stage};
use crate::auth::Identity;
use crate::auth::review::user_info;

/// Longer ones are cut. Source: `pkg/audit/request.go`.
const USER_AGENT_MAX: usize = 1024;
const TRUNCATED: &str = "...TRUNCATED";
const CLIENT_GONE: &str = "the client went away before it was answered";

/// What is known of a request when it comes.
pub struct Origin<'a> {
    pub id: &'a str,
    pub uri: String,
    pub verb: &'a str,
    pub headers: &'a HeaderMap,
    /// `None`: the same process.
    pub address: Option<IpAddr>,
    pub user: Option<&'a Identity>,
    pub target: Target<'a>,
    pub version: &'a str,
    pub received: Timestamp,
}

/// Collects what is to be said of a request, and says it at each stage.
pub struct Record {
    log: Arc<Log>,
    decision: Decision,
    event: Value,
    annotations: BTreeMap<Cow<'static, str>, String>,
    clock: crate::Clock,
    /// The last stage has been said.
    ended: AtomicBool,
}

/// Who hangs up has asked all the same, and what was asked may have been done.
impl Drop for Record {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::Relaxed) {
            self.event["responseStatus"] = json!({"metadata": {}, "status": "Failure", "message": CLIENT_GONE});
            self.say(Stage::ResponseComplete);
        }
    }
}

impl Record {
    /// Begins with the stage `RequestReceived`.
    pub fn begin(log: &Arc<Log>, decision: Decision, origin: &Origin<'_>, clock: &crate::Clock) -> Self {
        let mut event = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": decision.level,
            "auditID": origin.id, "requestURI": origin.uri, "verb": origin.verb,
            "user": origin.user.map(user_info).unwrap_or_else(|| json!({})),
            "sourceIPs": sources(origin), "requestReceivedTimestamp": micro(origin.received)});
        let agent = origin.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !agent.is_empty() {
            event["userAgent"] = json!(cut(agent));
        }
        if let Target::Resource { group, resource, subresource, namespace, name } = origin.target {
            let mut reference = json!({});
            for (key, value) in [
                ("resource", resource),
                ("namespace", namespace),
                ("name", name),
                ("apiGroup", group),
                ("apiVersion", origin.version),
                ("subresource", subresource),
            ] {
                if !value.is_empty() {
                    reference[key] = json!(value);
                }
            }
            event["objectRef"] = reference;
        }
        let record = Self {
            log: log.clone(),
            decision,
            event,
            annotations: BTreeMap::new(),
            clock: clock.clone(),
            ended: AtomicBool::new(false),
        };
        record.say(Stage::RequestReceived);
        record
    }

    pub fn level(&self) -> Level {
        self.decision.level
    }

    pub fn impersonates(&mut self, identity: &Identity) {
        self.event["impersonatedUser"] = user_info(identity);
    }

    /// What authorization said; `why` is its reason.
    pub fn authorized(&mut self, allowed: bool, why: &str) {
        let decision = if allowed { "allow" } else { "forbid" };
        self.annotate("authorization.k8s.io/decision", decision);
        self.annotate("authorization.k8s.io/reason", why);
    }

    pub fn annotate(&mut self, key: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        self.annotations.insert(key.into(), value.into());
    }

    /// The body of the request, when bodies are recorded.
    pub fn request(&mut self, object: impl FnOnce() -> Option<Value>) {
        let named = self.event.get("objectRef").is_none_or(|reference| reference.get("name").is_some());
        if named && self.decision.level < Level::Request {
            return;
        }
        let Some(object) = object() else { return };
        // What is created says its name itself.
        if let Some(reference) = self.event.get_mut("objectRef")
            && reference.get("name").is_none()
            && let Some(name) = object["metadata"]["name"].as_str().filter(|n| !n.is_empty())
        {
            reference["name"] = json!(name);
        }
        if self.decision.level >= Level::Request {
            self.event["requestObject"] = self.trimmed(object);
        }
    }

    /// The answer of an object, when answers are recorded. The bytes are those that are stored.
    pub fn response(&mut self, object: impl FnOnce() -> Option<Value>) {
        if self.decision.level < Level::RequestResponse {
            return;
        }
        if let Some(object) = object() {
            self.event["responseObject"] = self.trimmed(object);
        }
    }

    /// How it ended: the code, and the whole `Status` of what failed.
    pub fn answered(&mut self, code: u16, failure: Option<&Status>) {
        let mut status = match failure.map(serde_json::to_value) {
            Some(Ok(status)) => status,
            Some(Err(_)) | None => json!({"metadata": {}}),
        };
        status["code"] = json!(code);
        if let Some(status) = status.as_object_mut() {
            status.remove("kind");
            status.remove("apiVersion");
        }
        self.event["responseStatus"] = status;
    }

    /// Puts an event for this stage into the log, unless the policy leaves it out.
    pub fn say(&self, stage: Stage) {
        if matches!(stage, Stage::ResponseComplete | Stage::Panic) {
            self.ended.store(true, Ordering::Relaxed);
        }
        if self.decision.omits(stage) {
            return;
        }
        let mut event = self.event.clone();
        event["stage"] = json!(stage);
        event["stageTimestamp"] = json!(micro((self.clock)()));
        if !self.annotations.is_empty() {
            event["annotations"] = json!(self.annotations);
        }
        self.log.put(Bytes::from(event.to_string()));
    }

    /// What the body of an answer that takes long holds.
    pub fn until_the_end(self) -> Ending {
        Ending(self)
    }

    fn trimmed(&self, mut object: Value) -> Value {
        if self.decision.omit_managed_fields {
            for object in items(&mut object) {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            }
        }
        object
    }
}

/// The object, or what a list holds.
fn items(object: &mut Value) -> Vec<&mut Value> {
    if object.get("items").is_some_and(Value::is_array) {
        object["items"].as_array_mut().into_iter().flatten().collect()
    } else {
        vec![object]
    }
}

/// Microseconds, always six digits. Source: `metav1.MicroTime`.
fn micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn cut(agent: &str) -> String {
    if agent.len() <= USER_AGENT_MAX {
        return agent.to_owned();
    }
    let mut end = USER_AGENT_MAX;
    while !agent.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{TRUNCATED}", &agent[..end])
}

/// Those whom proxies name first, then who is at the other end. Source: apimachinery `pkg/util/net` `SourceIPs`.
fn sources(origin: &Origin<'_>) -> Vec<String> {
    let text = |name: &str| origin.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut all: Vec<String> = Vec::new();
    let address = |text: &str| text.trim().parse::<IpAddr>().ok().map(|ip| ip.to_canonical().to_string());
    all.extend(text("x-forwarded-for").split(',').filter_map(address));
    all.extend(address(text("x-real-ip")).filter(|ip| !all.contains(ip)));
    let last = origin.address.map_or_else(|| "127.0.0.1".into(), |ip| ip.to_canonical().to_string());
    if all.last() != Some(&last) {
        all.push(last);
    }
    all
}

/// The rest of an answer that takes long: when it goes, however that comes, the last stage is said.
pub struct Ending(Record);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.say(Stage::ResponseComplete);
    }
}
