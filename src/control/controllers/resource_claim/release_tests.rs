//! Whose reservations fall, and what comes of it.

use super::*;

fn claim(change: fn(&mut Value)) -> Claim {
    let mut claim = json!({
        "metadata": {"name": "c", "namespace": "d", "uid": "c1", "resourceVersion": "7", "finalizers": ["x", FINALIZER]},
        "status": {"allocation": {}, "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}});
    change(&mut claim);
    serde_json::from_value(claim).unwrap()
}

fn check(name: &str, change: fn(&mut Value), pod: Option<Value>, expected: &[Action]) {
    let claim = claim(change);
    let found = plan(&claim, &|_, uid| match &pod {
        _ if uid == "gone" => Known::Gone,
        Some(pod) => Known::Is(Arc::new(serde_json::from_value(pod.clone()).unwrap())),
        None => Known::Unknown,
    });
    assert_eq!(found.actions, expected, "{name}");
}

#[test]
fn what_nobody_uses_is_given_back() {
    let runs = || Some(json!({"metadata": {"uid": "u"}, "spec": {"containers": [], "nodeName": "n"}}));
    let ended = || Some(json!({"metadata": {"uid": "u"}, "status": {"phase": "Failed"}}));
    let release = |status: Value, unprotected: Option<&[&str]>| Action::Release {
        status,
        revision: Some("7".into()),
        unprotected: unprotected.map(|all| all.iter().map(|f| (*f).to_owned()).collect()),
    };
    let all_back = || release(json!({"reservedFor": null, "allocation": null}), Some(&["x"]));
    check("all is well", |_| (), runs(), &[]);
    check("it is not known", |_| (), None, &[Action::Ask { pod: "p".into(), uid: "u".into() }]);
    check("it has ended", |_| (), ended(), &[all_back()]);
    check(
        "another one has its name",
        |c| c["status"]["reservedFor"][0]["uid"] = json!("before"),
        runs(),
        &[all_back()],
    );
    check("it is gone", |c| c["status"]["reservedFor"][0]["uid"] = json!("gone"), None, &[all_back()]);
    check(
        "others still use it",
        |c| {
            c["status"]["reservedFor"] = json!([{"resource": "pods", "name": "q", "uid": "gone"},
                {"apiGroup": "x.io", "resource": "things", "name": "t", "uid": "t"}]);
        },
        None,
        &[release(json!({"reservedFor": [{"apiGroup": "x.io", "resource": "things", "name": "t", "uid": "t"}]}), None)],
    );
    check("it was allocated and has no user yet", |c| c["status"]["reservedFor"] = json!([]), None, &[]);
    let deleted = |c: &mut Value| {
        c["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        c["status"]["reservedFor"] = json!([]);
    };
    check("deleted", deleted, None, &[release(json!({"allocation": null}), Some(&["x"]))]);
    check(
        "deleted while it is used",
        |c| c["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
        runs(),
        &[],
    );
    check(
        "deleted and not allocated",
        |c| {
            c["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            c["status"] = json!({});
        },
        None,
        &[release(Value::Null, Some(&["x"]))],
    );
    check(
        "made for a pod that has ended",
        |c| {
            c["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
        },
        ended(),
        &[all_back(), Action::Delete { uid: "c1".into() }],
    );
    check(
        "made for a pod that is not known",
        |c| {
            c["status"] = json!({});
            c["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
        },
        None,
        &[],
    );
}

#[test]
fn only_so_many_are_remembered() {
    let mut gone = Gone::default();
    (0..GONE_MAX + 5).for_each(|n| gone.insert(&n.to_string()));
    assert_eq!((gone.uids.len(), gone.uids.contains("4"), gone.uids.contains("5")), (GONE_MAX, false, true));
}
