//! Errors of resource.k8s.io.

use serde_json::json;

use super::*;

const GROUP: &str = "resource.k8s.io";

#[test]
fn device_classes() {
    check(
        GROUP,
        "DeviceClass",
        &[
            (json!({"spec": {"selectors": [{}]}}), &["spec.selectors[0].cel: Required value"]),
            (
                json!({"spec": {"selectors": [{"cel": {"expression": "device.driver"}}]}}),
                &[
                    "spec.selectors[0].cel.expression: Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not string",
                ],
            ),
            (
                json!({"spec": {"selectors": [{"cel": {"expression": "cel.bind(d, device.attributes['a.io'], d.x && d.y)"}}]}}),
                &[],
            ),
            (
                json!({"spec": {"config": [{}, {"opaque": {"driver": "a.io", "parameters": [1]}}]}}),
                &[
                    "spec.config[0].opaque: Required value",
                    "spec.config[1].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
                ],
            ),
            (
                json!({"spec": {"extendedResourceName": "cpu"}}),
                &["spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name"],
            ),
            (json!({"spec": {"extendedResourceName": "acme.io/gpu"}}), &[]),
        ],
    );
}

#[test]
fn resource_claims() {
    let request = |request: Value| json!({"spec": {"devices": {"requests": {"0": request}}}});
    check(
        GROUP,
        "ResourceClaim",
        &[
            (
                request(json!({"exactly": null})),
                &["spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"],
            ),
            (
                request(json!({"firstAvailable": [{"name": "a"}]})),
                &[
                    "spec.devices.requests[0]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                ],
            ),
            (
                request(json!({"exactly": {"deviceClassName": null, "allocationMode": "All", "count": 2}})),
                &[
                    "spec.devices.requests[0].exactly.deviceClassName: Required value",
                    "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
                ],
            ),
            (
                request(json!({"exactly": {"tolerations": [{}, {"operator": "Exists", "value": "x"}]}})),
                &[
                    "spec.devices.requests[0].exactly.tolerations[0].operator: Required value",
                    "spec.devices.requests[0].exactly.tolerations[1].value: Invalid value: \"x\": must be empty for operator `Exists`",
                ],
            ),
            (
                json!({"spec": {"devices": {"constraints": [{"requests": ["nic"], "matchAttribute": "model"}, {}]}}}),
                &[
                    "spec.devices.constraints[0].requests[0]: Invalid value: \"nic\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                    "spec.devices.constraints[0].matchAttribute: Invalid value: \"model\": a fully qualified name must be a domain and a name separated by a slash",
                    "spec.devices.constraints[1]: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
                ],
            ),
        ],
    );
    let changed = json!({"spec": {"devices": {"requests": {"0": {"name": "nic"}}}}});
    for kind in ["ResourceClaim", "ResourceClaimTemplate"] {
        let hooks = named(GROUP, kind).unwrap();
        let old = good(GROUP, kind);
        let mut new = old.clone();
        merge(&mut new["spec"], &json!({"marker": 1}));
        let said = (hooks.validate_update)(&new, &old, &context(""));
        assert!(said[0].to_string().ends_with("field is immutable"), "{said:?}");
    }
    let mut claim = good(GROUP, "ResourceClaim");
    merge(&mut claim, &changed);
    (named(GROUP, "ResourceClaim").unwrap().default)(&mut claim);
    let exactly = &claim["spec"]["devices"]["requests"][0]["exactly"];
    assert_eq!((&exactly["allocationMode"], &exactly["count"]), (&json!("ExactCount"), &json!(1)));
}

#[test]
fn statuses_of_claims() {
    let device = json!({"request": "gpu", "driver": "a.io", "pool": "p", "device": "d"});
    let allocation = json!({"devices": {"results": [device]}});
    check_update(
        GROUP,
        "ResourceClaim",
        "status",
        &[
            (
                json!({"status": {"allocation": allocation, "reservedFor": [{"resource": "pods", "name": "a", "uid": "1"}]}}),
                &[],
            ),
            (
                json!({"status": {"reservedFor": [{"resource": "pods", "uid": "1"}]}}),
                &[
                    "status.reservedFor[0].name: Required value",
                    "status.reservedFor: Forbidden: may not be specified when `allocated` is not set",
                ],
            ),
            (
                json!({"status": {"allocation": {"devices": {"results": [{"request": "nic", "driver": "a.io", "pool": "p", "device": "d", "bindingConditions": ["Ready"]}]}}}}),
                &[
                    "status.allocation.devices.results[0].request: Invalid value: \"nic\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                    "status.allocation.devices.results[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions",
                ],
            ),
            (
                json!({"status": {"allocation": allocation, "devices": [{"driver": "a.io", "pool": "p", "device": "e", "networkData": {"ips": ["10.0.0.1"]}}]}}),
                &[
                    "status.devices[0]: Invalid value: \"a.io/p/e\": must be an allocated device in the claim",
                    "status.devices[0].networkData.ips[0]: Invalid value: \"10.0.0.1\": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
                ],
            ),
        ],
    );
}

#[test]
fn resource_slices() {
    let device = |device: Value| json!({"spec": {"devices": {"0": device}}});
    check(
        GROUP,
        "ResourceSlice",
        &[
            (
                json!({"spec": {"driver": null, "pool": {"resourceSliceCount": null}}}),
                &[
                    "spec.driver: Required value",
                    "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                ],
            ),
            (
                json!({"spec": {"nodeName": null}}),
                &[
                    "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
                ],
            ),
            (
                json!({"spec": {"allNodes": true}}),
                &[
                    "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
                ],
            ),
            (
                device(json!({"attributes": {"9": {}, "v": {"version": "1.0"}}})),
                &[
                    "spec.devices[0].attributes: Invalid value: \"9\": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
                    "spec.devices[0].attributes[9]: Invalid value: \"\": exactly one value must be specified",
                    "spec.devices[0].attributes[v].version: Invalid value: \"1.0\": must be a string compatible with semver.org spec 2.0.0",
                ],
            ),
            (device(json!({"attributes": {"v": {"version": "1.0.0-rc.1+b.7"}}})), &[]),
            (
                device(json!({"capacity": {"memory": {"requestPolicy": {}}}})),
                &["spec.devices[0].capacity[memory].requestPolicy: Forbidden: allowMultipleAllocations must be true"],
            ),
            (
                device(
                    json!({"allowMultipleAllocations": true, "capacity": {"memory": {"requestPolicy": {"default": "3Gi", "validRange": {"min": "2Gi"}}}}}),
                ),
                &[
                    "spec.devices[0].capacity[memory].requestPolicy.validRange.min: Invalid value: \"2Gi\": min is larger than capacity value: 1Gi",
                ],
            ),
            (
                device(json!({"taints": [{"key": "a", "effect": "Never"}]})),
                &[
                    "spec.devices[0].taints[0].effect: Unsupported value: \"Never\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
                ],
            ),
            (
                device(json!({"consumesCounters": [{"counterSet": "a"}]})),
                &["spec.devices[0].consumesCounters[0].counters: Required value"],
            ),
            (
                device(json!({"allNodes": true})),
                &[
                    "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
                ],
            ),
        ],
    );
    check_update(
        GROUP,
        "ResourceSlice",
        "",
        &[(
            json!({"spec": {"pool": {"name": "other"}, "driver": "b.io"}}),
            &[
                "spec.pool.name: Invalid value: \"other\": field is immutable",
                "spec.driver: Invalid value: \"b.io\": field is immutable",
            ],
        )],
    );
    let hooks = named(GROUP, "ResourceSlice").unwrap();
    let mut slice = good(GROUP, "ResourceSlice");
    merge(
        &mut slice,
        &device(json!({"taints": [{"key": "a", "effect": "None"}], "attributes": {"model": {"ints": [1]}}})),
    );
    (hooks.prepare_create)(&mut slice, &context(""));
    let device = &slice["spec"]["devices"][0];
    assert_eq!(device["taints"][0]["timeAdded"], "1970-01-01T00:00:00Z");
    assert_eq!(device["attributes"]["model"], json!({"string": "x"}));
}
