//! Hears of every write as it happens, keeps what the API holds, and has each invariant judge it.

use std::collections::VecDeque;
use std::sync::Arc;

use client::Clock;
use jiff::SignedDuration;
use parking_lot::Mutex;
use serde_json::Value;
use store::Event;

use crate::invariants::{self, Invariant};
use crate::line::caller;
use crate::objects::{Change, Objects};
use crate::trace;

/// The environment variable that has each write printed.
pub const TRACE: &str = "KEDGE_SIM_TRACE";
/// Writes that are told of when an invariant does not hold.
const REMEMBERED: usize = 60;
/// What nobody judges, and is written by itself: heartbeats, and what is told to people.
const HEARTBEATS: &str = "leases.coordination.k8s.io";
const UNJUDGED: [&str; 2] = [HEARTBEATS, "events"];

struct State {
    clock: Clock,
    objects: Objects,
    invariants: Vec<Box<dyn Invariant>>,
    violations: Vec<String>,
    trace: u64,
    prints: bool,
    /// Of what is judged.
    writes: u64,
    lately: VecDeque<String>,
    /// What is written while nothing should be.
    at_rest: Option<Vec<String>>,
}

#[derive(Clone)]
pub struct Judge(Arc<Mutex<State>>);

impl Judge {
    pub fn new(clock: Clock, lag: SignedDuration) -> Self {
        Self(Arc::new(Mutex::new(State {
            clock,
            objects: Objects::default(),
            invariants: invariants::all(lag),
            at_rest: None,
            violations: Vec::new(),
            trace: 0,
            prints: std::env::var_os(TRACE).is_some(),
            writes: 0,
            lately: VecDeque::new(),
        })))
    }

    pub fn witness(&self, event: &Event) {
        self.0.lock().witness(event);
    }

    /// Notes what happens beside the writes, for the trace and for those who read why.
    pub fn note(&self, what: String) {
        self.0.lock().note(what);
    }

    /// What did not hold at some write.
    pub fn violations(&self) -> Vec<String> {
        self.0.lock().violations.clone()
    }

    /// What does not hold yet, though it must once nothing changes any more.
    pub fn unsettled(&self) -> Vec<String> {
        let state = &*self.0.lock();
        let judged = state.invariants.iter().map(|i| i.settled(&state.objects).map_err(|why| told(&**i, &why)));
        judged.filter_map(Result::err).collect()
    }

    /// What was done, in one number.
    pub fn trace(&self) -> u64 {
        self.0.lock().trace
    }

    /// Writes so far, without those that nobody judges.
    pub fn writes(&self) -> u64 {
        self.0.lock().writes
    }

    pub fn lately(&self) -> Vec<String> {
        self.0.lock().lately.iter().cloned().collect()
    }

    /// From here on nothing should be written.
    pub fn begin_rest(&self) {
        self.0.lock().at_rest = Some(Vec::new());
    }

    /// What was, without the heartbeats.
    pub fn end_rest(&self) -> Vec<String> {
        self.0.lock().at_rest.take().unwrap_or_default()
    }

    /// Looks at what the API holds.
    pub fn look<T>(&self, look: impl FnOnce(&Objects) -> T) -> T {
        look(&self.0.lock().objects)
    }
}

impl State {
    fn note(&mut self, what: String) {
        let line = format!("{} {what}", self.clock.now());
        self.trace = trace::hash(self.trace, line.as_bytes());
        if self.prints {
            println!("{line}");
        }
        self.lately.push_back(line);
        if self.lately.len() > REMEMBERED {
            self.lately.pop_front();
        }
    }

    fn witness(&mut self, event: &Event) {
        let entry = event.entry();
        self.trace = trace::hash(self.trace, entry.value());
        let Some((resource, namespace, name)) = place(entry.key()) else { return };
        if let Some(at_rest) = &mut self.at_rest
            && resource != HEARTBEATS
        {
            at_rest.push(format!("{}: {} {}", self.clock.now(), caller().name, entry.key()));
        }
        if UNJUDGED.contains(&resource.as_str()) {
            return;
        }
        let by = caller();
        let decode = |entry: &store::Entry| serde_json::from_slice::<Value>(entry.value()).ok().map(Arc::new);
        let (old, new) = match event {
            Event::Put { entry, previous } => (previous.as_ref().and_then(decode), decode(entry)),
            Event::Delete { previous, .. } => (decode(previous), None),
        };
        let change = Change { at: self.clock.now(), by, resource, namespace, name, old, new };
        self.writes += 1;
        self.note(describe(&change));
        self.objects.take(&change);
        for invariant in &mut self.invariants {
            if let Err(why) = invariant.observe(&self.objects, &change) {
                self.violations.push(format!("{} at {}", told(&**invariant, &why), change.at));
            }
        }
    }
}

fn told(invariant: &dyn Invariant, why: &str) -> String {
    format!("{}: {why}", invariant.name())
}

/// Resource, namespace and name of a key.
fn place(key: &str) -> Option<(String, String, String)> {
    let mut parts = key.splitn(4, '/');
    let (group, plural, namespace, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let resource = if group == "core" { plural.to_owned() } else { format!("{plural}.{group}") };
    Some((resource, namespace.to_owned(), name.to_owned()))
}

/// One line about a write: what of spec and status it changed.
fn describe(change: &Change) -> String {
    let verb = match (&change.old, &change.new) {
        (None, _) => "create",
        (_, None) => "remove",
        _ => "write",
    };
    let mut text = format!("{}: {verb} {} {}/{}", change.by.name, change.resource, change.namespace, change.name);
    if change.by.unanswered {
        text.push_str(" (unanswered)");
    }
    if let (Some(old), Some(new)) = (&change.old, &change.new) {
        differences("", old, new, &mut text);
    }
    text
}

fn differences(path: &str, old: &Value, new: &Value, text: &mut String) {
    if old == new || ["/metadata/managedFields", "/metadata/resourceVersion"].contains(&path) {
        return;
    }
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                differences(&format!("{path}/{key}"), &old[key], &new[key], text);
            }
        }
        _ => text.push_str(&format!(" {path}={new}")),
    }
}
