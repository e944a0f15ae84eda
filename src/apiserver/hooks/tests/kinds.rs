//! Errors of the smaller kinds and the workloads.

use serde_json::json;

use super::*;

#[test]
fn config_maps_and_secrets() {
    check(
        "",
        "ConfigMap",
        &[
            (json!({"data": {"b": "2"}}), &[]),
            (
                json!({"binaryData": {"a": "AQ=="}}),
                &[
                    "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
                    "binaryData[a]: Invalid value: \"a\": duplicate of key present in data",
                ],
            ),
            (json!({"data": {"a": "x".repeat(1_048_577)}}), &["[]: Too long: may not be more than 1048576 bytes"]),
            (
                json!({"data": {"a/b": "1"}}),
                &[
                    "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or \
             '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ],
            ),
        ],
    );
    check(
        "",
        "Secret",
        &[
            (json!({"type": "kubernetes.io/tls"}), &["data[tls.crt]: Required value", "data[tls.key]: Required value"]),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                &["data[username]: Required value", "data[password]: Required value"],
            ),
            (json!({"type": "kubernetes.io/dockerconfigjson"}), &["data[.dockerconfigjson]: Required value"]),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{"}}),
                &[
                    "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input",
                ],
            ),
            (json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{}"}}), &[]),
            (json!({"type": "kubernetes.io/ssh-auth"}), &["data[ssh-privatekey]: Required value"]),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
        ],
    );
    let mut secret = good("", "Secret");
    (named("", "Secret").unwrap().default)(&mut secret);
    assert_eq!((secret["type"].as_str(), secret["data"]["a"].as_str()), (Some("Opaque"), Some("MQ==")));
    assert!(secret.get("stringData").is_none());
}

#[test]
fn immutable_data_stays() {
    for (kind, extra) in [("ConfigMap", json!({"data": {"a": "1"}})), ("Secret", json!({"data": {"a": "MQ=="}}))] {
        let hooks = named("", kind).unwrap();
        let mut old = json!({"immutable": true, "type": "Opaque"});
        merge(&mut old, &extra);
        let mut new = old.clone();
        merge(&mut new, &json!({"immutable": null, "data": {"a": "Mg=="}}));
        let errors: Vec<String> =
            (hooks.validate_update)(&new, &old, &context("")).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
        assert_eq!((hooks.validate_update)(&old, &old, &context("")), Vec::new());
    }
}

#[test]
fn workloads() {
    check(
        "apps",
        "Deployment",
        &[
            (json!({"spec": {"selector": null}}), &["spec.selector: Required value"]),
            (
                json!({"spec": {"selector": {"matchLabels": {"app": "db"}}}}),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                json!({"spec": {"selector": {"matchLabels": null}}}),
                &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
            ),
            (
                json!({"spec": {"replicas": -1}}),
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": {}}}}),
                &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
            ),
            (
                json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}}),
                &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
            ),
            (
                json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}),
                &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": []}}}}),
                &["spec.template.spec.containers: Required value"],
            ),
            (
                json!({"spec": {"minReadySeconds": 700}}),
                &["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
            ),
        ],
    );
    let hooks = named("apps", "ReplicaSet").unwrap();
    let old = good("apps", "ReplicaSet");
    let mut new = old.clone();
    new["spec"]["selector"]["matchLabels"]["app"] = json!("db");
    assert_eq!(
        (hooks.validate_update)(&new, &old, &context(""))[0].to_string(),
        "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"db\"}}: field is immutable"
    );
    let mut deployment = good("apps", "Deployment");
    (named("apps", "Deployment").unwrap().default)(&mut deployment);
    let spec = &deployment["spec"];
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!((spec["replicas"].as_i64(), spec["revisionHistoryLimit"].as_i64()), (Some(1), Some(10)));
    // what only pods get is not written into templates
    assert!(spec["template"]["spec"].get("enableServiceLinks").is_none());
}

#[test]
fn roles_and_bindings() {
    check(
        "rbac.authorization.k8s.io",
        "Role",
        &[
            (
                json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}),
                &[
                    "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                ],
            ),
            (
                json!({"rules": [{"resources": ["pods"]}]}),
                &[
                    "rules[0].verbs: Required value: verbs must contain at least one value",
                    "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                ],
            ),
        ],
    );
    check(
        "rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        &[
            (
                json!({"roleRef": {"kind": "Role"}}),
                &["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
            ),
            (json!({"subjects": {"1": {"namespace": null}}}), &["subjects[1].namespace: Required value"]),
            (
                json!({"subjects": {"0": {"kind": "Robot"}}}),
                &[
                    "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
                ],
            ),
        ],
    );
}

