//! Nobody may hand out more than they have: the check on writes of roles and bindings.
//!
//! Source: `pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased/storage.go`,
//! `pkg/registry/rbac/validation/rule.go`.

use serde_json::Value;
use store::View;
use types::registry::Kind;
use types::status::Status;

use super::Authorizer;
use super::attributes::{Attributes, Target};
use super::identity::{GROUP_MASTERS, Identity};
use super::rbac::{GROUP, Rule, STORE_PREFIX};

/// Whoever gathers roles may come to hold anything, so this is said instead of all that they lack.
const GATHERS: &str = "must have cluster-admin privileges to use the aggregationRule";

/// Whether `identity` may write this role or binding; `Ok` for every other kind.
///
/// # Errors
/// 403 that lists what would be granted beyond what the writer holds.
pub fn check(
    authorizer: &Authorizer,
    identity: &Identity,
    kind: &Kind,
    object: &Value,
    old: Option<&Value>,
    view: &dyn View,
) -> Result<(), Status> {
    if kind.group != GROUP
        || identity.in_group(GROUP_MASTERS)
        || old.is_some_and(|old| only_for_collection(object, old))
    {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let may = |verb: &str, resource: &str, name: &str| {
        let target =
            Target::Resource { group: GROUP, version: "v1", resource, subresource: "", namespace, name, fields: None };
        authorizer.authorize(&Attributes { identity, verb, target }, view).is_ok()
    };
    let held = || authorizer.rbac.rules(identity, namespace);
    if kind.plural.ends_with("bindings") {
        let role = object["roleRef"]["name"].as_str().unwrap_or_default();
        let cluster = object["roleRef"]["kind"] == "ClusterRole";
        if may("bind", if cluster { "clusterroles" } else { "roles" }, role) {
            return Ok(());
        }
        let (plural, of) = if cluster { ("clusterroles", "") } else { ("roles", namespace) };
        // What the role gathers is what its subjects get, whatever its stored rules say.
        let Some(granted) = authorizer.rbac.role(&format!("{STORE_PREFIX}{plural}/{of}/{role}")) else {
            let referred = types::registry::by_resource(GROUP, "v1", plural).unwrap_or(kind);
            return Err(Status::not_found(referred, role));
        };
        return confirm(identity, &granted, &held()).map_err(|why| Status::forbidden(kind, name, &why));
    }
    if may("escalate", &kind.plural, name) {
        return Ok(());
    }
    let held = held();
    confirm(identity, &Rule::read_all(&object["rules"]), &held).map_err(|why| Status::forbidden(kind, name, &why))?;
    // The old rule counts too: without it a role would keep what it gathered and be let out of what is taken back.
    if (gathers(object) || old.is_some_and(gathers)) && !lacking(&everything(), &held).is_empty() {
        return Err(Status::forbidden(kind, name, GATHERS));
    }
    Ok(())
}

/// Whether a write changes nothing but what the garbage collector does. What the rules of an object that stays the same
/// are worth can change with its labels, so equal rules are no reason to let a write pass.
///
/// Source: `pkg/registry/rbac/helpers.go` `IsOnlyMutatingGCFields`.
fn only_for_collection(new: &Value, old: &Value) -> bool {
    let kept = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields"] {
                metadata.remove(field);
            }
        }
        object
    };
    kept(new) == kept(old)
}

fn gathers(role: &Value) -> bool {
    role["aggregationRule"]["clusterRoleSelectors"].as_array().is_some_and(|selectors| !selectors.is_empty())
}

/// What a cluster's administrator holds.
fn everything() -> [Rule; 2] {
    let any = || vec!["*".to_owned()];
    [
        Rule { verbs: any(), groups: any(), resources: any(), ..Rule::default() },
        Rule { verbs: any(), paths: any(), ..Rule::default() },
    ]
}

/// What `granted` allows beyond what is held, one by one.
fn lacking(granted: &[Rule], held: &[Rule]) -> Vec<Rule> {
    granted.iter().flat_map(break_down).filter(|single| !held.iter().any(|h| h.covers(single))).collect()
}

fn confirm(identity: &Identity, granted: &[Rule], held: &[Rule]) -> Result<(), String> {
    let missing = lacking(granted, held);
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = identity.groups.iter().map(|g| format!("{g:?}")).collect();
    let list: Vec<String> = join(missing).iter().map(show).collect();
    Err(format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        identity.user,
        groups.join(" "),
        list.join("\n")
    ))
}

/// One rule for each combination of verb, group, resource and name, or verb and path.
fn break_down(rule: &Rule) -> Vec<Rule> {
    let mut singles = Vec::new();
    let names: Vec<Vec<String>> =
        if rule.names.is_empty() { vec![Vec::new()] } else { rule.names.iter().map(|n| vec![n.clone()]).collect() };
    for verb in &rule.verbs {
        for group in &rule.groups {
            for resource in &rule.resources {
                for name in &names {
                    singles.push(Rule {
                        verbs: vec![verb.clone()],
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        names: name.clone(),
                        paths: Vec::new(),
                    });
                }
            }
        }
        for path in &rule.paths {
            singles.push(Rule { verbs: vec![verb.clone()], paths: vec![path.clone()], ..Rule::default() });
        }
    }
    singles
}

/// Rules that differ in the verb alone become one, as upstream shows them.
fn join(singles: Vec<Rule>) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::new();
    for single in singles {
        let alike = |r: &&mut Rule| {
            r.groups == single.groups
                && r.resources == single.resources
                && r.names == single.names
                && r.paths == single.paths
        };
        match joined.iter_mut().find(alike) {
            Some(rule) => rule.verbs.extend(single.verbs),
            None => joined.push(single),
        }
    }
    joined
}

fn show(rule: &Rule) -> String {
    let list = |items: &[String]| {
        let quoted: Vec<String> = items.iter().map(|i| format!("{i:?}")).collect();
        format!("[{}]", quoted.join(" "))
    };
    let mut parts = Vec::new();
    if !rule.groups.is_empty() {
        parts.push(format!("APIGroups:{}", list(&rule.groups)));
    }
    if !rule.resources.is_empty() {
        parts.push(format!("Resources:{}", list(&rule.resources)));
    }
    if !rule.names.is_empty() {
        parts.push(format!("ResourceNames:{}", list(&rule.names)));
    }
    if !rule.paths.is_empty() {
        parts.push(format!("NonResourceURLs:{}", list(&rule.paths)));
    }
    if !rule.verbs.is_empty() {
        parts.push(format!("Verbs:{}", list(&rule.verbs)));
    }
    format!("{{{}}}", parts.join(", "))
}
