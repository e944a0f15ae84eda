//! Managed fields as tables and as laws: sets, their text, and who owns what after each kind of write.

use serde_json::json;
use types::registry::by_kind;
use types::status::Status;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn parse(value: &Value) -> Set<'static> {
    let text = value.to_string();
    serde_json::from_str::<Set<'_>>(&text).unwrap().into_owned()
}

fn fields_of(managed: &Managed, manager: &str) -> Value {
    let all: Value = serde_json::from_str(managed.text()).unwrap_or_default();
    let found = all.as_array().into_iter().flatten().find(|e| e["manager"] == manager);
    found.map(|e| e["fieldsV1"].clone()).unwrap_or_default()
}

fn kind(group: &str, name: &str) -> &'static Kind {
    by_kind(group, "v1", name).unwrap()
}

fn writer<'a>(kind: &'a Kind, subresource: &'a str, manager: &'a str) -> Writer<'a> {
    Writer { kind, subresource, manager, now: now() }
}

#[test]
fn a_new_deployment_is_owned_as_upstream_has_it() {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "uid": "u", "labels": {"app": "web"}},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "restartPolicy": "Always", "securityContext": {},
                "containers": [{"name": "nginx", "image": "nginx", "resources": {},
                    "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 443, "name": "tls", "protocol": "TCP"}],
                    "env": [{"name": "B", "value": "2"}, {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}],
                "volumes": [{"name": "v", "emptyDir": {}}]}}},
        "status": {"replicas": 3}
    });
    let managed = created(&deployment, Given::Nothing, &writer(kind("apps", "Deployment"), "", "kubectl-create"));
    let expected = concat!(
        r#"[{"apiVersion":"apps/v1","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"#,
        r#""f:spec":{"f:replicas":{},"f:selector":{},"#,
        r#""f:strategy":{"f:rollingUpdate":{".":{},"f:maxSurge":{},"f:maxUnavailable":{}},"f:type":{}},"#,
        r#""f:template":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:containers":{"#,
        r#""k:{\"name\":\"nginx\"}":{".":{},"f:env":{".":{},"k:{\"name\":\"A\"}":{".":{},"f:name":{},"#,
        r#""f:valueFrom":{".":{},"f:fieldRef":{}}},"#,
        r#""k:{\"name\":\"B\"}":{".":{},"f:name":{},"f:value":{}}},"f:image":{},"f:name":{},"#,
        r#""f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}},"#,
        r#""k:{\"containerPort\":443,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:name":{},"f:protocol":{}}},"#,
        r#""f:resources":{}}},"f:restartPolicy":{},"f:securityContext":{},"#,
        r#""f:volumes":{".":{},"k:{\"name\":\"v\"}":{".":{},"f:emptyDir":{},"f:name":{}}}}}}},"#,
        r#""manager":"kubectl-create","operation":"Update","time":"2026-01-01T00:00:00Z"}]"#
    );
    assert_eq!(managed.text(), expected);
}

#[test]
fn updates_take_what_they_change() {
    let map = kind("", "ConfigMap");
    let old = json!({"metadata": {"name": "a"}, "data": {"a": "1", "b": "2"}});
    let managed = created(&old, Given::Nothing, &writer(map, "", "one"));
    assert_eq!(fields_of(&managed, "one"), json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}));

    let new = json!({"metadata": {"name": "a", "annotations": {"x": "y"}}, "data": {"a": "1", "b": "3"}});
    let later = Writer { now: "2026-01-02T00:00:00Z".parse().unwrap(), ..writer(map, "", "two") };
    let second = updated(&old, &managed, &new, Given::Nothing, &later);
    assert_eq!(fields_of(&second, "one"), json!({"f:data": {".": {}, "f:a": {}}}));
    assert_eq!(
        fields_of(&second, "two"),
        json!({"f:data": {"f:b": {}}, "f:metadata": {"f:annotations": {".": {}, "f:x": {}}}})
    );
    assert!(second.text().contains("2026-01-01") && second.text().contains("2026-01-02"));
    // Nothing changes: nothing is written anew.
    assert_eq!(updated(&new, &second, &new, Given::Nothing, &later), second);
    // What is gone belongs to nobody.
    let gone = json!({"metadata": {"name": "a", "annotations": {"x": "y"}}, "data": {"b": "3"}});
    let third = updated(&new, &second, &gone, Given::Nothing, &later);
    assert_eq!(fields_of(&third, "one"), json!({"f:data": {}}));
    // What is not tracked stays so.
    assert!(updated(&old, &Managed::default(), &new, Given::Nothing, &later).is_empty());
    assert!(updated(&old, &managed, &new, Given::Reset, &later).is_empty());
}

