//! Histories that the tests of the invariants make up.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Invariant;
use crate::line::Caller;
use crate::objects::{Change, Objects, name, namespace};

pub struct History<I> {
    invariant: I,
    objects: Objects,
    known: BTreeMap<(String, String), Arc<Value>>,
    now: Timestamp,
    told: Vec<String>,
}

impl<I: Invariant> History<I> {
    pub fn of(invariant: I) -> Self {
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        Self { invariant, objects: Objects::default(), known: BTreeMap::new(), now, told: Vec::new() }
    }

    pub fn write(&mut self, by: &str, resource: &str, object: &Value) {
        self.change(by, resource, object, true);
    }

    pub fn remove(&mut self, by: &str, resource: &str, object: &Value) {
        self.change(by, resource, object, false);
    }

    fn change(&mut self, by: &str, resource: &str, object: &Value, there: bool) {
        let place = (resource.to_owned(), name(object).to_owned());
        let old = self.known.remove(&place);
        let new = there.then(|| Arc::new(object.clone()));
        if let Some(new) = &new {
            self.known.insert(place, Arc::clone(new));
        }
        let change = Change {
            at: self.now,
            by: Caller { name: by.into(), unanswered: false },
            resource: resource.to_owned(),
            namespace: namespace(object).to_owned(),
            name: name(object).to_owned(),
            old,
            new,
        };
        self.objects.take(&change);
        self.told.extend(self.invariant.observe(&self.objects, &change).err());
    }

    pub fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    pub fn now(&self) -> String {
        types::time::rfc3339(self.now)
    }

    /// Nothing has been said until here.
    pub fn holds(&mut self) {
        assert_eq!(std::mem::take(&mut self.told), Vec::<String>::new());
    }

    /// Exactly this has been said.
    pub fn breaks(&mut self, why: &str) {
        assert_eq!(std::mem::take(&mut self.told), [why]);
    }

    pub fn settled(&self) -> Result<(), String> {
        self.invariant.settled(&self.objects)
    }
}

/// An object with a uid of its own, `<name>-uid`.
pub fn object(name: &str, rest: Value) -> Value {
    let mut object = rest;
    object["metadata"]["name"] = name.into();
    object["metadata"]["namespace"] = "shop".into();
    object["metadata"]["uid"] = format!("{name}-uid").into();
    object
}

/// Gives it a controller.
pub fn owned(mut object: Value, kind: &str, owner: &Value) -> Value {
    object["metadata"]["ownerReferences"] =
        json!([{"kind": kind, "name": name(owner), "uid": owner["metadata"]["uid"], "controller": true}]);
    object
}

pub fn deployment(name: &str, replicas: i64, surge: i64, unavailable: i64) -> Value {
    object(
        name,
        json!({"spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "strategy":
        {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}),
    )
}

pub fn set_of(deployment: &Value, name: &str, replicas: i64) -> Value {
    owned(object(name, json!({"spec": {"replicas": replicas}})), "Deployment", deployment)
}

pub fn pod_of(owner: &Value, name: &str) -> Value {
    let kind = "Owner";
    owned(object(name, json!({"spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Pending"}})), kind, owner)
}

/// The pod once it is ready.
pub fn ready(mut pod: Value, since: &str) -> Value {
    pod["status"] =
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]});
    pod
}

/// The pod once it is to go.
pub fn going(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    pod
}

pub fn phase(mut pod: Value, phase: &str) -> Value {
    pod["status"] = json!({"phase": phase});
    pod
}
