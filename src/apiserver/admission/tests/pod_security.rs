//! PodSecurity, level by level, with upstream's texts.

use super::*;

fn namespace(labels: Value) -> Fixed {
    Fixed::default()
        .with("", "Namespace", json!({"metadata": {"name": "shop", "labels": labels}, "status": {"phase": "Active"}}))
        .with("", "ServiceAccount", json!({"metadata": {"name": "default", "namespace": "shop"}}))
}

fn enforced(level: &str) -> Fixed {
    namespace(json!({"pod-security.kubernetes.io/enforce": level}))
}

/// Creates a pod with this spec; the refusal's reasons behind the level, or nothing.
fn check(view: &Fixed, spec: Value, expected: &str) {
    let mut pod = json!({"metadata": {"name": "p", "annotations": spec["annotations"]}, "spec": spec});
    let refused = create(view, "", "Pod", "shop", &mut pod).err().map(|status| status.message).unwrap_or_default();
    let reasons = refused.split_once("violates PodSecurity ").map_or(refused.as_str(), |(_, rest)| rest);
    assert_eq!(reasons, expected, "{spec}");
}

fn container(context: Value) -> Value {
    json!({"containers": [{"name": "a", "image": "i", "securityContext": context}]})
}

#[test]
fn baseline() {
    let view = enforced("baseline");
    check(&view, container(json!({})), "");
    for (spec, reasons) in [
        (
            container(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            container(json!({"capabilities": {"add": ["NET_RAW", "CHOWN", "BPF"]}})),
            "non-default capabilities (container \"a\" must not include \"BPF\", \"NET_RAW\" in \
             securityContext.capabilities.add)",
        ),
        (
            json!({"hostNetwork": true, "hostPID": true, "containers": []}),
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (
            json!({"volumes": [{"name": "x", "hostPath": {"path": "/"}}, {"name": "y", "hostPath": {"path": "/"}}]}),
            "hostPath volumes (volumes \"x\", \"y\")",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}]}, {"name": "b", "ports": [{"hostPort": 80}]}]}),
            "hostPort (containers \"a\", \"b\" use hostPorts 443, 80)",
        ),
        (
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "h"}}}]}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
        ),
        (
            container(json!({"procMount": "Unmasked"})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "t", "user": "u"}}, "containers": []}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"t\"; user may not be set)",
        ),
        (
            container(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}, {"name": "kernel.x"}]}, "containers": []}),
            "forbidden sysctls (kernel.x)",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}, "containers": []}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            json!({"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"},
                "securityContext": {"appArmorProfile": {"type": "Unconfined"}}, "containers": []}),
            "forbidden AppArmor profiles (pod and annotation must not set AppArmor profile type to \"Unconfined\", \
             \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")",
        ),
    ] {
        check(&view, spec, &format!("\"baseline:latest\": {reasons}"));
    }
    // with users of its own a pod may unmask what is then its own
    let mut unmasked = container(json!({"procMount": "Unmasked"}));
    unmasked["hostUsers"] = json!(false);
    check(&view, unmasked, "");
}

#[test]
fn restricted() {
    let view = enforced("restricted");
    let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
    check(&view, good.clone(), "");
    check(
        &view,
        container(json!({})),
        "\"restricted:latest\": allowPrivilegeEscalation != false (container \"a\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"a\" must set \
         securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"a\" must set \
         securityContext.runAsNonRoot=true), seccompProfile (pod or container \"a\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
    );
    let with = |change: Value| {
        let mut spec = good.clone();
        for (field, value) in change.as_object().unwrap() {
            spec[field] = value.clone();
        }
        spec
    };
    for (change, reasons) in [
        (
            json!({"volumes": [{"name": "n", "nfs": {}}, {"name": "h", "hostPath": {}}, {"name": "e", "emptyDir": {}}]}),
            "restricted volume types (volumes \"n\", \"h\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        (
            json!({"securityContext": {"runAsNonRoot": false, "seccompProfile": {"type": "Localhost"}}}),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
        ),
        (
            json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 0, "seccompProfile": {"type": "Localhost"}}}),
            "runAsUser=0 (pod must not set runAsUser=0)",
        ),
    ] {
        check(&view, with(change), &format!("\"restricted:latest\": {reasons}"));
    }
    // an older version of the level asks for less
    let old = namespace(
        json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.7"}),
    );
    check(&old, json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]}), "");
    check(
        &old,
        json!({"containers": [{"name": "a", "securityContext": {"runAsNonRoot": true, "capabilities": {"add": ["BPF"]}}}]}),
        "\"restricted:v1.7\": non-default capabilities (container \"a\" must not include \"BPF\" in \
         securityContext.capabilities.add)",
    );
}

