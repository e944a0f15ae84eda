//! Records core/v1 Events: combines similar ones, counts equal ones, and keeps a noisy object from flooding the store.
//!
//! [`Correlator`] decides; a task behind [`Recorder`] writes. Recording never waits and never fails the caller: when the
//! writer cannot keep up, events are dropped.
//!
//! Source: client-go `tools/record/events_cache.go`, `event.go` (limits, field contents, texts).

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;

use crate::api::{Client, Patch};
use crate::clock::Clock;
use crate::object::Object;

/// Events that may wait for the writer; upstream's broadcaster holds as many.
const PENDING_MAX: usize = 1000;
/// Keys remembered for counting; the least recently used go first. Upstream's cache has the same size.
const REMEMBERED_MAX: usize = 4096;
/// Different messages for one object and reason within the window, after which they are combined.
const SIMILAR_MAX: usize = 10;
const SIMILAR_SECONDS: i64 = 600;
/// Tokens of one source about one object: a burst of 25, then one in five minutes.
const SPAM_BURST: f64 = 25.0;
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;
/// Attempts to write one event. Upstream tries 12 times, 10 s apart; here the queue behind it must not grow that old.
const TRIES: u32 = 4;

pub const NORMAL: &str = "Normal";
pub const WARNING: &str = "Warning";

/// A reference to an object, as events name it.
pub fn reference<K: Object>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::API_VERSION.into()),
        kind: Some(K::KIND.into()),
        name: Some(object.name().into()),
        namespace: Some(object.namespace()).filter(|n| !n.is_empty()).map(Into::into),
        uid: Some(object.uid()).filter(|u| !u.is_empty()).map(Into::into),
        resource_version: object.metadata().resource_version.clone(),
        field_path: None,
    }
}

/// Something happened to an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    pub about: ObjectReference,
    /// [`NORMAL`] or [`WARNING`].
    pub event_type: &'static str,
    pub reason: String,
    pub message: String,
}

/// What the writer does.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Create(Box<Event>),
    /// Seen before: raise its count. Becomes a create when the event is gone.
    Count(Box<Event>),
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct Similar {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    field_path: String,
    event_type: &'static str,
    reason: String,
}

struct Recent {
    messages: BTreeSet<String>,
    last: Timestamp,
}
struct Logged {
    name: String,
    first: Timestamp,
    count: i32,
}
struct Tokens {
    left: f64,
    at: Timestamp,
}

/// Map with a bound: when full, the tenth that was not used for longest goes.
struct Bounded<K, V> {
    map: HashMap<K, (u64, V)>,
    used: u64,
}

impl<K: Eq + Hash + Clone, V> Bounded<K, V> {
    fn new() -> Self {
        Self { map: HashMap::new(), used: 0 }
    }
    fn get_or(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.used += 1;
        if self.map.len() >= REMEMBERED_MAX && !self.map.contains_key(&key) {
            let mut ages: Vec<u64> = self.map.values().map(|(at, _)| *at).collect();
            ages.sort_unstable();
            let limit = ages[ages.len() / 10];
            self.map.retain(|_, (at, _)| *at > limit);
        }
        let slot = self.map.entry(key).or_insert_with(|| (0, make()));
        slot.0 = self.used;
        &mut slot.1
    }
}

/// Turns what happened into writes. Pure but for its memory.
pub struct Correlator {
    component: String,
    host: String,
    similar: Bounded<Similar, Recent>,
    logged: Bounded<(Similar, String), Option<Logged>>,
    spam: Bounded<(String, String, String, String), Tokens>,
    /// Last stamp used in a name: two events of one instant must not share theirs.
    stamp: i128,
}

impl Correlator {
    pub fn new(component: &str, host: &str) -> Self {
        Self {
            component: component.into(),
            host: host.into(),
            similar: Bounded::new(),
            logged: Bounded::new(),
            spam: Bounded::new(),
            stamp: 0,
        }
    }

