//! NodeRestriction, with upstream's texts.

use super::*;

fn cluster() -> Fixed {
    Fixed::default()
        .with("", "Namespace", json!({"metadata": {"name": "shop"}, "status": {"phase": "Active"}}))
        .with("", "Node", json!({"metadata": {"name": "n1", "uid": "u1"}}))
        .with(
            "",
            "Pod",
            json!({"metadata": {"name": "p", "namespace": "shop", "uid": "up"}, "spec": {"nodeName": "n1", "volumes": [
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]}}),
        )
        .with(
            "",
            "Pod",
            json!({"metadata": {"name": "q", "namespace": "shop", "uid": "uq"}, "spec": {"nodeName": "n2"}}),
        )
}

/// What node n1 is answered; empty when it may.
fn check(
    operation: Operation,
    kind: (&str, &str, &str),
    name: &str,
    object: Value,
    old: Option<Value>,
    expected: &str,
) {
    let view = cluster();
    let user = Identity::node("n1");
    let (group, of, subresource) = kind;
    let kind = &KindRef::from(by_kind(group, "v1", of).unwrap());
    let mut object = object;
    let mut request = request(&view, &user, kind);
    request.operation = operation;
    (request.subresource, request.name) = (subresource, name);
    (request.object, request.old) = (Some(&mut object), old.as_ref());
    let answer = node_restriction::validate(&request).err().map(|status| status.message).unwrap_or_default();
    assert_eq!(answer, expected, "{of}/{subresource}");
}

use Operation::{Create, Update};

#[test]
fn mirror_pods() {
    let mirror = || {
        json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "a"}], "volumes": [{"name": "h", "hostPath": {"path": "/"}}]}})
    };
    let pod = ("", "Pod", "");
    check(Create, pod, "m", mirror(), None, "");
    for (pointer, value, why) in [
        (
            "/metadata/annotations",
            json!({}),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods",
        ),
        ("/spec/nodeName", json!("n2"), "node \"n1\" can only create pods with spec.nodeName set to itself"),
        (
            "/metadata/ownerReferences",
            json!([]),
            "node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            "/metadata/ownerReferences/0/name",
            json!("n2"),
            "node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            "/metadata/ownerReferences/0/controller",
            json!(false),
            "node \"n1\" can only create pods with a controller owner reference set to itself",
        ),
        ("/metadata/ownerReferences/0/uid", json!("u9"), "node n1 UID mismatch: expected u9 got u1"),
        (
            "/spec/volumes",
            json!([{"name": "s", "secret": {}}]),
            "node \"n1\" can not create pods that reference secrets (via secret volumes)",
        ),
        (
            "/spec/containers",
            json!([{"name": "a", "envFrom": [{"configMapRef": {}}]}]),
            "node \"n1\" can not create pods that reference configmaps",
        ),
    ] {
        let mut changed = mirror();
        *changed.pointer_mut(pointer).unwrap() = value;
        check(Create, pod, "m", changed, None, &format!("pods \"m\" is forbidden: {why}"));
    }
    check(
        Update,
        pod,
        "m",
        mirror(),
        Some(mirror()),
        "pods \"m\" is forbidden: unexpected operation \"UPDATE\", node \"n1\" can only create and delete mirror pods",
    );
    check(
        Create,
        ("", "Pod", "binding"),
        "m",
        json!({}),
        None,
        "pods \"m\" is forbidden: unexpected pod subresource \"binding\", only 'status' and 'eviction' are allowed",
    );
}

