//! ValidatingAdmissionPolicy: refuses, warns or notes when an expression does not hold.
//!
//! Source: apiserver `pkg/admission/plugin/policy/validating/{validator,dispatcher}.go`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;
use store::Store;
use types::registry::KindRef;
use types::status::{Cause, Reason, Status};

use super::conditions::Conditions;
use super::constraints::Constraints;
use super::environment::{Options, Returns};
use super::expression::{Composition, Expression, evaluate};
use super::input::Input;
use super::{Binding, params, subject};
use crate::admission::Request;
use crate::admission::versions::Seen;
use crate::audit::Annotations;
use crate::hooks::json::{get, has, list, text};
use cel::{Activation, OBJECT_COST_MAX, Value};

/// Source: apiserver `pkg/apis/cel/config.go` `MaxEvaluatedMessageExpressionSizeBytes`.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
/// Source: `maxAuditAnnotationValueLength`.
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;

/// A stored policy, compiled.
pub struct Policy {
    pub name: String,
    failure_ignored: bool,
    constraints: Option<Constraints>,
    pub(super) param_kind: Json,
    composition: Composition,
    conditions: Conditions,
    validations: Vec<Validation>,
    /// By the names of their keys.
    annotations: Vec<(String, Expression)>,
}

struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

/// What one expression says against a request.
struct Refusal {
    message: String,
    reason: String,
    /// Its place among the validations; `None` of an annotation, which refuses whatever the binding does.
    at: Option<usize>,
}

/// What a policy says of a request with one parameter object.
#[derive(Default)]
struct Verdict {
    refusals: Vec<Refusal>,
    /// For the audit log, by key.
    annotations: Vec<(String, String)>,
}

impl Policy {
    pub fn compile(policy: &Json) -> Self {
        let spec = get(policy, "spec");
        let full = Options { params: has(spec, "paramKind"), authorizer: true, patches: false };
        // messages are told to everyone, so they cannot depend on what somebody may do
        let plain = Options { authorizer: false, ..full };
        let composition = Composition::compile(spec, full);
        let (env, message_env) = (composition.env(full), composition.env(plain));
        let validation = |of: &Json| Validation {
            expression: Expression::compile(&env, text(of, "expression"), Returns::Bool),
            message: text(of, "message").trim().to_owned(),
            message_expression: Some(text(of, "messageExpression"))
                .filter(|text| !text.is_empty())
                .map(|text| Expression::compile(&message_env, text, Returns::Text)),
            reason: text(of, "reason").to_owned(),
        };
        let annotation = |of: &Json| {
            let expression = Expression::compile(&env, text(of, "valueExpression"), Returns::TextOrNull);
            (text(of, "key").to_owned(), expression)
        };
        Self {
            name: text(get(policy, "metadata"), "name").to_owned(),
            failure_ignored: text(spec, "failurePolicy") == "Ignore",
            constraints: Some(get(spec, "matchConstraints")).filter(|c| !c.is_null()).map(Constraints::read),
            param_kind: get(spec, "paramKind").clone(),
            conditions: Conditions::compile(spec, &composition, full),
            validations: list(spec, "validations").iter().map(validation).collect(),
            annotations: list(spec, "auditAnnotations").iter().map(annotation).collect(),
            composition,
        }
    }

    fn matches(&self, request: &Request) -> Result<Option<KindRef>, String> {
        match &self.constraints {
            Some(constraints) => constraints.match_(request),
            None => Err("policy contained no match constraints, a required field".into()),
        }
    }

