//! Valid objects of the groups besides core and the workloads.

use serde_json::{Value, json};

/// As [`super::good`].
pub fn good(group: &str, kind: &str) -> Value {
    match (group, kind) {
        ("networking.k8s.io", "Ingress") => json!({"spec": {
            "ingressClassName": "web",
            "rules": [{"host": "a.example.com", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}},
            ]}}],
            "tls": [{"hosts": ["a.example.com"], "secretName": "web"}],
        }}),
        ("networking.k8s.io", "IngressClass") => {
            json!({"spec": {"controller": "acme.io/web", "parameters": {"kind": "Config", "name": "web"}}})
        }
        ("networking.k8s.io", "IPAddress") => json!({"spec": {"parentRef": {"resource": "services", "name": "web"}}}),
        ("networking.k8s.io", "NetworkPolicy") => json!({"spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{
                "from": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                "ports": [{"port": 80, "endPort": 90}, {"port": "http"}],
            }],
        }}),
        ("networking.k8s.io", "ServiceCIDR") => json!({"spec": {"cidrs": ["10.96.0.0/16"]}}),
        ("policy", "PodDisruptionBudget") => {
            json!({"spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}}})
        }
        ("storage.k8s.io", "StorageClass") => json!({"provisioner": "acme.io/disk", "parameters": {"kind": "fast"}}),
        ("storage.k8s.io", "VolumeAttributesClass") => {
            json!({"driverName": "acme.io", "parameters": {"iops": "100"}})
        }
        ("storage.k8s.io", "CSIDriver") => json!({"spec": {"tokenRequests": [{"audience": "acme"}]}}),
        ("storage.k8s.io", "CSINode") => {
            json!({"spec": {"drivers": [{"name": "acme.io", "nodeID": "n1", "topologyKeys": ["acme.io/zone"]}]}})
        }
        ("storage.k8s.io", "CSIStorageCapacity") => json!({"storageClassName": "fast", "capacity": "1024Mi"}),
        ("storage.k8s.io", "VolumeAttachment") => {
            json!({"spec": {"attacher": "acme.io", "nodeName": "n1", "source": {"persistentVolumeName": "pv1"}}})
        }
        ("node.k8s.io", "RuntimeClass") => json!({
            "handler": "gvisor", "overhead": {"podFixed": {"cpu": "0.1"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
        }),
        ("certificates.k8s.io", _) => json!({"spec": {
            "request": REQUEST, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
        }}),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => json!({"spec": {
            "priorityLevelConfiguration": {"name": "system"},
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "ann"}}],
                "resourceRules": [
                    {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["shop"]},
                ],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/healthz"]}],
            }],
        }}),
        ("flowcontrol.apiserver.k8s.io", _) => json!({"spec": {
            "type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}},
        }}),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            json!({"webhooks": [{
                "name": "a.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": {"service": {"namespace": "shop", "name": "hook", "path": "/check"}},
                "rules": [rule()], "matchConditions": [{"name": "own", "expression": "true"}],
            }]})
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => json!({"spec": {
            "matchConstraints": {"resourceRules": [rule()]},
            "variables": [{"name": "pods", "expression": "1"}],
            "validations": [{"expression": "true", "message": "no"}],
            "auditAnnotations": [{"key": "size", "valueExpression": "'1'"}],
        }}),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => json!({"spec": {
            "matchConstraints": {"resourceRules": [rule()]}, "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/spec'}]"}}],
        }}),
        ("admissionregistration.k8s.io", _) => json!({"spec": {
            "policyName": "web", "validationActions": ["Deny"],
            "paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"},
        }}),
        ("resource.k8s.io", "DeviceClass") => json!({"spec": {"selectors": [{"cel": {"expression": "true"}}]}}),
        ("resource.k8s.io", "ResourceClaim") => json!({"spec": claim()}),
        ("resource.k8s.io", "ResourceClaimTemplate") => {
            json!({"spec": {"metadata": {"labels": {"a": "b"}}, "spec": claim()}})
        }
        ("resource.k8s.io", _) => json!({"spec": {
            "driver": "acme.io", "nodeName": "n1", "pool": {"name": "n1", "resourceSliceCount": 1},
            "devices": [{
                "name": "gpu0", "attributes": {"model": {"string": "x"}}, "capacity": {"memory": {"value": "1024Mi"}},
            }],
        }}),
        ("apiregistration.k8s.io", _) => json!({"spec": {
            "group": "acme.io", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 10,
            "service": {"namespace": "shop", "name": "api"}, "insecureSkipTLSVerify": true,
        }}),
        _ => json!({}),
    }
}

fn claim() -> Value {
    json!({"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}})
}

fn rule() -> Value {
    json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE"]})
}

/// A request of the key that it is for, as `openssl req -new` writes it, in base64.
const REQUEST: &str = include_str!("request.b64");
