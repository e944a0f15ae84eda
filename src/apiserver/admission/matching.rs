//! Which requests a webhook or a policy is asked about: rules over operation, resource and scope; selectors over labels.
//!
//! Source: apiserver `pkg/admission/plugin/webhook/predicates`.

use serde_json::Value;
use types::registry::{Kind, KindRef, by_kind};
use types::selector::{LabelSelector, ParseError};
use types::status::Status;

use super::{Operation, Request};
use crate::hooks::json::{get, text, texts};
use crate::verbs::facts::facts;

/// The kinds that decide about admission: nothing but a person may come between an administrator and them.
///
/// Source: `IsExemptAdmissionConfigurationResource`.
pub fn is_exempt(kind: &Kind) -> bool {
    kind.group == "admissionregistration.k8s.io"
        && matches!(
            &*kind.kind,
            "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}

/// A `RuleWithOperations`, or a `NamedRuleWithOperations`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    /// Empty: all names.
    names: Vec<String>,
    scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Namespaced,
    Cluster,
    /// A value that validation lets nobody write: nothing matches it.
    Unknown,
}

fn is_or_any(items: &[String], wanted: &str) -> bool {
    items.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    pub fn read(rule: &Value) -> Self {
        let owned = |field: &str| texts(rule, field).map(str::to_owned).collect();
        Self {
            operations: owned("operations"),
            groups: owned("apiGroups"),
            versions: owned("apiVersions"),
            resources: owned("resources"),
            names: owned("resourceNames"),
            scope: match text(rule, "scope") {
                "" | "*" => Scope::All,
                "Namespaced" => Scope::Namespaced,
                "Cluster" => Scope::Cluster,
                _ => Scope::Unknown,
            },
        }
    }

    /// The first of the versions of the request's kind in which one of the rules matches it: its own before all others, and
    /// the others only when they are as good (`matchPolicy: Equivalent`).
    ///
    /// Source: apiserver `pkg/admission/plugin/webhook/generic/webhook.go` `ShouldCallHook`.
    pub fn version(request: &Request, equivalent: bool, rules: &[Self]) -> Option<KindRef> {
        if rules.iter().any(|rule| rule.matches(request, request.served)) {
            return Some(request.served.clone());
        }
        let others = if equivalent && !rules.is_empty() { request.others() } else { &[] };
        rules.iter().find_map(|rule| others.iter().find(|kind| rule.matches(request, kind))).cloned()
    }

    /// Whether the request matches when it is seen as one about `kind`, which is its own or an equivalent one.
    fn matches(&self, request: &Request, kind: &Kind) -> bool {
        let scope = match self.scope {
            Scope::All => true,
            Scope::Namespaced => !request.namespace.is_empty(),
            Scope::Cluster => request.namespace.is_empty(),
            Scope::Unknown => false,
        };
        scope
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.name))
            && is_or_any(&self.operations, request.operation.as_str())
            && is_or_any(&self.groups, &kind.group)
            && is_or_any(&self.versions, &kind.version)
            && self.resources.iter().any(|r| {
                let (resource, subresource) = r.split_once('/').unwrap_or((r, ""));
                (resource == "*" || resource == kind.plural)
                    && (subresource == "*" || subresource == request.subresource)
            })
    }
}

/// The two selectors beside the rules. What is absent selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selectors {
    namespace: LabelSelector,
    object: LabelSelector,
}

impl Selectors {
    /// Of an object with `namespaceSelector` and `objectSelector`.
    pub fn read(of: &Value) -> Result<Self, ParseError> {
        let selector = |field: &str| LabelSelector::from_object(get(of, field));
        Ok(Self { namespace: selector("namespaceSelector")?, object: selector("objectSelector")? })
    }

    /// Whether both select the request. `Err` holds the answer to a request whose namespace is not there.
    pub fn match_(&self, request: &Request) -> Result<bool, Status> {
        Ok(self.selects_object(request) && self.selects_namespace(request)?)
    }

    fn selects_object(&self, request: &Request) -> bool {
        let labels =
            |object: Option<&Value>| object.is_some_and(|o| self.object.matches(get(get(o, "metadata"), "labels")));
        self.object.is_empty() || labels(request.object.as_deref()) || labels(request.old)
    }

    fn selects_namespace(&self, request: &Request) -> Result<bool, Status> {
        let is_namespace = request.kind.group.is_empty() && request.kind.plural == "namespaces";
        if self.namespace.is_empty() || (request.namespace.is_empty() && !is_namespace) {
            return Ok(true);
        }
        let changes = matches!(request.operation, Operation::Create | Operation::Update);
        if is_namespace && request.subresource.is_empty() && changes {
            let labels = request.object.as_deref().map(|o| get(get(o, "metadata"), "labels"));
            return Ok(labels.is_some_and(|labels| self.namespace.matches(labels)));
        }
        let name = if is_namespace { request.name } else { request.namespace };
        let Some(namespaces) = by_kind("", "v1", "Namespace") else { return Ok(true) };
        let Some(entry) = request.view.get(&namespaces.store_key("", name)) else {
            return Err(Status::not_found(namespaces, name));
        };
        Ok(self.namespace.matches(&facts(&entry)))
    }
}