    /// `None`: not to be written, the object is too noisy.
    pub fn step(&mut self, happened: Happened, now: Timestamp) -> Option<Write> {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let about = &happened.about;
        let key = Similar {
            kind: text(&about.kind),
            namespace: text(&about.namespace),
            name: text(&about.name),
            uid: text(&about.uid),
            field_path: text(&about.field_path),
            event_type: happened.event_type,
            reason: happened.reason.clone(),
        };

        let recent = self.similar.get_or(key.clone(), || Recent { messages: BTreeSet::new(), last: now });
        if now.duration_since(recent.last).as_secs() > SIMILAR_SECONDS {
            recent.messages.clear();
        }
        recent.messages.insert(happened.message.clone());
        recent.last = now;
        let combined = recent.messages.len() > SIMILAR_MAX;
        if combined {
            // Remembered only to know that there are many.
            recent.messages.pop_first();
        }
        let message = if combined {
            format!("(combined from similar events): {}", happened.message)
        } else {
            happened.message.clone()
        };

        // What is combined counts as one event, whatever its messages.
        let logged_as = if combined { String::new() } else { message.clone() };
        let object = (key.kind.clone(), key.namespace.clone(), key.name.clone(), key.uid.clone());
        let logged = self.logged.get_or((key, logged_as), || None);
        let seen = logged.is_some();
        let stamp = now.as_nanosecond().max(self.stamp + 1);
        if !seen {
            self.stamp = stamp;
        }
        let entry = logged.get_or_insert_with(|| Logged {
            name: format!("{}.{:x}", text(&about.name), stamp),
            first: now,
            count: 0,
        });
        entry.count = entry.count.saturating_add(1);

        let tokens = self.spam.get_or(object, || Tokens { left: SPAM_BURST, at: now });
        let elapsed = now.duration_since(tokens.at).as_secs_f64().max(0.0);
        tokens.left = (tokens.left + elapsed * SPAM_PER_SECOND).min(SPAM_BURST);
        tokens.at = now;
        if tokens.left < 1.0 {
            return None;
        }
        tokens.left -= 1.0;

        let namespace = about.namespace.clone().unwrap_or_else(|| "default".into());
        let event = Box::new(Event {
            metadata: ObjectMeta {
                name: Some(entry.name.clone()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: happened.about,
            reason: Some(happened.reason),
            message: Some(message),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: Some(self.host.clone()).filter(|h| !h.is_empty()),
            }),
            first_timestamp: Some(Time(entry.first)),
            last_timestamp: Some(Time(now)),
            count: Some(entry.count),
            type_: Some(happened.event_type.into()),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            ..Event::default()
        });
        Some(if seen { Write::Count(event) } else { Write::Create(event) })
    }
}

/// Records events. Cheap to clone; the writer ends when the last clone is dropped and what was recorded is written.
#[derive(Clone, Debug)]
pub struct Recorder {
    sender: Option<mpsc::Sender<Happened>>,
}

impl Recorder {
    /// `component` is what `kubectl describe` shows under From; `host` the node's name for agents, else empty.
    /// Must be called within a tokio runtime.
    pub fn new(client: Client, component: &str, host: &str, clock: Clock) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Happened>(PENDING_MAX);
        let mut correlator = Correlator::new(component, host);
        tokio::spawn(async move {
            while let Some(happened) = receiver.recv().await {
                if let Some(write) = correlator.step(happened, clock.now()) {
                    write_out(&client, write).await;
                }
            }
        });
        Self { sender: Some(sender) }
    }

    /// Records nothing.
    pub fn silent() -> Self {
        Self { sender: None }
    }

    pub fn event<K: Object>(&self, object: &K, event_type: &'static str, reason: &str, message: impl Into<String>) {
        self.about(reference(object), event_type, reason, message);
    }

    pub fn normal<K: Object>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.event(object, NORMAL, reason, message);
    }

    pub fn warning<K: Object>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.event(object, WARNING, reason, message);
    }

    /// For a part of an object (`field_path`) or an object known by reference only.
    pub fn about(&self, about: ObjectReference, event_type: &'static str, reason: &str, message: impl Into<String>) {
        let Some(sender) = &self.sender else { return };
        let happened = Happened { about, event_type, reason: reason.into(), message: message.into() };
        if sender.try_send(happened).is_err() {
            tracing::debug!(reason, "event dropped: the writer cannot keep up");
        }
    }
}

