//! The audit policy: the first rule that fits a request says how much of it is recorded. Pure.
//!
//! Source: apiserver `pkg/audit/policy/checker.go`, `pkg/apis/audit/validation/validation.go`.

use serde::Deserialize;
use types::field::{FieldError, Path};

use super::{Level, Stage};
use crate::auth::Identity;

const GROUP: &str = "audit.k8s.io/";
const KIND: &str = "Policy";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "a Policy is an object and may carry a name")]
    metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    level: String,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    paths: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What the policy is asked about.
pub struct Request<'a> {
    /// The sender, before it acts as somebody else. `None`: it could not say who it is.
    pub user: Option<&'a Identity>,
    pub verb: &'a str,
    pub target: Target<'a>,
}

#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    Path(&'a str),
    Resource { group: &'a str, resource: &'a str, subresource: &'a str, namespace: &'a str, name: &'a str },
}

/// What is recorded of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub level: Level,
    omitted: u8,
    pub omit_managed_fields: bool,
}

impl Decision {
    pub fn omits(&self, stage: Stage) -> bool {
        self.omitted & bit(stage) != 0
    }
}

fn bit(stage: Stage) -> u8 {
    1 << stage as u8
}

/// Reads the text of a policy file.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn parse(text: &str) -> Result<Policy, String> {
    let policy: Policy = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    if policy.api_version.strip_prefix(GROUP) != Some("v1") || policy.kind != KIND {
        return Err(format!("a {KIND} of {GROUP}v1 is wanted, this is {:?} of {:?}", policy.kind, policy.api_version));
    }
    if policy.rules.is_empty() {
        return Err("loaded illegal policy with 0 rules".into());
    }
    match policy.errors().first() {
        Some(error) => Err(error.to_string()),
        None => Ok(policy),
    }
}

impl Policy {
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let omitted = stages(&self.omit_stages);
        match self.rules.iter().find(|rule| rule.fits(request)) {
            Some(rule) => Decision {
                level: level(&rule.level).unwrap_or(Level::None),
                omitted: omitted | stages(&rule.omit_stages),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            },
            None => Decision { level: Level::None, omitted, omit_managed_fields: self.omit_managed_fields },
        }
    }

    fn errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        check_stages(&self.omit_stages, &Path::new("omitStages"), &mut errors);
        for (i, rule) in self.rules.iter().enumerate() {
            rule.check(&Path::new("rules").index(i), &mut errors);
        }
        errors
    }
}

const LEVELS: [(&str, Level); 4] = [
    ("None", Level::None),
    ("Metadata", Level::Metadata),
    ("Request", Level::Request),
    ("RequestResponse", Level::RequestResponse),
];

fn level(text: &str) -> Option<Level> {
    LEVELS.iter().find(|(name, _)| *name == text).map(|(_, level)| *level)
}

const STAGES: [(&str, Stage); 4] = [
    ("RequestReceived", Stage::RequestReceived),
    ("ResponseStarted", Stage::ResponseStarted),
    ("ResponseComplete", Stage::ResponseComplete),
    ("Panic", Stage::Panic),
];

fn stages(names: &[String]) -> u8 {
    let known = names.iter().filter_map(|n| STAGES.iter().find(|(name, _)| name == n));
    known.fold(0, |bits, (_, stage)| bits | bit(*stage))
}

fn check_stages(names: &[String], path: &Path, errors: &mut Vec<FieldError>) {
    for (i, name) in names.iter().enumerate() {
        if !STAGES.iter().any(|(known, _)| known == name) {
            let words = "allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic";
            errors.push(FieldError::invalid(&path.index(i), name.as_str(), words));
        }
    }
}

impl Rule {
    fn fits(&self, request: &Request<'_>) -> bool {
        let user = |allowed: &dyn Fn(&Identity) -> bool| request.user.is_some_and(allowed);
        if !self.users.is_empty() && !user(&|u| self.users.contains(&u.user)) {
            return false;
        }
        if !self.user_groups.is_empty() && !user(&|u| u.groups.iter().any(|g| self.user_groups.contains(g))) {
            return false;
        }
        if !self.verbs.is_empty() && !self.verbs.iter().any(|v| v == request.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return self.fits_resource(request.target);
        }
        match request.target {
            _ if self.paths.is_empty() => true,
            Target::Path(path) => self.paths.iter().any(|spec| path_fits(path, spec)),
            Target::Resource { .. } => false,
        }
    }

    fn fits_resource(&self, target: Target<'_>) -> bool {
        let Target::Resource { group, resource, subresource, namespace, name } = target else { return false };
        if !self.namespaces.is_empty() && !self.namespaces.iter().any(|n| n == namespace) {
            return false;
        }
        let combined = if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
        let fits = |given: &str| {
            given == "*"
                || given == combined
                || given.strip_prefix("*/").is_some_and(|sub| !subresource.is_empty() && sub == subresource)
                || given.strip_suffix("/*").is_some_and(|plural| plural == resource)
        };
        self.resources.is_empty()
            || self.resources.iter().filter(|r| r.group == group || r.group == "*").any(|r| {
                let named = r.resource_names.is_empty() || r.resource_names.iter().any(|n| n == name);
                r.resources.is_empty() || (named && r.resources.iter().any(|given| fits(given)))
            })
    }