#[test]
fn a_status_is_owned_through_its_subresource_alone() {
    let pods = kind("", "Pod");
    let old = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let managed = created(&old, Given::Nothing, &writer(pods, "", "kubectl-run"));
    let condition = |status: &str| json!({"type": "Ready", "status": status});
    let new = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "other"}]},
        "status": {"phase": "Running", "conditions": [condition("True")]}});
    let kubelet = writer(pods, "status", "kubelet");
    let second = updated(&old, &managed, &new, Given::Nothing, &kubelet);
    let owned = json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}, "f:type": {}}},
        "f:phase": {}}});
    assert_eq!(fields_of(&second, "kubelet"), owned);
    assert_eq!(fields_of(&second, "kubectl-run"), fields_of(&managed, "kubectl-run"));
    // The same fields again with other values: the sets stay as they are, the time moves.
    let mut third = new.clone();
    third["status"]["conditions"] = json!([condition("False")]);
    let later = Writer { now: "2026-01-02T00:00:00Z".parse().unwrap(), ..kubelet };
    let moved = updated(&new, &second, &third, Given::Nothing, &later);
    assert_eq!(fields_of(&moved, "kubelet"), owned);
    assert!(moved.text().contains("2026-01-02") && moved.same_but_times(&second));
    // Through the main path it cannot be set, so that nobody loses it there.
    let main = updated(&new, &second, &third, Given::Nothing, &writer(pods, "", "kubectl-edit"));
    assert_eq!(main, second);
}

#[test]
fn the_oldest_of_too_many_are_folded() {
    let map = kind("", "ConfigMap");
    let mut live = json!({"metadata": {"name": "a"}, "data": {"k0": "0"}});
    let mut managed = created(&live, Given::Nothing, &writer(map, "", "m0"));
    for i in 1..13 {
        let mut new = live.clone();
        new["data"][format!("k{i}")] = json!("x");
        let name = format!("m{i}");
        let now = now().saturating_add(jiff::SignedDuration::from_secs(i)).unwrap();
        managed = updated(&live, &managed, &new, Given::Nothing, &Writer { now, ..writer(map, "", &name) });
        live = new;
    }
    let all: Value = serde_json::from_str(managed.text()).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 10);
    assert_eq!(
        fields_of(&managed, "ancient-changes"),
        json!({"f:data": {".": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}, "f:k3": {}}})
    );
}

#[test]
fn items_that_cannot_be_told_apart_have_one_owner() {
    let pods = kind("", "Pod");
    let pod = |value: &str| {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i",
            "env": [{"name": "A", "value": "1"}, {"name": "A", "value": value}]}]}})
    };
    let managed = created(&pod("2"), Given::Nothing, &writer(pods, "", "one"));
    let env = |managed: &Managed, manager: &str| {
        fields_of(managed, manager)["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:env"].clone()
    };
    assert_eq!(env(&managed, "one"), json!({".": {}, "k:{\"name\":\"A\"}": {}}));
    let second = updated(&pod("2"), &managed, &pod("3"), Given::Nothing, &writer(pods, "", "two"));
    assert_eq!((env(&second, "one"), env(&second, "two")), (json!({}), json!({"k:{\"name\":\"A\"}": {}})));
}

