//! The roles and bindings that every cluster has, as a table.
//!
//! Each rule is one line: `verbs | groups | resources | names`, words separated by spaces, `core` for the core group; or
//! `verbs | paths` for paths. What is written to the store is only ever added to, so that an administrator's own additions
//! stay; an object with the annotation `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.
//!
//! Source: `plugin/pkg/auth/authorizer/rbac/bootstrappolicy/{policy,controller_policy}.go`.

use serde_json::{Value, json};

use super::rbac::GROUP;

const ALL: &str = "create delete deletecollection get list patch update watch";

/// A ClusterRole: its name, the labels `aggregate-to-<x>` that it carries, its rules.
struct Role(&'static str, &'static [&'static str], &'static [&'static str]);

/// `RW` stands for every verb, `WR` for all that change, `R` for get, list and watch.
const ROLES: &[Role] = &[
    Role("cluster-admin", &[], &["* | * | *", "* | *"]),
    Role(
        "system:discovery",
        &[],
        &["get | /api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/"],
    ),
    Role("system:public-info-viewer", &[], &["get | /healthz /livez /readyz /version /version/"]),
    Role(
        "system:monitoring",
        &[],
        &["get | /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*"],
    ),
    Role(
        "system:basic-user",
        &[],
        &[
            "create | authorization.k8s.io | selfsubjectaccessreviews selfsubjectrulesreviews",
            "create | authentication.k8s.io | selfsubjectreviews",
        ],
    ),
    Role(
        "system:aggregate-to-admin",
        &["admin"],
        &[
            "create | authorization.k8s.io | localsubjectaccessreviews",
            "RW | rbac.authorization.k8s.io | roles rolebindings",
        ],
    ),
    Role(
        "system:aggregate-to-edit",
        &["edit"],
        &[
            "R | core | pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy",
            "impersonate | core | serviceaccounts",
            "WR | core | pods pods/attach pods/exec pods/portforward pods/proxy",
            "create | core | pods/eviction",
            "WR | core | configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy",
            "create | core | serviceaccounts/token",
            "WR | apps | daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
            "WR | autoscaling | horizontalpodautoscalers",
            "WR | batch | cronjobs jobs",
            "WR | policy | poddisruptionbudgets",
            "WR | networking.k8s.io | ingresses networkpolicies",
            "RW | coordination.k8s.io | leases",
            "WR | resource.k8s.io | resourceclaims resourceclaimtemplates",
        ],
    ),
    Role(
        "system:aggregate-to-view",
        &["view"],
        &[
            "R | core | configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
            "R | core | bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status",
            "R | core | namespaces",
            "R | discovery.k8s.io | endpointslices",
            "R | apps | controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
            "R | autoscaling | horizontalpodautoscalers horizontalpodautoscalers/status",
            "R | batch | cronjobs cronjobs/status jobs jobs/status",
            "R | policy | poddisruptionbudgets poddisruptionbudgets/status",
            "R | networking.k8s.io | ingresses ingresses/status networkpolicies",
            "R | resource.k8s.io | resourceclaims resourceclaims/status resourceclaimtemplates",
        ],
    ),
    Role(
        "system:auth-delegator",
        &[],
        &["create | authentication.k8s.io | tokenreviews", "create | authorization.k8s.io | subjectaccessreviews"],
    ),
    Role("system:heapster", &[], &["R | core | events namespaces nodes pods", "R | apps | deployments"]),
    Role(
        "system:kubelet-api-admin",
        &[],
        &["R | core | nodes", "proxy | core | nodes", "* | core | nodes/log nodes/metrics nodes/proxy nodes/stats"],
    ),
    Role(
        "system:node-bootstrapper",
        &[],
        &["create get list watch | certificates.k8s.io | certificatesigningrequests"],
    ),
    Role(
        "system:node-problem-detector",
        &[],
        &["get | core | nodes", "patch | core | nodes/status", "create patch update | core events.k8s.io | events"],
    ),
    Role("system:node", &[], &[]),
    Role(
        "system:node-proxier",
        &[],
        &[
            "list watch | core | services",
            // each node answers DNS itself: a name in an unknown namespace is NXDOMAIN
            "list watch | core | namespaces",
            "get list watch | core | nodes",
            "create patch update | core events.k8s.io | events",
            "list watch | discovery.k8s.io | endpointslices",
            "list watch | networking.k8s.io | servicecidrs",
        ],
    ),
    Role(
        "system:persistent-volume-provisioner",
        &[],
        &[
            "create delete get list watch | core | persistentvolumes",
            "get list update watch | core | persistentvolumeclaims",
            "get list watch | storage.k8s.io | storageclasses",
            "watch | core | events",
            "create patch update | core events.k8s.io | events",
        ],
    ),
    Role(
        "system:service-account-issuer-discovery",
        &[],
        &[
            "get | /.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
        ],
    ),
    Role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[],
        &["create | certificates.k8s.io | certificatesigningrequests/nodeclient"],
    ),
    Role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[],
        &["create | certificates.k8s.io | certificatesigningrequests/selfnodeclient"],
    ),
    Role(
        "system:kube-controller-manager",
        &[],
        &[
            "create patch update | core events.k8s.io | events",
            "create | coordination.k8s.io | leases",
            "get update | coordination.k8s.io | leases | kube-controller-manager",
            "create | core | secrets serviceaccounts",
            "delete | core | secrets",
            "get | core | configmaps namespaces secrets serviceaccounts",
            "update | core | secrets serviceaccounts",
            "create | authentication.k8s.io | tokenreviews",
            "create | authorization.k8s.io | subjectaccessreviews",
            "list watch | * | *",
            "create | core | serviceaccounts/token",
        ],
    ),
    Role(
        "system:kube-scheduler",
        &[],
        &[
            "create patch update | core events.k8s.io | events",
            "create | coordination.k8s.io | leases",
            "get list update watch | coordination.k8s.io | leases | kube-scheduler",
            "get list watch | core | nodes",
            "delete get list watch | core | pods",
            "create | core | bindings pods/binding",
            "patch update | core | pods/status",
            "get list watch | core | replicationcontrollers services",
            "get list watch | apps | replicasets statefulsets",
            "get list watch | policy | poddisruptionbudgets",
            "get list watch | core | persistentvolumeclaims persistentvolumes namespaces",
            "patch update | core | persistentvolumeclaims persistentvolumes",
            "create | authentication.k8s.io | tokenreviews",
            "create | authorization.k8s.io | subjectaccessreviews",
            "get list watch | storage.k8s.io | csinodes csidrivers csistoragecapacities storageclasses volumeattachments",
            "get list watch | resource.k8s.io | deviceclasses resourceclaims resourceslices",
            "patch update | resource.k8s.io | resourceclaims resourceclaims/status",
        ],
    ),
    Role(
        "system:volume-scheduler",
        &[],
        &[
            "get list patch update watch | core | persistentvolumes persistentvolumeclaims",
            "get list watch | storage.k8s.io | storageclasses",
        ],
    ),
    Role(
        "system:controller:certificate-controller",
        &[],
        &[
            "delete get list watch | certificates.k8s.io | certificatesigningrequests",
            "update | certificates.k8s.io | certificatesigningrequests/approval certificatesigningrequests/status",
            "approve | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client-kubelet",
            "sign | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown",
            "create | authorization.k8s.io | subjectaccessreviews",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:clusterrole-aggregation-controller",
        &[],
        &["escalate get list patch update watch | rbac.authorization.k8s.io | clusterroles"],
    ),
    Role(
        "system:controller:cronjob-controller",
        &[],
        &[
            "get list update watch | batch | cronjobs",
            "create delete get list patch update watch | batch | jobs",
            "update | batch | cronjobs/status cronjobs/finalizers",
            "delete list | core | pods",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:daemon-set-controller",
        &[],
        &[
            "get list watch | apps | daemonsets",
            "update | apps | daemonsets/status daemonsets/finalizers",
            "list watch | core | nodes",
            "create delete list patch watch | core | pods",
            "create | core | pods/binding",
            "create delete get list patch update watch | apps | controllerrevisions",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:deployment-controller",
        &[],
        &[
            "get list update watch | apps | deployments",
            "update | apps | deployments/status deployments/finalizers",
            "create delete get list patch update watch | apps | replicasets",
            "get list update watch | core | pods",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:disruption-controller",
        &[],
        &[
            "get list watch | apps | deployments replicasets statefulsets",
            "get list watch | core | replicationcontrollers pods",
            "get list watch | policy | poddisruptionbudgets",
            "update | policy | poddisruptionbudgets/status",
            "patch update | core | pods/status",
            "get | * | */scale",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:endpoint-controller",
        &[],
        &[
            "get list watch | core | pods services",
            "create delete get list update | core | endpoints",
            "create | core | endpoints/restricted",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:endpointslice-controller",
        &[],
        &[
            "get list watch | core | nodes pods services",
            "update | core | services/finalizers",
            "create delete get list update | discovery.k8s.io | endpointslices",
            "create | discovery.k8s.io | endpointslices/restricted",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:endpointslicemirroring-controller",
        &[],
        &[
            "get list watch | core | endpoints services",
            "update | core | services/finalizers endpoints/finalizers",
            "create delete get list update | discovery.k8s.io | endpointslices",
            "create | discovery.k8s.io | endpointslices/restricted",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:ephemeral-volume-controller",
        &[],
        &[
            "update | core | pods/finalizers",
            "get list watch | core | pods",
            "create get list watch | core | persistentvolumeclaims",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:expand-controller",
        &[],
        &[
            "get list patch update watch | core | persistentvolumes",
            "patch update | core | persistentvolumeclaims/status",
            "get list watch | core | persistentvolumeclaims",
            "get list watch | storage.k8s.io | storageclasses",
            "EVENTS",
        ],
    ),
    Role("system:controller:generic-garbage-collector", &[], &["delete get list patch update watch | * | *", "EVENTS"]),
    Role(
        "system:controller:horizontal-pod-autoscaler",
        &[],
        &[
            "get list watch | autoscaling | horizontalpodautoscalers",
            "update | autoscaling | horizontalpodautoscalers/status",
            "get update | * | */scale",
            "list | core | pods",
            "list | metrics.k8s.io | pods",
            "get list | custom.metrics.k8s.io | *",
            "get list | external.metrics.k8s.io | *",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:job-controller",
        &[],
        &[
            "get list patch update watch | batch | jobs",
            "update | batch | jobs/status jobs/finalizers",
            "create delete list patch watch | core | pods",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:namespace-controller",
        &[],
        &[
            "delete get list watch | core | namespaces",
            "update | core | namespaces/finalize namespaces/status",
            "delete deletecollection get list | * | *",
        ],
    ),
    Role(
        "system:controller:node-controller",
        &[],
        &[
            "delete get list patch update | core | nodes",
            "patch update | core | nodes/status",
            "patch update | core | pods/status",
            "delete list get | core | pods",
            "get list watch | coordination.k8s.io | leases",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:persistent-volume-binder",
        &[],
        &[
            "create delete get list update watch | core | persistentvolumes",
            "update | core | persistentvolumes/status persistentvolumeclaims/status",
            "get list update watch | core | persistentvolumeclaims",
            "create delete get list watch | core | pods",
            "get list watch | storage.k8s.io | storageclasses",
            "get list watch | core | nodes",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:pod-garbage-collector",
        &[],
        &["delete list watch | core | pods", "get list | core | nodes", "patch update | core | pods/status"],
    ),
    Role(
        "system:controller:pv-protection-controller",
        &[],
        &["get list update watch | core | persistentvolumes", "EVENTS"],
    ),
    Role(
        "system:controller:pvc-protection-controller",
        &[],
        &["get list update watch | core | persistentvolumeclaims", "get list watch | core | pods", "EVENTS"],
    ),
    Role(
        "system:controller:replicaset-controller",
        &[],
        &[
            "get list update watch | apps | replicasets",
            "update | apps | replicasets/status replicasets/finalizers",
            "create delete list patch watch | core | pods",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:replication-controller",
        &[],
        &[
            "get list update watch | core | replicationcontrollers",
            "update | core | replicationcontrollers/status replicationcontrollers/finalizers",
            "create delete list patch watch | core | pods",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:resourcequota-controller",
        &[],
        &["list watch | * | *", "update | core | resourcequotas/status", "EVENTS"],
    ),
    Role("system:controller:root-ca-cert-publisher", &[], &["create update | core | configmaps", "EVENTS"]),
    Role("system:controller:service-account-controller", &[], &["create | core | serviceaccounts", "EVENTS"]),
    Role(
        "system:controller:service-controller",
        &[],
        &[
            "get list watch | core | services",
            "patch update | core | services/status",
            "list watch | core | nodes",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:statefulset-controller",
        &[],
        &[
            "list watch | core | pods",
            "get list watch | apps | statefulsets",
            "update | apps | statefulsets/status statefulsets/finalizers",
            "create delete get patch update | core | pods",
            "create delete get list patch update watch | apps | controllerrevisions",
            "create get update | core | persistentvolumeclaims",
            "EVENTS",
        ],
    ),
    Role(
        "system:controller:taint-eviction-controller",
        &[],
        &["R | core | nodes", "delete get list watch | core | pods", "patch update | core | pods/status", "EVENTS"],
    ),
    Role("system:controller:ttl-after-finished-controller", &[], &["delete get list watch | batch | jobs", "EVENTS"]),
    Role("system:controller:ttl-controller", &[], &["list patch update watch | core | nodes", "EVENTS"]),
];

/// ClusterRoles made of others: the name, whose labels are gathered, the labels that it carries itself.
const AGGREGATED: &[(&str, &[&str], &[&str])] = &[
    ("admin", &["admin", "edit", "view"], &[]),
    ("edit", &["edit", "view"], &["admin"]),
    ("view", &["view"], &["edit"]),
];

/// ClusterRoleBindings: name, role, subjects (`u:` user, `g:` group). Controllers' bindings follow from their names.
const BINDINGS: &[(&str, &str, &[&str])] = &[
    ("cluster-admin", "cluster-admin", &["g:system:masters"]),
    ("system:discovery", "system:discovery", &["g:system:authenticated"]),
    ("system:basic-user", "system:basic-user", &["g:system:authenticated"]),
    ("system:public-info-viewer", "system:public-info-viewer", &["g:system:authenticated", "g:system:unauthenticated"]),
    ("system:monitoring", "system:monitoring", &["g:system:monitoring"]),
    // The node agent is the proxy too.
    ("system:node-proxier", "system:node-proxier", &["u:system:kube-proxy", "g:system:nodes"]),
    ("system:node", "system:node", &[]),
    ("system:kube-controller-manager", "system:kube-controller-manager", &["u:system:kube-controller-manager"]),
    ("system:kube-scheduler", "system:kube-scheduler", &["u:system:kube-scheduler"]),
    ("system:volume-scheduler", "system:volume-scheduler", &["u:system:kube-scheduler"]),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &["g:system:serviceaccounts"],
    ),
];

/// Roles in namespaces: namespace, name, rules, and who has them.
const LOCAL: &[(&str, &str, &[&str], &[&str])] = &[
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &["get list watch | core | configmaps | extension-apiserver-authentication"],
        &["u:system:kube-controller-manager", "u:system:kube-scheduler"],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &["get list watch | core | configmaps", "update | core | configmaps | cluster-info", "EVENTS"],
        &[],
    ),
];

const CONTROLLER_PREFIX: &str = "system:controller:";

fn rule(line: &str) -> Value {
    let line = if line == "EVENTS" { "create patch update | core events.k8s.io | events" } else { line };
    let parts: Vec<Vec<String>> = line
        .split('|')
        .map(|part| part.split_whitespace().map(|w| if w == "core" { String::new() } else { w.to_owned() }).collect())
        .collect();
    let verbs: Vec<String> = parts[0]
        .iter()
        .flat_map(|verb| {
            let words = match verb.as_str() {
                "RW" => ALL,
                "R" => "get list watch",
                "WR" => "create delete deletecollection patch update",
                other => other,
            };
            words.split(' ').map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    match parts.as_slice() {
        [_, paths] => json!({"verbs": verbs, "nonResourceURLs": paths}),
        [_, groups, resources, names] => {
            json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names})
        }
        [_, groups, resources] => json!({"verbs": verbs, "apiGroups": groups, "resources": resources}),
        _ => Value::Null,
    }
}

fn metadata(name: &str, namespace: &str, aggregate_to: &[&str]) -> Value {
    let mut labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    for to in aggregate_to {
        labels[format!("rbac.authorization.k8s.io/aggregate-to-{to}")] = json!("true");
    }
    let mut metadata =
        json!({"name": name, "labels": labels, "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}});
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

fn subjects(texts: &[&str]) -> Vec<Value> {
    let one = |kind: &str, name: &str| json!({"kind": kind, "apiGroup": GROUP, "name": name});
    texts
        .iter()
        .filter_map(|text| match text.split_at(2) {
            ("u:", name) => Some(one("User", name)),
            ("g:", name) => Some(one("Group", name)),
            _ => None,
        })
        .collect()
}

/// Every bootstrap object, roles before bindings.
pub fn objects() -> Vec<Value> {
    let version = "rbac.authorization.k8s.io/v1";
    let role_ref = |kind: &str, name: &str| json!({"apiGroup": GROUP, "kind": kind, "name": name});
    let mut all = Vec::new();
    for Role(name, aggregate_to, rules) in ROLES {
        let rules: Vec<Value> = rules.iter().map(|r| rule(r)).collect();
        all.push(json!({"apiVersion": version, "kind": "ClusterRole", "metadata": metadata(name, "", aggregate_to), "rules": rules}));
    }
    for (name, parts, aggregate_to) in AGGREGATED {
        let (mut rules, mut selectors) = (Vec::new(), Vec::new());
        for part in *parts {
            let of = ROLES.iter().filter(|r| r.1.contains(part));
            rules.extend(of.flat_map(|r| r.2.iter().map(|line| rule(line))));
        }
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{name}");
        selectors.push(json!({"matchLabels": {label: "true"}}));
        // The rules are what the selectors find today; the authorizer gathers them again, so that additions count.
        all.push(json!({"apiVersion": version, "kind": "ClusterRole", "metadata": metadata(name, "", aggregate_to),
            "aggregationRule": {"clusterRoleSelectors": selectors}, "rules": rules}));
    }
    for (namespace, name, rules, _) in LOCAL {
        let rules: Vec<Value> = rules.iter().map(|r| rule(r)).collect();
        all.push(
            json!({"apiVersion": version, "kind": "Role", "metadata": metadata(name, namespace, &[]), "rules": rules}),
        );
    }
    for (name, role, to) in BINDINGS {
        let mut binding = json!({"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": metadata(name, "", &[]),
            "roleRef": role_ref("ClusterRole", role)});
        if !to.is_empty() {
            binding["subjects"] = json!(subjects(to));
        }
        all.push(binding);
    }
    for Role(name, ..) in ROLES {
        let Some(controller) = name.strip_prefix(CONTROLLER_PREFIX) else { continue };
        let subject = json!({"kind": "ServiceAccount", "name": controller, "namespace": "kube-system"});
        all.push(json!({"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": metadata(name, "", &[]),
            "roleRef": role_ref("ClusterRole", name), "subjects": [subject]}));
    }
    for (namespace, name, _, to) in LOCAL {
        if !to.is_empty() {
            all.push(json!({"apiVersion": version, "kind": "RoleBinding", "metadata": metadata(name, namespace, &[]),
                "roleRef": role_ref("Role", name), "subjects": subjects(to)}));
        }
    }
    all
}

/// What the stored object becomes so that it grants at least what `wanted` does; `None` when it already does, or when its
/// owner has opted out.
pub fn reconcile(stored: &Value, wanted: &Value) -> Option<Value> {
    let annotation = &stored["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"];
    if annotation == "false" {
        return None;
    }
    let mut merged = stored.clone();
    for key in ["rules", "subjects"] {
        let missing: Vec<Value> = wanted[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|item| !stored[key].as_array().is_some_and(|have| have.contains(item)))
            .cloned()
            .collect();
        if !missing.is_empty() {
            match merged[key].as_array_mut() {
                Some(list) => list.extend(missing),
                None => merged[key] = Value::Array(missing),
            }
        }
    }
    (merged != *stored).then_some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_rule_and_every_binding_has_its_role() {
        let all = objects();
        for object in &all {
            for rule in object["rules"].as_array().into_iter().flatten() {
                assert!(rule["verbs"].as_array().is_some_and(|v| !v.is_empty()), "{object}");
                assert!(rule["resources"].is_array() != rule["nonResourceURLs"].is_array(), "{rule}");
            }
            if object["roleRef"].is_object() {
                let found = all.iter().any(|o| {
                    o["kind"] == object["roleRef"]["kind"] && o["metadata"]["name"] == object["roleRef"]["name"]
                });
                assert!(found, "{object}");
            }
        }
        let admin = all.iter().find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == "admin").unwrap();
        let text = admin["rules"].to_string();
        assert!(text.contains("rolebindings") && text.contains("deployments/scale") && text.contains("pods/log"));
    }

    #[test]
    fn reconciling_only_adds() {
        let wanted = json!({"rules": [{"verbs": ["get"]}]});
        let stored = json!({"metadata": {}, "rules": [{"verbs": ["list"]}]});
        let merged = reconcile(&stored, &wanted).unwrap();
        assert_eq!(merged["rules"], json!([{"verbs": ["list"]}, {"verbs": ["get"]}]));
        assert_eq!(reconcile(&merged, &wanted), None);
        let left = json!({"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}});
        assert_eq!(reconcile(&left, &wanted), None);
    }
}
