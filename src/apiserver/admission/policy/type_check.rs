//! What is doubtful about a ValidatingAdmissionPolicy: its expressions checked against the types of the kinds that it names.
//! Told in the policy's status; it refuses nothing, since what is stored may have other fields tomorrow.
//!
//! Source: apiserver `pkg/admission/plugin/policy/validating/typechecking.go`.

use serde_json::{Value as Json, json};
use store::View;
use types::field::Path;
use types::registry::GroupVersionKind;

use super::declare::{self, Declared};
use super::environment::{Options, environment, variables};
use crate::hooks::json::{get, has, list, text, texts};
use cel::schema::Decl;
use cel::types::Type;
use cel::{Env, issue};

/// The most kinds that a rule is checked against. Source: `maxTypesToCheck`.
const KINDS_MAX: usize = 10;

/// The `expressionWarnings` of a policy.
pub fn warnings(policy: &Json, view: &dyn View) -> Vec<Json> {
    let spec = get(policy, "spec");
    let kinds = kinds(spec, view);
    let params = params(spec, view);
    let mut warnings = Vec::new();
    for (i, validation) in list(spec, "validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let expression = text(validation, field);
            if expression.is_empty() {
                continue;
            }
            let of_kind = |declared: &Declared| {
                let issues = issues(spec, expression, declared.decl.as_ref(), params.as_ref())?;
                Some(format!("{}: {issues}\n", shown(&declared.kind)))
            };
            let found: Vec<String> = kinds.iter().filter_map(of_kind).collect();
            if !found.is_empty() {
                let path = Path::new("spec").child("validations").index(i).child(field);
                warnings.push(json!({"fieldRef": path.to_string(), "warning": found.join("\n")}));
            }
        }
    }
    warnings
}

/// As Go prints a group, version and kind.
fn shown(kind: &GroupVersionKind) -> String {
    format!("{}/{}, Kind={}", kind.group, kind.version, kind.kind)
}

/// The kinds that the rules name without a wildcard.
fn kinds(spec: &Json, view: &dyn View) -> Vec<Declared> {
    let mut found: Vec<Declared> = Vec::new();
    for rule in list(get(spec, "matchConstraints"), "resourceRules") {
        let plain = |field: &str| {
            let mut all: Vec<&str> = texts(rule, field).collect();
            all.sort_unstable();
            if all.iter().any(|text| text.contains('*')) { Vec::new() } else { all }
        };
        let mut resources: Vec<&str> = texts(rule, "resources").filter(|r| !r.contains(['*', '/'])).collect();
        resources.sort_unstable();
        let mut count = 0;
        for group in plain("apiGroups") {
            for version in plain("apiVersions") {
                for plural in &resources {
                    let Some(declared) = declare::resource(group, version, plural, view) else { continue };
                    if !found.iter().any(|known| known.kind == declared.kind) {
                        found.push(declared);
                    }
                    count += 1;
                    if count == KINDS_MAX {
                        return sorted(found);
                    }
                }
            }
        }
    }
    sorted(found)
}
fn sorted(mut kinds: Vec<Declared>) -> Vec<Declared> {
    kinds.sort_by(|a, b| a.kind.cmp(&b.kind));
    kinds
}

/// The type of `params`; `None` where the policy has none.
fn params(spec: &Json, view: &dyn View) -> Option<Decl> {
    if !has(spec, "paramKind") {
        return None;
    }
    let of = get(spec, "paramKind");
    let api_version = text(of, "apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let declared = declare::kind(group, version, text(of, "kind"), view).and_then(|declared| declared.decl);
    Some(declared.unwrap_or_else(Decl::dynamic))
}

/// What is wrong with an expression over objects of that type.
fn issues(spec: &Json, expression: &str, object: Option<&Decl>, params: Option<&Decl>) -> Option<String> {
    let object = object.cloned().unwrap_or_else(Decl::dynamic);
    let options = Options { params: false, authorizer: true, patches: false };
    let mut env = environment(options).with("object", object.clone()).with("oldObject", object);
    if let Some(params) = params {
        env = env.with("params", params.clone());
    }
    let mut known: Vec<(&str, Type)> = Vec::new();
    let with_variables = |env: &Env, known: &[(&str, Type)]| variables(env.clone(), known.iter().cloned());
    for variable in list(spec, "variables") {
        let compiled = with_variables(&env, &known).compile(text(variable, "expression"));
        let t = compiled.map_or(Type::Dyn, |program| program.result_type().clone());
        known.push((text(variable, "name"), t));
    }
    let issues = with_variables(&env, &known).compile(expression).err()?;
    Some(issue::render(expression, &issues))
}

#[cfg(test)]
mod tests {

    use store::{Entry, Revision};

    use super::*;

    /// A store without custom kinds.
    struct Nothing;
    impl View for Nothing {
        fn revision(&self) -> Revision {
            Revision(1)
        }
        fn get(&self, _: &str) -> Option<Entry> {
            None
        }
        fn range<'a>(&'a self, _: &str, _: Option<&str>) -> Box<dyn Iterator<Item = &'a Entry> + 'a> {
            Box::new(std::iter::empty())
        }
        fn count(&self, _: &str) -> usize {
            0
        }
    }

    fn check(spec: Json, expected: &[(&str, &str)]) {
        let mut spec = spec;
        spec["matchConstraints"] = json!({"resourceRules": [{
            "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE"],
        }]});
        let found = warnings(&json!({"spec": spec}), &Nothing);
        let found: Vec<(&str, &str)> =
            found.iter().map(|w| (w["fieldRef"].as_str().unwrap(), w["warning"].as_str().unwrap())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn built_in_kinds() {
        check(
            json!({"validations": [{"expression": "object.spec.replicas > 1 && object.metadata.__namespace__ == 'a'"}]}),
            &[],
        );
        check(
            json!({"validations": [{
                "expression": "object.spec.replicas > '1'", "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas",
            }]}),
            &[
                (
                    "spec.validations[0].expression",
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n",
                ),
                (
                    "spec.validations[0].messageExpression",
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:28: found no matching overload for '_+_' applied to '(string, int)'\n | 'wants replicas > 1, got ' + object.spec.replicas\n | ...........................^\n",
                ),
            ],
        );
        check(
            json!({
                "variables": [{"name": "spec", "expression": "object.spec"}],
                "validations": [{"expression": "variables.spec.template.spec.containers.all(c, c.imagen != '')"}],
            }),
            &[(
                "spec.validations[0].expression",
                "apps/v1, Kind=Deployment: ERROR: <input>:1:49: undefined field 'imagen'\n | variables.spec.template.spec.containers.all(c, c.imagen != '')\n | ................................................^\n",
            )],
        );
    }
}