#[test]
fn requests_may_name_the_entries() {
    let mut object = json!({"metadata": {"managedFields": [{}]}});
    assert_eq!(Given::take(&mut object), Given::Reset);
    assert_eq!(object, json!({"metadata": {}}));
    let entry = |more: Value| {
        let mut entry = json!({"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"k:{ \"b\": 1, \"a\": 2 }": {}, ".": {}}}});
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"managedFields": [entry]}})
    };
    let Given::Entries(managed) = Given::take(&mut entry(json!({}))) else { panic!() };
    assert_eq!(
        managed.text(),
        r#"[{"apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{".":{},"k:{\"a\":2,\"b\":1}":{}}},"manager":"m","operation":"Update"}]"#
    );
    for wrong in [
        json!({"operation": "Delete"}),
        json!({"apiVersion": ""}),
        json!({"fieldsType": "FieldsV2"}),
        json!({"fieldsV1": {"fx": {}}}),
        json!({"fieldsV1": 1}),
    ] {
        assert_eq!(Given::take(&mut entry(wrong.clone())), Given::Nothing, "{wrong}");
    }
    for absent in [json!({}), json!({"metadata": {}}), json!({"metadata": {"managedFields": null}}), json!(1)] {
        assert_eq!(Given::take(&mut absent.clone()), Given::Nothing);
    }
}

#[test]
fn managers_have_printable_names() {
    for (named, agent, expected) in [
        (Some("me"), "kubectl/v1", "me"),
        (Some(""), "kubectl/v1.36 (linux)", "kubectl"),
        (None, "", ""),
        (None, "a\u{7}b/c", "ab"),
        (None, &"x".repeat(200), &"x".repeat(128)),
    ] {
        assert_eq!(manager(named, agent), expected);
    }
}

#[test]
fn sets_are_sets() {
    let set = |v: Value| parse(&v);
    for (a, b, union, difference, intersection) in [
        (json!({}), json!({"f:a": {}}), json!({"f:a": {}}), json!({}), json!({})),
        (
            json!({"f:a": {}}),
            json!({"f:a": {"f:b": {}}}),
            json!({"f:a": {".": {}, "f:b": {}}}),
            json!({"f:a": {}}),
            json!({}),
        ),
        (
            json!({"f:a": {"f:b": {}, "f:c": {}}}),
            json!({"f:a": {}, "f:d": {}}),
            json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}}),
            json!({"f:a": {"f:b": {}, "f:c": {}}}),
            json!({}),
        ),
        (
            json!({"f:a": {".": {}, "v:\"x\"": {}, "v:\"y\"": {}}}),
            json!({"f:a": {"v:\"x\"": {}}}),
            json!({"f:a": {".": {}, "v:\"x\"": {}, "v:\"y\"": {}}}),
            json!({"f:a": {".": {}, "v:\"y\"": {}}}),
            json!({"f:a": {"v:\"x\"": {}}}),
        ),
    ] {
        assert_eq!(set(a.clone()).union(set(b.clone())), set(union));
        assert_eq!(set(a.clone()).difference(&set(b.clone())), set(difference));
        assert_eq!(set(a).intersection(&set(b)), set(intersection));
    }
    let mut out = Vec::new();
    set(json!({"i:10": {}, "i:9": {}, "v:10": {}, "v:9": {}, "k:{\"p\":10}": {}, "k:{\"p\":9}": {}, "f:b": {}, "f:a\"b": {}}))
        .write(&mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"f:a\"b":{},"f:b":{},"k:{\"p\":9}":{},"k:{\"p\":10}":{},"v:9":{},"v:10":{},"i:9":{},"i:10":{}}"#
    );
    let mut paths = Vec::new();
    set(json!({"f:a": {"k:{\"name\":\"x\",\"port\":1}": {".": {}, "f:c": {}}, "v:\"z\"": {}}, "f:b": {}}))
        .paths(&mut |p| paths.push(p.to_owned()));
    assert_eq!(paths, [".b", ".a[name=\"x\",port=1]", ".a[=\"z\"]", ".a[name=\"x\",port=1].c"]);
}

