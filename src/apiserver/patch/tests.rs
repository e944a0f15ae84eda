//! Patches against the results of Go's libraries.

use super::*;
use serde_json::json;
use types::registry::by_kind;

/// A line of testdata/*.jsonl: what the libraries that upstream uses make of a patch.
#[derive(serde::Deserialize)]
struct Golden {
    name: String,
    #[serde(default)]
    gvk: (String, String, String),
    object: Value,
    patch: Value,
    #[serde(default)]
    result: Option<Value>,
    #[serde(default)]
    error: String,
}

fn check(goldens: &str, apply: impl Fn(&Golden, &Bytes) -> Result<Value, Status>) {
    let mut wrong = Vec::new();
    for line in goldens.lines() {
        let golden: Golden = serde_json::from_str(line).unwrap();
        let body = Bytes::from(golden.patch.to_string());
        let (ours, expected) = match (apply(&golden, &body), &golden.result) {
            (Ok(ours), Some(expected)) => (ours.to_string(), expected.to_string()),
            (Err(status), None) => (said(&status), golden.error.clone()),
            (Ok(ours), None) => (ours.to_string(), golden.error.clone()),
            (Err(status), Some(expected)) => (status.message, expected.to_string()),
        };
        if ours != expected {
            wrong.push(format!("{}\n  ours {ours}\n  go   {expected}", golden.name));
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

/// What is wrong: the cause, where the message is the same for everything.
fn said(status: &Status) -> String {
    let cause = status.details.as_ref().and_then(|d| d.causes.first());
    cause.map_or_else(|| status.message.clone(), |c| c.message.clone())
}

#[test]
fn strategic_patches_agree_with_go() {
    check(include_str!("testdata/strategic.jsonl"), |golden, body| {
        let (group, version, kind) = &golden.gvk;
        strategic::apply(schema::type_of(group, version, kind).unwrap(), &golden.object, body)
    });
}

#[test]
fn json_patches_agree_with_go() {
    check(include_str!("testdata/json.jsonl"), |golden, body| json_patch::apply(&golden.object, body));
}

#[test]
fn media_types_and_limits() {
    let pod = by_kind("", "v1", "Pod").unwrap();
    let custom = Kind { group: "example.com".into(), kind: "Widget".into(), ..pod.clone() };
    let body = Bytes::from_static(b"{}");
    assert_eq!(apply(&custom, STRATEGIC_MERGE_PATCH, &json!({}), &body).unwrap_err().code, 415);
    assert!(apply(&custom, MERGE_PATCH, &json!({}), &body).is_ok());
    assert_eq!(apply(pod, "text/plain", &json!({}), &body).unwrap_err().code, 415);
    // What is applied goes another way.
    assert!(is_apply(Some("application/Apply-Patch+yaml; charset=utf-8")) && !is_apply(None));
    let many = Bytes::from(format!("[{}{{}}]", "{},".repeat(10_000)));
    let error = apply(pod, JSON_PATCH, &json!({}), &many).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (413, "The allowed maximum operations in a JSON patch is 10000, got 10001")
    );
    let error = apply(pod, MERGE_PATCH, &json!({}), &Bytes::from_static(b"{")).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "error decoding patch: unexpected end of JSON input"));
}

