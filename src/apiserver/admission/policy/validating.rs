//! ValidatingAdmissionPolicy: refuses, warns or notes when an expression does not hold.
//!
//! Source: apiserver `pkg/admission/plugin/policy/validating/{validator,dispatcher}.go`.

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
use crate::cel::{Activation, OBJECT_COST_MAX, Value};
use crate::hooks::json::{get, has, list, text};

/// Source: apiserver `pkg/apis/cel/config.go` `MaxEvaluatedMessageExpressionSizeBytes`.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// A stored policy, compiled.
pub struct Policy {
    pub name: String,
    failure_ignored: bool,
    constraints: Option<Constraints>,
    pub(super) param_kind: Json,
    composition: Composition,
    conditions: Conditions,
    validations: Vec<Validation>,
    annotations: Vec<Expression>,
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
        let annotation = |of: &Json| Expression::compile(&env, text(of, "valueExpression"), Returns::TextOrNull);
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

    /// Everything that the policy says against the request with one parameter object.
    fn refusals(&self, input: &Input, object: Option<&Json>, params: Option<&Json>) -> Vec<Refusal> {
        let failed = |why: &str| -> Vec<Refusal> {
            if self.failure_ignored {
                Vec::new()
            } else {
                vec![Refusal { message: why.to_owned(), reason: String::new() }]
            }
        };
        let activation = input.activation(object, params, true);
        if !self.conditions.is_empty() {
            match self.conditions.hold(&self.composition, &input.for_conditions(object, params)) {
                Ok(true) => {}
                Ok(false) => return Vec::new(),
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
                (Some(Err(why)), _) => refusals.extend(failed(&why)),
                (_, Err(why)) => refusals.extend(failed(&format!("failed messageExpression: {why}"))),
                (Some(Ok(Value::Bool(true))), _) => {}
                (_, Ok(messages)) => {
                    let evaluated = messages.get(i).cloned().flatten().unwrap_or_default();
                    let message = [evaluated, validation.message.clone()].into_iter().find(|text| !text.is_empty());
                    refusals.push(Refusal {
                        message: message
                            .unwrap_or_else(|| format!("failed expression: {}", validation.expression.text.trim())),
                        reason: validation.reason.clone(),
                    });
                }
            }
        }
        refusals.extend(self.annotation_errors(&activation));
        refusals
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

    /// Audit annotations that cannot be evaluated. Those that can are kept nowhere: there is no audit log.
    fn annotation_errors(&self, activation: &Activation) -> Vec<Refusal> {
        if self.annotations.is_empty() || self.failure_ignored {
            return Vec::new();
        }
        let refusal = |message: String| Refusal { message, reason: String::new() };
        let mut budget = OBJECT_COST_MAX;
        match evaluate(self.annotations.iter().map(Some), &self.composition, activation, &mut budget) {
            Ok(results) => results.into_iter().flatten().filter_map(Result::err).map(refusal).collect(),
            Err(why) => vec![refusal(why.to_owned())],
        }
    }
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
    for step in asked {
        let (policy, binding, params, at) = match step {
            Ok(asked) => asked,
            Err(why) => {
                denials.push((why, String::new()));
                continue;
            }
        };
        for params in &params {
            for refusal in policy.refusals(&inputs[at], views[at].object.as_deref(), params.as_ref()) {
                if binding.denies {
                    denials.push((denial(policy, Some(binding), &refusal.message), refusal.reason.clone()));
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