fn warned(
    view: &Fixed,
    operation: Operation,
    kind: (&str, &str),
    name: &str,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Vec<String>, Status> {
    let user = Identity::default();
    let kind = &KindRef::from(by_kind(kind.0, "v1", kind.1).unwrap());
    let mut request = request(view, &user, kind);
    request.operation = operation;
    request.namespace = if kind.namespaced() { "shop" } else { "" };
    request.name = name;
    (request.object, request.old) = (Some(object), old);
    built_in_validate(&mut request)?;
    Ok(request.warnings)
}

#[test]
fn warnings() {
    let view = namespace(json!({"pod-security.kubernetes.io/warn": "baseline"}));
    let spec = json!({"hostIPC": true, "containers": []});
    let text = ["would violate PodSecurity \"baseline:latest\": host namespaces (hostIPC=true)"];
    let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
    assert_eq!(warned(&view, Operation::Create, ("", "Pod"), "p", &mut pod, None).unwrap(), text);
    let mut deployment = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": spec}}});
    assert_eq!(warned(&view, Operation::Create, ("apps", "Deployment"), "d", &mut deployment, None).unwrap(), text);
    // what is enforced is warned about where pods are made, and nothing else is refused there
    let enforcing = enforced("baseline");
    assert_eq!(
        warned(&enforcing, Operation::Create, ("apps", "Deployment"), "d", &mut deployment, None).unwrap(),
        text
    );
    // an update that changes no image is not looked at
    let strict = enforced("restricted");
    let mut same = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec});
    assert_eq!(warned(&strict, Operation::Update, ("", "Pod"), "p", &mut same, Some(&pod)).unwrap(), [""; 0]);
}

#[test]
fn namespaces_say_what_they_ask_for() {
    let label =
        |value: &str| json!({"metadata": {"name": "shop", "labels": {"pod-security.kubernetes.io/enforce": value}}});
    let refused =
        warned(&namespace(json!({})), Operation::Create, ("", "Namespace"), "shop", &mut label("strict"), None);
    assert_eq!(
        refused.unwrap_err().message,
        "Namespace \"shop\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": \
         must be one of privileged, baseline, restricted"
    );
    let pod = |name: &str, owner: Value, spec: Value| json!({"metadata": {"name": name, "namespace": "shop", "ownerReferences": owner}, "spec": spec});
    let owner = json!([{"uid": "u", "controller": true}]);
    let view = namespace(json!({}))
        .with("", "Pod", pod("b", owner.clone(), json!({"hostPID": true})))
        .with("", "Pod", pod("a", owner, json!({"hostPID": true})))
        .with("", "Pod", pod("c", Value::Null, json!({"hostPID": true, "volumes": [{"name": "x", "hostPath": {}}]})))
        .with("", "Pod", pod("fine", Value::Null, json!({})));
    let raised =
        warned(&view, Operation::Update, ("", "Namespace"), "shop", &mut label("baseline"), Some(&label("privileged")));
    assert_eq!(
        raised.unwrap(),
        [
            "existing pods in namespace \"shop\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 1 other pod): host namespaces",
            "c: host namespaces, hostPath volumes",
        ]
    );
    let lowered =
        warned(&view, Operation::Update, ("", "Namespace"), "shop", &mut label("baseline"), Some(&label("restricted")));
    assert_eq!(lowered.unwrap(), [""; 0]);
}

#[test]
fn the_audit_log_is_told() {
    let view = Fixed::default().with(
        "",
        "Namespace",
        json!({"metadata": {"name": "shop", "labels": {"pod-security.kubernetes.io/audit": "baseline"}}}),
    );
    let spec = json!({"hostNetwork": true, "containers": [{"name": "c"}]});
    let violated = "would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    for (group, kind, mut object, enforced) in [
        ("", "Pod", json!({"metadata": {}, "spec": spec}), Some("privileged:latest")),
        ("apps", "Deployment", json!({"metadata": {}, "spec": {"template": {"spec": spec}}}), None),
    ] {
        let user = Identity::default();
        let kind = KindRef::from(by_kind(group, "v1", kind).unwrap());
        let mut request = request(&view, &user, &kind);
        request.object = Some(&mut object);
        built_in_validate(&mut request).unwrap();
        assert_eq!(request.warnings, Vec::<String>::new());
        let mut expected = vec![("pod-security.kubernetes.io/audit-violations".to_owned(), violated.to_owned())];
        expected
            .extend(enforced.map(|policy| ("pod-security.kubernetes.io/enforce-policy".to_owned(), policy.to_owned())));
        assert_eq!(request.annotations.into_iter().collect::<Vec<_>>(), expected);
    }
}