async fn write_out(client: &Client, mut write: Write) {
    for attempt in 0..TRIES {
        let outcome = match &write {
            Write::Create(event) => client.create(&**event).await,
            Write::Count(event) => {
                let patch =
                    json!({"count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message});
                client.patch::<Event>(event.namespace(), event.name(), Patch::Merge(&patch)).await
            }
        };
        match outcome {
            Ok(_) => return,
            Err(error) if error.is_not_found() && matches!(write, Write::Count(_)) => {
                if let Write::Count(event) = write {
                    write = Write::Create(event);
                }
            }
            Err(error) if error.retryable() && !error.is_already_exists() => {
                tracing::debug!(%error, attempt, "event not written yet");
                tokio::time::sleep(Duration::from_millis(250) * 4u32.pow(attempt)).await;
            }
            Err(error) => {
                // The namespace is going, or the object's name is unfit: the event is lost, the cause is not.
                tracing::debug!(%error, "event not written");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulled(name: &str, message: &str) -> Happened {
        let about = ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some("shop".into()),
            name: Some(name.into()),
            uid: Some("u".into()),
            ..ObjectReference::default()
        };
        Happened { about, event_type: NORMAL, reason: "Pulled".into(), message: message.into() }
    }
    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }
    fn count(write: Option<Write>) -> (i32, String) {
        match write {
            Some(Write::Create(e) | Write::Count(e)) => (e.count.unwrap(), e.message.unwrap()),
            None => (0, String::new()),
        }
    }

    #[test]
    fn equal_events_are_counted() {
        let mut c = Correlator::new("kubelet", "n1");
        let Some(Write::Create(first)) = c.step(pulled("web", "done"), at(0)) else { panic!("not created") };
        assert_eq!(first.metadata.name.as_deref(), Some("web.17979cfe362a0000"));
        assert_eq!(first.source.as_ref().unwrap().host.as_deref(), Some("n1"));
        assert_eq!(first.reporting_component.as_deref(), Some("kubelet"));
        let Some(Write::Count(second)) = c.step(pulled("web", "done"), at(5)) else { panic!("not counted") };
        assert_eq!((second.count, &second.metadata.name), (Some(2), &first.metadata.name));
        assert_eq!((second.first_timestamp, second.last_timestamp), (Some(Time(at(0))), Some(Time(at(5)))));
    }

    #[test]
    fn many_different_messages_are_combined() {
        let mut c = Correlator::new("kubelet", "n1");
        for i in 0..10 {
            assert_eq!(count(c.step(pulled("web", &format!("m{i}")), at(0))), (1, format!("m{i}")));
        }
        assert_eq!(count(c.step(pulled("web", "m10"), at(1))), (1, "(combined from similar events): m10".into()));
        assert_eq!(count(c.step(pulled("web", "m11"), at(2))), (2, "(combined from similar events): m11".into()));
        // After the window messages stand alone again.
        assert_eq!(count(c.step(pulled("web", "m12"), at(700))), (1, "m12".into()));
    }

    #[test]
    fn a_noisy_object_is_muted_and_others_are_not() {
        let mut c = Correlator::new("kubelet", "n1");
        for _ in 0..25 {
            assert!(c.step(pulled("web", "x"), at(0)).is_some());
        }
        assert_eq!(c.step(pulled("web", "x"), at(0)), None);
        assert!(c.step(pulled("db", "x"), at(0)).is_some());
        assert_eq!(count(c.step(pulled("web", "x"), at(301))), (27, "x".into()));
    }

    #[test]
    fn memory_is_bounded() {
        let mut c = Correlator::new("kubelet", "n1");
        for i in 0..REMEMBERED_MAX * 2 {
            c.step(pulled(&format!("p{i}"), "x"), at(0));
        }
        assert!(c.logged.map.len() <= REMEMBERED_MAX);
        assert!(matches!(c.step(pulled(&format!("p{}", REMEMBERED_MAX * 2 - 1), "x"), at(1)), Some(Write::Count(_))));
    }
}
