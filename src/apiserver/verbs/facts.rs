//! What is known of a stored object without decoding it again: labels, selectable fields.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde_json::Value;
use store::{Entry, Facts};
use types::registry::{BUILT_IN, Kind};

/// The facts of an object, computed once for each version of it and shared by every reader.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectFacts {
    // Every object has these in memory: boxes, because a `String` or `Vec` is a word longer and often has room to spare.
    pub uid: Box<str>,
    /// Sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The fields that a selector may name and that are not empty, by their selector names.
    pub fields: Box<[(&'static str, Box<str>)]>,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
}

impl types::selector::Labels for ObjectFacts {
    fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }
}

impl ObjectFacts {
    /// The field's text, empty when it is absent.
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| &**v)
    }

    /// Fields of custom kinds are not among them: which ones a selector may name changes with the definition, and they are
    /// read from the object when it does (`options::Selection`).
    pub fn of(kind: Option<&'static Kind>, object: &Value) -> Self {
        let metadata = &object["metadata"];
        let text = |v: &Value| -> Box<str> { v.as_str().unwrap_or_default().into() };
        let labels = metadata["labels"]
            .as_object()
            .map(|m| m.iter().map(|(k, v)| (k.as_str().into(), text(v))).collect())
            .unwrap_or_default();
        let fields = kind
            .into_iter()
            .flat_map(|kind| kind.selectable_fields.iter())
            .filter_map(|field| {
                let value = field_text(object, field);
                (!value.is_empty()).then(|| (&**field, value.into()))
            })
            .collect();
        Self {
            uid: text(&metadata["uid"]),
            labels,
            fields,
            deleting: metadata.get("deletionTimestamp").is_some_and(|t| !t.is_null()),
        }
    }
}

/// A field as field selectors see it: the JSON path, with the few names that are not plain paths.
pub fn field_text(object: &Value, field: &str) -> String {
    match field {
        "status.podIPs" => {
            let ips = object["status"]["podIPs"].as_array().into_iter().flatten();
            return ips.filter_map(|ip| ip["ip"].as_str()).collect::<Vec<_>>().join(",");
        }
        // The component in the older of the two Event shapes is an object.
        "source" => {
            let component = object["source"]["component"].as_str().filter(|c| !c.is_empty());
            return component.or_else(|| object["reportingComponent"].as_str()).unwrap_or_default().to_owned();
        }
        // Jobs count what has succeeded under another name.
        "status.successful" => return object["status"]["succeeded"].as_i64().unwrap_or(0).to_string(),
        _ => {}
    }
    let mut at = object;
    for part in field.split('.') {
        match at.get(part) {
            Some(next) => at = next,
            None => return default_text(field).to_owned(),
        }
    }
    match at {
        Value::String(s) => s.clone(),
        Value::Null => default_text(field).to_owned(),
        other => other.to_string(),
    }
}

/// What an absent boolean or number reads as.
fn default_text(field: &str) -> &'static str {
    match field {
        "spec.hostNetwork" | "spec.unschedulable" => "false",
        "status.replicas" => "0",
        _ => "",
    }
}

/// Makes the facts of a stored value; the store calls it for each value at load. A value that cannot be read has none.
pub fn facts_of(key: &str, value: &Bytes) -> Facts {
    let kind = kind_of_key(key);
    let facts = serde_json::from_slice(value).ok().map(|object: Value| ObjectFacts::of(kind, &object));
    Arc::new(facts.unwrap_or_default())
}

/// The built-in kind whose objects are kept under that key.
pub fn kind_of_key(key: &str) -> Option<&'static Kind> {
    let mut parts = key.split('/');
    let (group, plural) = (parts.next()?, parts.next()?);
    let group = if group == "core" { "" } else { group };
    BUILT_IN.iter().find(|k| k.keeps() && k.group == group && k.plural == plural)
}

/// The facts of an entry; empty ones for an entry that somebody else wrote.
pub fn facts(entry: &Entry) -> &ObjectFacts {
    static NONE: LazyLock<ObjectFacts> = LazyLock::new(ObjectFacts::default);
    entry.facts.downcast_ref().unwrap_or(&NONE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use types::selector::Labels as _;

    use super::*;

    #[test]
    fn facts_of_a_pod() {
        let pod = json!({"metadata": {"uid": "u", "labels": {"b": "2", "a": "1"}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd::1"}]}});
        let bytes = Bytes::from(serde_json::to_vec(&pod).unwrap());
        let facts = facts_of("core/pods/default/p", &bytes);
        let facts = facts.downcast_ref::<ObjectFacts>().unwrap();
        assert_eq!((facts.label("a"), facts.label("c")), (Some("1"), None));
        assert_eq!(facts.field("spec.nodeName"), "n1");
        assert_eq!(facts.field("spec.hostNetwork"), "false");
        assert_eq!(facts.field("status.podIPs"), "10.0.0.1,fd::1");
        assert!(facts.deleting);
    }

    #[test]
    fn keys_name_kinds() {
        assert_eq!(kind_of_key("apps/deployments/a/b").unwrap().kind, "Deployment");
        assert_eq!(kind_of_key("core/nodes//n").unwrap().kind, "Node");
        assert!(kind_of_key("x/y/z").is_none());
    }
}