fn apply(live: Option<&Applied>, config: &Value, who: &str, force: bool) -> Result<Applied, Status> {
    let kind = by_kind("", "v1", config["kind"].as_str().unwrap())
        .or_else(|| by_kind("apps", "v1", config["kind"].as_str().unwrap()))
        .unwrap();
    applied(live.map(|l| (&l.object, &l.managed)), config, &writer(kind, "", who), force)
}

fn config(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}, "data": data})
}

#[test]
fn applied_fields_that_nobody_else_owns_go_with_the_configuration() {
    let first = apply(None, &config(&json!({"a": "1", "b": "2"})), "one", false).unwrap();
    assert_eq!(fields_of(&first.managed, "one"), json!({"f:data": {"f:a": {}, "f:b": {}}}));
    // Again: nothing changes.
    let again = apply(Some(&first), &config(&json!({"a": "1", "b": "2"})), "one", false).unwrap();
    assert_eq!((&again.object, &again.managed), (&first.object, &first.managed));
    // Shared by agreement, then dropped by one of the two.
    let shared = apply(Some(&first), &config(&json!({"b": "2"})), "two", false).unwrap();
    let dropped = apply(Some(&shared), &config(&json!({"c": "3"})), "one", false).unwrap();
    assert_eq!(dropped.object["data"], json!({"b": "2", "c": "3"}));
    assert_eq!(fields_of(&dropped.managed, "two"), json!({"f:data": {"f:b": {}}}));
    // The last owner takes it along.
    let last = apply(Some(&dropped), &config(&json!({})), "two", false).unwrap();
    assert_eq!(last.object["data"], json!({"c": "3"}));
}

#[test]
fn conflicts_are_upstreams() {
    let map = kind("", "ConfigMap");
    let live = config(&json!({"a": "1", "b": "2"}));
    let managed = created(&live, Given::Nothing, &writer(map, "", "kubectl-create"));
    let live = Applied { object: live, managed };
    let one = apply(Some(&live), &config(&json!({"a": "9"})), "me", false).unwrap_err();
    assert_eq!(one.message, "Apply failed with 1 conflict: conflict with \"kubectl-create\" using v1: .data.a");
    assert_eq!((one.code, one.reason.as_str()), (409, "Conflict"));
    let causes = one.details.unwrap().causes;
    assert_eq!(
        (causes[0].reason.as_str(), causes[0].message.as_str(), causes[0].field.as_str()),
        ("FieldManagerConflict", "conflict with \"kubectl-create\" using v1", ".data.a")
    );
    let both = apply(Some(&live), &config(&json!({"a": "9", "b": "9"})), "me", false).unwrap_err();
    assert_eq!(
        both.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using v1:\n- .data.a\n- .data.b"
    );
    let forced = apply(Some(&live), &config(&json!({"a": "9"})), "me", true).unwrap();
    assert_eq!(forced.object["data"], json!({"a": "9", "b": "2"}));
    assert_eq!(fields_of(&forced.managed, "kubectl-create"), json!({"f:data": {".": {}, "f:b": {}}}));
    // What client-side apply said and still holds is no conflict for kubectl.
    let mut client_side = live.object.clone();
    client_side["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": live.object.to_string()});
    let managed = created(&client_side, Given::Nothing, &writer(map, "", "kubectl-client-side-apply"));
    let live = Applied { object: client_side, managed };
    let taken = apply(Some(&live), &config(&json!({"a": "9", "b": "2"})), "kubectl", false).unwrap();
    let kept = taken.object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    assert_eq!(kept.unwrap(), format!("{}\n", config(&json!({"a": "9", "b": "2"}))));
    apply(Some(&live), &config(&json!({"a": "9"})), "other", false).unwrap_err();
    // An applier is named without a version.
    let first = apply(None, &config(&json!({"a": "1"})), "one", false).unwrap();
    let refused = apply(Some(&first), &config(&json!({"a": "2"})), "two", false).unwrap_err();
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"one\": .data.a");
}

