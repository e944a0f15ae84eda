//! The roles and bindings that every cluster has.
//!
//! `bootstrap/roles.txt` holds upstream's ClusterRoles as facts: a line with a name, and `> x` when the role is gathered into
//! `x`; below it one line for each rule, `verbs | groups | resources | names`, words separated by spaces, `core` for the core
//! group, or `verbs | paths` for paths. What Kedge's own parts need beyond that is [`ADDED`].
//!
//! What is written to the store is only ever added to, so that an administrator's own additions stay; an object with the
//! annotation `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.
//!
//! Source: `plugin/pkg/auth/authorizer/rbac/bootstrappolicy/{policy,controller_policy,namespace_policy}.go`, with the features
//! that are on in 1.36.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::rbac::GROUP;

const ALL: &str = "create delete deletecollection get list patch update watch";

/// A ClusterRole: its name, the role that it is gathered into, its rules.
struct Role {
    name: &'static str,
    gathered: Option<&'static str>,
    rules: Vec<&'static str>,
}

/// `RW` stands for every verb, `WR` for all that change, `R` for get, list and watch, `EVENTS` for writing events.
static ROLES: LazyLock<Vec<Role>> = LazyLock::new(|| {
    let mut roles: Vec<Role> = Vec::new();
    for line in include_str!("bootstrap/roles.txt").lines() {
        match (line.strip_prefix("  "), roles.last_mut()) {
            (Some(rule), Some(role)) => role.rules.push(rule),
            _ => {
                let (name, gathered) = split(line);
                roles.push(Role { name, gathered, rules: Vec::new() });
            }
        }
    }
    for (name, rules) in ADDED {
        let (name, gathered) = split(name);
        match roles.iter_mut().find(|role| role.name == name) {
            Some(role) => role.rules.extend(*rules),
            None => roles.push(Role { name, gathered, rules: rules.to_vec() }),
        }
    }
    roles
});

/// A role's name and the role that it is gathered into.
fn split(line: &'static str) -> (&'static str, Option<&'static str>) {
    line.split_once(" > ").map_or((line, None), |(name, to)| (name, Some(to)))
}

/// What Kedge's own parts need beyond upstream's, where one of theirs is several of upstream's.
const ADDED: &[(&str, &[&str])] = &[
    // each node answers DNS itself: a name in an unknown namespace is NXDOMAIN
    ("system:node-proxier", &["list watch | core | namespaces"]),
    // upstream's controllers read through the caches of their manager, which may read everything
    ("system:controller:node-controller", &["R | coordination.k8s.io | leases"]),
    ("system:controller:disruption-controller", &["R | core | pods"]),
    // upstream's replace whole objects where these patch what they mean
    (
        "system:controller:persistent-volume-binder",
        &[
            "patch | core | persistentvolumes persistentvolumes/status persistentvolumeclaims persistentvolumeclaims/status",
        ],
    ),
    // Kedge's own: folders on nodes, made by way of their agents
    (
        "system:controller:local-path-provisioner",
        &[
            "get list patch watch | core | persistentvolumeclaims",
            "patch | core | persistentvolumeclaims/status",
            "create delete get list patch watch | core | persistentvolumes",
            "create get list watch | storage.k8s.io | storageclasses",
            "R | core | nodes",
            "delete update | core | nodes/proxy",
            "EVENTS",
        ],
    ),
    ("system:controller:pvc-protection-controller", &["patch | core | persistentvolumeclaims"]),
    ("system:controller:pv-protection-controller", &["patch | core | persistentvolumes"]),
    (
        "system:controller:volumeattributesclass-protection-controller",
        &["patch | storage.k8s.io | volumeattributesclasses"],
    ),
    (
        "system:controller:taint-eviction-controller",
        &["R | core | nodes", "delete get list watch | core | pods", "patch update | core | pods/status", "EVENTS"],
    ),
    // Source: metrics-server's manifests/base/rbac.yaml
    ("system:aggregated-metrics-reader > view", &["R | metrics.k8s.io | nodes pods"]),
];

