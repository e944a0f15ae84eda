//! MutatingAdmissionPolicy: changes objects by apply configurations and JSON patches that expressions make.
//!
//! Source: apiserver `pkg/admission/plugin/policy/mutating`, `pkg/cel/mutation`.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use store::Store;
use types::registry::{GroupVersionKind, KindRef};
use types::status::{Cause, Status};

use super::conditions::Conditions;
use super::constraints::Constraints;
use super::environment::{Options, Returns};
use super::expression::{Composition, Expression, evaluate};
use super::input::Input;
use super::{Binding, Current, params, subject};
use crate::admission::Request;
use crate::admission::versions::{self, Seen};
use crate::hooks::json::{self, get, has, list, text};
use crate::{managed, patch};
use cel::{OBJECT_COST_MAX, Value};

/// A stored policy, compiled.
pub struct Policy {
    pub name: String,
    failure_ignored: bool,
    constraints: Option<Constraints>,
    pub(super) param_kind: Json,
    composition: Composition,
    conditions: Conditions,
    mutations: Vec<Mutation>,
    reinvoked: bool,
}

struct Mutation {
    /// A JSON patch; otherwise an apply configuration.
    patches: bool,
    expression: Expression,
}

/// Why a mutation did not come about.
enum Trouble {
    /// Follows the failure policy.
    Policy(String),
    /// The request is answered so.
    Refused(Status),
}

impl Policy {
    pub fn compile(policy: &Json) -> Self {
        let spec = get(policy, "spec");
        let options = Options { params: has(spec, "paramKind"), authorizer: true, patches: false };
        let composition = Composition::compile(spec, options);
        let env = composition.env(Options { patches: true, ..options });
        let mutation = |of: &Json| {
            let patches = text(of, "patchType") == "JSONPatch";
            let (field, returns) = match patches {
                true => ("jsonPatch", Returns::Patches),
                false => ("applyConfiguration", Returns::Configuration),
            };
            Mutation { patches, expression: Expression::compile(&env, text(get(of, field), "expression"), returns) }
        };
        Self {
            name: text(get(policy, "metadata"), "name").to_owned(),
            failure_ignored: text(spec, "failurePolicy") == "Ignore",
            constraints: Some(get(spec, "matchConstraints")).filter(|c| !c.is_null()).map(Constraints::read),
            param_kind: get(spec, "paramKind").clone(),
            conditions: Conditions::compile(spec, &composition, options),
            mutations: list(spec, "mutations").iter().map(mutation).collect(),
            reinvoked: text(spec, "reinvocationPolicy") == "IfNeeded",
            composition,
        }
    }

    /// Whether its match conditions hold.
    fn hold(&self, input: &Input, object: &Json, params: Option<&Json>) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        self.conditions.hold(&self.composition, &input.for_conditions(Some(object), params))
    }

    /// Makes one mutation. Returns the new object; `None`: a JSON patch's test failed, which changes nothing.
    fn mutate(
        &self,
        mutation: &Mutation,
        input: &Input,
        object: &Json,
        params: Option<&Json>,
    ) -> Result<Option<Made>, String> {
        if let Some(why) = mutation.expression.error() {
            return Err(why.to_owned());
        }
        let activation = input.activation(Some(object), params, true);
        let mut budget = OBJECT_COST_MAX;
        let results = evaluate([Some(&mutation.expression)], &self.composition, &activation, &mut budget)?;
        let Some(value) = results.into_iter().flatten().next() else { return Ok(None) };
        let value = value?;
        if mutation.patches { operations(&value).map(Made::Patch) } else { configuration(&value) }.map(Some)
    }
}

/// What an expression has made.
enum Made {
    Patch(Json),
    Configuration(Json),
}

/// The operations of a list of `JSONPatch`.
fn operations(value: &Value) -> Result<Json, String> {
    let not_a_patch = || "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned();
    let Value::List(list) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".into());
    };
    let mut operations = Vec::new();
    for item in list.iter() {
        let item = item.map_err(|e| e.to_string())?;
        let Value::Struct(made) = &item else { return Err(not_a_patch()) };
        if &*made.name != "JSONPatch" {
            return Err(not_a_patch());
        }
        let mut operation = Map::new();
        for (name, value) in &made.fields {
            if &**name == "value" {
                check_names(value, &["Object".into()], false)?;
            }
            let value = value.to_json().map_err(|e| {
                format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {e}")
            })?;
            if !(&**name == "from" && value.as_str() == Some("")) {
                operation.insert(name.to_string(), value);
            }
        }
        operations.push(Json::Object(operation));
    }
    Ok(Json::Array(operations))
}