#[test]
fn what_was_there_before_the_first_apply_has_an_owner() {
    let live = Applied { object: config(&json!({"a": "1", "b": "2"})), managed: Managed::default() };
    let refused = apply(Some(&live), &config(&json!({"a": "2"})), "me", false).unwrap_err();
    assert!(refused.message.contains("conflict with \"before-first-apply\" using v1: .data.a"), "{refused}");
    let agreed = apply(Some(&live), &config(&json!({"a": "1"})), "me", false).unwrap();
    assert_eq!(fields_of(&agreed.managed, "before-first-apply"), json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}));
    assert_eq!(fields_of(&agreed.managed, "me"), json!({"f:data": {"f:a": {}}}));
}

#[test]
fn configurations_that_do_not_fit_are_refused_in_upstreams_words() {
    for (config, message) in [
        (json!({"apiVersion": "v2", "kind": "ConfigMap"}), "invalid object type: /v2, Kind=ConfigMap"),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"managedFields": []}}),
            "metadata.managedFields must be nil",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b"}, "foo": 1}),
            "failed to create typed patch object (b/a; /v1, Kind=ConfigMap): .foo: field not declared in schema",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": 1}, "immutable": "no"}),
            "failed to create typed patch object (/a; /v1, Kind=ConfigMap): errors:\n  .data.x: expected string, got int64\n  \
             .immutable: expected boolean, got string",
        ),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": "3",
                "selector": {"matchLabels": [], "foo": 1},
                "template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}, {"image": "x"}],
                    "tolerations": [{"bar": 1}], "volumes": {}}}}}),
            "failed to create typed patch object (/a; apps/v1, Kind=Deployment): errors:\n  \
             .spec.replicas: expected numeric (int or float), got string\n  \
             .spec.selector.foo: field not declared in schema\n  \
             .spec.selector.matchLabels: expected map, got &{[]}\n  \
             .spec.template.spec.containers: duplicate entries for key [name=\"a\"]\n  \
             .spec.template.spec.containers: element 2: associative list with keys has an element that omits key field \"name\" \
             (and doesn't have default value)\n  \
             .spec.template.spec.tolerations[0].bar: field not declared in schema\n  \
             .spec.template.spec.volumes: expected list, got &{map[]}",
        ),
    ] {
        let refused = apply(None, &config, "me", false);
        assert_eq!(refused.unwrap_err().message, message);
    }
}

#[test]
fn lists_merge_by_their_keys() {
    let deployment = |containers: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"template": {"spec": {"containers": containers}}}})
    };
    let of = |applied: &Applied| applied.object["spec"]["template"]["spec"]["containers"].clone();
    let names = |applied: &Applied| {
        of(applied)
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join("")
    };
    let item = |name: &str| json!({"name": name, "image": "i"});
    let first = apply(None, &deployment(json!([item("b"), item("x"), item("a")])), "one", false).unwrap();
    // The other's order counts for what both have; what only the live list has keeps its place.
    let second = apply(Some(&first), &deployment(json!([item("a"), item("n"), item("b")])), "two", false).unwrap();
    assert_eq!(names(&second), "xanb");
    // The protocol of a port is part of its key, and defaulted there.
    let port = |more: Value| {
        let mut port = json!({"containerPort": 80});
        port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        deployment(json!([{"name": "x", "ports": [port]}]))
    };
    let third = apply(Some(&second), &port(json!({})), "three", false).unwrap();
    let fourth = apply(Some(&third), &port(json!({"protocol": "TCP", "name": "web"})), "four", false).unwrap();
    assert_eq!(of(&fourth)[0]["ports"], json!([{"containerPort": 80, "protocol": "TCP", "name": "web"}]));
    let fifth = apply(Some(&fourth), &port(json!({"protocol": "UDP"})), "four", false).unwrap();
    assert_eq!(of(&fifth)[0]["ports"].as_array().unwrap().len(), 2, "{}", of(&fifth));
    // A container that its only owner drops is gone; what is in it goes too.
    let without = apply(Some(&first), &deployment(json!([item("a")])), "one", false).unwrap();
    assert_eq!(names(&without), "a");
    // Atomic lists and maps are replaced.
    let args = |args: Value| deployment(json!([{"name": "a", "image": "i", "args": args}]));
    let replaced = apply(Some(&without), &args(json!(["1", "2"])), "one", false).unwrap();
    let replaced = apply(Some(&replaced), &args(json!(["3"])), "one", false).unwrap();
    assert_eq!(of(&replaced)[0]["args"], json!(["3"]));
}

