//! The node row.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::cells::{NONE, created, or};
use super::{condition, name};
use crate::hooks::json::{boolean, get, list, map, text};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE: &str = "kubernetes.io/role";
const UNKNOWN: &str = "<unknown>";

pub fn cells(node: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let status = get(node, "status");
    let info = get(status, "nodeInfo");
    let ready = match condition(node, "Ready").map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = if boolean(get(node, "spec"), "unschedulable") { ",SchedulingDisabled" } else { "" };
    let address = |kind: &str| {
        let found = list(status, "addresses").iter().find(|a| text(a, "type") == kind);
        or(found.map_or("", |a| text(a, "address")), NONE).to_owned()
    };
    let kernel = match (text(info, "kernelVersion"), text(info, "architecture")) {
        ("", _) => UNKNOWN.to_owned(),
        (kernel, "") => kernel.to_owned(),
        (kernel, architecture) => format!("{kernel} ({architecture})"),
    };
    vec![
        name(node),
        format!("{ready}{cordoned}").into(),
        roles(node).into(),
        created(node, now).into(),
        text(info, "kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        or(text(info, "osImage"), UNKNOWN).into(),
        kernel.into(),
        or(text(info, "containerRuntimeVersion"), UNKNOWN).into(),
    ]
}

fn roles(node: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in map(get(node, "metadata"), "labels") {
        let role = match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => role,
            None if key == ROLE => value.as_str().unwrap_or_default(),
            None => "",
        };
        if !role.is_empty() {
            roles.insert(role);
        }
    }
    or(&roles.into_iter().collect::<Vec<_>>().join(","), NONE).to_owned()
}
