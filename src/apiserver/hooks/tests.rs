//! Promises about all kinds at once.

use std::sync::LazyLock;

use serde_json::{Value, json};
use types::registry::{BUILT_IN, by_kind};

use super::*;

#[test]
fn every_registry_entry_has_hooks() {
    for kind in BUILT_IN.iter() {
        assert!(named(&kind.group, &kind.kind).is_some(), "{} has no hooks", kind.group_resource());
        for subresource in kind.subresources.iter() {
            let exchanged = subresource.response.as_ref().filter(|r| !r.kind.ends_with("Options"));
            if let Some(response) = exchanged {
                assert!(named(&response.group, &response.kind).is_some(), "{} has no hooks", response.kind);
            }
        }
    }
}

fn context(subresource: &str) -> Context<'_> {
    static TESTER: LazyLock<Identity> = LazyLock::new(|| Identity::new("tester", &[]));
    Context { subresource, identity: &TESTER, now: jiff::Timestamp::UNIX_EPOCH }
}

/// A valid object of each kind that has something to check, as its writer would send it.
fn good(group: &str, kind: &str) -> Value {
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "nginx:1.27", "ports": [{"containerPort": 80}]}]},
    });
    let mut object = match (group, kind) {
        ("", "Pod") => json!({"spec": template["spec"]}),
        ("", "ConfigMap") => json!({"data": {"a": "1"}}),
        ("", "Secret") => json!({"stringData": {"a": "1"}}),
        ("", "Service") => json!({"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        ("", "Binding") => json!({"target": {"kind": "Node", "name": "n1"}}),
        ("", "Endpoints") => json!({"subsets": [{"addresses": [{"ip": "10.1.1.1"}], "ports": [{"port": 80}]}]}),
        ("", "Event") => json!({"involvedObject": {"kind": "Pod", "namespace": "shop", "name": "web"}}),
        ("events.k8s.io", "Event") => json!({
            "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "web"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingComponent": "kubelet", "reportingInstance": "n1", "action": "Pull", "reason": "Pulled", "type": "Normal",
        }),
        ("", "LimitRange") => json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "100m"}, "default": {"cpu": 1}},
            {"type": "PersistentVolumeClaim", "max": {"storage": "10Gi"}},
        ]}}),
        ("", "ResourceQuota") => {
            json!({"spec": {"hard": {"pods": "10", "limits.cpu": 4}, "scopes": ["NotBestEffort"]}})
        }
        ("", "PodTemplate") => json!({"template": template}),
        ("", "ReplicationController") => json!({"spec": {"template": template}}),
        ("", "PersistentVolumeClaim") => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        }}),
        ("", "PersistentVolume") => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"},
        }}),
        ("batch", "Job") => {
            let mut template = template;
            template["spec"]["restartPolicy"] = json!("Never");
            json!({"spec": {"template": template}})
        }
        ("batch", "CronJob") => {
            let mut template = template;
            template["spec"]["restartPolicy"] = json!("OnFailure");
            json!({"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": template}}}})
        }
        ("autoscaling", "HorizontalPodAutoscaler") => json!({"spec": {
            "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        }}),
        ("apps", "ControllerRevision") => json!({"data": {"spec": {}}, "revision": 1}),
        ("apps", _) => json!({"spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template}}),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})
        }
        ("rbac.authorization.k8s.io", _) => json!({
            "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "User", "name": "ann"}, {"kind": "ServiceAccount", "name": "bot", "namespace": "shop"}],
        }),
        ("scheduling.k8s.io", _) => json!({"value": 1000}),
        ("coordination.k8s.io", _) => json!({"spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40}}),
        ("discovery.k8s.io", _) => json!({
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.1.1"]}], "ports": [{"port": 80}],
        }),
        ("authorization.k8s.io", _) => {
            json!({"spec": {"user": "ann", "nonResourceAttributes": {"path": "/healthz", "verb": "get"}}})
        }
        ("apiextensions.k8s.io", _) => json!({"spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": "cars", "kind": "Car"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        }}),
        _ => others::good(group, kind),
    };
    let name = match kind {
        "CustomResourceDefinition" => "cars.example.com",
        "IPAddress" => "10.96.0.7",
        "APIService" => "v1.acme.io",
        _ => "web",
    };
    object["metadata"] = json!({"name": name, "namespace": "shop"});
    if kind == "Job" {
        // its selector is made of it
        object["metadata"]["uid"] = json!("u1");
    }
    object
}

#[test]
fn good_objects_are_valid_and_defaulting_is_idempotent() {
    for kind in BUILT_IN.iter() {
        let hooks = of(kind);
        let mut object = good(&kind.group, &kind.kind);
        if !kind.namespaced() {
            object["metadata"].as_object_mut().unwrap().remove("namespace");
        }
        (hooks.default)(&mut object);
        let once = object.clone();
        (hooks.default)(&mut object);
        assert_eq!(object, once, "{} defaults twice", kind.kind);
        (hooks.prepare_create)(&mut object, &context(""));
        let created = object.clone();
        (hooks.default)(&mut object);
        assert_eq!(object, created, "{} defaults after creation", kind.kind);
        assert_eq!(metadata::validate(kind, &object), Vec::new(), "{}", kind.kind);
        assert_eq!((hooks.validate)(&object), Vec::new(), "{}", kind.kind);
        assert_eq!((hooks.validate_create)(&object, &context("")), Vec::new(), "{}", kind.kind);
        // writing the same again changes nothing and is allowed
        let mut again = object.clone();
        (hooks.prepare_update)(&mut again, &object, &context(""));
        (hooks.default)(&mut again);
        assert_eq!(json::without_nulls(&again), json::without_nulls(&object), "{} drifts", kind.kind);
        assert_eq!((hooks.validate_update)(&again, &object, &context("")), Vec::new(), "{}", kind.kind);
        // no hook panics on nonsense
        for nonsense in [json!(null), json!([]), json!({"spec": 1, "metadata": [], "data": "x", "status": "x"})] {
            let mut object = nonsense;
            (hooks.default)(&mut object);
            (hooks.prepare_create)(&mut object, &context(""));
            (hooks.prepare_update)(&mut object, &json!({"spec": []}), &context("status"));
            (hooks.validate)(&object);
            (hooks.validate_create)(&object, &context(""));
            (hooks.warnings_create)(&object);
            (hooks.validate_update)(&object, &json!(3), &context(""));
            (hooks.warnings)(&object);
        }
    }
}

/// Changes the good object of a kind and expects exactly these errors of the change itself.
fn check_update(group: &str, kind: &str, subresource: &str, rows: &[(Value, &[&str])]) {
    let hooks = named(group, kind).unwrap();
    let mut old = good(group, kind);
    (hooks.default)(&mut old);
    (hooks.prepare_create)(&mut old, &context(""));
    for (change, expected) in rows {
        let mut new = old.clone();
        merge(&mut new, change);
        (hooks.default)(&mut new);
        (hooks.prepare_update)(&mut new, &old, &context(subresource));
        let errors: Vec<String> =
            (hooks.validate_update)(&new, &old, &context(subresource)).iter().map(ToString::to_string).collect();
        assert_eq!(errors, *expected, "{change}");
    }
}

/// Changes the good object of a kind and expects exactly these errors.
fn check(group: &str, kind: &str, rows: &[(Value, &[&str])]) {
    let hooks = named(group, kind).unwrap();
    for (change, expected) in rows {
        let mut object = good(group, kind);
        merge(&mut object, change);
        (hooks.default)(&mut object);
        let mut errors = (hooks.validate)(&object);
        errors.extend((hooks.validate_create)(&object, &context("")));
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, *expected, "{change}");
    }
}

/// RFC 7396, with one addition: an object whose keys are numbers changes the items of a list.
fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Array(items), Value::Object(changes)) => {
            for (index, change) in changes {
                merge(&mut items[index.parse::<usize>().unwrap()], change);
            }
        }
        (Value::Object(fields), Value::Object(changes)) => {
            for (key, change) in changes {
                if change.is_null() {
                    fields.remove(key);
                } else {
                    merge(fields.entry(key.clone()).or_insert(Value::Null), change);
                }
            }
        }
        (target, change) => *target = change.clone(),
    }
}

