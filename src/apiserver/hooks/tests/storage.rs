//! Errors of storage.k8s.io, node.k8s.io and policy.

use serde_json::json;

use super::*;

const GROUP: &str = "storage.k8s.io";

#[test]
fn classes() {
    check(
        GROUP,
        "StorageClass",
        &[
            (json!({"provisioner": null}), &["provisioner: Required value"]),
            (
                json!({"reclaimPolicy": "Recycle"}),
                &["reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\""],
            ),
            (
                json!({"volumeBindingMode": "Later"}),
                &[
                    "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
                ],
            ),
            (
                json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "zone"}, {"key": "zone", "values": ["a", "a"]}]}]}),
                &[
                    "allowedTopologies[0].matchLabelExpressions[0].values: Required value",
                    "allowedTopologies[0].matchLabelExpressions[1].values[1]: Duplicate value: \"a\"",
                    "allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: \"zone\"",
                ],
            ),
            (
                json!({"parameters": {"big": "x".repeat(300_000)}}),
                &["parameters: Too long: may not be more than 262144 bytes"],
            ),
        ],
    );
    check_update(
        GROUP,
        "StorageClass",
        "",
        &[
            (json!({"allowVolumeExpansion": true, "mountOptions": ["ro"]}), &[]),
            (
                json!({"provisioner": "other.io/disk", "reclaimPolicy": "Retain"}),
                &[
                    "provisioner: Invalid value: \"other.io/disk\": field is immutable",
                    "reclaimPolicy: Invalid value: \"Retain\": field is immutable",
                ],
            ),
        ],
    );
    check(
        GROUP,
        "VolumeAttributesClass",
        &[(
            json!({"driverName": null, "parameters": null}),
            &["driverName: Required value", "parameters: Required value: must contain at least one key/value pair"],
        )],
    );
    check_update(
        GROUP,
        "VolumeAttributesClass",
        "",
        &[(
            json!({"driverName": "b.io", "parameters": {"iops": "2"}}),
            &[
                "driverName: Forbidden: updates to driverName are forbidden.",
                "parameters: Forbidden: updates to parameters are forbidden.",
            ],
        )],
    );
}

#[test]
fn drivers_and_attachments() {
    check(
        GROUP,
        "CSIDriver",
        &[
            (
                json!({"spec": {"tokenRequests": [{"audience": "a", "expirationSeconds": 1}, {"audience": "a"}]}}),
                &[
                    "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                    "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                ],
            ),
            (
                json!({"spec": {"volumeLifecycleModes": ["Eternal"]}}),
                &[
                    "spec.volumeLifecycleModes: Unsupported value: \"Eternal\": supported values: \"Ephemeral\", \"Persistent\"",
                ],
            ),
            (
                json!({"spec": {"tokenRequests": null, "serviceAccountTokenInSecrets": true}}),
                &[
                    "spec.serviceAccountTokenInSecrets: Invalid value: true: serviceAccountTokenInSecrets is set but no tokenRequests are specified",
                ],
            ),
        ],
    );
    check_update(
        GROUP,
        "CSIDriver",
        "",
        &[(
            json!({"spec": {"attachRequired": false}}),
            &["spec.attachedRequired: Invalid value: false: field is immutable"],
        )],
    );
    check(
        GROUP,
        "CSINode",
        &[(
            json!({"spec": {"drivers": [{"name": "a.io", "allocatable": {"count": -1}}, {"name": "a.io", "nodeID": "n", "topologyKeys": ["k", "k"]}]}}),
            &[
                "spec.drivers[0].nodeID: Required value",
                "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                "spec.drivers[1].name: Duplicate value: \"a.io\"",
                "spec.drivers[1]: Duplicate value: \"k\"",
            ],
        )],
    );
    check_update(
        GROUP,
        "CSINode",
        "",
        &[
            (json!({"spec": {"drivers": {"0": {"allocatable": {"count": 3}}}}}), &[]),
            (
                json!({"spec": {"drivers": {"0": {"nodeID": "n2"}}}}),
                &[
                    "spec.drivers: Invalid value: {\"name\":\"acme.io\",\"nodeID\":\"n2\",\"topologyKeys\":[\"acme.io/zone\"]}: field is immutable",
                ],
            ),
        ],
    );
    check(
        GROUP,
        "CSIStorageCapacity",
        &[(json!({"capacity": "-1"}), &["capacity: Invalid value: \"-1\": must be greater than or equal to 0"])],
    );
    check_update(
        GROUP,
        "CSIStorageCapacity",
        "",
        &[(json!({"storageClassName": "slow"}), &["storageClassName: Invalid value: \"slow\": field is immutable"])],
    );
    check(
        GROUP,
        "VolumeAttachment",
        &[
            (
                json!({"spec": {"attacher": null, "source": null}}),
                &[
                    "spec.attacher: Required value",
                    "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ],
            ),
            (
                json!({"spec": {"source": {"inlineVolumeSpec": {}}}}),
                &["spec.source: Forbidden: must specify exactly one of inlineVolumeSpec and persistentVolumeName"],
            ),
        ],
    );
    check_update(
        GROUP,
        "VolumeAttachment",
        "",
        &[(
            json!({"spec": {"nodeName": "n2"}}),
            &[
                "spec: Invalid value: {\"attacher\":\"acme.io\",\"nodeName\":\"n2\",\"source\":{\"persistentVolumeName\":\"pv1\"}}: field is immutable",
            ],
        )],
    );
}

#[test]
fn runtime_classes() {
    check(
        "node.k8s.io",
        "RuntimeClass",
        &[
            (json!({"handler": null}), &["handler: Required value"]),
            (
                json!({"overhead": {"podFixed": {"acme": "1"}}}),
                &["overhead.limits[acme]: Invalid value: \"acme\": must be a standard resource for containers"],
            ),
            (
                json!({"scheduling": {"tolerations": [{"operator": "Exists"}, {"operator": "Exists"}]}}),
                &["scheduling.tolerations[1]: Duplicate value: {\"operator\":\"Exists\"}"],
            ),
        ],
    );
    check_update(
        "node.k8s.io",
        "RuntimeClass",
        "",
        &[(json!({"handler": "runc"}), &["handler: Invalid value: \"runc\": field is immutable"])],
    );
}

#[test]
fn disruption_budgets() {
    check(
        "policy",
        "PodDisruptionBudget",
        &[
            (
                json!({"spec": {"maxUnavailable": 1, "selector": null}}),
                &[
                    "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":\"50%\"}: minAvailable and maxUnavailable cannot be both set",
                ],
            ),
            (
                json!({"spec": {"minAvailable": "101%"}}),
                &["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"],
            ),
            (
                json!({"spec": {"minAvailable": -1}}),
                &["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                json!({"spec": {"minAvailable": "5"}}),
                &[
                    "spec.minAvailable: Invalid value: \"5\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ],
            ),
            (
                json!({"spec": {"unhealthyPodEvictionPolicy": "Never"}}),
                &[
                    "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
                ],
            ),
        ],
    );
    check_update(
        "policy",
        "PodDisruptionBudget",
        "status",
        &[(
            json!({"status": {"expectedPods": -1, "conditions": [{"type": "A", "status": "Maybe", "reason": "-"}]}}),
            &[
                "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
                "status.conditions[0].lastTransitionTime: Required value",
                "status.conditions[0].reason: Invalid value: \"-\": a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')",
                "status.expectedPods: Invalid value: -1: must be greater than or equal to 0",
            ],
        )],
    );
}
