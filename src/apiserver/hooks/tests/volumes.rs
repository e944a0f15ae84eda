//! Errors of volumes and claims, quotas and limits, revisions, sets, and of the subresources that change a bound pod.

use serde_json::json;

use super::*;

#[test]
fn claims() {
    let spec = |spec: Value| json!({"spec": spec});
    check(
        "",
        "PersistentVolumeClaim",
        &[
            (
                spec(json!({"accessModes": null})),
                &["spec.accessModes: Required value: at least 1 access mode is required"],
            ),
            (spec(json!({"resources": null})), &["spec.resources[storage]: Required value"]),
            (
                spec(json!({"resources": {"requests": {"storage": "0"}}})),
                &["spec.resources[storage]: Invalid value: \"0\": must be greater than zero"],
            ),
            (
                spec(json!({"accessModes": ["ReadWriteOncePod", "ReadWriteMany"]})),
                &["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"],
            ),
            (
                spec(json!({"volumeMode": "Tape"})),
                &["spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\""],
            ),
            (
                spec(json!({"dataSource": {"kind": "Pod", "name": "p"}})),
                &[
                    "spec.dataSource: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when referencing the default \
                   apiGroup",
                ],
            ),
        ],
    );
    let hooks = named("", "PersistentVolumeClaim").unwrap();
    let mut old = good("", "PersistentVolumeClaim");
    merge(&mut old, &json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}}}));
    (hooks.default)(&mut old);
    (hooks.prepare_create)(&mut old, &context(""));
    assert_eq!(old["spec"]["dataSourceRef"], json!({"kind": "PersistentVolumeClaim", "name": "a"}));
    let changed = |old: &Value, change: &Value| -> Vec<String> {
        let mut new = old.clone();
        merge(&mut new, change);
        (hooks.validate_update)(&new, old, &context("")).iter().map(ToString::to_string).collect()
    };
    let larger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    assert!(changed(&old, &larger)[0].starts_with("spec: Forbidden: spec is immutable after creation except"));
    assert_eq!(changed(&old, &json!({"spec": {"volumeName": "pv"}})), [""; 0]);
    merge(&mut old, &json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}));
    assert_eq!(changed(&old, &larger), [""; 0]);
    let smaller = json!({"spec": {"resources": {"requests": {"storage": "1Mi"}}}});
    assert_eq!(
        changed(&old, &smaller),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
}

#[test]
fn volumes() {
    let spec = |spec: Value| json!({"spec": spec});
    check(
        "",
        "PersistentVolume",
        &[
            (spec(json!({"hostPath": null})), &["spec: Required value: must specify a volume type"]),
            (
                spec(json!({"nfs": {"server": "s", "path": "/"}})),
                &["spec.nfs: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                spec(json!({"hostPath": null, "local": {"path": "/a/../b"}})),
                &[
                    "spec.local.path: Invalid value: \"/a/../b\": must not contain '..'",
                    "spec.nodeAffinity: Required value: Local volume requires node affinity",
                ],
            ),
            (
                spec(json!({"hostPath": null, "csi": {"driver": "a_b"}})),
                &[
                    "spec.csi.driver: Invalid value: \"a_b\": a lowercase RFC 1123 subdomain must consist of lower case \
                     alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
                     'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*\
                     [a-z0-9])?)*')",
                    "spec.csi.volumeHandle: Required value",
                ],
            ),
            (
                spec(json!({"capacity": {"cpu": "1"}})),
                &[
                    "spec.capacity: Unsupported value: {\"cpu\":\"1\",\"storage\":\"1Gi\"}: supported values: \"storage\"",
                ],
            ),
            (
                spec(json!({"hostPath": {"path": "/"}, "persistentVolumeReclaimPolicy": "Recycle"})),
                &["spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"],
            ),
        ],
    );
    let hooks = named("", "PersistentVolume").unwrap();
    let old = good("", "PersistentVolume");
    let mut new = old.clone();
    new["spec"]["hostPath"]["path"] = json!("/other");
    let errors = (hooks.validate_update)(&new, &old, &context(""));
    assert!(
        errors[0]
            .to_string()
            .starts_with("spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable")
    );
}

#[test]
fn quotas_and_limits() {
    check(
        "",
        "ResourceQuota",
        &[
            (
                json!({"spec": {"hard": {"gold": "1"}, "scopes": null}}),
                &[
                    "spec.hard[gold]: Invalid value: \"gold\": must be a standard resource type or fully qualified",
                    "spec.hard[gold]: Invalid value: \"gold\": must be a standard resource for quota",
                ],
            ),
            (
                json!({"spec": {"hard": {"pods": "500m"}}}),
                &["spec.hard[pods]: Invalid value: \"500m\": must be an integer"],
            ),
            (
                json!({"spec": {"hard": {"secrets": "1"}}}),
                &["spec.scopes: Invalid value: [\"NotBestEffort\"]: unsupported scope applied to resource"],
            ),
            (
                json!({"spec": {"scopes": ["Terminating", "NotTerminating"]}}),
                &["spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes"],
            ),
            (
                json!({"spec": {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}}),
                &[
                    "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is \
                   'In' or 'NotIn' for scope selector",
                ],
            ),
        ],
    );
    let limit = |change: Value| json!({"spec": {"limits": {"0": change}}});
    check(
        "",
        "LimitRange",
        &[
            (
                limit(json!({"type": "Node"})),
                &["spec.limits[0].type: Invalid value: \"Node\": must be a standard limit type or fully qualified"],
            ),
            (
                limit(json!({"type": "PersistentVolumeClaim"})),
                &[
                    "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but \
                     neither was provided",
                    "spec.limits[1].type: Duplicate value: \"PersistentVolumeClaim\"",
                ],
            ),
            (
                limit(json!({"min": {"cpu": "3"}, "default": {"cpu": "2"}, "defaultRequest": {"cpu": "2"}})),
                &[
                    "spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2",
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": min value 3 is greater than default request \
                     value 2",
                    "spec.limits[0].default[cpu]: Invalid value: \"3\": min value 3 is greater than default value 2",
                ],
            ),
            (
                limit(json!({"maxLimitRequestRatio": {"cpu": "30"}})),
                &[
                    "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"30\": ratio 30 is greater than max/min = \
                   20.000000",
                ],
            ),
        ],
    );
}

