//! Quality-of-service class of a pod. Source: `pkg/apis/core/helper/qos/qos.go`.

use serde_json::Value;
use types::quantity::Quantity;

use super::super::super::json::{get, list, map, quantity};

/// Only these two count.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

pub fn class(spec: &Value) -> &'static str {
    let pod = get(spec, "resources");
    let holders: Vec<&Value> =
        if RESOURCES.iter().any(|r| amount(pod, "requests", r).or(amount(pod, "limits", r)).is_some()) {
            vec![pod]
        } else {
            list(spec, "containers").iter().chain(list(spec, "initContainers")).map(|c| get(c, "resources")).collect()
        };
    let mut any = false;
    let mut guaranteed = true;
    for resources in holders {
        for resource in RESOURCES {
            let (request, limit) = (amount(resources, "requests", resource), amount(resources, "limits", resource));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn amount(resources: &Value, field: &str, resource: &str) -> Option<Quantity> {
    map(resources, field).find(|(k, _)| *k == resource).and_then(|(_, v)| quantity(v)).filter(|q| !q.is_zero())
}
