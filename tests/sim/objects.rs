//! What the API holds, as those see it who judge: every object, by resource, namespace and name.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::line::Caller;

/// One write.
#[derive(Debug, Clone)]
pub struct Change {
    pub at: Timestamp,
    pub by: Caller,
    /// Plural and group, as in `deployments.apps`; core kinds have no group.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub old: Option<Arc<Value>>,
    pub new: Option<Arc<Value>>,
}

impl Change {
    /// The object, there or gone.
    pub fn object(&self) -> &Value {
        self.new.as_deref().or(self.old.as_deref()).unwrap_or(&Value::Null)
    }

    /// It became what it was not before.
    pub fn becomes(&self, is: impl Fn(&Value) -> bool) -> bool {
        self.new.as_deref().is_some_and(&is) && !self.old.as_deref().is_some_and(&is)
    }

    /// It was, and is not any more, or is gone.
    pub fn ceases(&self, is: impl Fn(&Value) -> bool) -> bool {
        self.old.as_deref().is_some_and(&is) && !self.new.as_deref().is_some_and(&is)
    }
}

#[derive(Debug, Default)]
pub struct Objects(BTreeMap<String, BTreeMap<(String, String), Arc<Value>>>);

impl Objects {
    pub fn take(&mut self, change: &Change) {
        let place = (change.namespace.clone(), change.name.clone());
        let of = self.0.entry(change.resource.clone()).or_default();
        match &change.new {
            Some(object) => of.insert(place, Arc::clone(object)),
            None => of.remove(&place),
        };
    }

    pub fn all(&self, resource: &str) -> impl Iterator<Item = &Value> {
        self.0.get(resource).into_iter().flat_map(BTreeMap::values).map(|object| &**object)
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.0.get(resource)?.get(&(namespace.to_owned(), name.to_owned())).map(|object| &**object)
    }

    /// Those whose controller is `owner`.
    pub fn owned<'a>(&'a self, resource: &str, owner: &'a Value) -> impl Iterator<Item = &'a Value> {
        self.all(resource).filter(move |object| owner_uid(object) == uid(owner))
    }

    /// The controller of an object, if it is of this kind and there.
    pub fn owner(&self, resource: &str, of: &Value) -> Option<&Value> {
        let wanted = owner_uid(of);
        self.all(resource).find(|owner| uid(owner) == wanted && !wanted.is_empty())
    }
}

pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

pub fn count(object: &Value, pointer: &str) -> i64 {
    number(object, pointer).unwrap_or(0)
}

pub fn list<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

pub fn time(object: &Value, pointer: &str) -> Option<Timestamp> {
    text(object, pointer).parse().ok()
}

pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// The uid of its controller; empty when there is none.
pub fn owner_uid(object: &Value) -> &str {
    list(object, "/metadata/ownerReferences").find(|o| o["controller"] == true).map_or("", |o| text(o, "/uid"))
}

pub fn is_going(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// It has run to an end.
pub fn is_finished(pod: &Value) -> bool {
    ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"))
}

pub fn is_active(pod: &Value) -> bool {
    !is_going(pod) && !is_finished(pod)
}

pub fn condition<'a>(object: &'a Value, wanted: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").find(|c| text(c, "/type") == wanted)
}

pub fn has(object: &Value, wanted: &str) -> bool {
    condition(object, wanted).is_some_and(|c| text(c, "/status") == "True")
}

pub fn is_ready(pod: &Value) -> bool {
    has(pod, "Ready")
}

/// Whether every label that is wanted is there.
pub fn carries(object: &Value, labels: &Value) -> bool {
    labels.as_object().is_some_and(|wanted| wanted.iter().all(|(k, v)| object["metadata"]["labels"][k] == *v))
}

/// An absolute number or a share of `of`.
pub fn share(value: &Value, of: i64, round_up: bool) -> i64 {
    match value {
        Value::String(percent) => {
            let percent: i64 = percent.trim_end_matches('%').parse().unwrap_or(0);
            if round_up { (percent * of + 99) / 100 } else { percent * of / 100 }
        }
        other => other.as_i64().unwrap_or(0),
    }
}
