//! Whether the expressions of policies and webhooks compile, for the validation of those objects.
//!
//! Source: `pkg/apis/admissionregistration/validation/validation.go` `validateCELCondition`, `validateVariable` and kin.

use serde_json::Value as Json;
use types::field::{FieldError, Path};

use super::environment::{self, Options, Returns};
use super::expression::Composition;
use crate::hooks::json::{get, has, list, text};

/// The error of one expression that does not compile; an absent one is somebody else's to miss.
fn check(env: &cel::Env, of: &Json, field: &str, returns: Returns, path: &Path, errors: &mut Vec<FieldError>) {
    let expression = text(of, field).trim();
    if expression.is_empty() {
        return;
    }
    if let Err(why) = environment::compile(env, expression, returns) {
        errors.push(FieldError::invalid(&path.child(field), expression, why));
    }
}

/// `matchConditions` of a webhook, which has neither parameters nor variables, or of a policy.
pub fn conditions(of: &Json, path: &Path, params: bool, errors: &mut Vec<FieldError>) {
    if list(of, "matchConditions").is_empty() {
        return;
    }
    let env = environment::environment(Options { params, authorizer: true, patches: false });
    for (i, condition) in list(of, "matchConditions").iter().enumerate() {
        check(&env, condition, "expression", Returns::Bool, &path.child("matchConditions").index(i), errors);
    }
}

/// Everything that both kinds of policies have. Hands back the variables.
fn common(spec: &Json, path: &Path, errors: &mut Vec<FieldError>) -> (Options, Composition) {
    let options = Options { params: has(spec, "paramKind"), authorizer: true, patches: false };
    conditions(spec, path, options.params, errors);
    let composition = Composition::compile(spec, options);
    for (i, why) in composition.errors() {
        let expression = list(spec, "variables").get(i).map_or("", |variable| text(variable, "expression"));
        if !expression.trim().is_empty() {
            let path = path.child("variables").index(i).child("expression");
            errors.push(FieldError::invalid(&path, expression, why));
        }
    }
    (options, composition)
}

/// Of a ValidatingAdmissionPolicy.
pub fn validating(policy: &Json) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (spec, path) = (get(policy, "spec"), Path::new("spec"));
    let (options, composition) = common(spec, &path, &mut errors);
    let env = composition.env(options);
    let message_env = composition.env(Options { authorizer: false, ..options });
    for (i, validation) in list(spec, "validations").iter().enumerate() {
        let path = path.child("validations").index(i);
        check(&env, validation, "expression", Returns::Bool, &path, &mut errors);
        check(&message_env, validation, "messageExpression", Returns::Text, &path, &mut errors);
    }
    for (i, annotation) in list(spec, "auditAnnotations").iter().enumerate() {
        let path = path.child("auditAnnotations").index(i);
        check(&env, annotation, "valueExpression", Returns::TextOrNull, &path, &mut errors);
    }
    errors
}

/// Of a MutatingAdmissionPolicy.
pub fn mutating(policy: &Json) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (spec, path) = (get(policy, "spec"), Path::new("spec"));
    let (options, composition) = common(spec, &path, &mut errors);
    let env = composition.env(Options { patches: true, ..options });
    for (i, mutation) in list(spec, "mutations").iter().enumerate() {
        let (field, returns) = match text(mutation, "patchType") {
            "JSONPatch" => ("jsonPatch", Returns::Patches),
            _ => ("applyConfiguration", Returns::Configuration),
        };
        let path = path.child("mutations").index(i).child(field);
        check(&env, get(mutation, field), "expression", returns, &path, &mut errors);
    }
    errors
}