#[test]
fn a_status_is_applied_through_its_subresource_alone() {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"}});
    let space = kind("", "Namespace");
    let main = applied(None, &namespace, &writer(space, "", "me"), false).unwrap();
    assert_eq!(fields_of(&main.managed, "me"), json!({"f:spec": {"f:finalizers": {}}}));
    let through =
        applied(Some((&namespace, &main.managed)), &namespace, &writer(space, "status", "me"), false).unwrap();
    let all: Value = serde_json::from_str(through.managed.text()).unwrap();
    let entry = all.as_array().unwrap().iter().find(|e| e["subresource"] == "status").unwrap();
    assert_eq!(entry["fieldsV1"], json!({"f:status": {"f:phase": {}}}));
}

mod laws {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Sets over a small alphabet, so that they meet.
    fn sets() -> impl Strategy<Value = Set<'static>> {
        let name =
            prop_oneof![Just("f:a"), Just("f:b"), Just("v:1"), Just("k:{\"n\":\"x\"}"), Just("k:{\"n\":\"y\"}"),];
        let leaf = Just(json!({}));
        let tree = leaf.prop_recursive(3, 24, 4, move |inner| {
            (proptest::bool::ANY, prop::collection::btree_map(name.clone(), inner, 0..4)).prop_map(|(own, children)| {
                let mut map: serde_json::Map<String, Value> =
                    children.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
                if own && !map.is_empty() {
                    map.insert(".".into(), json!({}));
                }
                Value::Object(map)
            })
        });
        tree.prop_map(|mut value| {
            value.as_object_mut().unwrap().remove(".");
            parse(&value)
        })
    }

    fn data() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map("[abcd]", "[12]", 0..4)
    }

    fn pods() -> impl Strategy<Value = Value> {
        let env = prop::collection::btree_map("[AB]", "[12]", 0..3);
        let ports = prop::collection::btree_set((1u16..4, prop_oneof![Just("TCP"), Just("UDP")]), 0..3);
        let container = (env, ports, proptest::option::of("[ij]")).prop_map(|(env, ports, image)| {
            let env: Vec<Value> = env.iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
            let ports: Vec<Value> = ports.iter().map(|(p, q)| json!({"containerPort": p, "protocol": q})).collect();
            let mut container = json!({"env": env, "ports": ports});
            if let Some(image) = image {
                container["image"] = json!(image);
            }
            container
        });
        let containers = prop::collection::btree_map("[xyz]", container, 0..3);
        (containers, data(), proptest::option::of(data())).prop_map(|(containers, labels, selector)| {
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, mut c)| {
                    c["name"] = json!(name);
                    c
                })
                .collect();
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels},
                "spec": {"containers": containers, "nodeSelector": selector}})
        })
    }

    proptest! {
        #[test]
        fn of_sets(a in sets(), b in sets(), c in sets()) {
            let union = a.clone().union(b.clone());
            prop_assert!(union.covers(&a) && union.covers(&b));
            prop_assert_eq!(&union, &b.clone().union(a.clone()));
            prop_assert_eq!(a.clone().union(a.clone()), a.clone());
            prop_assert_eq!(
                a.clone().union(b.clone().union(c.clone())),
                a.clone().union(b.clone()).union(c.clone())
            );
            let difference = a.clone().difference(&b);
            prop_assert!(a.covers(&difference));
            prop_assert!(difference.intersection(&b).is_empty());
            prop_assert_eq!(difference.union(a.intersection(&b)), a.clone());
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert!(a.clone().difference(&a).is_empty());
            prop_assert_eq!(a.covers(&b), b.clone().difference(&a).is_empty());
            let mut text = Vec::new();
            a.write(&mut text);
            prop_assert_eq!(serde_json::from_slice::<Set<'_>>(&text).unwrap(), a);
        }

        #[test]
        fn of_reading(text in "[{}\":,.fkvi0-9a]{0,24}") {
            // Whatever comes, it is read or refused.
            let _ = serde_json::from_str::<Set<'_>>(&text);
            let _ = entries::read(&text);
        }

        #[test]
        fn of_tracking(old in pods(), new in pods()) {
            let pod = kind("", "Pod");
            let managed = created(&old, Given::Nothing, &writer(pod, "", "one"));
            let after = updated(&old, &managed, &new, Given::Nothing, &writer(pod, "", "two"));
            // Nothing is owned twice, and what differs is the second's.
            let entries = after.entries();
            if let [a, b] = entries.as_slice() {
                prop_assert!(a.fields.intersection(&b.fields).is_empty());
            }
            // Going there again changes nothing.
            prop_assert_eq!(updated(&new, &after, &new, Given::Nothing, &writer(pod, "", "three")), after);
        }

        #[test]
        fn of_applying_twice(mut live in pods(), config in pods()) {
            crate::codec::fields::canonicalize(&kind("", "Pod").gvk(), &mut live, false).unwrap();
            let managed = created(&live, Given::Nothing, &writer(kind("", "Pod"), "", "before"));
            let live = Applied { object: live, managed };
            let once = apply(Some(&live), &config, "me", true).unwrap();
            let twice = apply(Some(&once), &config, "me", false).unwrap();
            prop_assert_eq!(&twice.object, &once.object);
            prop_assert!(twice.managed.same_but_times(&once.managed), "{}\n{}", once.managed.text(), twice.managed.text());
        }

        #[test]
        fn of_sole_owners(first in data(), second in data()) {
            let once = apply(None, &config(&json!(first)), "me", false).unwrap();
            let twice = apply(Some(&once), &config(&json!(second)), "me", false).unwrap();
            let left: BTreeMap<String, String> =
                serde_json::from_value(twice.object.get("data").cloned().unwrap_or(json!({}))).unwrap();
            prop_assert_eq!(left, second);
        }
    }
}

