//! Questions to the authorizer: `authorizer.group('apps').resource('deployments').check('create').allowed()`.
//!
//! Who answers is behind [`Authorize`]; nothing here knows of roles.
//!
//! Source: apiserver `pkg/cel/library/authz.go`.

use std::sync::Arc;

use types::names;

use crate::signature::Function;
use crate::value::{Answer, Text, Value, fault, no_overload};

/// Answers questions of an expression.
pub trait Authorize: Send + Sync {
    fn decide(&self, question: &Question) -> Decision;
}

/// A question. Empty texts are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// Namespace and name of the ServiceAccount it is about, instead of who sent the request.
    pub service_account: Option<(Arc<str>, Arc<str>)>,
    pub verb: Arc<str>,
    /// A path that names no resource; then the rest is empty.
    pub path: Arc<str>,
    pub group: Arc<str>,
    pub resource: Arc<str>,
    pub subresource: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub field_selector: Arc<str>,
    pub label_selector: Arc<str>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// A step on the way to an answer.
#[derive(Clone)]
pub enum Authorization<'a> {
    Authorizer { by: &'a dyn Authorize, question: Question },
    Path { by: &'a dyn Authorize, question: Question },
    Group { by: &'a dyn Authorize, question: Question },
    Resource { by: &'a dyn Authorize, question: Question },
    Decision(Decision),
}

impl std::fmt::Debug for Authorization<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.type_name())
    }
}

