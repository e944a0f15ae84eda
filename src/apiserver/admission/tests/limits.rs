//! LimitRanger, RuntimeClass and the defaults of claims and ingresses.

use super::*;

fn shop() -> Fixed {
    Fixed::default().with("", "Namespace", json!({"metadata": {"name": "shop"}, "status": {"phase": "Active"}})).with(
        "",
        "ServiceAccount",
        json!({"metadata": {"name": "default", "namespace": "shop"}}),
    )
}

fn limited(limit: Value) -> Fixed {
    shop().with("", "LimitRange", json!({"metadata": {"name": "l", "namespace": "shop"}, "spec": {"limits": [limit]}}))
}

fn pod(requests: Value, limits: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "a", "resources": {"requests": requests, "limits": limits}}]}})
}

#[test]
fn limits_are_defaults() {
    let view =
        limited(json!({"type": "Container", "default": {"cpu": "2", "memory": "1Gi"}, "defaultRequest": {"cpu": "1"}}));
    let mut made = pod(json!({"memory": "1Mi"}), json!({"cpu": "3"}));
    made["spec"]["initContainers"] = json!([{"name": "i"}]);
    create(&view, "", "Pod", "shop", &mut made).unwrap();
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "3", "memory": "1Gi"}})
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container a; memory limit for container a; cpu request for init container \
         i; cpu, memory limit for init container i"
    );
}

#[test]
fn limits_refuse() {
    for (limit, requests, limits, why) in [
        (
            json!({"min": {"cpu": "1"}}),
            json!({}),
            json!({}),
            "minimum cpu usage per Container is 1.  No request is specified",
        ),
        (
            json!({"min": {"cpu": "1"}}),
            json!({"cpu": "500m"}),
            json!({}),
            "minimum cpu usage per Container is 1, but request is 500m",
        ),
        (
            json!({"max": {"cpu": "1"}}),
            json!({}),
            json!({}),
            "maximum cpu usage per Container is 1.  No limit is specified",
        ),
        (
            json!({"max": {"memory": "1Gi"}}),
            json!({}),
            json!({"memory": "2Gi"}),
            "maximum memory usage per Container is 1Gi, but limit is 2Gi",
        ),
        (
            json!({"max": {"cpu": "1"}, "min": {"memory": "1"}}),
            json!({}),
            json!({"cpu": "2"}),
            "[minimum memory usage per Container is 1.  No request is specified, maximum cpu usage per Container is 1, but \
             limit is 2]",
        ),
        (
            json!({"maxLimitRequestRatio": {"cpu": "1500m"}}),
            json!({"cpu": "1"}),
            json!({"cpu": "2"}),
            "cpu max limit to request ratio per Container is 1500m, but provided ratio is 2.000000",
        ),
        (
            json!({"type": "Pod", "max": {"cpu": "1"}}),
            json!({}),
            json!({"cpu": "2"}),
            "maximum cpu usage per Pod is 1, but limit is 2",
        ),
    ] {
        let mut limit = limit;
        if limit.get("type").is_none() {
            limit["type"] = json!("Container");
        }
        let refused = create(&limited(limit), "", "Pod", "shop", &mut pod(requests, limits)).unwrap_err();
        assert_eq!(refused.message, format!("pods \"p\" is forbidden: {why}"));
    }
    let view = limited(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}));
    let mut claim = json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    assert_eq!(
        create(&view, "", "PersistentVolumeClaim", "shop", &mut claim).unwrap_err().message,
        "persistentvolumeclaims \"c\" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"
    );
}

#[test]
fn a_runtime_class_is_part_of_its_pods() {
    let class = json!({"metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}});
    let view = shop().with("node.k8s.io", "RuntimeClass", class);
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"runtimeClassName": "vm", "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "vm", "operator": "Exists", "effect": "NoSchedule"}]}});
    create(&view, "", "Pod", "shop", &mut pod).unwrap();
    assert_eq!(pod["spec"]["overhead"], json!({"cpu": "250m"}));
    assert_eq!(pod["spec"]["nodeSelector"], json!({"disk": "ssd", "vm": "yes"}));
    let tolerations: Vec<&Value> =
        pod["spec"]["tolerations"].as_array().unwrap().iter().filter(|t| t["key"] == "vm").collect();
    assert_eq!(tolerations, [&json!({"key": "vm", "operator": "Exists"})]);
    for (spec, why) in [
        (json!({"runtimeClassName": "none"}), "pod rejected: RuntimeClass \"none\" not found"),
        (
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
        ),
    ] {
        let refused =
            create(&view, "", "Pod", "shop", &mut json!({"metadata": {"name": "p"}, "spec": spec})).unwrap_err();
        assert_eq!(refused.message, format!("pods \"p\" is forbidden: {why}"));
    }
}

#[test]
fn classes_have_defaults() {
    let class = |name: &str, created: &str, annotation: &str| json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": {annotation: "true"}}, "allowVolumeExpansion": true});
    let default = "storageclass.kubernetes.io/is-default-class";
    let view = shop()
        .with("storage.k8s.io", "StorageClass", class("old", "2026-01-01T00:00:00Z", default))
        .with("storage.k8s.io", "StorageClass", class("new", "2026-01-02T00:00:00Z", default))
        .with(
            "networking.k8s.io",
            "IngressClass",
            class("edge", "2026-01-01T00:00:00Z", "ingressclass.kubernetes.io/is-default-class"),
        );
    let mut claim = json!({"metadata": {"name": "c"}, "spec": {}});
    create(&view, "", "PersistentVolumeClaim", "shop", &mut claim).unwrap();
    assert_eq!(claim["spec"]["storageClassName"], "new");
    assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let mut none = json!({"metadata": {"name": "c"}, "spec": {"storageClassName": ""}});
    create(&view, "", "PersistentVolumeClaim", "shop", &mut none).unwrap();
    assert_eq!(none["spec"]["storageClassName"], "");
    let mut volume = json!({"metadata": {"name": "v"}});
    create(&view, "", "PersistentVolume", "", &mut volume).unwrap();
    assert_eq!(volume["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection"]));
    let mut ingress = json!({"metadata": {"name": "i"}, "spec": {}});
    create(&view, "networking.k8s.io", "Ingress", "shop", &mut ingress).unwrap();
    assert_eq!(ingress["spec"]["ingressClassName"], "edge");

    let sized = |size: &str, phase: &str, class: &str| {
        json!({"metadata": {"name": "c"}, "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}},
            "status": {"phase": phase}})
    };
    for (old, new, why) in [
        (sized("1Gi", "Bound", "new"), sized("2Gi", "Bound", "new"), ""),
        (sized("2Gi", "Pending", "new"), sized("1Gi", "Pending", "new"), ""),
        (
            sized("1Gi", "Pending", "new"),
            sized("2Gi", "Pending", "new"),
            "persistentvolumeclaims \"c\" is forbidden: Only bound persistent volume claims can be expanded",
        ),
        (
            sized("1Gi", "Bound", "absent"),
            sized("2Gi", "Bound", "absent"),
            "persistentvolumeclaims \"c\" is forbidden: only dynamically provisioned pvc can be resized and the \
             storageclass that provisions the pvc must support resize",
        ),
    ] {
        let mut new = new;
        let kind = ("", "PersistentVolumeClaim", "");
        let answer = run(&view, Operation::Update, kind, ("shop", "c"), "ann", Some(&mut new), Some(&old));
        assert_eq!(answer.err().map(|s| s.message).unwrap_or_default(), why);
    }
}
