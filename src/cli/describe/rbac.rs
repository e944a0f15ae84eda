//! Roles and bindings.
//!
//! Source: kubectl `pkg/util/rbac` for how rules are taken apart and put together again.

use serde_json::Value;

use super::Facts;
use super::page::{Page, bracketed, list, strings};
use crate::manifest::text;

/// A rule about one resource or one URL; its verbs in the order in which they were met.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    group: String,
    resource: String,
    name: String,
    url: String,
    verbs: Vec<String>,
}

pub fn role(page: &mut Page, facts: &Facts<'_>) {
    page.head_without_namespace(facts.object);
    page.line(0, "PolicyRule:");
    page.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    page.line(1, "---------\t-----------------\t--------------\t-----");
    for row in table(list(facts.object, "/rules")) {
        page.line(1, row.join("\t"));
    }
}

/// Rules as rows: resource, URLs, names, verbs.
pub fn table(rules: &[Value]) -> Vec<Vec<String>> {
    let one = |t: &str| if t.is_empty() { "[]".to_owned() } else { bracketed(&[t]) };
    let row = |rule: Rule| {
        let verbs: Vec<&str> = rule.verbs.iter().map(String::as_str).collect();
        vec![rule.shown(), one(&rule.url), one(&rule.name), bracketed(&verbs)]
    };
    compact(rules).into_iter().map(row).collect()
}

impl Rule {
    /// `deployments.apps/scale`.
    fn shown(&self) -> String {
        let (resource, sub) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let sub = if sub.is_empty() { String::new() } else { format!("/{sub}") };
        format!("{resource}{group}{sub}")
    }

    /// What upstream sorts by: the text of the whole rule as Go's generated code writes it, verbs first.
    fn sort_key(&self) -> String {
        let list = |t: &str| if t.is_empty() { "[]".to_owned() } else { bracketed(&[t]) };
        let verbs: Vec<&str> = self.verbs.iter().map(String::as_str).collect();
        // An empty group is a list of one empty text, which is written alike.
        format!(
            "&PolicyRule{{Verbs:{},APIGroups:{},Resources:{},ResourceNames:{},NonResourceURLs:{},}}",
            bracketed(&verbs),
            list(&self.group),
            list(&self.resource),
            list(&self.name),
            list(&self.url)
        )
    }
}

/// One rule for each resource and for each URL and verb.
fn compact(rules: &[Value]) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for rule in rules {
        let verbs = strings(rule, "/verbs");
        let names = match strings(rule, "/resourceNames") {
            names if names.is_empty() => vec![""],
            names => names,
        };
        for group in strings(rule, "/apiGroups") {
            for resource in strings(rule, "/resources") {
                for (verb, name) in verbs.iter().flat_map(|v| names.iter().map(move |n| (v, n))) {
                    let same = |r: &&mut Rule| {
                        r.url.is_empty() && r.group == group && r.resource == resource && r.name == *name
                    };
                    match out.iter_mut().find(same) {
                        Some(known) if known.verbs.iter().any(|v| v == verb) => {}
                        Some(known) => known.verbs.push((*verb).to_owned()),
                        None => out.push(Rule {
                            group: group.into(),
                            resource: resource.into(),
                            name: (*name).into(),
                            url: String::new(),
                            verbs: vec![(*verb).into()],
                        }),
                    }
                }
            }
        }
        for url in strings(rule, "/nonResourceURLs") {
            let one = |verb: &&str| Rule {
                group: String::new(),
                resource: String::new(),
                name: String::new(),
                url: url.into(),
                verbs: vec![(*verb).into()],
            };
            out.extend(verbs.iter().map(one));
        }
    }
    out.sort_by_key(Rule::sort_key);
    out
}

pub fn binding(page: &mut Page, facts: &Facts<'_>) {
    let o = facts.object;
    page.head_without_namespace(o);
    page.line(0, "Role:");
    page.field(1, "Kind", text(o, "/roleRef/kind"));
    page.field(1, "Name", text(o, "/roleRef/name"));
    page.line(0, "Subjects:");
    page.line(1, "Kind\tName\tNamespace");
    page.line(1, "----\t----\t---------");
    for subject in list(o, "/subjects") {
        page.line(1, [text(subject, "/kind"), text(subject, "/name"), text(subject, "/namespace")].join("\t"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_put_together_by_resource() {
        let rules = [
            json!({"apiGroups": ["", "apps"], "resources": ["pods", "deployments/scale"], "verbs": ["get", "list"]}),
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["watch", "get"]}),
            json!({"nonResourceURLs": ["/healthz"], "verbs": ["get"]}),
        ];
        let shown: Vec<String> =
            compact(&rules).iter().map(|r| format!("{}{} {}", r.shown(), r.url, r.verbs.join(","))).collect();
        assert_eq!(
            shown,
            [
                "pods get,list,watch",
                "deployments/scale get,list",
                "deployments.apps/scale get,list",
                "pods.apps get,list",
                "/healthz get",
            ]
            .map(String::from)
            .into_iter()
            .collect::<Vec<_>>()
        );
    }
}