#[test]
fn nodes_and_what_hangs_on_them() {
    let node = |labels: Value| json!({"metadata": {"name": "n1", "labels": labels}});
    let usual = json!({"kubernetes.io/hostname": "n1", "node.kubernetes.io/x": "y", "disk": "ssd"});
    check(Create, ("", "Node", ""), "n1", node(usual.clone()), None, "");
    check(
        Create,
        ("", "Node", ""),
        "n1",
        node(json!({"node-role.kubernetes.io/master": "", "node-restriction.kubernetes.io/a": "b"})),
        None,
        "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: \
         node-restriction.kubernetes.io/a, node-role.kubernetes.io/master",
    );
    check(
        Update,
        ("", "Node", "status"),
        "n1",
        node(json!({"topology.k8s.io/x": "1"})),
        Some(node(usual)),
        "nodes \"n1\" is forbidden: is not allowed to modify labels: topology.k8s.io/x",
    );
    check(
        Create,
        ("storage.k8s.io", "CSINode", ""),
        "n2",
        json!({}),
        None,
        "csinodes.storage.k8s.io \"n2\" is forbidden: can only access CSINode with the same name as the requesting node",
    );
    check(
        Create,
        ("resource.k8s.io", "ResourceSlice", ""),
        "s",
        json!({"spec": {"nodeName": "n2"}}),
        None,
        "resourceslices.resource.k8s.io \"s\" is forbidden: can only create ResourceSlice with the same NodeName as the \
         requesting node",
    );
    check(Create, ("", "Pod", "eviction"), "p", json!({}), None, "");
    check(
        Create,
        ("", "Pod", "eviction"),
        "q",
        json!({}),
        None,
        "pods \"q\" is forbidden: node n1 can only evict pods with spec.nodeName set to itself",
    );
}

#[test]
fn tokens() {
    let token = |pod: &str, uid: &str, audiences: &[&str]| json!({"spec": {"audiences": audiences, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}});
    for (token, why) in [
        (token("p", "up", &["vault"]), ""),
        (json!({"spec": {}}), "node requested token not bound to a pod"),
        (token("p", "", &[]), "node requested token with a pod binding without a uid"),
        (
            token("p", "ux", &[]),
            "the UID in the bound object reference (ux) does not match the UID in record. The object might have been deleted \
             and then recreated",
        ),
        (token("q", "uq", &[]), "node requested token bound to a pod scheduled on a different node"),
        (token("p", "up", &["a", "b"]), "node may only request 0 or 1 audiences"),
        (
            token("p", "up", &["bank"]),
            "audience \"bank\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this \
             audience",
        ),
    ] {
        let expected =
            if why.is_empty() { String::new() } else { format!("serviceaccounts \"d\" is forbidden: {why}") };
        check(Create, ("", "ServiceAccount", "token"), "d", token, None, &expected);
    }
}

#[test]
fn certificates_in_its_own_name() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use crate::auth::certificate_request::tests::{of, two_common_names};

    let kind = &KindRef::from(by_kind("certificates.k8s.io", "v1", "CertificateSigningRequest").unwrap());
    let ask = |pem: &str| {
        json!({"metadata": {"name": "r"}, "spec": {"request": STANDARD.encode(pem),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet"}})
    };
    let (own, other) = (of("system:node:n1"), of("system:node:n2"));
    let hidden = other.trim_end().replace("\r\n", "\n").replace('\n', "\r");
    for (pem, expected) in [
        (own.clone(), ""),
        (other, "can only create a node CSR with CN=system:node:n1"),
        (format!("x\r{hidden}\r\n{own}"), "unable to parse csr: must be one PEM block and nothing else"),
        (
            two_common_names("system:node:n1", "system:kube-controller-manager"),
            "unable to parse csr: subject must not have more than one common name",
        ),
    ] {
        let view = cluster();
        let user = Identity::node("n1");
        let mut object = ask(&pem);
        let mut request = request(&view, &user, kind);
        request.object = Some(&mut object);
        let answer = node_restriction::validate(&request).err().map(|status| status.message).unwrap_or_default();
        let said = answer.rsplit_once(" is forbidden: ").map_or(answer.as_str(), |(_, why)| why);
        assert_eq!(said, expected);
        // Nor does the rule about masters read anything else.
        object["spec"]["signerName"] = json!("kubernetes.io/kube-apiserver-client");
        let mut request = super::request(&view, &user, kind);
        request.object = Some(&mut object);
        let readable = !expected.contains("unable to parse");
        assert_eq!(certificates::validate(&request).is_ok(), readable, "{expected}");
    }
}