    /// Everything that the policy says of the request with one parameter object.
    fn verdict(&self, input: &Input, object: Option<&Json>, params: Option<&Json>) -> Verdict {
        let refused = |at: usize, why: &str| -> Option<Refusal> {
            let refusal = || Refusal { message: why.to_owned(), reason: String::new(), at: Some(at) };
            (!self.failure_ignored).then(refusal)
        };
        let failed = |why: &str| Verdict { refusals: refused(0, why).into_iter().collect(), ..Verdict::default() };
        let activation = input.activation(object, params, true);
        if !self.conditions.is_empty() {
            match self.conditions.hold(&self.composition, &input.for_conditions(object, params)) {
                Ok(true) => {}
                Ok(false) => return Verdict::default(),
                Err(why) => return failed(&why),
            }
        }
        let mut budget = OBJECT_COST_MAX;
        let expressions = self.validations.iter().map(|v| Some(&v.expression));
        let results = match evaluate(expressions, &self.composition, &activation, &mut budget) {
            Ok(results) => results,
            Err(why) => return failed(why),
        };
        let messages = self.messages(&input.activation(object, params, false), &mut budget);
        let mut refusals = Vec::new();
        for (i, (validation, result)) in self.validations.iter().zip(results).enumerate() {
            match (result, &messages) {
                (Some(Err(why)), _) => refusals.extend(refused(i, &why)),
                (_, Err(why)) => refusals.extend(refused(i, &format!("failed messageExpression: {why}"))),
                (Some(Ok(Value::Bool(true))), _) => {}
                (_, Ok(messages)) => {
                    let evaluated = messages.get(i).cloned().flatten().unwrap_or_default();
                    let message = [evaluated, validation.message.clone()].into_iter().find(|text| !text.is_empty());
                    refusals.push(Refusal {
                        message: message
                            .unwrap_or_else(|| format!("failed expression: {}", validation.expression.text.trim())),
                        reason: validation.reason.clone(),
                        at: Some(i),
                    });
                }
            }
        }
        let (annotations, errors) = self.annotations(&activation);
        refusals.extend(errors);
        Verdict { refusals, annotations }
    }

    /// The messages that expressions make; none where there is no expression or what it makes is no message.
    fn messages(&self, activation: &Activation, budget: &mut u64) -> Result<Vec<Option<String>>, &'static str> {
        let expressions = self.validations.iter().map(|v| v.message_expression.as_ref());
        let results = evaluate(expressions, &self.composition, activation, budget)?;
        let usable = |text: &str| text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n');
        let message = |result: Option<Result<Value, String>>| match result {
            Some(Ok(Value::String(text))) => Some(text.trim().to_owned()).filter(|text| usable(text)),
            _ => None,
        };
        Ok(results.into_iter().map(message).collect())
    }

    /// What the policy has to say for the audit log, and what of that cannot be evaluated.
    fn annotations(&self, activation: &Activation) -> (Vec<(String, String)>, Vec<Refusal>) {
        let refusal = |message: String| Refusal { message, reason: String::new(), at: None };
        let mut said = Vec::new();
        let mut errors = Vec::new();
        if self.annotations.is_empty() {
            return (said, errors);
        }
        let mut budget = OBJECT_COST_MAX;
        let expressions = self.annotations.iter().map(|(_, expression)| Some(expression));
        match evaluate(expressions, &self.composition, activation, &mut budget) {
            Ok(results) => {
                for ((key, _), result) in self.annotations.iter().zip(results) {
                    match result {
                        Some(Ok(Value::String(text))) if !text.trim().is_empty() => {
                            said.push((key.clone(), cut(text.trim()).to_owned()));
                        }
                        Some(Err(why)) => errors.push(refusal(why)),
                        Some(Ok(_)) | None => {}
                    }
                }
            }
            Err(why) => errors.push(refusal(why.to_owned())),
        }
        if self.failure_ignored {
            errors.clear();
        }
        (said, errors)
    }
}

/// The beginning of a text that the audit log takes.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(ANNOTATION_BYTES_MAX)]
}

/// Asks every policy about the request. Adds what they warn of to it.
///
/// # Errors
/// What the first of them says against it.
pub async fn validate(
    policies: &super::InForce<Policy>,
    request: &mut Request<'_>,
    store: &dyn Store,
) -> Result<(), Status> {
    let mut views = Vec::new();
    let mut asked = Vec::new();
    for step in steps(policies, request) {
        asked.push(match step {
            Step::Denied(why) => Err(why),
            Step::Asked { policy, binding, params, kind } => {
                Ok((policy, binding, params, Seen::among(&mut views, request, &kind, store).await?))
            }
        });
    }
    let inputs: Vec<Input> = views.iter().map(|seen| Input::new(request, seen)).collect::<Result<_, _>>()?;
    let mut denials: Vec<(String, String)> = Vec::new();
    let mut warnings = Vec::new();
    let mut annotations = Annotations::new(request.annotations.level());
    // What policies say for the audit log, each with one parameter object, by policy and key.
    let mut said: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
    for step in asked {
        let (policy, binding, params, at) = match step {
            Ok(asked) => asked,
            Err(why) => {
                denials.push((why, String::new()));
                continue;
            }
        };
        for params in &params {
            let verdict = policy.verdict(&inputs[at], views[at].object.as_deref(), params.as_ref());
            for (key, value) in verdict.annotations {
                let values = said.entry((policy.name.as_str(), key)).or_default();
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            for refusal in verdict.refusals {
                let Some(at) = refusal.at else {
                    denials.push((denial(policy, Some(binding), &refusal.message), refusal.reason));
                    continue;
                };
                if binding.denies {
                    denials.push((denial(policy, Some(binding), &refusal.message), refusal.reason.clone()));
                }
                if binding.audits {
                    annotations.add(|| FAILURE.into(), || failure(policy, binding, at, &refusal.message));
                }
                if binding.warns {
                    warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        policy.name, binding.name, refusal.message
                    ));
                }
            }
        }
    }
    drop(inputs);
    drop(views);
    for ((policy, key), values) in said {
        annotations.add(|| format!("{policy}/{key}"), || values.join(", "));
    }
    request.annotations.append(annotations);
    request.warnings.append(&mut warnings);
    match denials.into_iter().next() {
        None => Ok(()),
        Some((message, reason)) => Err(refusal_status(request, message, &reason)),
    }
}

