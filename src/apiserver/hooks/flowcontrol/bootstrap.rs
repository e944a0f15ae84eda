//! The schemas and levels that every server starts with: the mandatory ones, which stay as they are, and the suggested ones,
//! which their owner may change.
//!
//! Source: apiserver `pkg/apis/flowcontrol/bootstrap/default.go`.

use serde_json::{Value, json};

const VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
/// On an object whose spec the server keeps up to date.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Name, shares, lendable percent, queues and hand of the levels that are suggested.
const LEVELS: &[(&str, i64, i64, i64, i64)] = &[
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];
const QUEUE_LENGTH: i64 = 50;

/// A schema: name, level, precedence, how flows are told apart, subjects (`u:` user, `g:` group, `s:` every ServiceAccount of
/// the namespace), what they may be asking for (verbs | groups | resources, `EVERYTHING`, or verbs | paths).
struct Schema(&'static str, &'static str, i64, &'static str, &'static [&'static str], &'static [&'static str]);

const EVERYTHING: &[&str] = &["* | * | * | cluster", "* | *"];
const EVERYBODY: &[&str] = &["g:system:unauthenticated", "g:system:authenticated"];
const CONTROL_PLANE: &[&str] = &["u:system:kube-controller-manager", "u:system:kube-scheduler", "s:kube-system"];
const NODES: &[&str] = &["g:system:nodes"];

const MANDATORY: &[Schema] = &[
    Schema("exempt", "exempt", 1, "", &["g:system:masters"], EVERYTHING),
    Schema("catch-all", "catch-all", 10_000, "ByUser", EVERYBODY, EVERYTHING),
];
const SUGGESTED: &[Schema] = &[
    Schema("probes", "exempt", 2, "", EVERYBODY, &["get | /healthz /readyz /livez"]),
    Schema(
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        CONTROL_PLANE,
        &["get create update | coordination.k8s.io | leases | "],
    ),
    Schema(
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        NODES,
        &["* | core | nodes nodes/status | cluster", "* | coordination.k8s.io | leases | "],
    ),
    Schema("system-nodes", "system", 500, "ByUser", NODES, EVERYTHING),
    Schema(
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        &["u:system:kube-controller-manager"],
        EVERYTHING,
    ),
    Schema("kube-scheduler", "workload-high", 800, "ByNamespace", &["u:system:kube-scheduler"], EVERYTHING),
    Schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &["s:kube-system"], EVERYTHING),
    Schema("service-accounts", "workload-low", 9000, "ByUser", &["g:system:serviceaccounts"], EVERYTHING),
    Schema("global-default", "global-default", 9900, "ByUser", EVERYBODY, EVERYTHING),
];

pub fn mandatory_levels() -> Vec<Value> {
    vec![
        level(
            "catch-all",
            json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}}),
        ),
        level("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})),
    ]
}

pub fn mandatory_schemas() -> Vec<Value> {
    MANDATORY.iter().map(schema).collect()
}

/// Every object, levels before the schemas that lead to them.
pub fn objects() -> Vec<Value> {
    let mut all = mandatory_levels();
    all.extend(LEVELS.iter().map(|(name, shares, lendable, queues, hand)| {
        level(
            name,
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": shares, "lendablePercent": lendable,
                "limitResponse": {"type": "Queue", "queuing":
                    {"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH}}}}),
        )
    }));
    all.extend(mandatory_schemas());
    all.extend(SUGGESTED.iter().map(schema));
    all
}

/// What the stored object becomes when the server keeps its spec up to date; `None` when it is so already, or its owner's.
pub fn reconcile(stored: &Value, wanted: &Value) -> Option<Value> {
    let keeps = stored["metadata"]["annotations"][AUTO_UPDATE] != "false";
    if !keeps || super::same(&stored["spec"], &wanted["spec"]) {
        return None;
    }
    let mut merged = stored.clone();
    merged["spec"] = wanted["spec"].clone();
    merged["metadata"]["generation"] = (stored["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
    Some(merged)
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {AUTO_UPDATE: "true"}})
}

fn level(name: &str, spec: Value) -> Value {
    json!({"apiVersion": VERSION, "kind": "PriorityLevelConfiguration", "metadata": metadata(name), "spec": spec})
}

fn schema(schema: &Schema) -> Value {
    let Schema(name, level, precedence, method, subjects, rules) = schema;
    let words = |text: &str| -> Vec<String> {
        text.split_whitespace().map(|w| if w == "core" { String::new() } else { w.to_owned() }).collect()
    };
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in *rules {
        match rule.split('|').map(str::trim).collect::<Vec<_>>().as_slice() {
            [verbs, groups, of, scope] => {
                let mut rule = json!({"verbs": words(verbs), "apiGroups": words(groups), "resources": words(of),
                    "namespaces": ["*"]});
                if *scope == "cluster" {
                    rule["clusterScope"] = json!(true);
                }
                resources.push(rule);
            }
            [verbs, urls] => paths.push(json!({"verbs": words(verbs), "nonResourceURLs": words(urls)})),
            _ => {}
        }
    }
    let subjects: Vec<Value> = subjects
        .iter()
        .filter_map(|text| match text.split_at(2) {
            ("u:", name) => Some(json!({"kind": "User", "user": {"name": name}})),
            ("g:", name) => Some(json!({"kind": "Group", "group": {"name": name}})),
            ("s:", namespace) => {
                Some(json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": namespace}}))
            }
            _ => None,
        })
        .collect();
    let mut rule = json!({"subjects": subjects});
    if !resources.is_empty() {
        rule["resourceRules"] = resources.into();
    }
    if !paths.is_empty() {
        rule["nonResourceRules"] = paths.into();
    }
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
        "rules": [rule]});
    if !method.is_empty() {
        spec["distinguisherMethod"] = json!({"type": method});
    }
    // Its level is written with it: it is known at once that nothing is missing.
    let found =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists");
    json!({"apiVersion": VERSION, "kind": "FlowSchema", "metadata": metadata(name), "spec": spec,
        "status": {"conditions": [{"type": "Dangling", "status": "False", "reason": "Found", "message": found}]}})
}
