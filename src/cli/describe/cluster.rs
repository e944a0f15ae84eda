//! Namespaces and what bounds them: resource quotas and limit ranges.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Facts;
use super::page::{Page, date, list, map, strings};
use crate::manifest::text;

/// What a quota's scope means, in upstream's words. Source: core/v1 `ResourceQuotaScope`.
const SCOPES: &[(&str, &str)] = &[
    (
        "Terminating",
        "Matches all pods that have an active deadline. These pods have a limited lifespan on a node before being actively terminated by the system.",
    ),
    (
        "NotTerminating",
        "Matches all pods that do not have an active deadline. These pods usually include long running pods whose container command is not expected to terminate.",
    ),
    (
        "BestEffort",
        "Matches all pods that do not have resource requirements set. These pods have a best effort quality of service.",
    ),
    (
        "NotBestEffort",
        "Matches all pods that have at least one resource requirement set. These pods have a burstable or guaranteed quality of service.",
    ),
];

const LIMITS_HEAD: &str = "Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio";
const LIMITS_RULE: &str = "----\t--------\t---\t---\t---------------\t-------------\t-----------------------";

pub fn namespace(page: &mut Page, facts: &Facts<'_>) {
    let o = facts.object;
    page.head_without_namespace(o);
    page.field(0, "Status", text(o, "/status/phase"));
    let conditions = list(o, "/status/conditions");
    if !conditions.is_empty() {
        page.line(0, "Conditions:");
        page.line(1, "Type\tStatus\tLastTransitionTime\tReason\tMessage");
        page.line(1, "----\t------\t------------------\t------\t-------");
    }
    for c in conditions {
        let at = date(text(c, "/lastTransitionTime"), &facts.zone);
        let cells = [text(c, "/type"), text(c, "/status"), &at, text(c, "/reason"), text(c, "/message")];
        page.line(1, cells.join("\t"));
    }
    if let Some(quotas) = &facts.quotas {
        page.line(0, "");
        write_quotas(page, quotas);
    }
    if let Some(ranges) = &facts.limit_ranges {
        page.line(0, "");
        if ranges.is_empty() {
            return page.line(0, "No LimitRange resource.");
        }
        page.line(0, "Resource Limits");
        page.line(0, format!(" {LIMITS_HEAD}"));
        page.line(0, format!(" {LIMITS_RULE}"));
        ranges.iter().for_each(|range| limits(page, range, " "));
    }
}

fn write_quotas(page: &mut Page, quotas: &[Value]) {
    if quotas.is_empty() {
        return page.line(0, "No resource quota.");
    }
    let mut quotas: Vec<&Value> = quotas.iter().collect();
    quotas.sort_by_key(|q| text(q, "/metadata/name"));
    page.line(0, "Resource Quotas");
    for quota in quotas {
        page.field(1, "Name", text(quota, "/metadata/name"));
        scopes(page, quota, 1, "* ");
        page.line(1, "Resource\tUsed\tHard");
        page.line(1, "--------\t---\t---");
        amounts(page, quota, 1);
    }
}

fn scopes(page: &mut Page, quota: &Value, level: usize, bullet: &str) {
    let mut scopes = strings(quota, "/spec/scopes");
    if scopes.is_empty() {
        return;
    }
    scopes.sort_unstable();
    page.field(level, "Scopes", scopes.join(", "));
    for scope in scopes {
        if let Some((_, help)) = SCOPES.iter().find(|(name, _)| *name == scope) {
            page.line(level, format!("{bullet}{help}"));
        }
    }
}

fn amounts(page: &mut Page, quota: &Value, level: usize) {
    let used = map(quota, "/status/used");
    for (name, hard) in map(quota, "/status/hard") {
        page.line(level, format!("{name}\t{}\t{hard}", used.get(&name).map_or("0", String::as_str)));
    }
}

pub fn quota(page: &mut Page, facts: &Facts<'_>) {
    page.field(0, "Name", text(facts.object, "/metadata/name"));
    page.field(0, "Namespace", text(facts.object, "/metadata/namespace"));
    scopes(page, facts.object, 0, " * ");
    page.line(0, "Resource\tUsed\tHard");
    page.line(0, "--------\t----\t----");
    amounts(page, facts.object, 0);
}

pub fn limit_range(page: &mut Page, facts: &Facts<'_>) {
    page.field(0, "Name", text(facts.object, "/metadata/name"));
    page.field(0, "Namespace", text(facts.object, "/metadata/namespace"));
    page.line(0, LIMITS_HEAD);
    page.line(0, LIMITS_RULE);
    limits(page, facts.object, "");
}

fn limits(page: &mut Page, range: &Value, prefix: &str) {
    const FIELDS: [&str; 5] = ["/min", "/max", "/defaultRequest", "/default", "/maxLimitRequestRatio"];
    for item in list(range, "/spec/limits") {
        let columns = FIELDS.map(|field| map(item, field));
        let names: BTreeSet<&String> = columns.iter().flat_map(|c| c.keys()).collect();
        for name in names {
            let cells = columns.each_ref().map(|c| c.get(name).map_or("-", String::as_str));
            page.line(0, format!("{prefix}{}\t{name}\t{}", text(item, "/type"), cells.join("\t")));
        }
    }
}