/// What becomes of a request with one policy, or one of its bindings.
enum Step<'p> {
    /// What cannot be configured denies.
    Denied(String),
    /// The policy is asked, once with each parameter object, about the request in the version `kind`.
    Asked { policy: &'p Policy, binding: &'p Binding, params: Vec<Option<Json>>, kind: KindRef },
}

/// Which policies the request is to be shown to.
fn steps<'p>(policies: &'p super::InForce<Policy>, request: &Request) -> Vec<Step<'p>> {
    let mut steps = Vec::new();
    for active in policies {
        let (policy, bindings) = (&*active.policy, &active.bindings);
        // what cannot be configured denies, unless the policy may fail
        let configuration = |binding: Option<&Binding>, why: String| {
            let what = if binding.is_some() { "binding" } else { "policy" };
            let denial = denial(policy, binding, &format!("failed to configure {what}: {why}"));
            (!policy.failure_ignored).then_some(Step::Denied(denial))
        };
        let kind = match policy.matches(request) {
            Ok(Some(kind)) => kind,
            Ok(None) => continue,
            Err(why) => {
                steps.extend(configuration(None, why));
                continue;
            }
        };
        let source = match &active.params {
            Ok(source) => source.as_ref(),
            Err(why) => {
                steps.extend(configuration(None, why.clone()));
                continue;
            }
        };
        for binding in bindings {
            let found = binding.matches(request).and_then(|matches| match matches {
                true => params::collect(source, &binding.param_ref, request.namespace, request.view).map(Some),
                false => Ok(None),
            });
            match found {
                Ok(Some(params)) => steps.push(Step::Asked { policy, binding, params, kind: kind.clone() }),
                Ok(None) => {}
                Err(why) => steps.extend(configuration(Some(binding), why)),
            }
        }
    }
    steps
}

/// The audit log's key for what a binding with the action Audit found.
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

/// One entry of its list, in upstream's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure<'a> {
    message: &'a str,
    policy: &'a str,
    binding: &'a str,
    expression_index: usize,
    validation_actions: &'a Json,
}

fn failure(policy: &Policy, binding: &Binding, expression_index: usize, message: &str) -> String {
    let (policy, validation_actions) = (policy.name.as_str(), &binding.actions);
    let failure = Failure { message, policy, binding: &binding.name, expression_index, validation_actions };
    serde_json::to_string(&[failure]).unwrap_or_default()
}

fn denial(policy: &Policy, binding: Option<&Binding>, message: &str) -> String {
    let by = binding.map(|binding| format!(" with binding '{}'", binding.name)).unwrap_or_default();
    format!("ValidatingAdmissionPolicy '{}'{by} denied request: {message}", policy.name)
}

fn refusal_status(request: &Request, message: String, reason: &str) -> Status {
    let mut status = Status::forbidden(request.kind, &subject(request), &message);
    let (reason, code) = match reason {
        "Forbidden" => (Reason::Forbidden, 403),
        "Unauthorized" => (Reason::Unauthorized, 401),
        "RequestEntityTooLarge" => (Reason::RequestEntityTooLarge, 413),
        _ => (Reason::Invalid, 422),
    };
    status.reason = Status::new(reason, "").reason;
    status.code = code;
    status.with_cause(Cause { message, ..Cause::default() })
}