fn configuration(value: &Value) -> Result<Made, String> {
    if !matches!(value, Value::Struct(_)) {
        return Err(format!("unsupported return type from ApplyConfiguration expression: {}", value.type_name()));
    }
    check_names(value, &["Object".into()], true)?;
    value.to_json().map(Made::Configuration).map_err(|e| format!("invalid return type: {e}"))
}

/// Whether every message in it has the name of its place: `Object.spec` at `spec`. `rooted`: the outermost is `Object`.
fn check_names(value: &Value, path: &[Arc<str>], rooted: bool) -> Result<(), String> {
    let mut errors = Vec::new();
    match value {
        Value::Struct(made) if !rooted => {
            // the value of a patch may be any part of an object, which is its own root
            let path: Vec<Arc<str>> = made.name.split('.').map(Arc::from).collect();
            names(value, &path, &mut errors);
        }
        value => names(value, path, &mut errors),
    }
    if errors.is_empty() { Ok(()) } else { Err(format!("type mismatch: {}", errors.join("\n"))) }
}
fn names(value: &Value, path: &[Arc<str>], errors: &mut Vec<String>) {
    match value {
        Value::Struct(made) => {
            let expected = path.join(".");
            if *made.name != expected {
                errors.push(format!(
                    "unexpected type name {:?}, expected {expected:?}, which matches field name path from root Object type",
                    &*made.name
                ));
            }
            for (name, field) in &made.fields {
                names(field, &[path, std::slice::from_ref(name)].concat(), errors);
            }
        }
        Value::List(list) => list.iter().flatten().for_each(|item| names(&item, path, errors)),
        Value::Map(map) => map.entries().filter_map(|(_, value)| value.ok()).for_each(|v| names(&v, path, errors)),
        _ => {}
    }
}

/// The object with what was made; `None`: there is nothing to do.
fn applied(kind: &GroupVersionKind, object: &Json, made: &Made) -> Result<Option<Json>, Trouble> {
    let new = match made {
        Made::Patch(operations) => {
            let text = serde_json::to_vec(operations).map_err(|e| Trouble::Policy(e.to_string()))?;
            match patch::json_patched(object, &text) {
                Ok(new) => new,
                Err(status) => {
                    let why = status.details.as_ref().and_then(|d| d.causes.first()).map(|c| c.message.clone());
                    let why = why.unwrap_or(status.message);
                    // a test that fails is how an expression says that there is nothing to do
                    if why.ends_with("test failed") {
                        return Ok(None);
                    }
                    return Err(Trouble::Policy(format!("JSON Patch: {why}")));
                }
            }
        }
        Made::Configuration(configuration) => {
            let mut configuration = configuration.clone();
            json::set(&mut configuration, "apiVersion", kind.api_version());
            json::set(&mut configuration, "kind", &*kind.kind);
            managed::merged(kind, object, &configuration)
                .map_err(|why| Trouble::Policy(format!("error applying patch: {why}")))?
        }
    };
    Ok(Some(new))
}

/// A policy, one of its bindings and a parameter object, by their places.
type Key = (usize, usize, usize);

/// The mutating policies for one request, which goes past them once or twice.
pub struct Mutating {
    store: Arc<dyn Store>,
    current: Arc<Current>,
    again: bool,
    /// Called, and want to be called again when the object changes after that.
    reinvocable: HashSet<Key>,
    due: HashSet<Key>,
    /// The object as the first round left it.
    output: Option<Json>,
}

impl Mutating {
    pub(super) fn new(current: Arc<Current>, store: Arc<dyn Store>) -> Self {
        Self { store, current, again: false, reinvocable: HashSet::new(), due: HashSet::new(), output: None }
    }

    /// One round over all policies, one after the other. Returns whether the object has changed, after which the others who
    /// complete it are due again, and then a second round for the policies that ask for it.
    ///
    /// # Errors
    /// The `Status` to answer with.
    pub async fn round(&mut self, request: &mut Request<'_>) -> Result<bool, Status> {
        if self.again && self.output.as_ref() != request.object.as_deref() {
            self.invalidate();
        }
        let mut errors = Vec::new();
        let mut changed = false;
        let current = self.current.clone();
        for Invocation { key, policy, binding, params, kind } in invocations(&current, request, &mut errors) {
            if self.again && !self.due.contains(&key) {
                continue;
            }
            match self.invoke(key, policy, params.as_ref(), &kind, request).await {
                Ok(this) => changed |= this,
                Err(Trouble::Refused(status)) => return Err(status),
                Err(Trouble::Policy(_)) if policy.failure_ignored => {}
                Err(Trouble::Policy(why)) => errors.push((denial(policy, Some(binding), &why), true)),
            }
        }
        if !self.again {
            self.output = request.object.as_deref().cloned();
        }
        self.again = true;
        match errors.is_empty() {
            true => Ok(changed),
            false => Err(refusal(request, errors)),
        }
    }