#[test]
fn sets() {
    let spec = |spec: Value| json!({"spec": spec});
    check(
        "apps",
        "StatefulSet",
        &[
            (spec(json!({"selector": null})), &["spec.selector: Required value"]),
            (
                spec(json!({"podManagementPolicy": "Any"})),
                &["spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'"],
            ),
            (
                spec(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}})),
                &[
                    "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy \
                   'RollingUpdate'",
                ],
            ),
            (
                spec(json!({"ordinals": {"start": -1}})),
                &["spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                spec(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]})),
                &[
                    "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required",
                    "spec.volumeClaimTemplates[0].spec.resources[storage]: Required value",
                ],
            ),
        ],
    );
    let hooks = named("apps", "StatefulSet").unwrap();
    let old = good("apps", "StatefulSet");
    let mut new = old.clone();
    new["spec"]["serviceName"] = json!("web");
    assert_eq!(
        (hooks.validate_update)(&new, &old, &context(""))[0].to_string(),
        "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
         'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
    );
    // What is behind a gate is dropped, except where it was let through before.
    let gated = |most: Value| {
        let mut set = old.clone();
        set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most}});
        set
    };
    let kept = |set: &Value| set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"].clone();
    let (mut created, mut updated, mut again) = (gated(json!(2)), gated(json!(2)), gated(json!(3)));
    (hooks.prepare_create)(&mut created, &context(""));
    (hooks.prepare_update)(&mut updated, &old, &context(""));
    (hooks.prepare_update)(&mut again, &gated(json!(2)), &context(""));
    assert_eq!((kept(&created), kept(&updated), kept(&again)), (Value::Null, Value::Null, json!(3)));
    check(
        "apps",
        "DaemonSet",
        &[
            (
                spec(json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}})),
                &[
                    "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is \
                   non-zero",
                ],
            ),
            (
                spec(json!({"template": {"spec": {"activeDeadlineSeconds": 5}}})),
                &[
                    "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
                ],
            ),
        ],
    );
    check(
        "",
        "ReplicationController",
        &[
            (spec(json!({"template": null})), &["spec.selector: Required value", "spec.template: Required value"]),
            (
                spec(json!({"selector": {"app": "db"}})),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template \
                   `labels`",
                ],
            ),
        ],
    );
    let revision = named("apps", "ControllerRevision").unwrap();
    let errors = (revision.validate_create)(&json!({"data": 1}), &context(""));
    assert_eq!(errors[0].to_string(), "data: Required value: data must be a valid JSON object");
}

#[test]
fn a_bound_pod_is_resized_and_looked_into() {
    let hooks = named("", "Pod").unwrap();
    let mut old = good("", "Pod");
    old["spec"]["nodeName"] = json!("n1");
    old["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m", "memory": "1Mi"}});
    (hooks.default)(&mut old);
    (hooks.prepare_create)(&mut old, &context(""));
    let through = |subresource: &str, change: &Value| -> (Value, Vec<String>) {
        let mut new = old.clone();
        merge(&mut new, change);
        (hooks.default)(&mut new);
        (hooks.prepare_update)(&mut new, &old, &context(subresource));
        let errors = (hooks.validate_update)(&new, &old, &context(subresource));
        (new, errors.iter().map(ToString::to_string).collect())
    };
    let container = |change: Value| json!({"spec": {"nodeName": "n2", "containers": {"0": change}}});
    // only resources are taken over
    let (new, errors) =
        through("resize", &container(json!({"image": "x", "resources": {"requests": {"cpu": "200m"}}})));
    assert_eq!(errors, [""; 0]);
    assert_eq!(
        (&new["spec"]["nodeName"], &new["spec"]["containers"][0]["image"]),
        (&json!("n1"), &json!("nginx:1.27"))
    );
    assert_eq!(
        (&new["spec"]["containers"][0]["resources"]["requests"]["cpu"], &new["metadata"]["generation"]),
        (&json!("200m"), &json!(2))
    );
    let (_, errors) = through("resize", &container(json!({"resources": {"requests": {"cpu": null}}})));
    assert_eq!(errors, ["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"]);
    let (_, errors) = through("resize", &container(json!({"resources": {"limits": {"cpu": "100m", "memory": "1Mi"}}})));
    assert_eq!(errors, ["spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"]);
    let (_, errors) = through("resize", &container(json!({"resources": {"requests": {"ephemeral-storage": "1"}}})));
    assert_eq!(errors, ["spec: Forbidden: only cpu and memory resources are mutable"]);

    let debugger = json!({"spec": {"nodeName": "n2", "ephemeralContainers": [{"name": "debug", "image": "busybox"}]}});
    let (new, errors) = through("ephemeralcontainers", &debugger);
    assert_eq!(errors, [""; 0]);
    assert_eq!(
        (&new["spec"]["nodeName"], &new["spec"]["ephemeralContainers"][0]["name"]),
        (&json!("n1"), &json!("debug"))
    );
    let mut gone = new.clone();
    gone["spec"]["ephemeralContainers"] = json!([]);
    assert_eq!(
        (hooks.validate_update)(&gone, &new, &context("ephemeralcontainers"))[0].to_string(),
        "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be removed\n"
    );
}