#[test]
fn metadata_is_checked() {
    let kind = by_kind("", "v1", "ConfigMap").unwrap();
    for (meta, expected) in [
        (json!({"name": "web"}), vec![]),
        (json!({"name": null}), vec!["metadata.name: Required value: name or generateName is required"]),
        (json!({"namespace": null}), vec!["metadata.namespace: Required value"]),
        (
            json!({"labels": {"a": "-"}}),
            vec![
                "metadata.labels: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric \
             characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
             'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ],
        ),
        (
            json!({"finalizers": ["mine"]}),
            vec![
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully \
             qualified",
            ],
        ),
        (
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
            vec!["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"],
        ),
        (
            json!({"annotations": {"a": "x".repeat(300_000)}}),
            vec!["metadata.annotations: Too long: may not be more than 262144 bytes"],
        ),
    ] {
        let mut object = good("", "ConfigMap");
        merge(&mut object["metadata"], &meta);
        let errors: Vec<String> = metadata::validate(kind, &object).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected, "{meta}");
    }
    let generated = metadata::generate_name(&"a".repeat(80));
    assert_eq!(generated.len(), 63);
}

/// Custom objects may have any qualified name, and so may the kinds that upstream checks as if they were custom ones.
#[test]
fn finalizers_without_a_domain() {
    for (group, version, name, known) in [
        ("apps", "v1", "Deployment", true),
        ("coordination.k8s.io", "v1", "Lease", false),
        ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", false),
    ] {
        let kind = by_kind(group, version, name).unwrap();
        let mut object = good(group, name);
        object["metadata"]["finalizers"] = json!(["example.com/ours", "mine"]);
        let refused =
            |errors: Vec<types::field::FieldError>| errors.iter().any(|e| e.path.as_str() == "metadata.finalizers[1]");
        assert_eq!(refused(metadata::validate(kind, &object)), known, "{name}");
        assert_eq!(refused(metadata::validate_update(kind, &object, &object)), known, "{name}");
        object["metadata"]["finalizers"] = json!(["not qualified"]);
        let errors = metadata::validate(kind, &object);
        assert!(errors.iter().any(|e| e.path.as_str() == "metadata.finalizers"), "{name}");
    }
}

