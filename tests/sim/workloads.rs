//! What is deployed in a run: drawn once, changed by the scenario.

use serde_json::{Value, json};

use crate::chance::Chance;

pub const NAMESPACE: &str = "shop";
pub const DEPLOYMENTS: [&str; 3] = ["web", "api", "one"];
pub const STATEFUL_SETS: [&str; 2] = ["db", "cache"];
pub const DAEMON_SET: &str = "log";

pub fn collection(group: &str, plural: &str) -> String {
    match group {
        "" => format!("/api/v1/namespaces/{NAMESPACE}/{plural}"),
        _ => format!("/apis/{group}/v1/namespaces/{NAMESPACE}/{plural}"),
    }
}

fn template(app: &str, image: &str, millis: u64) -> Value {
    let requests = json!({"cpu": format!("{millis}m"), "memory": "64Mi"});
    json!({"metadata": {"labels": {"app": app}}, "spec": {"terminationGracePeriodSeconds": 5,
        "containers": [{"name": "c", "image": image, "resources": {"requests": requests}}]}})
}

fn named(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
}

pub fn deployment(name: &str, chance: &mut Chance) -> Value {
    // Not both nothing.
    let (surge, unavailable) = *chance.pick(&[(1, 0), (0, 1), (1, 1), (2, 1), (2, 2)]);
    let rolling = match chance.permille(300) {
        true => json!({"maxSurge": "25%", "maxUnavailable": "25%"}),
        false => json!({"maxSurge": surge, "maxUnavailable": unavailable}),
    };
    let strategy = match name {
        "one" => json!({"type": "Recreate"}),
        _ => json!({"type": "RollingUpdate", "rollingUpdate": rolling}),
    };
    named(
        name,
        json!({"replicas": chance.between(1, 5), "selector": {"matchLabels": {"app": name}}, "strategy": strategy,
            "minReadySeconds": *chance.pick(&[0, 0, 5]), "revisionHistoryLimit": chance.between(0, 3),
            "template": with_device(name, template(name, "v0", chance.between(50, 400)))}),
    )
}

/// The pods of one Deployment have a device each.
fn with_device(name: &str, mut template: Value) -> Value {
    if name == "api" {
        template["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimTemplateName": "gpu"}]);
    }
    template
}

const DRIVER: &str = "gpu.example.com";

pub fn device_class() -> Value {
    let expression = format!("device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].healthy");
    json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}})
}

pub fn claim_template() -> Value {
    let request = json!({"name": "one", "exactly": {"deviceClassName": "gpu"}});
    named("gpu", json!({"spec": {"devices": {"requests": [request]}}}))
}

/// What the driver on a node offers.
pub fn slice(node: &str) -> Value {
    let devices: Vec<Value> =
        (0..3).map(|n| json!({"name": n.to_string(), "attributes": {"healthy": {"bool": true}}})).collect();
    let pool = json!({"name": node, "generation": 1, "resourceSliceCount": 1});
    json!({"metadata": {"name": node}, "spec": {"driver": DRIVER, "nodeName": node, "pool": pool, "devices": devices}})
}

pub fn stateful_set(name: &str, chance: &mut Chance) -> Value {
    let policy = if name == "cache" { "Parallel" } else { "OrderedReady" };
    named(
        name,
        json!({"replicas": chance.between(1, 4), "selector": {"matchLabels": {"app": name}}, "serviceName": name,
            "podManagementPolicy": policy, "template": template(name, "v0", chance.between(50, 400))}),
    )
}

pub fn daemon_set(name: &str) -> Value {
    named(name, json!({"selector": {"matchLabels": {"app": name}}, "template": template(name, "v0", 50)}))
}

pub fn service(name: &str) -> Value {
    named(name, json!({"selector": {"app": name}, "ports": [{"port": 80}]}))
}

pub fn budget(name: &str, chance: &mut Chance) -> Value {
    let wanted = *chance.pick(&["minAvailable", "maxUnavailable"]);
    let amount = chance.pick(&[json!(1), json!("50%")]).clone();
    named(name, json!({"selector": {"matchLabels": {"app": name}}, wanted: amount}))
}

pub fn job(name: &str, chance: &mut Chance) -> Value {
    let image = *chance.pick(&["works", "works", "flaky", "fails"]);
    let mut template = template(name, image, chance.between(50, 200));
    template["spec"]["restartPolicy"] = (*chance.pick(&["Never", "Never", "OnFailure"])).into();
    named(
        name,
        json!({"completions": chance.between(1, 6), "parallelism": chance.between(1, 3), "template": template,
            "completionMode": *chance.pick(&["NonIndexed", "Indexed"]), "backoffLimit": chance.between(0, 4)}),
    )
}

pub fn quota(pods: u64) -> Value {
    named("few", json!({"hard": {"pods": pods.to_string()}}))
}