    fn check(&self, path: &Path, errors: &mut Vec<FieldError>) {
        let at = path.child("level");
        match self.level.as_str() {
            "" => errors.push(FieldError::required(&at, "")),
            text if level(text).is_none() => {
                errors.push(FieldError::not_supported(&at, text, &LEVELS.map(|(name, _)| name)));
            }
            _ => {}
        }
        let at = path.child("nonResourceURLs");
        for (i, url) in self.paths.iter().enumerate().filter(|(_, url)| *url != "*") {
            if !url.starts_with('/') {
                let words = "non-resource URL rules must begin with a '/' character";
                errors.push(FieldError::invalid(&at.index(i), url.as_str(), words));
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                let words = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.push(FieldError::invalid(&at.index(i), url.as_str(), words));
            }
        }
        let resources = path.child("resources");
        for given in &self.resources {
            if !given.resource_names.is_empty() && given.resources.is_empty() {
                let words = "using resourceNames requires at least one resource";
                errors.push(FieldError::invalid(
                    &resources.child("resourceNames"),
                    given.resource_names.join(",").as_str(),
                    words,
                ));
            }
            if given.group.contains('/') {
                let words = "a group is wanted without its version";
                errors.push(FieldError::invalid(&resources.child("group"), given.group.as_str(), words));
            }
        }
        check_stages(&self.omit_stages, &path.child("omitStages"), errors);
        let resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if resources && !self.paths.is_empty() {
            let words = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(&at, self.paths.join(",").as_str(), words));
        }
    }
}

fn path_fits(path: &str, spec: &str) -> bool {
    spec == "*" || spec == path || spec.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rest: &str) -> String {
        format!("apiVersion: {GROUP}v1\nkind: {KIND}\n{rest}")
    }

    const POLICY: &str = "
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: [quiet]}
- {level: Request, userGroups: [ops], verbs: [delete]}
- {level: RequestResponse, resources: [{group: '', resources: [pods, 'pods/*']}], omitManagedFields: false}
- {level: Metadata, resources: [{group: '', resources: [secrets], resourceNames: [one]}], omitStages: [Panic]}
- {level: Metadata, namespaces: [kube-system]}
- {level: Request, resources: [{group: apps, resources: ['*/scale']}]}
- {level: Metadata, nonResourceURLs: ['/healthz*', /version]}
";

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = parse(&file(POLICY)).unwrap_or_else(|e| panic!("{e}"));
        let resource = |group, resource, subresource, namespace, name| Target::Resource {
            group,
            resource,
            subresource,
            namespace,
            name,
        };
        for (user, verb, target, wanted) in [
            ("quiet", "delete", resource("", "pods", "", "a", "x"), Level::None),
            ("ops", "delete", resource("", "services", "", "a", "x"), Level::Request),
            ("ops", "get", resource("", "services", "", "a", "x"), Level::None),
            ("ann", "get", resource("", "pods", "", "a", "x"), Level::RequestResponse),
            ("ann", "get", resource("", "pods", "log", "a", "x"), Level::RequestResponse),
            ("ann", "get", resource("metrics.k8s.io", "pods", "", "a", "x"), Level::None),
            ("ann", "get", resource("", "secrets", "", "a", "one"), Level::Metadata),
            ("ann", "get", resource("", "secrets", "", "a", "two"), Level::None),
            ("ann", "list", resource("", "services", "", "kube-system", ""), Level::Metadata),
            ("ann", "get", resource("apps", "deployments", "scale", "a", "x"), Level::Request),
            ("ann", "get", resource("apps", "deployments", "", "a", "x"), Level::None),
            ("ann", "get", Target::Path("/healthz/ping"), Level::Metadata),
            ("ann", "get", Target::Path("/version/x"), Level::None),
        ] {
            let identity = Identity::new(user, if user == "ops" { &["ops"] } else { &[] });
            let decision = policy.decide(&Request { user: Some(&identity), verb, target });
            assert_eq!(decision.level, wanted, "{user} {verb} {target:?}");
            assert!(decision.omits(Stage::RequestReceived));
        }
        let nobody = Request { user: None, verb: "delete", target: Target::Path("/version") };
        assert_eq!(policy.decide(&nobody).level, Level::Metadata);
        let secret = Request { user: None, verb: "get", target: resource("", "secrets", "", "a", "one") };
        let decision = policy.decide(&secret);
        assert!(
            decision.omits(Stage::Panic) && !decision.omits(Stage::ResponseComplete) && decision.omit_managed_fields
        );
        let pod = Request { user: None, verb: "get", target: resource("", "pods", "", "a", "x") };
        assert!(!policy.decide(&pod).omit_managed_fields);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("kind: Other\n".to_owned(), "is wanted"),
            (file(""), "0 rules"),
            (file("rules: [{}]"), "rules[0].level: Required"),
            (file("rules: [{level: All}]"), "rules[0].level: Unsupported value"),
            (file("rules: [{level: None, colour: red}]"), "unknown field `colour`"),
            (file("omitStages: [Never]\nrules: [{level: None}]"), "allowed stages are"),
            (file("rules: [{level: None, nonResourceURLs: [a]}]"), "must begin with a '/'"),
            (file("rules: [{level: None, nonResourceURLs: ['/*/a']}]"), "must be the final character"),
            (file("rules: [{level: None, nonResourceURLs: [/a], namespaces: [b]}]"), "cannot apply to both"),
            (file("rules: [{level: None, resources: [{resourceNames: [a]}]}]"), "requires at least one resource"),
        ] {
            let error = parse(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