#[test]
fn metadata_updates_are_checked() {
    let kind = by_kind("", "v1", "ConfigMap").unwrap();
    let mut old = good("", "ConfigMap");
    merge(
        &mut old["metadata"],
        &json!({"uid": "u1", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}),
    );
    for (meta, expected) in [
        (json!({}), vec![]),
        (json!({"uid": "u2"}), vec!["metadata.uid: Invalid value: \"u2\": field is immutable"]),
        (json!({"name": "x"}), vec!["metadata.name: Invalid value: \"x\": field is immutable"]),
        (
            json!({"resourceVersion": null}),
            vec!["metadata.resourceVersion: Invalid value: \"\": must be specified for an update"],
        ),
        (
            json!({"finalizers": ["mine"]}),
            vec![
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully \
             qualified",
            ],
        ),
    ] {
        let mut new = old.clone();
        merge(&mut new["metadata"], &meta);
        let errors: Vec<String> = metadata::validate_update(kind, &new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected, "{meta}");
    }
}

#[test]
fn status_and_spec_are_written_apart() {
    for kind in BUILT_IN.iter().filter(|k| k.subresource("status").is_some()) {
        let hooks = of(kind);
        let mut old = good(&kind.group, &kind.kind);
        (hooks.default)(&mut old);
        (hooks.prepare_create)(&mut old, &context(""));
        let mut new = old.clone();
        new["spec"]["marker"] = json!("new");
        new["status"]["marker"] = json!("new");
        let mut by_status = new.clone();
        (hooks.prepare_update)(&mut by_status, &old, &context("status"));
        assert_eq!(json::get(&by_status["spec"], "marker"), &Value::Null, "{}", kind.kind);
        assert_eq!(by_status["status"]["marker"], "new", "{}", kind.kind);
        let mut by_object = new.clone();
        (hooks.prepare_update)(&mut by_object, &old, &context(""));
        assert_eq!(json::get(json::get(&by_object, "status"), "marker"), &Value::Null, "{}", kind.kind);
        // what was asked of a signer is never changed
        if !["Namespace", "CertificateSigningRequest"].contains(&&*kind.kind) {
            assert_eq!(by_object["spec"]["marker"], "new", "{}", kind.kind);
        }
        let generation = |o: &Value| o["metadata"]["generation"].as_i64();
        if let Some(before) = generation(&old) {
            assert_eq!(generation(&by_object), Some(before + 1), "{}", kind.kind);
            assert_eq!(generation(&by_status), Some(before), "{}", kind.kind);
        }
    }
}

mod batch;
mod devices;
mod extension;
mod kinds;
mod networking;
mod others;
mod pods;
mod services;
mod storage;
mod volumes;
