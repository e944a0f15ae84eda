//! A request as expressions see it: its variables, and the authorizer behind `authorizer`.
//!
//! Source: apiserver `pkg/admission/plugin/cel/activation.go`, `condition.go` `CreateAdmissionRequest`.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use types::registry::{GroupVersionKind, Kind, by_kind};
use types::selector::FieldSelector;
use types::status::Status;

use crate::admission::Request;
use crate::admission::versions::Seen;
use crate::auth::identity::{GROUP_SERVICE_ACCOUNTS, Identity, SERVICE_ACCOUNT_PREFIX};
use crate::auth::{Attributes, Authorizer, Target};
use cel::{Activation, Authorization, Authorize, Decision, Question, Value};

static NULL: Json = Json::Null;

/// What of a request does not change from one policy to the next.
pub struct Input<'r> {
    pub old: Option<&'r Json>,
    request: Json,
    namespace: Json,
    asker: Option<Asker<'r>>,
    question: Question,
}

impl<'r> Input<'r> {
    /// # Errors
    /// The answer to a request whose namespace is not there.
    pub fn new(request: &Request<'r>, seen: &'r Seen<'_>) -> Result<Self, Status> {
        let namespace = namespace_of(request)?;
        Ok(Self { namespace, ..Self::without_namespace(request, seen) })
    }

    /// For match conditions alone, which do not get to see the namespace.
    pub fn without_namespace(request: &Request<'r>, seen: &'r Seen<'_>) -> Self {
        let question = Question {
            group: (*request.served.group).into(),
            resource: (*request.kind.plural).into(),
            subresource: request.subresource.into(),
            namespace: request.namespace.into(),
            name: request.name.into(),
            ..Question::default()
        };
        Self {
            old: seen.old.as_deref(),
            request: admission_request(request, seen),
            namespace: Json::Null,
            asker: request.authorizer.map(|authorizer| Asker {
                authorizer,
                identity: request.user,
                view: request.view,
            }),
            question,
        }
    }

    /// The variables of match conditions.
    pub fn for_conditions<'a>(&'a self, object: Option<&'a Json>, params: Option<&'a Json>) -> Activation<'a> {
        self.activation(object, params, true).with("namespaceObject", Value::Null)
    }

    /// The variables over an object and a parameter object.
    pub fn activation<'a>(
        &'a self,
        object: Option<&'a Json>,
        params: Option<&'a Json>,
        authorizer: bool,
    ) -> Activation<'a> {
        let value = |json: Option<&'a Json>| Value::of_json(json.unwrap_or(&NULL));
        let mut activation = Activation::default()
            .with("object", value(object))
            .with("oldObject", value(self.old))
            .with("request", Value::of_json(&self.request))
            .with("namespaceObject", Value::of_json(&self.namespace))
            .with("params", value(params));
        if let (true, Some(asker)) = (authorizer, &self.asker) {
            activation.bind("authorizer", Authorization::authorizer(asker));
            activation.bind("authorizer.requestResource", Authorization::resource(asker, self.question.clone()));
        }
        activation
    }
}

fn kind_value(kind: &GroupVersionKind) -> Json {
    json!({"group": &*kind.group, "version": &*kind.version, "kind": &*kind.kind})
}
fn resource_value(kind: &Kind) -> Json {
    json!({"group": &*kind.group, "version": &*kind.version, "resource": &*kind.plural})
}
/// The `AdmissionRequest` without the objects, which are variables of their own.
fn admission_request(request: &Request, seen: &Seen) -> Json {
    let mut out = Map::new();
    out.insert("kind".into(), kind_value(&seen.of));
    out.insert("resource".into(), resource_value(&seen.kind));
    out.insert("requestKind".into(), kind_value(&request.kind_in(request.served)));
    out.insert("requestResource".into(), resource_value(request.served));
    let texts = [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", request.name),
        ("namespace", request.namespace),
    ];
    for (field, value) in texts.into_iter().filter(|(_, value)| !value.is_empty()) {
        out.insert(field.into(), value.into());
    }
    out.insert("operation".into(), request.operation.as_str().into());
    let user = request.user;
    let mut info = Map::new();
    info.insert("username".into(), user.user.as_str().into());
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".into(), user.groups.iter().map(String::as_str).collect());
    }
    if !user.extra.is_empty() {
        info.insert("extra".into(), user.extra.iter().map(|(k, v)| (k.clone(), json!(v))).collect());
    }
    out.insert("userInfo".into(), info.into());
    out.insert("dryRun".into(), request.dry_run.into());
    out.insert("options".into(), request.options_value());
    Json::Object(out)
}

/// The namespace that the request is in; null for one outside of all namespaces and for a namespace itself.
fn namespace_of(request: &Request) -> Result<Json, Status> {
    let is_namespace = request.kind.group.is_empty() && request.kind.kind == "Namespace";
    if request.namespace.is_empty() || is_namespace {
        return Ok(Json::Null);
    }
    let Some(namespaces) = by_kind("", "v1", "Namespace") else { return Ok(Json::Null) };
    let Some(entry) = request.view.get(&namespaces.store_key("", request.namespace)) else {
        return Err(Status::not_found(namespaces, request.namespace));
    };
    let mut namespace: Json = serde_json::from_slice(entry.value()).unwrap_or_default();
    if let Some(metadata) = namespace.get_mut("metadata").and_then(Json::as_object_mut) {
        for hidden in ["ownerReferences", "managedFields", "selfLink"] {
            metadata.remove(hidden);
        }
    }
    if let Some(namespace) = namespace.as_object_mut() {
        namespace.remove("kind");
        namespace.remove("apiVersion");
    }
    Ok(namespace)
}

/// Answers for the user of the request, or for a ServiceAccount.
struct Asker<'r> {
    authorizer: &'r Authorizer,
    identity: &'r Identity,
    view: &'r dyn store::View,
}

fn service_account(namespace: &Arc<str>, name: &Arc<str>) -> Identity {
    Identity {
        user: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
        groups: vec![GROUP_SERVICE_ACCOUNTS.to_owned(), format!("{GROUP_SERVICE_ACCOUNTS}:{namespace}")],
        ..Identity::default()
    }
}

impl Authorize for Asker<'_> {
    fn decide(&self, question: &Question) -> Decision {
        let account = question.service_account.as_ref().map(|(namespace, name)| service_account(namespace, name));
        // Requirements that cannot be read are as if there were none: more is asked for, not less.
        let fields = FieldSelector::parse(&question.field_selector).ok().filter(|fields| !fields.is_empty());
        let target = if question.path.is_empty() {
            Target::Resource {
                group: &question.group,
                version: "*",
                resource: &question.resource,
                subresource: &question.subresource,
                namespace: &question.namespace,
                name: &question.name,
                fields: fields.as_ref(),
            }
        } else {
            Target::Path(&question.path)
        };
        let identity = account.as_ref().unwrap_or(self.identity);
        let attributes = Attributes { identity, verb: &question.verb, target };
        match self.authorizer.authorize(&attributes, self.view) {
            Ok(()) => Decision { allowed: true, ..Decision::default() },
            Err(reason) => Decision { reason, ..Decision::default() },
        }
    }
}
