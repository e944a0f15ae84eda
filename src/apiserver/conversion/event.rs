//! Events: the newer group has other names for some fields, and calls what it has no use for deprecated.
//! Source: `pkg/apis/events/v1/conversion.go`.

use serde_json::Value;

use super::Rule;

/// As core/v1 has it, as events.k8s.io/v1 has it.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

pub static EVENTS: Rule = Rule {
    keep: |event| NAMES.iter().for_each(|(core, newer)| rename(event, newer, core)),
    serve: |event| NAMES.iter().for_each(|(core, newer)| rename(event, core, newer)),
};

fn rename(event: &mut Value, from: &str, to: &str) {
    if let Some(fields) = event.as_object_mut()
        && let Some(value) = fields.remove(from)
    {
        fields.insert(to.to_owned(), value);
    }
}