#[test]
fn the_rest() {
    check(
        "",
        "Namespace",
        &[(
            json!({"spec": {"finalizers": ["x"]}}),
            &[
                "spec.finalizers: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
            ],
        )],
    );
    check(
        "",
        "Node",
        &[(
            json!({"spec": {"taints": [{"key": "a", "effect": "Maybe"}]}}),
            &["spec.taints[0].effect: Unsupported value: \"Maybe\": supported values: \"NoExecute\", \"NoSchedule\", \
         \"PreferNoSchedule\""],
        )],
    );
    check(
        "",
        "Endpoints",
        &[
            (
                json!({"subsets": [{}]}),
                &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"],
            ),
            (
                json!({"subsets": {"0": {"addresses": {"0": {"ip": "127.0.0.1"}}}}}),
                &[
                    "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
             ::1/128)",
                ],
            ),
        ],
    );
    check(
        "",
        "Event",
        &[(
            json!({"involvedObject": {"namespace": "other"}}),
            &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
        )],
    );
    check(
        "scheduling.k8s.io",
        "PriorityClass",
        &[
            (
                json!({"value": 1_000_000_001}),
                &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
            ),
            (
                json!({"metadata": {"name": "system-mine"}}),
                &[
                    "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. \
             error: system-mine is not a known system priority class",
                ],
            ),
        ],
    );
    check(
        "coordination.k8s.io",
        "Lease",
        &[
            (json!({"spec": {"holderIdentity": ""}}), &[]), // released
            (
                json!({"spec": {"leaseDurationSeconds": 0, "preferredHolder": "x"}}),
                &[
                    "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                    "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
                ],
            ),
        ],
    );
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        &[
            (
                json!({"addressType": "IPv5"}),
                &["addressType: Unsupported value: \"IPv5\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
            ),
            (
                json!({"endpoints": [{"addresses": ["fd00::1"]}]}),
                &["endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be an IPv4 address"],
            ),
        ],
    );
    check(
        "autoscaling",
        "Scale",
        &[(
            json!({"spec": {"replicas": -2}}),
            &["spec.replicas: Invalid value: -2: must be greater than or equal to 0"],
        )],
    );
    check(
        "authentication.k8s.io",
        "TokenRequest",
        &[(
            json!({"spec": {"expirationSeconds": 10}}),
            &["spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes"],
        )],
    );
    check(
        "authorization.k8s.io",
        "SubjectAccessReview",
        &[
            (
                json!({"spec": {"user": null}}),
                &["spec.user: Invalid value: \"\": at least one of user or group must be specified"],
            ),
            (
                json!({"spec": {"nonResourceAttributes": null}}),
                &[
                    "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes \
             must be specified",
                ],
            ),
        ],
    );
    check(
        "",
        "Binding",
        &[(
            json!({"target": {"kind": "Pod", "name": null}}),
            &[
                "target.kind: Unsupported value: \"Pod\": supported values: \"<empty>\", \"Node\"",
                "target.name: Required value",
            ],
        )],
    );
}

#[test]
fn binding_and_scale_change_their_object() {
    let pods = by_kind("", "v1", "Pod").unwrap();
    let mut pod = json!({"metadata": {"name": "p", "uid": "u", "generation": 1}, "spec": {}, "status": {}});
    let binding = json!({"metadata": {"uid": "u", "annotations": {"a": "b"}}, "target": {"name": "n1"}});
    core::binding::apply(pods, &mut pod, &binding, &context("binding")).unwrap();
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(
        (pod["metadata"]["generation"].as_i64(), pod["metadata"]["annotations"]["a"].as_str()),
        (Some(1), Some("b"))
    );
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    let again = core::binding::apply(pods, &mut pod, &binding, &context("binding")).unwrap_err();
    assert_eq!(
        (again.code, again.message.as_str()),
        (409, "Operation cannot be fulfilled on pods \"p\": pod p is already assigned to node \"n1\"",)
    );
    let mut deployment = good("apps", "Deployment");
    deployment["metadata"]["generation"] = json!(1);
    autoscaling::apply(&mut deployment, &json!({"spec": {"replicas": 3}}));
    let scale = autoscaling::scale_of(&deployment);
    assert_eq!((scale["spec"]["replicas"].as_i64(), scale["status"]["selector"].as_str()), (Some(3), Some("app=web")));
    assert_eq!(deployment["metadata"]["generation"], 2);
}