/// Source: `GetResetFieldsFilter` in `pkg/registry/core/pod/strategy.go`.
#[test]
fn a_subresource_of_a_pod_owns_what_it_may_set() {
    let pod = |label: &str, image: &str, cpu: &str, ephemeral: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": label}}, "spec": {
            "containers": [{"name": "c", "image": image, "resources": {"requests": {"cpu": cpu}}}], "ephemeralContainers": ephemeral}})
    };
    let old = pod("x", "one", "1", json!([]));
    let new = pod("y", "two", "2", json!([{"name": "e", "image": "i"}]));
    let resources =
        json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {"f:resources": {"f:requests": {"f:cpu": {}}}}}}});
    let ephemeral = json!({"f:spec": {"f:ephemeralContainers": {".": {},
        "k:{\"name\":\"e\"}": {".": {}, "f:image": {}, "f:name": {}}}}});
    let pods = kind("", "Pod");
    let managed = created(&old, Given::Nothing, &writer(pods, "", "maker"));
    for (subresource, mut expected) in [("resize", resources), ("ephemeralcontainers", ephemeral)] {
        let updated = updated(&old, &managed, &new, Given::Nothing, &writer(pods, subresource, "changer"));
        let mut found = fields_of(&updated, "changer");
        // Whether the empty list had an owner before is another matter.
        for set in [&mut found, &mut expected] {
            set["f:spec"]["f:ephemeralContainers"].as_object_mut().map(|list| list.remove("."));
        }
        assert_eq!(found, expected, "{subresource}");
    }
}
