//! Pods: defaults and errors.

use serde_json::json;

use super::*;

fn pod(spec: Value) -> Value {
    json!({"spec": {"containers": {"0": spec}}})
}

#[test]
fn defaults_are_upstreams() {
    let mut pod = good("", "Pod");
    merge(
        &mut pod,
        &json!({"spec": {
            "hostNetwork": true,
            "containers": {"0": {
                "resources": {"limits": {"cpu": "1000m", "memory": "1.5Gi"}, "requests": {"cpu": 0.5}},
                "livenessProbe": {"httpGet": {"port": 80}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            }},
            "volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "c"}}, {"name": "h", "hostPath": {"path": "/x"}}],
        }}),
    );
    (named("", "Pod").unwrap().default)(&mut pod);
    assert_eq!(
        pod["spec"],
        json!({
            "containers": [{
                "name": "web", "image": "nginx:1.27", "imagePullPolicy": "IfNotPresent",
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "livenessProbe": {
                    "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
                    "failureThreshold": 3, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1,
                },
                "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                "resources": {
                    "limits": {"cpu": "1", "memory": "1536Mi"},
                    "requests": {"cpu": "500m", "memory": "1536Mi"},
                },
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "hostNetwork": true, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            "volumes": [
                {"name": "a", "emptyDir": {}},
                {"name": "b", "configMap": {"name": "c", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/x", "type": ""}},
            ],
        })
    );
}

#[test]
fn pull_policy_follows_the_tag() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("host:5000/nginx:2", "IfNotPresent"),
        ("nginx@sha256:abc", "IfNotPresent"),
        ("nginx:latest@sha256:abc", "Always"),
    ] {
        let mut object = good("", "Pod");
        object["spec"]["containers"][0]["image"] = json!(image);
        (named("", "Pod").unwrap().default)(&mut object);
        assert_eq!(object["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn qos_classes() {
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}), "Guaranteed"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1"}}), "Burstable"),
    ] {
        let spec = json!({"containers": [{"resources": resources}]});
        assert_eq!(core::pod::qos::class(&spec), class, "{resources}");
    }
}

#[test]
fn containers() {
    check(
        "",
        "Pod",
        &[
            (json!({"spec": {"containers": []}}), &["spec.containers: Required value"]),
            (
                pod(json!({"name": "Web"})),
                &[
                    "spec.containers[0].name: Invalid value: \"Web\": a lowercase RFC 1123 label must consist of lower case \
             alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
             '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (pod(json!({"image": ""})), &["spec.containers[0].image: Required value"]),
            (
                pod(json!({"imagePullPolicy": "Often"})),
                &["spec.containers[0].imagePullPolicy: Unsupported value: \"Often\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\""],
            ),
            (
                json!({"spec": {"initContainers": [{"name": "web", "image": "x"}]}}),
                &["spec.initContainers[0].name: Duplicate value: \"web\""],
            ),
            (
                json!({"spec": {"initContainers": [{"name": "i", "image": "x", "readinessProbe": {"exec": {"command": ["x"]}}}]}}),
                &["spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without \
             restartPolicy=Always"],
            ),
            (
                pod(json!({"ports": [{"containerPort": 70000}]})),
                &[
                    "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                pod(json!({"ports": [{"containerPort": 1, "hostPort": 8}, {"containerPort": 2, "hostPort": 8}]})),
                &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//8\""],
            ),
            (
                pod(json!({"ports": [{"containerPort": 1, "name": "1234"}]})),
                &["spec.containers[0].ports[0].name: Invalid value: \"1234\": must contain at least one letter (a-z)"],
            ),
            (
                pod(json!({"env": [{"name": "A=B"}]})),
                &[
                    "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only \
             of printable ASCII characters other than '='",
                ],
            ),
            (
                pod(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]})),
                &[
                    "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.x\": supported values: \
             \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
             \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
                ],
            ),
            (
                pod(json!({"volumeMounts": [{"name": "gone", "mountPath": "/x"}]})),
                &["spec.containers[0].volumeMounts[0].name: Not found: \"gone\""],
            ),
            (
                pod(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
                &[
                    "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                ],
            ),
            (
                pod(json!({"resources": {"limits": {"gpu": "1"}}})),
                &[
                    "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                    "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for \
             containers",
                ],
            ),
            (
                pod(json!({"livenessProbe": {}})),
                &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
            ),
            (
                pod(json!({"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}})),
                &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
            ),
            (
                pod(json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}})),
                &["spec.containers[0].securityContext: Invalid value: \
             {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false \
             and `privileged` to true"],
            ),
        ],
    );
}

#[test]
fn host_network_ports() {
    let ports = |port: Value| json!({"hostNetwork": true, "containers": {"0": {"ports": [port]}}});
    let wrong = "hostPort: Invalid value: 9: must match `containerPort` when `hostNetwork` is true";
    check(
        "",
        "Pod",
        &[
            (json!({"spec": ports(json!({"containerPort": 8}))}), &[]),
            (
                json!({"spec": ports(json!({"containerPort": 8, "hostPort": 9}))}),
                &[&format!("spec.containers[0].ports[0].{wrong}")],
            ),
        ],
    );
    check(
        "apps",
        "ReplicaSet",
        &[
            (json!({"spec": {"template": {"spec": ports(json!({"containerPort": 8}))}}}), &[]),
            (
                json!({"spec": {"template": {"spec": ports(json!({"containerPort": 8, "hostPort": 9}))}}}),
                &[&format!("spec.template.spec.containers[0].ports[0].{wrong}")],
            ),
        ],
    );
}

#[test]
fn the_spec() {
    check(
        "",
        "Pod",
        &[
            (
                json!({"spec": {"restartPolicy": "Sometimes"}}),
                &[
                    "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
                ],
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "secret": {}}]}}),
                &["spec.volumes[0].secret.secretName: Required value"],
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/a/../b"}}]}}),
                &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                json!({"spec": {"volumes": [{"name": "v"}, {"name": "v"}]}}),
                &["spec.volumes[1].name: Duplicate value: \"v\""],
            ),
            (
                json!({"spec": {"activeDeadlineSeconds": 0}}),
                &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
            ),
            (
                json!({"spec": {"dnsPolicy": "None"}}),
                &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
            ),
            (
                json!({"spec": {"tolerations": [{"operator": "Equal"}]}}),
                &[
                    "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which \
             means \"match all values and all keys\"",
                ],
            ),
            (
                json!({"spec": {"securityContext": {"runAsUser": -1}}}),
                &["spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
            ),
            (
                json!({"spec": {"securityContext": {"sysctls": [{"name": "foo-", "value": "1"},
                    {"name": "kernel.shm/rmid_forced", "value": "1"}, {"name": "a.", "value": "1"}]}}}),
                &[
                    "spec.securityContext.sysctls[0].name: Invalid value: \"foo-\": must have at most 253 characters and match \
             regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                    "spec.securityContext.sysctls[2].name: Invalid value: \"a.\": must have at most 253 characters and match \
             regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                ],
            ),
            (
                json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}}}),
                &[
                    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required \
             value: must have at least one node selector term",
                ],
            ),
            (
                json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}}),
                &["spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"],
            ),
        ],
    );
}

