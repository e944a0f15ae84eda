//! What is known of a stored object without decoding it again: labels, selectable fields.

use serde_json::Value;
use store::{Entry, Facts};
use types::registry::{BUILT_IN, Kind};

/// The facts of an object, as the store keeps them beside each value: written once for each version of it, read in place.
///
/// Every object has these in memory, so that they are as short as can be: a byte of flags, the place of its kind in
/// [`BUILT_IN`] (from 1 on, 0: none of them), the number of labels; then texts, each after its length: the uid, the labels in
/// order of their keys, the values of the fields that a selector may name. Numbers are in groups of seven bits, the lowest
/// first; all but the last have their top bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectFacts<'a>(&'a [u8]);

/// Flag: `metadata.deletionTimestamp` is set.
const DELETING: u8 = 1;

impl types::selector::Labels for ObjectFacts<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        let (_, mut texts, labels) = self.read();
        texts.text();
        for _ in 0..labels {
            let (name, value) = (texts.text(), texts.text());
            if name == key {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> ObjectFacts<'a> {
    /// The facts of an entry; an entry that somebody else wrote has none.
    pub fn read_in(facts: &'a [u8]) -> Self {
        Self(facts)
    }

    pub fn deleting(&self) -> bool {
        self.0.first().is_some_and(|flags| flags & DELETING != 0)
    }

    pub fn uid(&self) -> &'a str {
        let (_, mut texts, _) = self.read();
        texts.text()
    }

    /// The field's text, empty when it is absent.
    ///
    /// Fields of custom kinds are not among them: which ones a selector may name changes with the definition, and they are
    /// read from the object when it does (`options::Selection`).
    pub fn field(&self, name: &str) -> &'a str {
        let (kind, mut texts, labels) = self.read();
        let fields = kind.map_or(&[][..], |kind| &kind.selectable_fields);
        let Some(at) = fields.iter().position(|field| *field == name) else { return "" };
        for _ in 0..1 + 2 * labels + at {
            texts.text();
        }
        texts.text()
    }

    /// The kind, what follows the head, how many labels there are.
    fn read(&self) -> (Option<&'static Kind>, Reader<'a>, usize) {
        let mut reader = Reader(self.0.get(1..).unwrap_or_default());
        let kind = reader.number().checked_sub(1).and_then(|at| BUILT_IN.get(at));
        // A label takes two bytes at least: foreign bytes claim no more than they can hold.
        let labels = reader.number().min(reader.0.len() / 2);
        (kind, reader, labels)
    }
}

/// Reads what [`Writer`] wrote; of anything else it makes nothing worse than other texts.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> usize {
        let (mut number, mut shift) = (0, 0);
        while let Some((byte, rest)) = self.0.split_first() {
            self.0 = rest;
            number |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 || shift > 28 {
                break;
            }
        }
        number
    }

    fn text(&mut self) -> &'a str {
        let len = self.number();
        let Some((text, rest)) = self.0.split_at_checked(len) else { return "" };
        self.0 = rest;
        std::str::from_utf8(text).unwrap_or_default()
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut number: usize) {
        while number > 0x7f {
            self.0.push(0x80 | (number & 0x7f) as u8);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }
}

/// The facts of an object, to be read by [`facts`].
pub fn noted(kind: Option<&'static Kind>, object: &Value) -> Facts {
    let metadata = &object["metadata"];
    let deleting = metadata.get("deletionTimestamp").is_some_and(|t| !t.is_null());
    let mut out = Writer(Vec::with_capacity(128));
    out.0.push(if deleting { DELETING } else { 0 });
    let place = kind.and_then(|kind| BUILT_IN.iter().position(|other| std::ptr::eq(other, kind)));
    out.number(place.map_or(0, |place| place + 1));
    let labels = metadata["labels"].as_object();
    out.number(labels.map_or(0, serde_json::Map::len));
    out.text(metadata["uid"].as_str().unwrap_or_default());
    for (key, value) in labels.into_iter().flatten() {
        out.text(key);
        out.text(value.as_str().unwrap_or_default());
    }
    for field in kind.iter().flat_map(|kind| kind.selectable_fields.iter()) {
        out.text(&field_text(object, field));
    }
    out.0.into()
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
pub fn facts_of(key: &str, value: &[u8]) -> Facts {
    let kind = kind_of_key(key);
    serde_json::from_slice(value).map(|object: Value| noted(kind, &object)).unwrap_or_default()
}

/// The built-in kind whose objects are kept under that key.
pub fn kind_of_key(key: &str) -> Option<&'static Kind> {
    let mut parts = key.split('/');
    let (group, plural) = (parts.next()?, parts.next()?);
    let group = if group == "core" { "" } else { group };
    BUILT_IN.iter().find(|k| k.keeps() && k.group == group && k.plural == plural)
}

/// The facts of an entry; empty ones for an entry that somebody else wrote.
pub fn facts(entry: &Entry) -> ObjectFacts<'_> {
    ObjectFacts::read_in(entry.facts())
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
        let noted = facts_of("core/pods/default/p", &serde_json::to_vec(&pod).unwrap());
        let facts = ObjectFacts(&noted);
        assert_eq!((facts.label("a"), facts.label("c")), (Some("1"), None));
        assert_eq!(facts.field("spec.nodeName"), "n1");
        assert_eq!(facts.field("spec.hostNetwork"), "false");
        assert_eq!(facts.field("status.podIPs"), "10.0.0.1,fd::1");
        assert_eq!((facts.uid(), facts.field("spec.schedulerName"), facts.field("no.such")), ("u", "", ""));
        assert!(facts.deleting());
        let none = ObjectFacts(&[]);
        assert_eq!((none.uid(), none.label("a"), none.field("spec.nodeName"), none.deleting()), ("", None, "", false));
    }

    proptest::proptest! {
        #[test]
        fn any_labels_are_found_again(labels in proptest::collection::btree_map(".*", ".{0,200}", 0..8), other in ".*") {
            let noted = noted(None, &json!({"metadata": {"uid": "u", "labels": labels}}));
            let facts = ObjectFacts(&noted);
            for (key, value) in &labels {
                proptest::prop_assert_eq!(facts.label(key), Some(value.as_str()));
            }
            proptest::prop_assert_eq!(facts.label(&other), labels.get(&other).map(String::as_str));
        }
    }

    proptest::proptest! {
        #[test]
        fn foreign_bytes_are_read_as_something(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let facts = ObjectFacts(&bytes);
            let texts = [facts.uid(), facts.field("spec.nodeName"), facts.label("a").unwrap_or_default()];
            proptest::prop_assert!(texts.iter().all(|text| text.len() <= bytes.len()));
        }
    }

    #[test]
    fn keys_name_kinds() {
        assert_eq!(kind_of_key("apps/deployments/a/b").unwrap().kind, "Deployment");
        assert_eq!(kind_of_key("core/nodes//n").unwrap().kind, "Node");
        assert!(kind_of_key("x/y/z").is_none());
    }
}
