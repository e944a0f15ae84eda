//! Tests of when watches of custom kinds begin and end.

use serde_json::{from_value, json};

use super::*;

/// A definition with that uid; versions as `v1`, served and the first of them stored. Empty: not established.
fn definition(uid: &str, versions: &[&str]) -> Definition {
    let version = |(at, name): (usize, &&str)| json!({"name": name, "served": true, "storage": at == 0});
    let versions: Vec<_> = versions.iter().enumerate().map(version).collect();
    let established = if versions.is_empty() { "False" } else { "True" };
    from_value(json!({
        "metadata": {"name": "cars.example.com", "uid": uid},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": versions},
        "status": {"acceptedNames": {"plural": "cars", "kind": "Car"},
            "conditions": [{"type": "Established", "status": established}]},
    }))
    .unwrap()
}

/// What is done, in the words of the rows below. Doing it and looking again must lead to nothing.
fn check(what: &str, before: Option<&Definition>, now: Option<&Definition>, expected: &[&str]) {
    let watched = |definition: Option<&Definition>| match steps(None, definition).pop() {
        Some(Step::Begin(watched)) => Some(watched),
        _ => None,
    };
    let before = watched(before);
    let told = |step: &Step| match step {
        Step::Begin(w) => format!("begin {}", w.kind.version),
        Step::Move(w) => format!("move to {}", w.kind.version),
        Step::End { gone } => (if *gone { "gone" } else { "not served" }).to_owned(),
    };
    let steps_now: Vec<String> = steps(before.as_ref(), now).iter().map(told).collect();
    assert_eq!(steps_now, expected, "{what}");
    assert_eq!(steps(watched(now).as_ref(), now), [], "{what}, again");
}

#[test]
fn watches_follow_definitions() {
    let one = definition("a", &["v1"]);
    check("all well", Some(&one), Some(&one), &[]);
    check("nothing at all", None, None, &[]);
    check("not established", None, Some(&definition("a", &[])), &[]);
    check("established", None, Some(&one), &["begin v1"]);
    check("another version, the old one stored", Some(&one), Some(&definition("a", &["v1", "v2"])), &[]);
    check("another version stored", Some(&one), Some(&definition("a", &["v2", "v1"])), &["move to v2"]);
    check("served no more", Some(&one), Some(&definition("a", &[])), &["not served"]);
    check("deleted", Some(&one), None, &["gone"]);
    check("deleted and defined again", Some(&one), Some(&definition("b", &["v1"])), &["gone", "begin v1"]);
    check("deleted and not yet established again", Some(&one), Some(&definition("b", &[])), &["gone"]);
}