#[test]
fn updates() {
    let hooks = named("", "Pod").unwrap();
    let mut old = good("", "Pod");
    old["spec"]["tolerations"] =
        json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]);
    old["spec"]["activeDeadlineSeconds"] = json!(10);
    (hooks.default)(&mut old);
    let rows: &[(Value, &[&str])] = &[
        (json!({"spec": {"containers": {"0": {"image": "nginx:2"}}}}), &[]),
        (json!({"spec": {"activeDeadlineSeconds": 5}}), &[]),
        (json!({"spec": {"tolerations": {"0": {"tolerationSeconds": 9}}}}), &[]),
        (
            json!({"spec": {"schedulingGates": [{"name": "g"}]}}),
            &["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"],
        ),
        (
            json!({"spec": {"activeDeadlineSeconds": 50}}),
            &["spec.activeDeadlineSeconds: Invalid value: 50: must be less than or equal to previous value"],
        ),
        (
            json!({"spec": {"tolerations": []}}),
            &["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
        ),
        (
            json!({"spec": {"containers": []}}),
            &["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        (
            json!({"spec": {"nodeName": "n2"}}),
            &["spec: Forbidden: pod updates may not change fields other than \
             `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` \
             (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if \
             it was previously negative)\nchanged: nodeName"],
        ),
    ];
    for (change, expected) in rows {
        let mut new = old.clone();
        merge(&mut new, change);
        let errors: Vec<String> =
            (hooks.validate_update)(&new, &old, &context("")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, *expected, "{change}");
    }
}

#[test]
fn surprises_are_told() {
    let warn = |group: &str, kind: &str, change: Value| {
        let mut object = good(group, kind);
        merge(&mut object, &change);
        (named(group, kind).unwrap().warnings)(&object)
    };
    let none = Vec::<String>::new();
    assert_eq!((warn("", "Pod", json!({})), warn("apps", "Deployment", json!({}))), (none.clone(), none));
    assert_eq!(
        warn(
            "",
            "Pod",
            json!({"spec": {
                "nodeSelector": {"beta.kubernetes.io/os": "linux"},
                "imagePullSecrets": [{}],
                "terminationGracePeriodSeconds": -1,
                "containers": {"0": {
                    "env": [{"name": "A"}, {"name": "A"}],
                    "ports": [{"containerPort": 80}, {"containerPort": 81}, {"containerPort": 80}],
                    "resources": {"limits": {"memory": "100m"}},
                }},
            }})
        ),
        [
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.imagePullSecrets[0].name: invalid empty name \"\"",
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[2]: duplicate port definition with spec.containers[0].ports[0]",
            "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
        ]
    );
    let dotted = warn("apps", "Deployment", json!({"metadata": {"name": "a.b"}}));
    assert!(dotted[0].starts_with(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is \
         recommended: [a lowercase RFC 1123 label must"
    ));
}

#[test]
fn grace_periods() {
    let grace = named("", "Pod").unwrap().grace_seconds.unwrap();
    let bound = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
    for (change, requested, seconds) in [
        (json!({}), None, 30),
        (json!({}), Some(5), 5),
        (json!({}), Some(0), 0),
        (json!({"spec": {"nodeName": null}}), None, 0),
        (json!({"status": {"phase": "Failed"}}), Some(9), 0),
        (json!({"spec": {"terminationGracePeriodSeconds": -3}}), None, 1),
    ] {
        let mut pod = bound.clone();
        merge(&mut pod, &change);
        assert_eq!(grace(&pod, requested), seconds, "{change} {requested:?}");
    }
}
