//! What is known of a stored object without decoding it again: labels, selectable fields.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde_json::Value;
use store::{Entry, Facts};
use types::registry::{BUILT_IN, Kind};

/// The facts of an object, computed once for each version of it and shared by every reader.
///
/// Every object has these in memory, so that all of their texts are one, with the places where each ends: the uid, the labels
/// in order of their keys, the values of the fields that a selector may name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectFacts {
    text: Box<str>,
    ends: Box<[u32]>,
    labels: u32,
    fields: &'static [Cow<'static, str>],
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
}

impl types::selector::Labels for ObjectFacts {
    fn label(&self, key: &str) -> Option<&str> {
        let (mut low, mut high) = (0, self.labels as usize);
        while low < high {
            let middle = low.midpoint(high);
            match self.part(1 + 2 * middle).cmp(key) {
                Ordering::Equal => return Some(self.part(2 + 2 * middle)),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        None
    }
}

impl ObjectFacts {
    pub fn uid(&self) -> &str {
        self.part(0)
    }

    /// The field's text, empty when it is absent.
    pub fn field(&self, name: &str) -> &str {
        let at = self.fields.iter().position(|field| *field == name);
        at.map_or("", |at| self.part(1 + 2 * self.labels as usize + at))
    }

    fn part(&self, at: usize) -> &str {
        let end = |at: usize| self.ends.get(at).map(|end| *end as usize);
        let start = at.checked_sub(1).map_or(Some(0), end);
        start.zip(end(at)).and_then(|(start, end)| self.text.get(start..end)).unwrap_or_default()
    }

    /// Fields of custom kinds are not among them: which ones a selector may name changes with the definition, and they are
    /// read from the object when it does (`options::Selection`).
    pub fn of(kind: Option<&'static Kind>, object: &Value) -> Self {
        let metadata = &object["metadata"];
        let (mut text, mut ends) = (String::new(), Vec::new());
        let mut add = |part: &str| {
            text.push_str(part);
            // An object has a few MiB at most.
            ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
        };
        add(metadata["uid"].as_str().unwrap_or_default());
        let mut labels = 0;
        for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
            add(key);
            add(value.as_str().unwrap_or_default());
            labels += 1;
        }
        let fields: &'static [Cow<'static, str>] = kind.map_or(&[], |kind| &kind.selectable_fields);
        for field in fields {
            add(&field_text(object, field));
        }
        Self {
            text: text.into(),
            ends: ends.into(),
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
        assert_eq!((facts.uid(), facts.field("spec.schedulerName"), facts.field("no.such")), ("u", "", ""));
        assert!(facts.deleting);
        assert_eq!((ObjectFacts::default().uid(), ObjectFacts::default().label("a")), ("", None));
    }

    proptest::proptest! {
        #[test]
        fn any_labels_are_found_again(labels in proptest::collection::btree_map(".*", ".*", 0..8), other in ".*") {
            let facts = ObjectFacts::of(None, &json!({"metadata": {"uid": "u", "labels": labels}}));
            for (key, value) in &labels {
                proptest::prop_assert_eq!(facts.label(key), Some(value.as_str()));
            }
            proptest::prop_assert_eq!(facts.label(&other), labels.get(&other).map(String::as_str));
        }
    }

    #[test]
    fn keys_name_kinds() {
        assert_eq!(kind_of_key("apps/deployments/a/b").unwrap().kind, "Deployment");
        assert_eq!(kind_of_key("core/nodes//n").unwrap().kind, "Node");
        assert!(kind_of_key("x/y/z").is_none());
    }
}