/// ClusterRoles made of others: the name, whose labels are gathered, the role that it is gathered into itself.
const AGGREGATED: &[(&str, &[&str], Option<&str>)] = &[
    ("admin", &["admin", "edit", "view"], None),
    ("edit", &["edit", "view"], Some("admin")),
    ("view", &["view"], Some("edit")),
];

/// ClusterRoleBindings: name, role, subjects (`u:` user, `g:` group, `s:` ServiceAccount of kube-system). Controllers'
/// bindings follow from their names.
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
    ("system:kube-dns", "system:kube-dns", &["s:kube-dns"]),
    ("system:kube-scheduler", "system:kube-scheduler", &["u:system:kube-scheduler"]),
    ("system:volume-scheduler", "system:volume-scheduler", &["u:system:kube-scheduler"]),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &["g:system:serviceaccounts"],
    ),
];

/// A Role in a namespace and its binding, which upstream sometimes calls otherwise.
struct Local {
    namespace: &'static str,
    role: &'static str,
    rules: &'static [&'static str],
    binding: &'static str,
    subjects: &'static [&'static str],
}

const LEADER_RULES: &[&str] = &[
    "create get list update watch | coordination.k8s.io | leases",
    "create get list update watch | coordination.k8s.io | leasecandidates",
];

const LOCAL: &[Local] = &[
    Local {
        namespace: "kube-system",
        role: "extension-apiserver-authentication-reader",
        rules: &["R | core | configmaps | extension-apiserver-authentication"],
        binding: "system::extension-apiserver-authentication-reader",
        subjects: &["u:system:kube-controller-manager", "u:system:kube-scheduler"],
    },
    Local {
        namespace: "kube-system",
        role: "system:controller:bootstrap-signer",
        rules: &["R | core | secrets"],
        binding: "system:controller:bootstrap-signer",
        subjects: &["s:bootstrap-signer"],
    },
    Local {
        namespace: "kube-system",
        role: "system:controller:cloud-provider",
        rules: &["create get list watch | core | configmaps"],
        binding: "system:controller:cloud-provider",
        subjects: &["s:cloud-provider"],
    },
    Local {
        namespace: "kube-system",
        role: "system:controller:token-cleaner",
        rules: &["delete get list watch | core | secrets", "EVENTS"],
        binding: "system:controller:token-cleaner",
        subjects: &["s:token-cleaner"],
    },
    Local {
        namespace: "kube-system",
        role: "system::leader-locking-kube-controller-manager",
        rules: LEADER_RULES,
        binding: "system::leader-locking-kube-controller-manager",
        subjects: &["u:system:kube-controller-manager", "s:kube-controller-manager", "s:leader-election-controller"],
    },
    Local {
        namespace: "kube-system",
        role: "system::leader-locking-kube-scheduler",
        rules: LEADER_RULES,
        binding: "system::leader-locking-kube-scheduler",
        subjects: &["u:system:kube-scheduler", "s:kube-scheduler"],
    },
    Local {
        namespace: "kube-public",
        role: "system:controller:bootstrap-signer",
        rules: &["R | core | configmaps", "update | core | configmaps | cluster-info", "EVENTS"],
        binding: "system:controller:bootstrap-signer",
        subjects: &["s:bootstrap-signer"],
    },
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

fn metadata(name: &str, namespace: &str, aggregate_to: Option<&str>) -> Value {
    let mut labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    if let Some(to) = aggregate_to {
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
            ("s:", name) => Some(json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"})),
            _ => None,
        })
        .collect()
}

/// Every bootstrap object, roles before bindings.
pub fn objects() -> Vec<Value> {
    let version = "rbac.authorization.k8s.io/v1";
    let role_ref = |kind: &str, name: &str| json!({"apiGroup": GROUP, "kind": kind, "name": name});
    let mut all = Vec::new();
    for Role { name, gathered, rules } in ROLES.iter() {
        let rules: Vec<Value> = rules.iter().map(|r| rule(r)).collect();
        all.push(json!({"apiVersion": version, "kind": "ClusterRole", "metadata": metadata(name, "", *gathered), "rules": rules}));
    }
    for (name, parts, aggregate_to) in AGGREGATED {
        let (mut rules, mut selectors) = (Vec::new(), Vec::new());
        for part in *parts {
            let of = ROLES.iter().filter(|r| r.gathered == Some(*part));
            rules.extend(of.flat_map(|r| r.rules.iter().map(|line| rule(line))));
        }
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{name}");
        selectors.push(json!({"matchLabels": {label: "true"}}));
        // The rules are what the selectors find today; the authorizer gathers them again, so that additions count.
        all.push(json!({"apiVersion": version, "kind": "ClusterRole", "metadata": metadata(name, "", *aggregate_to),
            "aggregationRule": {"clusterRoleSelectors": selectors}, "rules": rules}));
    }
    for Local { namespace, role, rules, .. } in LOCAL {
        let rules: Vec<Value> = rules.iter().map(|r| rule(r)).collect();
        all.push(
            json!({"apiVersion": version, "kind": "Role", "metadata": metadata(role, namespace, None), "rules": rules}),
        );
    }
    for (name, role, to) in BINDINGS {
        let mut binding = json!({"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": metadata(name, "", None),
            "roleRef": role_ref("ClusterRole", role)});
        if !to.is_empty() {
            binding["subjects"] = json!(subjects(to));
        }
        all.push(binding);
    }
    for Role { name, .. } in ROLES.iter() {
        let Some(controller) = name.strip_prefix(CONTROLLER_PREFIX) else { continue };
        let subject = json!({"kind": "ServiceAccount", "name": controller, "namespace": "kube-system"});
        all.push(json!({"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": metadata(name, "", None),
            "roleRef": role_ref("ClusterRole", name), "subjects": [subject]}));
    }
    for Local { namespace, role, binding, subjects: to, .. } in LOCAL {
        all.push(json!({"apiVersion": version, "kind": "RoleBinding", "metadata": metadata(binding, namespace, None),
            "roleRef": role_ref("Role", role), "subjects": subjects(to)}));
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

    /// The numbers of upstream 1.36 with its default features, and what is Kedge's own.
    #[test]
    fn every_role_of_upstream_is_there_and_what_is_more_is_declared() {
        let (mut named, mut rules) = (0, 0);
        for line in include_str!("bootstrap/roles.txt").lines() {
            if line.starts_with("  ") {
                rules += 1;
            } else {
                named += 1;
            }
        }
        assert_eq!((named, rules), (66, 312));
        let all = objects();
        let of = |kind: &str| all.iter().filter(|o| o["kind"] == kind).count();
        let added = ADDED.iter().map(|(name, _)| split(name).0);
        let own: Vec<&str> = added.filter(|name| !include_str!("bootstrap/roles.txt").contains(name)).collect();
        assert_eq!(of("ClusterRole"), named + AGGREGATED.len() + own.len());
        let own = own.iter().filter(|name| name.starts_with(CONTROLLER_PREFIX)).count();
        let controllers = ROLES.iter().filter(|r| r.name.starts_with(CONTROLLER_PREFIX)).count();
        assert_eq!((controllers, of("ClusterRoleBinding")), (38 + own, BINDINGS.len() + controllers));
        assert_eq!((of("Role"), of("RoleBinding")), (7, 7));
        let rules_of = |name: &str| {
            let role = all.iter().find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == name);
            role.and_then(|r| r["rules"].as_array()).map(Vec::len)
        };
        for (name, rules) in [("admin", 30), ("edit", 28), ("view", 13), ("system:kube-scheduler", 27)] {
            assert_eq!(rules_of(name), Some(rules), "{name}");
        }
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