impl<'a> Authorization<'a> {
    pub fn type_name(&self) -> &'static str {
        match self {
            Authorization::Authorizer { .. } => "kubernetes.authorization.Authorizer",
            Authorization::Path { .. } => "kubernetes.authorization.PathCheck",
            Authorization::Group { .. } => "kubernetes.authorization.GroupCheck",
            Authorization::Resource { .. } => "kubernetes.authorization.ResourceCheck",
            Authorization::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
    /// The `authorizer` variable.
    pub fn authorizer(by: &'a dyn Authorize) -> Value<'a> {
        value(Authorization::Authorizer { by, question: Question::default() })
    }
    /// The `authorizer.requestResource` variable.
    pub fn resource(by: &'a dyn Authorize, question: Question) -> Value<'a> {
        value(Authorization::Resource { by, question })
    }
}

fn value(step: Authorization) -> Value {
    Value::Authorization(Arc::new(step))
}

macro_rules! refine {
    ($name:literal, $id:literal, $field:ident) => {
        Function {
            run: |args| refine(args, |question, text| question.$field = text),
            overloads: &[(
                $name,
                $id,
                "kubernetes.authorization.ResourceCheck.(string) kubernetes.authorization.ResourceCheck",
            )],
        }
    };
}

pub const FUNCTIONS: &[Function] = &[
    Function {
        run: path,
        overloads: &[(
            "path",
            "authorizer_path",
            "kubernetes.authorization.Authorizer.(string) kubernetes.authorization.PathCheck",
        )],
    },
    Function {
        run: group,
        overloads: &[(
            "group",
            "authorizer_group",
            "kubernetes.authorization.Authorizer.(string) kubernetes.authorization.GroupCheck",
        )],
    },
    Function {
        run: service_account,
        overloads: &[(
            "serviceAccount",
            "authorizer_serviceaccount",
            "kubernetes.authorization.Authorizer.(string, string) kubernetes.authorization.Authorizer",
        )],
    },
    Function {
        run: resource,
        overloads: &[(
            "resource",
            "groupcheck_resource",
            "kubernetes.authorization.GroupCheck.(string) kubernetes.authorization.ResourceCheck",
        )],
    },
    refine!("subresource", "resourcecheck_subresource", subresource),
    refine!("namespace", "resourcecheck_namespace", namespace),
    refine!("name", "resourcecheck_name", name),
    refine!("fieldSelector", "authorizer_fieldselector", field_selector),
    refine!("labelSelector", "authorizer_labelselector", label_selector),
    Function {
        run: check,
        overloads: &[
            (
                "check",
                "pathcheck_check",
                "kubernetes.authorization.PathCheck.(string) kubernetes.authorization.Decision",
            ),
            (
                "check",
                "resourcecheck_check",
                "kubernetes.authorization.ResourceCheck.(string) kubernetes.authorization.Decision",
            ),
        ],
    },
    Function {
        run: |args| decided(args, |d| Value::Bool(d.error.is_some())),
        overloads: &[("errored", "decision_errored", "kubernetes.authorization.Decision.() bool")],
    },
    Function {
        run: |args| decided(args, |d| Value::text(d.error.clone().unwrap_or_default())),
        overloads: &[("error", "decision_error", "kubernetes.authorization.Decision.() string")],
    },
    Function {
        run: |args| decided(args, |d| Value::Bool(d.allowed)),
        overloads: &[("allowed", "decision_allowed", "kubernetes.authorization.Decision.() bool")],
    },
    Function {
        run: |args| decided(args, |d| Value::text(d.reason.as_str())),
        overloads: &[("reason", "decision_reason", "kubernetes.authorization.Decision.() string")],
    },
];

fn shared(text: &Text) -> Arc<str> {
    match text {
        Text::Shared(text) => text.clone(),
        Text::Borrowed(text) => (*text).into(),
    }
}

fn path<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::Authorization(step), Value::String(path)] = args else { return no_overload() };
    let Authorization::Authorizer { by, question } = &**step else { return no_overload() };
    if path.trim().is_empty() {
        return fault("path must not be empty");
    }
    Ok(value(Authorization::Path { by: *by, question: Question { path: shared(path), ..question.clone() } }))
}
fn group<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::Authorization(step), Value::String(group)] = args else { return no_overload() };
    let Authorization::Authorizer { by, question } = &**step else { return no_overload() };
    Ok(value(Authorization::Group { by: *by, question: Question { group: shared(group), ..question.clone() } }))
}
fn service_account<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::Authorization(step), Value::String(namespace), Value::String(name)] = args else {
        return no_overload();
    };
    let Authorization::Authorizer { by, .. } = &**step else { return no_overload() };
    if !names::dns1123_subdomain(name).is_empty() {
        return fault("Invalid service account name");
    }
    if !names::dns1123_label(namespace).is_empty() {
        return fault("Invalid service account namespace");
    }
    let question = Question { service_account: Some((shared(namespace), shared(name))), ..Question::default() };
    Ok(value(Authorization::Authorizer { by: *by, question }))
}
fn resource<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::Authorization(step), Value::String(resource)] = args else { return no_overload() };
    let Authorization::Group { by, question } = &**step else { return no_overload() };
    if resource.trim().is_empty() {
        return fault("resource must not be empty");
    }
    Ok(value(Authorization::Resource {
        by: *by,
        question: Question { resource: shared(resource), ..question.clone() },
    }))
}
fn refine<'a>(args: &[Value<'a>], set: fn(&mut Question, Arc<str>)) -> Answer<'a> {
    let [Value::Authorization(step), Value::String(text)] = args else { return no_overload() };
    let Authorization::Resource { by, question } = &**step else { return no_overload() };
    let mut question = question.clone();
    set(&mut question, shared(text));
    Ok(value(Authorization::Resource { by: *by, question }))
}
fn check<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::Authorization(step), Value::String(verb)] = args else { return no_overload() };
    let (Authorization::Path { by, question } | Authorization::Resource { by, question }) = &**step else {
        return no_overload();
    };
    let decision = by.decide(&Question { verb: shared(verb), ..question.clone() });
    Ok(value(Authorization::Decision(decision)))
}
fn decided<'a>(args: &[Value<'a>], f: fn(&Decision) -> Value<'a>) -> Answer<'a> {
    match args {
        [Value::Authorization(step)] => match &**step {
            Authorization::Decision(decision) => Ok(f(decision)),
            _ => no_overload(),
        },
        _ => no_overload(),
    }
}