#[test]
fn a_patch_cannot_build_what_no_body_could_say() {
    let pod = by_kind("", "v1", "Pod").unwrap();
    let deep = "/a".repeat(200);
    let steps: Vec<Value> = (1..=200).map(|n| json!({"op": "add", "path": deep[..2 * n], "value": {}})).collect();
    let error = apply(pod, JSON_PATCH, &json!({}), &Bytes::from(json!(steps).to_string())).unwrap_err();
    assert_eq!(error.code, 422);
    let doubling: Vec<Value> = (0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
    let error = apply(pod, JSON_PATCH, &json!({"a": ["x"]}), &Bytes::from(json!(doubling).to_string())).unwrap_err();
    assert!(said(&error).starts_with("Unable to complete the copy"), "{error}");
}

#[test]
fn findings_after_a_patch() {
    let deployment = by_kind("apps", "v1", "Deployment").unwrap();
    let current = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 1}});
    let body = Bytes::from_static(br#"{"spec":{"foo":1,"replicas":2,"replicas":3}}"#);
    let run = |mode| apply_checked(deployment, STRATEGIC_MERGE_PATCH, &current, &body, mode);
    let (patched, warnings) = run(FieldValidation::Warn).unwrap();
    assert_eq!(patched["spec"], json!({"replicas": 3}));
    assert_eq!(warnings, [r#"duplicate field "spec.replicas""#, r#"unknown field "spec.foo""#]);
    assert!(run(FieldValidation::Ignore).unwrap().1.is_empty());
    let strict = run(FieldValidation::Strict).unwrap_err();
    assert_eq!(strict.code, 422);
    assert!(
        strict.message.ends_with(r#"strict decoding error: duplicate field "spec.replicas", unknown field "spec.foo""#),
        "{strict}"
    );
    let wrong = Bytes::from_static(br#"{"spec":{"replicas":"x"}}"#);
    let error = apply_checked(deployment, MERGE_PATCH, &current, &wrong, FieldValidation::Ignore).unwrap_err();
    assert_eq!(error.code, 422);
    assert!(
        error.message.contains("cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas"),
        "{error}"
    );
    assert!(error.message.contains(r#"{\"apiVersion\":"#), "{error}");
    for (patch, said) in [
        (r#"{"spec":{"replicas":"x"}}"#, r#""map[spec:map[replicas:x]]": unrecognized type: int32"#),
        (r#"{"spec":{"template":"x"}}"#, r#""map[spec:map[template:x]]": cannot restore struct from: string"#),
        (r#"{"metadata":{"labels":{"a":1}}}"#, r#""map[metadata:map[labels:map[a:1]]]": unrecognized type: string"#),
        (
            r#"{"metadata":{"finalizers":{"a":null}}}"#,
            r#""map[metadata:map[finalizers:map[a:<nil>]]]": cannot restore slice from map"#,
        ),
    ] {
        let body = Bytes::from_static(patch.as_bytes());
        let error =
            apply_checked(deployment, STRATEGIC_MERGE_PATCH, &current, &body, FieldValidation::Warn).unwrap_err();
        assert_eq!(error.message, format!(" \"\" is invalid: patch: Invalid value: {said}"), "{patch}");
    }
}

/// The example of RFC 7386, appendix A.
#[test]
fn merge_patches() {
    for (target, patch, result) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        assert_eq!(merge::apply(&target, patch.to_string().as_bytes()).unwrap(), result, "{target} {patch}");
    }
}

fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest::proptest! {
    /// Applying a merge patch twice is applying it once.
    #[test]
    fn merge_patches_are_idempotent(target in any_json(), patch in any_json()) {
        let mut once = target;
        merge::merge(&mut once, patch.clone());
        let mut twice = once.clone();
        merge::merge(&mut twice, patch);
        proptest::prop_assert_eq!(once, twice);
    }

    #[test]
    fn strategic_patches_never_panic(target in any_json(), patch in any_json(), directive in "\\$patch|\\$retainKeys|\\$setElementOrder/containers|\\$deleteFromPrimitiveList/finalizers") {
        let ty = schema::type_of("", "v1", "Pod").unwrap();
        let body = json!({"spec": {"containers": patch, &directive: patch}, "metadata": {"finalizers": patch, &directive: patch}});
        let current = json!({"spec": {"containers": target}, "metadata": {"finalizers": target}});
        let _ = strategic::apply(ty, &current, body.to_string().as_bytes());
    }

    #[test]
    fn json_patches_never_panic(target in any_json(), value in any_json(), ops in proptest::collection::vec(("add|remove|replace|move|copy|test", "(/[a-d0-2-]){0,3}", "(/[a-d0-2-]){0,3}"), 0..6)) {
        let patch: Vec<Value> = ops.into_iter().map(|(op, path, from)| json!({"op": op, "path": path, "from": from, "value": value})).collect();
        let _ = json_patch::apply(&json!({"a": target}), json!(patch).to_string().as_bytes());
    }

    /// Copies of copies grow no further than one body could.
    #[test]
    fn json_patches_are_bounded(ops in proptest::collection::vec(("copy|add", "(/[ab-]){0,2}", "(/[ab]){0,2}"), 0..60)) {
        let text = "x".repeat(1000);
        let patch: Vec<Value> = ops.iter().map(|(op, path, from)| json!({"op": op, "path": path, "from": from, "value": {"a": text}})).collect();
        let (current, patch) = (json!({"a": {"a": text}, "b": []}), json!(patch).to_string());
        if let Ok(patched) = json_patch::apply(&current, patch.as_bytes()) {
            proptest::prop_assert!(patched.to_string().len() <= current.to_string().len() + patch.len() + (4 << 20));
        }
    }
}