    async fn invoke(
        &mut self,
        key: Key,
        policy: &Policy,
        params: Option<&Json>,
        kind: &KindRef,
        request: &mut Request<'_>,
    ) -> Result<bool, Trouble> {
        let store = self.store.clone();
        let mut changed = false;
        for (at, mutation) in policy.mutations.iter().enumerate() {
            let seen = Seen::of(request, kind, &*store).await.map_err(Trouble::Refused)?;
            let new = {
                let Some(object) = seen.object.as_deref() else { break };
                let input = Input::new(request, &seen).map_err(Trouble::Refused)?;
                if at == 0 && !policy.hold(&input, object, params).map_err(Trouble::Policy)? {
                    return Ok(false);
                }
                match policy.mutate(mutation, &input, object, params).map_err(Trouble::Policy)? {
                    Some(made) => applied(&seen.of, object, &made)?,
                    None => None,
                }
            };
            let Some(new) = new else { continue };
            drop(seen);
            let new = versions::taken_back(request, kind, new, &*store).await.map_err(Trouble::Refused)?;
            let Some(object) = request.object.as_deref_mut() else { break };
            changed |= !json::same(object, &new);
            *object = new;
        }
        if changed {
            self.invalidate();
        }
        if policy.reinvoked {
            self.reinvocable.insert(key);
        }
        Ok(changed)
    }

    /// The object has changed: who was called before and wants to see it again is due.
    fn invalidate(&mut self) {
        self.due.extend(self.reinvocable.drain());
    }
}

/// A policy that is asked with one parameter object, about the request in the version `kind`.
struct Invocation<'c> {
    key: Key,
    policy: &'c Policy,
    binding: &'c Binding,
    params: Option<Json>,
    kind: KindRef,
}

/// What the request is to be shown to, decided before anything changes it.
fn invocations<'c>(current: &'c Current, request: &Request, errors: &mut Vec<(String, bool)>) -> Vec<Invocation<'c>> {
    let mut all = Vec::new();
    for (at, active) in current.mutating.iter().enumerate() {
        let (policy, bindings) = (&*active.policy, &active.bindings);
        let mut fail = |binding: Option<&Binding>, why: String| {
            if !policy.failure_ignored {
                let what = if binding.is_some() { "binding" } else { "policy" };
                errors.push((denial(policy, binding, &format!("failed to configure {what}: {why}")), false));
            }
        };
        let matches = match &policy.constraints {
            Some(constraints) => constraints.match_(request),
            None => Err("policy contained no match constraints, a required field".into()),
        };
        let kind = match matches {
            Ok(Some(kind)) => kind,
            Ok(None) => continue,
            Err(why) => {
                fail(None, why);
                continue;
            }
        };
        let source = match &active.params {
            Ok(source) => source.as_ref(),
            Err(why) => {
                fail(None, why.clone());
                continue;
            }
        };
        for (of_policy, binding) in bindings.iter().enumerate() {
            let found = binding.matches(request).and_then(|matches| match matches {
                true => params::collect(source, &binding.param_ref, request.namespace, request.view),
                false => Ok(Vec::new()),
            });
            match found {
                Ok(params) => all.extend(params.into_iter().enumerate().map(|(i, params)| Invocation {
                    key: (at, of_policy, i),
                    policy,
                    binding,
                    params,
                    kind: kind.clone(),
                })),
                Err(why) => fail(Some(binding), why),
            }
        }
    }
    all
}

fn denial(policy: &Policy, binding: Option<&Binding>, why: &str) -> String {
    match binding {
        Some(binding) => format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name),
        None => format!("policy {:?} denied request: {why}", policy.name),
    }
}
/// The message and reason are the first error's, the code is that of a refusal, and every error is a cause.
fn refusal(request: &Request, errors: Vec<(String, bool)>) -> Status {
    let mut status = Status::forbidden(request.kind, &subject(request), "admission request denied by policy");
    if let Some((message, invalid)) = errors.first() {
        status.message = message.clone();
        if *invalid {
            status.reason = "Invalid".into();
        }
    }
    errors.into_iter().fold(status, |status, (message, _)| status.with_cause(Cause { message, ..Cause::default() }))
}
